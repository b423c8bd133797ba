"""Training of one model.

Input: the configuration of a trial and the views of its images. Output: the model at its best epoch and its history.
"""
