"""What is done -> lines that say where a job stands, how good it is and how long it will take.

Plain lines through `logging`, so that they read the same on a terminal, in a log file and from a batch queue.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from catsdogs.base.text import format_duration
from catsdogs.study.trials import TrialRecord, best_trial

log = logging.getLogger(__name__)

# Seconds between two lines inside one epoch.
WITHIN_EPOCH_SECONDS = 30.0

# What must be trained before the time left is told: of less, one slow batch would make hours.
LEAST_EPOCHS = 0.05


class JobProgress:
    """Counts the epochs of a job against all that it may train, and logs.

    Args:
        label: the job, as `job 2 of 4, mobilenet_v2-flip-cosine-none`.
        trials: number of trials that the job will run at most; None if nobody knows.
        epochs_per_trial: epochs of a whole trial, all executions together.
        study_line: gives a line on the study that the job belongs to, or None; asked for after every trial.
        earlier: trials that the job had before.
    """

    def __init__(
        self,
        label: str,
        trials: int | None,
        epochs_per_trial: int,
        study_line: Callable[[], str | None] | None = None,
        earlier: Sequence[TrialRecord] = (),
    ) -> None:
        self._label = label
        self._trials = trials
        self._epochs_per_trial = epochs_per_trial
        self._study_line = study_line
        self._began = time.monotonic()
        self._trials_done = len(earlier)
        self._trials_before_epochs = float(len(earlier) * epochs_per_trial)
        self._pace_from: tuple[float, float] | None = None
        best = best_trial(earlier)
        self._best = math.inf if best is None or best.val_log_loss is None else best.val_log_loss
        self._last_line = 0.0

    def epoch(
        self,
        execution_epochs_done: int,
        share: float,
        epoch: int,
        epochs: int,
        logs: dict[str, float] | None,
        fold: str = "",
    ) -> None:
        """Tell that `share` of an epoch (numbered from 0) is done, and its scores if it is done whole.

        Args:
            fold: `2 of 5`, where a trial is scored over several; the score of one alone is not the best so far.
        """
        now = time.monotonic()
        done = self._trials_done * self._epochs_per_trial + execution_epochs_done + share
        if self._pace_from is None:
            # From the first batch on: before it the store is filled and the model traced, which comes once.
            self._pace_from = (now, done) if logs is None else (self._began, self._trials_before_epochs)
        if logs is None and (share >= 1 or now - self._last_line < WITHIN_EPOCH_SECONDS):
            return
        self._last_line = now
        where = f"trial {self._trials_done + 1} of {self._trials or '?'}, "
        where += f"{f'fold {fold}, ' if fold else ''}epoch {epoch + 1} of {epochs}"
        if logs is None:
            what = f"{share:.0%} of the epoch"
        else:
            loss = logs.get("val_log_loss", logs.get("log_loss", math.nan))
            self._best = min(self._best, loss) if math.isfinite(loss) and not fold else self._best
            what = f"val_log_loss {loss:.4f}" if "val_log_loss" in logs else f"log_loss {loss:.4f}"
            what += f", best so far {self._best:.4f}" if math.isfinite(self._best) else ""
        log.info("%s: %s: %s%s", self._label, where, what, self._left(done))

    def trial_done(self, val_log_loss: float | None = None) -> None:
        """Count a trial as done, with all the epochs that it might have had; its tables must be written."""
        self._trials_done += 1
        if val_log_loss is not None:
            self._best = min(self._best, val_log_loss)
        if self._study_line is None:
            return
        try:
            line = self._study_line()
        except Exception as error:
            # It reads files that other processes write; a line of text must not end the search.
            log.warning("%s: where the study stands is not to be read just now (%s)", self._label, error)
            return
        if line:
            log.info("%s", line)

    def _left(self, epochs_done: float) -> str:
        """`, 3 min left`: at the pace so far, if no trial stops early."""
        assert self._pace_from is not None
        since, epochs_before = self._pace_from
        if self._trials is None or epochs_done - epochs_before < LEAST_EPOCHS:
            return ""
        per_epoch = (time.monotonic() - since) / (epochs_done - epochs_before)
        all_epochs = self._trials * self._epochs_per_trial
        return f", {format_duration(per_epoch * max(0.0, all_epochs - epochs_done))} left"
