"""Time left in a job: one-time costs (activations, tracing) apart from the cost of an epoch at every unfreeze depth."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEAST_EPOCHS = 0.05  # measured before there is an estimate: in less, one slow batch would become hours


class Fills(NamedTuple):
    """Filling of the activation store by this process."""

    seconds: float = 0.0  # spent on training views
    views: int = 0  # training views that were read
    total: int = 0  # training views


@dataclass
class _Trial:
    depth: int
    started: float
    filled: float  # `Fills.seconds` at the start
    setup: float | None = None  # seconds until the first batch, without filling
    epochs: float = 0.0
    seconds: float = 0.0  # of the epochs, without filling


class JobEstimate:
    """Cost model of a job that is fitted to its trials so far.

    `trials` and `epochs`, of a trial summed over executions, are the largest numbers; `earlier` are epochs of trials of
    earlier runs; `depths` are those of the space, None if unknown.
    """

    def __init__(
        self,
        trials: int | None,
        epochs: int,
        depths: Sequence[int] | None = None,
        fills: Callable[[], Fills] = Fills,
        earlier: Sequence[int] = (),
    ) -> None:
        self._trials_left = None if trials is None else trials - len(earlier)
        self._budget = epochs
        self._depths = list(depths or ())
        self._lengths: list[float] = list(earlier)  # epochs of finished trials
        self._fills = fills
        self._trials: list[_Trial] = []
        self.start(0)

    def start(self, depth: int) -> None:
        """Start a trial."""
        self._current = _Trial(depth, time.monotonic(), self._fills().seconds)

    def progress(self, epochs: float, first_batch: bool) -> None:
        """Record the finished epochs of the current trial; `first_batch`: a batch has ended, and not an epoch."""
        trial = self._current
        seconds = time.monotonic() - trial.started - (self._fills().seconds - trial.filled)
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
        expected = statistics.fmean(longer) if longer else self._budget
        left = (expected - current.epochs) * self._epoch_seconds(trials, current.depth)
        if current.setup is None:
            waited = time.monotonic() - current.started - (self._fills().seconds - current.filled)
            left += max(0.0, self._setup_seconds(trials, current.depth) - waited)
        later = max(0, self._trials_left - 1)
        mean = statistics.fmean(self._lengths or [self._budget])
        depths = self._depths or [one.depth for one in trials]
        left += later * mean * statistics.fmean(self._epoch_seconds(trials, depth) for depth in depths)
        # Of depths that are proposed at random, this many are new.
        seen = {one.depth for one in (*trials, current)}
        new = [depth for depth in dict.fromkeys(depths) if depth not in seen]
        first = len(new) * (1 - (1 - 1 / len(set(depths))) ** later)
        left += first * self._setup_seconds(trials, None)
        left += max(0.0, later - first) * self._setup_seconds(trials, None, again=True)
        return max(0.0, left) + self._fill_seconds()

    def _fill_seconds(self) -> float:
        """Return the seconds to fill the views that trials will probably read."""
        fills = self._fills()
        longest = max([*self._lengths, self._current.epochs]) if self._lengths else self._budget
        return fills.seconds / max(1, fills.views) * max(0.0, min(fills.total, longest) - fills.views)

    @staticmethod
    def _epoch_seconds(trials: Sequence[_Trial], depth: int) -> float:
        """Return the seconds of an epoch at a depth: interpolated between depths of trials."""
        measured = sorted({one.depth for one in trials})
        pace = [
            sum(one.seconds for one in trials if one.depth == known)
            / sum(one.epochs for one in trials if one.depth == known)
            for known in measured
        ]
        return float(np.interp(depth, measured, pace))

    @staticmethod
    def _setup_seconds(trials: Sequence[_Trial], depth: int | None, again: bool = False) -> float:
        """Return the seconds from the start of a trial to its first batch: long if its depth (None: any) is new."""
        known: list[list[float]] = [[], []]  # of the first trial of a depth, and of others
        seen: set[int] = set()
        for one in trials:
            known[one.depth in seen].append(one.setup or 0.0)
            seen.add(one.depth)
        return statistics.fmean(known[again or depth in seen] or [0.0])
