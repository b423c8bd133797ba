"""Study folder <-> `result.json` of its jobs and `leaderboard.csv`; best job of a study. No Keras."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.errors import UserError
from catsdogs.files import read_json, write_csv, write_json
from catsdogs.trials import TrialRecord, best_trial, read_trials

RESULT = "result.json"
PLAN = "study.json"

OK, FAILED, RUNNING = "ok", "failed", "running"


@dataclass(frozen=True)
class Job:
    """One job of a study, as its folder tells.

    Attributes:
        folder: of the job.
        result: what is in its `result.json`.
    """

    folder: Path
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        return str(self.result.get("status", RUNNING))

    @property
    def objective(self) -> float:
        """Its best finite `val_log_loss`; infinity if it has none."""
        value = self.result.get("objective")
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.inf

    def trials(self) -> list[TrialRecord]:
        file = self.folder / "trials.csv"
        return read_trials(file) if file.is_file() else []


def read_job(folder: Path) -> Job | None:
    """The job in this folder; None if there is none."""
    file = folder / RESULT
    if not file.is_file():
        return None
    try:
        result = read_json(file)
    except (json.JSONDecodeError, UnicodeDecodeError):
        result = None
    if not isinstance(result, dict):
        result = {"status": FAILED, "job": folder.name, "error": f"{RESULT} is damaged"}
    return Job(folder, result)


def read_jobs(study: Path) -> list[Job]:
    """The jobs of a study, by name.

    Raises:
        UserError: there is no such folder, or no job in it.
    """
    if not study.is_dir():
        known = (
            sorted(folder.name for folder in study.parent.glob("*") if folder.is_dir()) if study.parent.is_dir() else []
        )
        hint = f"; studies in {study.parent} are {', '.join(known[-8:])}" if known else ""
        raise UserError(f"study {study}: there is no such folder{hint}")
    jobs = [job for folder in sorted(study.iterdir()) if folder.is_dir() and (job := read_job(folder)) is not None]
    if not jobs:
        raise UserError(f"study {study}: no job has left a {RESULT} in it; give the folder that catsdogs.search wrote")
    return jobs


def best_job(study: Path, jobs: list[Job]) -> Job:
    """The job with the best finite objective.

    Raises:
        UserError: no job has a completed trial.
    """
    best = min(jobs, key=lambda job: (job.objective, job.name))
    if not math.isfinite(best.objective):
        raise UserError(f"study {study}: none of its {len(jobs)} jobs has a completed trial with a finite log loss")
    return best


def chosen_trial(job: Job, trial: str | None) -> TrialRecord:
    """The named trial of a job, or its best one.

    Raises:
        UserError: there is no such trial, or it cannot win.
    """
    records = {record.trial: record for record in job.trials()}
    if trial is None:
        best = best_trial(records.values())
        if best is None:
            raise UserError(f"job {job.folder}: it has no completed trial with a finite log loss")
        return best
    if trial not in records:
        raise UserError(f"trial={trial}: job {job.name} has no such trial; it has {', '.join(records) or 'none'}")
    if not records[trial].can_win:
        raise UserError(
            f"trial={trial}: it ended as {records[trial].status} and cannot be trained again; choose another"
        )
    return records[trial]


def leaderboard(jobs: list[Job]) -> pd.DataFrame:
    """A row per job, best first, failed jobs last with their error."""
    rows = []
    for job in jobs:
        result = job.result
        best = result.get("best_trial") or {}
        trials = result.get("trials") or {}
        rows.append(
            {
                "job": job.name,
                "status": job.status,
                **{str(key): value for key, value in (result.get("choices") or {}).items()},
                "val_log_loss": best.get("val_log_loss"),
                "val_accuracy": best.get("val_accuracy"),
                "best_trial": best.get("trial"),
                **{str(key): value for key, value in (best.get("hyperparameters") or {}).items()},
                "trials_completed": trials.get("completed"),
                "trials": trials.get("total"),
                "seconds": result.get("seconds"),
                "error": result.get("error"),
            }
        )
    table = pd.DataFrame(rows)
    order = sorted(range(len(jobs)), key=lambda i: (jobs[i].status == FAILED, jobs[i].objective, jobs[i].name))
    trailing = ["trials_completed", "trials", "seconds", "error"]
    return table.loc[order, [name for name in table if name not in trailing] + trailing].reset_index(drop=True)


def write_leaderboard(study: Path) -> pd.DataFrame:
    """Write `leaderboard.csv` of a study and give it."""
    table = leaderboard(read_jobs(study))
    write_csv(study / "leaderboard.csv", table)
    return table


def write_result(folder: Path, result: dict[str, Any]) -> None:
    write_json(folder / RESULT, result)


def planned_jobs(study: Path) -> list[str]:
    """Names of the jobs that the study was started with, in their order; empty where nobody wrote them down."""
    file = study / PLAN
    if not file.is_file():
        return []
    try:
        return [str(name) for name in read_json(file).get("jobs", [])]
    except (json.JSONDecodeError, AttributeError):
        return []
