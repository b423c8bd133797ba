"""The files of a study folder -> a line on how far its run is, how good, and when it will end.

Every process that runs jobs of a study tells this from the files that all of them write, and counts nothing itself. So
it is right for one job after the other and for several at once, and for a study that is taken up again.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from catsdogs.base.errors import UserError
from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.text import format_duration, sanitize_line
from catsdogs.study.jobs import FAILED, RUNNING, JobRecord, read_job, read_plan
from catsdogs.study.trials import TrialRecord


def study_line(study: Path) -> str | None:
    """`line` of a study as it stands; None where its run is a single job, which tells all itself."""
    plan = read_plan(study)
    if plan.started is None or len(plan.run) == 1:
        return None
    return line(study, datetime.datetime.now(datetime.UTC))


def line(study: Path, now: datetime.datetime, name: str = "study") -> str:
    """`study: 13 of 32 trials, 1 failed, best 0.0276 (JOB), about 24 min left, ends 14:32`, in local time.

    A job that has ended counts with the trials that it had, one that has not told its number like the mean of those
    that have. The pace is that of all trials that ended since the run began, whoever ran them.

    Args:
        now: with a time zone.
    """
    plan = read_plan(study)
    names = plan.run or [folder.name for folder in study.iterdir()]
    jobs = [job for name in names if (job := read_job(study / name)) is not None]
    trials = [_trials(job) for job in jobs]
    every = [trial for its in trials for trial in its]
    counts = [job.result["trials"] for job in jobs]
    told = [count["planned"] for count in counts if count.get("planned") is not None]
    mean = sum(told) / len(told) if told else None
    sizes: list[Any] = [
        count.get("planned", mean) if job.status == RUNNING else len(its)
        for job, its, count in zip(jobs, trials, counts, strict=True)
    ]
    sizes += [mean] * (len(plan.run) - len(jobs))
    # Where a sweeper decides as it goes, nobody knows how many jobs will come.
    planned = round(sum(sizes)) if plan.run and None not in sizes else None
    whole = "" if planned is None else f" of {planned}"
    parts = [f"{name}: {len(every)}{whole} trial{'' if (planned or len(every)) == 1 else 's'}"]
    failed, failed_jobs = sum(not trial.can_win for trial in every), sum(job.status == FAILED for job in jobs)
    if failed:
        parts.append(f"{failed} failed")
    if failed_jobs:
        parts.append(f"{failed_jobs} job{'s' if failed_jobs > 1 else ''} failed")
    best = min(jobs, key=lambda job: job.objective, default=None)
    if best is not None and math.isfinite(best.objective):
        parts.append(f"best {best.objective:.4f} ({best.name})")
    ends = [parse_timestamp(trial.ended) for trial in every]
    here = sum(plan.started is not None and end is not None and end >= plan.started for end in ends)
    if plan.started is not None and planned is not None and here and planned > len(every):
        left = (now - plan.started) / here * (planned - len(every))
        end = (now + left).astimezone()
        day = "" if end.date() == now.astimezone().date() else f"{end:%Y-%m-%d} "
        parts.append(f"about {format_duration(left.total_seconds())} left, ends {day}{end:%H:%M}")
    return sanitize_line(", ".join(parts))


def _trials(job: JobRecord) -> list[TrialRecord]:
    try:
        return job.trials()
    except UserError:  # damaged, which the report tells
        return []
