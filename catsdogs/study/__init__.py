"""The files of a study.

Input: a study folder. Output: its jobs, trials, epochs and leaderboard, the state of each job, and the decision to
start, resume, retry or skip it.
"""
