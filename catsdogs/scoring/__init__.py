"""Numbers from labels and probabilities.

In: labels (0 or 1) and predicted probabilities, an entry per image. Out: scores, intervals,
calibrations, and weights that combine several models. NumPy only.
"""
