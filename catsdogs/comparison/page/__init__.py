"""The HTML report of a comparison, in one self-contained file."""
