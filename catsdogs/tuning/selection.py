"""Selection of the winner among the best trials of a search, which are trained again with new seeds.

The best of many trials is partly lucky: its score is optimistic, and a lower-ranked trial may be better. The search's
scores and seeds are therefore ignored here. A bias towards the validation images remains, because they are the same.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.files import free_name, write_csv
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.config.schema import SearchConfig
from catsdogs.study.progress import JobProgress
from catsdogs.study.resume_state import SELECT
from catsdogs.study.trials import TrialRecord, ranked, summary
from catsdogs.training.execution import DivergedError
from catsdogs.tuning.tuner import Search

log = logging.getLogger(__name__)

_SCORES = dict.fromkeys(("val_log_loss", "val_accuracy"), float | None)
_TABLE = Table(
    {"trial": int, "seed": int, **_SCORES, "best_epoch": int, "seconds": float | None}, (), ("trial", "seed")
)
_COLUMNS = list(_TABLE.columns)


def select(config: SearchConfig, search: Search, folder: Path, label: str) -> dict[str, Any] | None:
    """Select the winner of a finished search, and write its predictions to `validation.csv`.

    A row of `select.csv` is written after every training; trainings in it are not repeated. Return the entries of
    `trials.summary` with means over the new seeds, and `searched_val_log_loss`, `seeds` and `execution` (of the first
    new seed); None if no trial completed with all of its seeds.
    """
    repeats = config.select.repeats
    candidates = ranked(search.records)[: config.select.top_k]
    progress = JobProgress(f"{label}, selection", len(candidates) * repeats, config.fit.epochs * search.folds)
    # The first execution that is not part of the search.
    execution = config.fit.executions_per_trial
    trainings = _Repeats(search, folder / SELECT, execution)
    for record in candidates:
        for seed in range(repeats):
            trainings.train(record, seed, progress)
            progress.trial_done()
    scores = trainings.mean_scores(candidates, repeats)
    if not scores and trainings.errors:
        # As in a search without a completed trial: an error in every candidate is not about a single trial.
        raise next(iter(trainings.errors.values()))
    if not scores:
        log.warning("%s: no candidate completed with all new seeds; keeping the best trial of the search", label)
        return None
    completed = [record for record in candidates if record.trial in scores]
    winner = min(completed, key=lambda record: (scores[record.trial], int(record.trial)))
    seeds = f"{repeats} new seed{'' if repeats == 1 else 's'} each"
    first = "" if winner is candidates[0] else f"; the search ranked trial {candidates[0].trial} first"
    best = f"trial {winner.trial} is the best of {len(candidates)} with {seeds}"
    score = f"val_log_loss {scores[winner.trial]:.4f} (in the search: {winner.val_log_loss:.4f})"
    log.info("%s: %s: %s%s", label, best, score, first)
    if winner.trial in trainings.predictions:
        search.tables.write_validation(trainings.predictions[winner.trial], winner.trial, execution)
    else:
        # An earlier run trained it, and may have stopped before it wrote the predictions.
        search.restore_validation(winner, execution)
    rows = trainings.rows(winner, repeats)
    return {
        **summary(winner),
        "val_log_loss": scores[winner.trial],
        "val_accuracy": float(rows["val_accuracy"].mean()),
        "best_epoch": round(float(rows["best_epoch"].mean())),
        "searched_val_log_loss": winner.val_log_loss,
        "seeds": repeats,
        "execution": execution,
    }


class _Repeats:
    """Trainings with new seeds, recorded in `select.csv`."""

    def __init__(self, search: Search, file: Path, execution: int) -> None:
        self._search = search
        self._file = file
        self._execution = execution
        self._table = _read(file)
        self._recorded = set(zip(self._table["trial"], self._table["seed"], strict=True))
        # By trial: p_dog of the validation images with the first new seed, if trained in this run, and the first error.
        self.predictions: dict[str, np.ndarray] = {}
        self.errors: dict[str, Exception] = {}

    def train(self, record: TrialRecord, seed: int, progress: JobProgress) -> None:
        """Train a trial with a new seed, numbered from 0, unless that is recorded or an earlier seed failed."""
        if (record.trial, seed) in self._recorded or record.trial in self.errors:
            return
        row: list[Any] = [record.trial, seed, math.nan, math.nan, 0, math.nan]
        started = time.monotonic()
        try:
            scored, p_dog = self._search.train(record, [self._execution + seed], progress)
        except DivergedError as error:
            log.warning("trial %s diverged with new seed %d and cannot win: %s", record.trial, seed, error)
        except Exception as error:
            self._search.raise_if_fatal(error)
            log.warning("trial %s failed with new seed %d and cannot win", record.trial, seed, exc_info=True)
            # Without a row in the table, so the trial is retried when the job is resumed.
            self.errors[record.trial] = error
            return
        else:
            seconds = round(time.monotonic() - started, 3)
            row[2:] = [scored.val_log_loss, scored.val_accuracy, scored.best_epoch, seconds]
            if seed == 0:
                self.predictions[record.trial] = p_dog
        self._table = pd.concat([self._table, pd.DataFrame([row], columns=_COLUMNS)], ignore_index=True)
        write_csv(self._file, self._table)

    def rows(self, record: TrialRecord, repeats: int) -> pd.DataFrame:
        """Return the rows of a trial for this number of seeds, sorted by seed."""
        rows = self._table[(self._table["trial"] == record.trial) & (self._table["seed"] < repeats)]
        return rows.sort_values("seed")

    def mean_scores(self, candidates: Sequence[TrialRecord], repeats: int) -> dict[str, float]:
        """Return the mean validation log loss of every trial that completed with all seeds."""
        means = {one.trial: float(self.rows(one, repeats)["val_log_loss"].mean(skipna=False)) for one in candidates}
        return {trial: mean for trial, mean in means.items() if trial not in self.errors and math.isfinite(mean)}


def _read(file: Path) -> pd.DataFrame:
    """Return the recorded trainings; a corrupted table is renamed."""
    try:
        table = _TABLE.read(file)
    except CorruptedFile as error:
        path = free_name(file.with_name(f"{SELECT}.damaged"))
        file.rename(path)
        log.warning("%s; renamed to %s, and its trials are trained again", error, path.name)
        table = None
    return pd.DataFrame(columns=_COLUMNS) if table is None else table.astype({"trial": str})
