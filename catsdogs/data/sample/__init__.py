"""Synthetic `train.zip` and `test.zip` from a seed, for any number of classes."""
