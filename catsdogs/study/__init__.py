"""The files of a study.

In: a study folder. Out: its jobs, trials, epochs and leaderboard, the state of each job, and the decision to start,
resume, retry or skip it.
"""
