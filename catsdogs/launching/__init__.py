"""Hydra: what happens around its jobs, jobs as processes or Slurm jobs, and what is recorded of those that die.

In: a Hydra application. Out: one process per job, a study folder with its summary, an exit status.
"""
