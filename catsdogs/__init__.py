"""Search, compare and ship transfer-learning image classifiers; docs/ARCHITECTURE.md is the map of the files."""

__version__ = "0.2.0"
