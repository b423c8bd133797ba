"""Search of one job: Keras Tuner proposes trials, and each one is trained and recorded.

Input: a `SearchConfig` and a job folder. Output: a finished job in that folder.
"""
