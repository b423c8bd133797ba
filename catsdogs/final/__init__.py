"""Final model of a study.

Input: jobs and their trials. Output: `best/` with the model, its scores, predictions, submission and model card.
"""
