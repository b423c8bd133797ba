"""Synthetic `train.zip` and `test.zip` of any number of classes, from a seed."""
