"""Hydra commands: hooks around jobs, launchers that run jobs as processes or Slurm jobs, and records of failed jobs.

Input: a command line and the function of a job. Output: a process per job, the summary of the study, an exit status.
"""
