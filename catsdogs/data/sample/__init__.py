"""Synthetic `train.zip` and `test.zip` of cats and dogs, from a seed."""
