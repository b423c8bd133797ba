"""Search of one job: Keras Tuner proposes trials, and each one is trained and recorded.

In: a `SearchConfig` and a job folder. Out: a finished job in that folder.
"""
