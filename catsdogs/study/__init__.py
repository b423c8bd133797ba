"""What a study is on disk.

In: a study folder. Out: its jobs, trials, epochs and leaderboard, the state of each job, and what the same
command does with it.
"""
