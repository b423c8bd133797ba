"""The best trial becomes a model and a submission.

In: a job with its trials. Out: `best/`: the model, its scores, its predictions, `submission.csv` and the
model card.
"""
