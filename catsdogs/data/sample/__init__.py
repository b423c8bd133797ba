"""Synthetic images: a seed becomes `train.zip` and `test.zip`, for any number of classes."""
