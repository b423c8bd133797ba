"""Selection of the winner among the best trials of a search, which are trained again with new seeds.

The best of many trials is partly lucky: its score is optimistic, and a lower-ranked trial may be better. The search's
scores and seeds are therefore ignored here. A bias towards the validation images remains, because they are the same.
"""

import itertools
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
from catsdogs.base.text import counted
from catsdogs.config.schema import SearchConfig
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.job_tables import SELECT
from catsdogs.study.progress import JobProgress
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

    A row of `select.csv` is written after every training; trainings in it are not repeated. A training that diverges
    has no score, and its trial cannot win; every other error ends the job, because these trials have completed before.
    Return the entries of `trials.summary` with means over the new seeds, and `searched_val_log_loss`, `seeds` and
    `execution` (of the first new seed); None if no trial completed with all of its seeds.
    """
    repeats = config.select.repeats
    candidates = ranked(search.records)[: config.select.top_k]
    trainings = len(candidates) * repeats
    # The search has filled the activation store.
    progress = JobProgress(f"{label}, selection", trainings, JobEstimate(trainings, config.fit.epochs * search.folds))
    # The first execution that is not part of the search.
    execution = config.fit.executions_per_trial
    table, predictions = _repeat(search, candidates, range(execution, execution + repeats), progress, folder / SELECT)
    rows = {one.trial: table[(table["trial"] == one.trial) & (table["seed"] < repeats)] for one in candidates}
    means = {trial: float(own["val_log_loss"].mean(skipna=False)) for trial, own in rows.items()}
    completed = [record for record in candidates if math.isfinite(means[record.trial])]
    if not completed:
        log.warning("%s: no candidate completed with all new seeds; keeping the best trial of the search", label)
        return None
    winner = min(completed, key=lambda record: (means[record.trial], int(record.trial)))
    seeds = f"{counted(repeats, 'new seed')} each"
    first = "" if winner is candidates[0] else f"; the search ranked trial={candidates[0].trial} first"
    best = f"trial={winner.trial} is the best of {len(candidates)} with {seeds}"
    score = f"val_log_loss {means[winner.trial]:.4f} (in the search: {winner.val_log_loss:.4f})"
    log.info("%s: %s: %s%s", label, best, score, first)
    if winner.trial in predictions:
        search.tables.write_validation(predictions[winner.trial], winner.trial, execution)
    else:
        # An earlier run trained it, and may have stopped before it wrote the predictions.
        search.restore_validation(winner, execution)
    accuracy, epoch = (float(rows[winner.trial][name].mean()) for name in ("val_accuracy", "best_epoch"))
    scores = {"val_log_loss": means[winner.trial], "val_accuracy": accuracy, "best_epoch": round(epoch)}
    found = {"searched_val_log_loss": winner.val_log_loss, "seeds": repeats, "execution": execution}
    return summary(winner) | scores | found


def _repeat(
    search: Search, candidates: Sequence[TrialRecord], executions: range, progress: JobProgress, file: Path
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Train the executions that the table does not list yet; return the table, and (N, K) of the first one by trial."""
    table = _read(file)
    recorded = set(zip(table["trial"], table["seed"], strict=True))
    predictions: dict[str, np.ndarray] = {}
    for record, (seed, execution) in itertools.product(candidates, enumerate(executions)):
        if (record.trial, seed) not in recorded:
            started = time.monotonic()
            scores: list[float | None] = [math.nan, math.nan, 0]
            try:
                scored, probabilities = search.train(record, [execution], progress)
            except DivergedError as error:
                log.warning("trial=%s diverged with new seed %d and cannot win: %s", record.trial, seed, error)
            else:
                scores = [scored.val_log_loss, scored.val_accuracy, scored.best_epoch]
                predictions |= {record.trial: probabilities} if seed == 0 else {}
            row = [record.trial, seed, *scores, round(time.monotonic() - started, 3)]
            table = pd.concat([table, pd.DataFrame([row], columns=_COLUMNS)], ignore_index=True)
            write_csv(file, table)
        progress.trial_done()
    return table, predictions


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
