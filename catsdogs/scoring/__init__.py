"""Scores from labels and probabilities.

Input: labels (0 or 1) and predicted probabilities, one per image. Output: scores, confidence intervals, calibrations,
and weights that combine several models. Uses NumPy, SciPy and scikit-learn, not Keras.
"""
