"""Final model of a study.

In: jobs and their trials. Out: `best/` with the model, its scores and predictions, `submission.csv` and the model card.
"""
