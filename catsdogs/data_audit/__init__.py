"""Audit of a folder of images: terminal summary, HTML page and CSV tables. Keras is not imported."""
