"""Final model of a study.

Input: jobs and their trials. Output: `best/` with the model, its scores, predictions,
`submission.csv` and the model card.
"""
