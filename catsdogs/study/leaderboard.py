"""Table of the jobs of a study: `leaderboard.csv`, and the columns that it shares with the tables of a report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.study.jobs import FAILED, JobRecord, read_jobs
from catsdogs.study.trials import CHOICES, HYPERPARAMETERS, JOB_COLUMNS, RESERVED


def choice_names(jobs: Iterable[JobRecord]) -> list[str]:
    """Return the names of all choices of these jobs."""
    return list(dict.fromkeys(name for job in jobs for name in job.choices if name not in RESERVED))


def job_columns(choices: Iterable[str], hyperparameters: Iterable[str]) -> list[str]:
    """Return the columns of a table of jobs in order."""
    several = {CHOICES: choices, HYPERPARAMETERS: hyperparameters}
    return list(dict.fromkeys(name for column in JOB_COLUMNS for name in several.get(column, [column])))


def job_row(job: JobRecord, choices: Iterable[str]) -> dict[str, Any]:
    """Return the values of a job from `result.json`, by column."""
    result, best = job.result, job.best()
    trials, data = result["trials"], result["data"]
    row = {"job": job.name, "status": job.status} | {name: job.choice(name) for name in choices}
    row |= {**best.get("hyperparameters", {}), "best_trial": best.get("trial")}
    row |= {name: best.get(name) for name in ("val_log_loss", "val_accuracy")}
    row |= {"trials_completed": trials.get("completed"), "trials": trials.get("total")}
    row |= {"validation_images": data.get("validation"), "data_digest": job.data_digest}
    return row | {"seconds": result["seconds"], "error": result.get("error")}


def write_leaderboard(study: Path) -> pd.DataFrame:
    """Write `leaderboard.csv` and return it: one row per job, best first, failed jobs last."""
    jobs = read_jobs(study)
    choices = choice_names(jobs)
    order = sorted(jobs, key=lambda job: (job.status == FAILED, job.objective, job.name))
    # Object columns keep counts as integers if a job has no count.
    table = pd.DataFrame([job_row(job, choices) for job in order], dtype=object)
    searched = [name for job in jobs for name in job.best().get("hyperparameters", {})]
    table = table[[name for name in job_columns(choices, searched) if name in table]]
    write_csv(study / "leaderboard.csv", table)
    return table
