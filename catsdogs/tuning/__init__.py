"""Keras Tuner proposes trials; each is trained and recorded.

In: a `SearchConfig` and a job folder. Out: a finished job in that folder.
"""
