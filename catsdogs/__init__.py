"""Search, compare and ship transfer-learning image classifiers; docs/architecture.md is the map of the files."""

__version__ = "0.3.0.dev0"
