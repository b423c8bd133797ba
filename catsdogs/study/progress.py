"""Progress of jobs and studies: log lines, the same on a terminal, in a log file and in a batch queue, and a bar.

The line of a study is made from the files that all its processes write: also of parallel jobs and earlier runs.
"""

import datetime
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catsdogs.base.bar import draw
from catsdogs.base.errors import UserError
from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.text import counted, format_duration, sanitize_line, time_left
from catsdogs.study.estimate import JobEstimate, JobTimes, study_left
from catsdogs.study.jobs import FAILED, OK, RUNNING, JobRecord, read_job
from catsdogs.study.plan import Plan, deleted_jobs, read_plan
from catsdogs.study.trials import TrialRecord, best_trial, trial_counts

log = logging.getLogger(__name__)

WITHIN_EPOCH_SECONDS = 30.0  # between two lines inside one epoch


class JobProgress:
    """Log of the epochs and trials of a job, with the time left.

    `label` starts every line, such as `job 2/4 mobilenet_v2-flip-cosine-none`. `trials` is the largest number; None:
    unknown. `study_line` returns a line after every trial, or None.
    """

    def __init__(
        self,
        label: str,
        trials: int | None,
        estimate: JobEstimate,
        study_line: Callable[[], str | None] | None = None,
        earlier: Sequence[TrialRecord] = (),
    ) -> None:
        self._label = label
        self._trials = trials
        self._estimate = estimate
        self._study_line = study_line
        self._trials_done = len(earlier)
        best = best_trial(earlier)
        self._best = math.inf if best is None or best.val_log_loss is None else best.val_log_loss
        self._last_line = 0.0

    def trial_started(self, depth: int) -> None:
        """Start a trial at an unfreeze depth."""
        self._estimate.start(depth)

    def epoch(
        self, epochs_done: int, share: float, epoch: int, epochs: int, logs: dict[str, float] | None, fold: str = ""
    ) -> None:
        """Log progress in an epoch, at most every 30 seconds, or the scores of a finished epoch.

        `epochs_done` are finished ones of this trial; `share` is the finished fraction of `epoch`, numbered from 0.
        `logs` is None within an epoch. `fold` is `2/5` with several folds, whose single scores do not count as best.
        """
        now = time.monotonic()
        self._estimate.progress(epochs_done + share, logs is None)
        position = f"trial {self._trials_done + 1}/{self._trials or '?'}, "
        position += f"{f'fold {fold}, ' if fold else ''}epoch {epoch + 1}/{epochs}"
        trials = self._trials_done + min(1.0, (epochs_done + share) / self._estimate.epochs)
        draw(self._trials and trials / self._trials, lambda: position + self._left())
        if logs is None and (share >= 1 or now - self._last_line < WITHIN_EPOCH_SECONDS):
            return
        self._last_line = now
        if logs is None:
            status = f"{share:.0%} of the epoch"
        else:
            loss = logs.get("val_log_loss", logs.get("log_loss", math.nan))
            self._best = min(self._best, loss) if math.isfinite(loss) and not fold else self._best
            status = f"val_log_loss {loss:.4f}" if "val_log_loss" in logs else f"log_loss {loss:.4f}"
            status += f" (best {self._best:.4f})" if math.isfinite(self._best) else ""
        log.info("%s: %s: %s%s", self._label, position, status, self._left())

    def trial_done(self, val_log_loss: float | None = None) -> None:
        """Count a trial as done, also the epochs that it skipped, and log the study; its tables must be written."""
        self._trials_done += 1
        self._estimate.finish()
        if val_log_loss is not None:
            self._best = min(self._best, val_log_loss)
        if self._study_line is None:
            return
        try:
            if line := self._study_line():
                log.info("%s", line)
        except Exception as error:
            # It reads files that other processes write; a progress line must not stop the search.
            log.warning("%s: cannot read the progress of the study (%s)", self._label, error)

    def _left(self) -> str:
        left = self._estimate.left()
        return f"{text} in this job" if left is not None and (text := time_left(left)) else ""


def study_line(study: Path, running: tuple[str, JobEstimate] | None = None) -> str | None:
    """Return the progress line of a study now; None for a run of a single job, which logs its own progress."""
    plan = read_plan(study)
    single = plan.started is None or len(plan.run) == 1
    return None if single else line(study, datetime.datetime.now(datetime.UTC), running)


def line(study: Path, now: datetime.datetime, running: tuple[str, JobEstimate] | None = None) -> str:
    """Return `study NAME: 13/32 trials, 1 failed, best 0.0276 (JOB), about 24 min left (until 14:32)`; local times.

    `running` is the name and estimate of a job of this process.
    """
    plan = read_plan(study)
    deleted = deleted_jobs(study, plan)
    names = [name for name in plan.run if name not in deleted] or [folder.name for folder in study.iterdir()]
    jobs = {name: job for name in names if (job := read_job(study / name)) is not None}
    by_job = {name: _trials(job) for name, job in jobs.items()}
    trials = [trial for of_job in by_job.values() for trial in of_job]
    # A folder of an earlier run, which this run will resume, is of a job that waits.
    begun = {name: job for name, job in jobs.items() if name not in plan.planned or _started(plan, job) >= 0}
    sizes = _planned_trials(plan, names, begun, by_job)
    planned = None if sizes is None else round(sum(sizes.values()))
    parts = [counted(len(trials), "trial") if planned is None else f"{len(trials)}/{counted(planned, 'trial')}"]
    counts, failed_jobs = trial_counts(trials), sum(job.status == FAILED for job in jobs.values())
    parts += [f"{counts[name]} {name}" for name in ("stopped", "failed") if counts[name]]
    if failed_jobs:
        parts.append(f"{counted(failed_jobs, 'job')} failed")
    if deleted:
        parts.append(f"{counted(len(deleted), 'job')} deleted")
    best = min(jobs.values(), key=lambda job: job.objective, default=None)
    if best is not None and math.isfinite(best.objective):
        parts.append(f"best {best.objective:.4f} ({best.name})")
    if sizes is not None and plan.started is not None and len(trials) < sum(sizes.values()):
        elapsed = (now - plan.started).total_seconds()
        shares = {name: len(by_job.get(name, ())) / max(1, size) for name, size in sizes.items()}
        times = [_times(plan, name, begun.get(name), share, elapsed, running) for name, share in shares.items()]
        left = study_left(times, elapsed)
        parts += [] if left is None else [_time_left(left, now)]
    return sanitize_line(f"study {study.resolve().name}: {', '.join(parts)}")


def _started(plan: Plan, job: JobRecord) -> float:
    """Return the seconds from the start of the run to that of a job, negative in an earlier run; 0.0 if unknown."""
    started = parse_timestamp(job.result.get("started"))
    return 0.0 if started is None or plan.started is None else (started - plan.started).total_seconds()


def _planned_trials(
    plan: Plan, names: Sequence[str], begun: dict[str, JobRecord], by_job: dict[str, list[TrialRecord]]
) -> dict[str, float] | None:
    """Return the number of trials of every job of the run; None if unknown.

    A finished job counts with its trials. A job without a planned number counts like the mean of the others.
    """
    known = [count for job in begun.values() if (count := job.result["trials"].get("planned")) is not None]
    mean = sum(known) / len(known) if known else None
    sizes: dict[str, Any] = {name: plan.planned.get(name, (None, ""))[0] or mean for name in names}
    for name, job in begun.items():
        sizes[name] = job.result["trials"].get("planned", mean) if job.status == RUNNING else len(by_job[name])
    # Without names in the plan, the sweeper chooses jobs one by one.
    return sizes if plan.run and None not in sizes.values() else None


def _times(
    plan: Plan, name: str, job: JobRecord | None, share: float, now: float, running: tuple[str, JobEstimate] | None
) -> JobTimes:
    cache = plan.planned.get(name, (None, ""))[1]
    if job is None:
        return JobTimes(cache, share=share)
    started, seconds, fill = _started(plan, job), job.result["seconds"], job.result["fill_seconds"] or 0.0
    if job.status == RUNNING and running is not None and running[0] == name:
        left = running[1].left() if share < 1 else 0.0
        seconds, fill = None if left is None else now - started + left, running[1].fill()
    elif job.status != OK:
        seconds = None
    return JobTimes(cache, started, job.status != RUNNING, seconds, fill, share)


def _time_left(seconds: float, now: datetime.datetime) -> str:
    seconds = min(seconds, 1e9)  # a corrupted plan may have started decades ago
    end = (now + datetime.timedelta(seconds=seconds)).astimezone()
    day = "" if end.date() == now.astimezone().date() else f"{end:%Y-%m-%d} "
    return f"about {format_duration(seconds)} left (until {day}{end:%H:%M})"


def _trials(job: JobRecord) -> list[TrialRecord]:
    try:
        return job.trials()
    except UserError:  # corrupted; the report lists it
        return []
