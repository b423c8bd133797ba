"""Progress line of a study, from the files that all its processes write: also of parallel jobs and earlier runs."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from catsdogs.base.errors import UserError
from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.text import format_duration, sanitize_line
from catsdogs.study.jobs import FAILED, RUNNING, JobRecord, read_job
from catsdogs.study.plan import Plan, read_plan
from catsdogs.study.trials import TrialRecord


def study_line(study: Path) -> str | None:
    """Return the progress line of a study now; None for a run of a single job, which logs its own progress."""
    plan = read_plan(study)
    single = plan.started is None or len(plan.run) == 1
    return None if single else line(study, datetime.datetime.now(datetime.UTC))


def line(study: Path, now: datetime.datetime) -> str:
    """Return `study NAME: 13/32 trials, 1 failed, best 0.0276 (JOB), about 24 min left (until 14:32)`; local times."""
    plan = read_plan(study)
    names = plan.run or [folder.name for folder in study.iterdir()]
    jobs = [job for name in names if (job := read_job(study / name)) is not None]
    by_job = [_trials(job) for job in jobs]
    trials = [trial for of_job in by_job for trial in of_job]
    planned = _planned_trials(plan, jobs, by_job)
    total = "" if planned is None else f"/{planned}"
    parts = [f"{len(trials)}{total} trial{'' if (planned or len(trials)) == 1 else 's'}"]
    failed, failed_jobs = sum(not trial.can_win for trial in trials), sum(job.status == FAILED for job in jobs)
    if failed:
        parts.append(f"{failed} failed")
    if failed_jobs:
        parts.append(f"{failed_jobs} job{'s' if failed_jobs > 1 else ''} failed")
    best = min(jobs, key=lambda job: job.objective, default=None)
    if best is not None and math.isfinite(best.objective):
        parts.append(f"best {best.objective:.4f} ({best.name})")
    if planned is not None:
        parts += _time_left(plan, trials, planned, now)
    return sanitize_line(f"study {study.resolve().name}: {', '.join(parts)}")


def _planned_trials(plan: Plan, jobs: list[JobRecord], by_job: list[list[TrialRecord]]) -> int | None:
    """Return the number of trials of the run; None if unknown.

    A finished job counts with its trials. A job without a planned number counts like the mean of the others.
    """
    counts = [job.result["trials"] for job in jobs]
    known = [count["planned"] for count in counts if count.get("planned") is not None]
    mean = sum(known) / len(known) if known else None
    sizes: list[Any] = [
        count.get("planned", mean) if job.status == RUNNING else len(trials)
        for job, trials, count in zip(jobs, by_job, counts, strict=True)
    ]
    sizes += [mean] * (len(plan.run) - len(jobs))
    # Without names in the plan, the sweeper chooses jobs one by one.
    return round(sum(sizes)) if plan.run and None not in sizes else None


def _time_left(plan: Plan, trials: list[TrialRecord], planned: int, now: datetime.datetime) -> list[str]:
    """Return a text on the time left, at the pace of all trials of this run; empty if there is none yet."""
    ends = [parse_timestamp(trial.ended) for trial in trials]
    finished = sum(plan.started is not None and end is not None and end >= plan.started for end in ends)
    if plan.started is None or not finished or planned <= len(trials):
        return []
    seconds = (now - plan.started).total_seconds() / finished * (planned - len(trials))
    seconds = min(seconds, 1e9)  # a corrupted plan may have started decades ago
    end = (now + datetime.timedelta(seconds=seconds)).astimezone()
    day = "" if end.date() == now.astimezone().date() else f"{end:%Y-%m-%d} "
    return [f"about {format_duration(seconds)} left (until {day}{end:%H:%M})"]


def _trials(job: JobRecord) -> list[TrialRecord]:
    try:
        return job.trials()
    except UserError:  # corrupted; the report lists it
        return []
