"""Training of one model.

In: the configuration of a trial and the views of its images. Out: the model at its best epoch and its history.
"""
