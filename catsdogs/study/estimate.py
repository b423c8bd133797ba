"""Time left in a job and in a study: one-time costs (activations, tracing) apart from epochs by unfreeze depth."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_EPOCHS = 0.05  # measured before there is an estimate: in less, one slow batch would become hours


@dataclass
class _Trial:
    depth: int
    started: float
    filled: float  # seconds spent on filling before its start
    setup: float | None = None  # seconds until the first batch, without filling
    epochs: float = 0.0
    seconds: float = 0.0  # of the epochs, without filling


class JobEstimate:
    """Cost model of a job that is fitted to its trials so far.

    `trials` and `epochs`, of a trial summed over executions, are the largest numbers; `earlier` are epochs of trials of
    earlier runs; `depths` are those of the space, None if unknown. `fills` returns `features.reader.Fills`:
    seconds spent on filling the activation store, the training views that were read, and their largest number.
    """

    def __init__(
        self,
        trials: int | None,
        epochs: int,
        depths: Sequence[int] | None = None,
        fills: Callable[[], tuple[float, int, int]] = lambda: (0.0, 0, 0),
        earlier: Sequence[int] = (),
    ) -> None:
        self._trials_left = None if trials is None else trials - len(earlier)
        self.epochs = epochs
        self._depths = list(depths or ())
        self._lengths: list[float] = list(earlier)  # epochs of finished trials
        self._fills = fills
        self._trials: list[_Trial] = []
        self.start(0)

    def start(self, depth: int) -> None:
        """Start a trial."""
        self._current = _Trial(depth, time.monotonic(), self._fills()[0])

    def progress(self, epochs: float, first_batch: bool) -> None:
        """Record the finished epochs of the current trial; `first_batch`: a batch has ended, and not an epoch."""
        trial = self._current
        seconds = time.monotonic() - trial.started - (self._fills()[0] - trial.filled)
        if trial.setup is None:
            trial.setup = seconds if first_batch else 0.0
        trial.epochs, trial.seconds = epochs, max(0.0, seconds - trial.setup)

    def finish(self) -> None:
        """Finish the current trial, which may have skipped epochs or failed before the first one."""
        if self._trials_left is not None:
            self._trials_left -= 1
        if self._current.epochs:
            self._trials.append(self._current)
            self._lengths.append(self._current.epochs)
        self.start(self._current.depth)

    def left(self) -> float | None:
        """Return the seconds until the last trial ends; None if unknown."""
        current, trials = self._current, [one for one in (*self._trials, self._current) if one.epochs]
        if not self._trials_left or sum(one.epochs for one in trials) < LEAST_EPOCHS:
            return None
        longer = [length for length in self._lengths if length > current.epochs]
        expected = statistics.fmean(longer) if longer else self.epochs
        left = (expected - current.epochs) * self._epoch_seconds(trials, current.depth)
        if current.setup is None:
            waited = time.monotonic() - current.started - (self._fills()[0] - current.filled)
            left += max(0.0, self._setup_seconds(trials, current.depth) - waited)
        later = max(0, self._trials_left - 1)
        mean = statistics.fmean(self._lengths or [self.epochs])
        depths = self._depths or [one.depth for one in trials]
        left += later * mean * statistics.fmean(self._epoch_seconds(trials, depth) for depth in depths)
        # Of depths that are proposed at random, this many are new.
        seen = {one.depth for one in (*trials, current)}
        new = [depth for depth in dict.fromkeys(depths) if depth not in seen]
        first = len(new) * (1 - (1 - 1 / len(set(depths))) ** later)
        left += first * self._setup_seconds(trials, None)
        left += max(0.0, later - first) * self._setup_seconds(trials, None, again=True)
        return max(0.0, left) + self.fill() - self._fills()[0]

    def fill(self) -> float:
        """Return the seconds that filling has taken and will take, for the views that trials will probably read."""
        seconds, views, total = self._fills()
        longest = max([*self._lengths, self._current.epochs]) if self._lengths else self.epochs
        return seconds + seconds / max(1, views) * max(0.0, min(total, longest) - views)

    def _epoch_seconds(self, trials: Sequence[_Trial], depth: int) -> float:
        """Return the seconds of an epoch at a depth, from trials of others: a constant and a part for every layer."""
        measured = sorted({one.depth for one in trials})
        # Head, reading and frozen layers take about as long as a quarter of the largest depth.
        constant = max([1, *self._depths, *measured]) / 4
        pace = [
            sum(one.seconds for one in trials if one.depth == known)
            / sum(one.epochs for one in trials if one.depth == known)
            / (constant + known)
            for known in measured
        ]
        return float(np.interp(depth, measured, pace)) * (constant + depth)

    @staticmethod
    def _setup_seconds(trials: Sequence[_Trial], depth: int | None, again: bool = False) -> float:
        """Return the seconds from the start of a trial to its first batch: long if its depth (None: any) is new."""
        known: list[list[float]] = [[], []]  # of the first trial of a depth, and of others
        seen: set[int] = set()
        for one in trials:
            known[one.depth in seen].append(one.setup or 0.0)
            seen.add(one.depth)
        return statistics.fmean(known[again or depth in seen] or [0.0])


@dataclass(frozen=True)
class JobTimes:
    """What the estimate of a study knows of one of its jobs."""

    cache: str = ""  # jobs with the same text share activations
    started: float = math.inf  # seconds since the start of the run; negative: in an earlier one, infinite: it waits
    ended: bool = False
    seconds: float | None = None  # from start to end, also of a running job; None: unknown, or it failed
    fill: float = 0.0  # of these, spent on filling the activation store
    share: float = 0.0  # of its trials that have ended


def study_left(jobs: Sequence[JobTimes], now: float) -> float | None:
    """Return the seconds until the last job of a study ends; None if unknown. `now` is as `JobTimes.started`."""
    begun = sorted((job for job in jobs if job.started < math.inf), key=lambda job: job.started)
    running = [(job, now - job.started) for job in begun if not job.ended]
    costs = [job.seconds - job.fill for job in begun if job.seconds is not None]
    if not (costs := costs or [elapsed / job.share for job, elapsed in running if job.share]):
        return None
    cost = statistics.fmean(costs)
    filling = {job.cache: job for job in reversed(begun)}  # the first job that needs these activations
    fill = statistics.fmean([job.fill for job in filling.values() if job.seconds is not None] or [0.0])
    left = [0.0]
    for job, elapsed in running:
        expected = max(cost + fill * (filling[job.cache] is job) - elapsed, cost * (1 - job.share))
        left.append(expected if job.seconds is None else job.seconds - elapsed)
    waiting = [job for job in jobs if job.started == math.inf]
    start = next((job.started for job in begun if job.started >= 0), 0.0)
    work = sum(left) + sum(start + cost * (1 - job.share) for job in waiting)
    work += fill * len({job.cache for job in waiting} - set(filling))
    return max(*left, work / max(1, len(running)))
