"""The files of a study folder -> how far its run is, how good, and when it will end.

Every process that runs jobs of a study tells this from the files that all of them write, and counts nothing itself. So
it is right for one job after the other and for several at once, and for a study that is taken up again.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catsdogs.errors import UserError
from catsdogs.progress import duration, printable
from catsdogs.provenance import moment
from catsdogs.study import FAILED, OK, Job, Plan, read_job, read_plan
from catsdogs.trials import TrialRecord, best_trial


@dataclass(frozen=True)
class StudyProgress:
    """Where the run of a study stands.

    Attributes:
        trials: that have ended, failed ones too.
        planned: trials of the whole run; None: nobody knows. A job that has ended counts with the trials that it had,
            one that has not begun like the mean of those that have.
        failed_trials: without a finite log loss.
        failed_jobs: that ended with an error.
        best: the lowest validation log loss so far; None: no trial has one.
        best_job: whose it is.
        seconds_left: at the pace of this run so far; None: nobody knows.
    """

    trials: int
    planned: int | None
    failed_trials: int
    failed_jobs: int
    best: float | None
    best_job: str | None
    seconds_left: float | None


@dataclass(frozen=True)
class _Count:
    """The trials of one job that has begun."""

    done: int
    here: int  # of these since the run began
    failed: int
    planned: int | None  # None: it does not tell, or not yet
    unknown: bool  # it is at work, and nobody knows how many trials it will run
    ended: bool
    best: float  # infinity: none


def study_progress(study: Path, now: datetime.datetime) -> StudyProgress:
    """Where the last run of a study stands.

    The pace is that of all trials that ended since the run began, per second on the clock, whoever ran them. Jobs that
    were finished before it began are done, and say nothing about the pace.

    Args:
        now: with a time zone.
    """
    plan = read_plan(study)
    jobs = _jobs(study, plan)
    counts = {job.name: _count(job, plan) for job in jobs}
    done = sum(count.done for count in counts.values())
    here = sum(count.here for count in counts.values())
    planned = _planned(list(counts.values()), len(plan.run) - len(jobs) if plan.run else None)
    seconds = 0.0 if plan.started is None else (now - plan.started).total_seconds()
    best_job = min(counts, key=lambda name: (counts[name].best, name), default=None)
    best = math.inf if best_job is None else counts[best_job].best
    return StudyProgress(
        trials=done,
        planned=planned,
        failed_trials=sum(count.failed for count in counts.values()),
        failed_jobs=sum(job.status == FAILED for job in jobs),
        best=best if math.isfinite(best) else None,
        best_job=best_job if math.isfinite(best) else None,
        seconds_left=(planned - done) * seconds / here if planned is not None and here and seconds > 0 else None,
    )


def line(progress: StudyProgress, now: datetime.datetime, name: str = "study") -> str:
    """`study: 13 of 32 trials, 1 failed, best 0.0276 (JOB), about 24 min left, ends 14:32`, in local time."""
    whole = "" if progress.planned is None else f" of {progress.planned}"
    plural = "" if (progress.planned or progress.trials) == 1 else "s"
    parts = [f"{name}: {progress.trials}{whole} trial{plural}"]
    if progress.failed_trials:
        parts.append(f"{progress.failed_trials} failed")
    if progress.failed_jobs:
        parts.append(f"{progress.failed_jobs} job{'s' if progress.failed_jobs > 1 else ''} failed")
    if progress.best is not None:
        parts.append(f"best {progress.best:.4f} ({progress.best_job})")
    if progress.seconds_left:
        ends = (now + datetime.timedelta(seconds=progress.seconds_left)).astimezone()
        day = "" if ends.date() == now.astimezone().date() else f"{ends:%Y-%m-%d} "
        parts.append(f"about {duration(progress.seconds_left)} left, ends {day}{ends:%H:%M}")
    return printable(", ".join(parts))


def study_line(study: Path) -> str | None:
    """`line` of a study as it stands; None where its run is a single job, which tells all itself."""
    plan = read_plan(study)
    if plan.started is None or len(plan.run) == 1:
        return None
    now = datetime.datetime.now(datetime.UTC)
    return line(study_progress(study, now), now)


def _jobs(study: Path, plan: Plan) -> list[Job]:
    """The jobs of the run that have begun; all that began with it or later where nobody wrote their names down."""
    names = plan.run or tuple(sorted(folder.name for folder in study.iterdir() if folder.is_dir()))
    found = []
    for name in names:
        try:
            job = read_job(study / name)
        except OSError:
            # Not to be read just now, as if it had not begun.
            continue
        if job is not None and (plan.run or not _before(job.result.get("started"), plan)):
            found.append(job)
    return found


def _count(job: Job, plan: Plan) -> _Count:
    told = _mapping(job.result.get("trials"))
    total, failed, planned = (_whole(told.get(name)) for name in ("total", "failed", "planned"))
    ended = job.status in (OK, FAILED)
    if job.status == OK and total is not None and failed is not None:
        done, best = total, job.objective
    else:
        records = _trials(job)
        winner = best_trial(records)
        done, failed = len(records), sum(not record.can_win for record in records)
        best = math.inf if winner is None or winner.val_log_loss is None else winner.val_log_loss
    if planned is None and "planned" not in told and job.status == OK:
        planned = done  # a job of an earlier version
    # A job that ended, or was killed, before this run began; one that goes on had some of its trials before.
    earlier = _before(job.result.get("finished") or job.result.get("started"), plan)
    here = 0 if earlier else done - (_whole(job.result.get("resumed_after")) or 0)
    return _Count(done, here, failed, planned, not ended and "planned" in told and planned is None, ended, best)


def _trials(job: Job) -> list[TrialRecord]:
    try:
        return job.trials()
    except (UserError, OSError):
        return []


def _planned(counts: list[_Count], waiting: int | None) -> int | None:
    """Trials of the whole run.

    Args:
        waiting: jobs that have not begun; None: nobody knows how many will come.
    """
    told = [count.planned for count in counts if count.planned is not None]
    open_jobs = [count for count in counts if not count.ended]
    silent = [count for count in open_jobs if count.planned is None]
    if waiting is None or any(count.unknown for count in counts) or ((waiting or silent) and not told):
        return None
    known = sum(count.done for count in counts if count.ended)
    known += sum(max(count.planned, count.done) for count in open_jobs if count.planned is not None)
    return known + (round((waiting + len(silent)) * sum(told) / len(told)) if waiting or silent else 0)


def _before(time: Any, plan: Plan) -> bool:
    """Whether this was before the run began."""
    told = moment(time)
    return told is not None and plan.started is not None and told < plan.started


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
