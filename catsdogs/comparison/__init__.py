"""Comparison of the jobs of one or more studies: page, terminal output, tables and exports. Does not import Keras."""
