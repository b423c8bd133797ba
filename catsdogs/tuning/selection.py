"""The best trials of a search, trained again with fresh seeds -> the winner by what these seeds say alone.

The best of many trials is best by luck too: its score is flattered, and the next best may be better. Neither seeds nor
scores of the search count here. The images are the same, so that what they favour stays.
"""

from __future__ import annotations

import logging
import math
import time
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

_TABLE = Table(
    {"trial": int, "seed": int, "val_log_loss": float, "val_accuracy": float, "best_epoch": int, "seconds": float}
)
_COLUMNS = list(_TABLE.columns)


def select(config: SearchConfig, search: Search, folder: Path, label: str) -> dict[str, Any] | None:
    """Name the winner of a search that has ended, and leave its predictions in `validation.csv`.

    A row of `select.csv` is written after every training, and what is there is not trained again.

    Args:
        folder: of the job.
        label: of the job, for the log.

    Returns:
        As `trials.summary`, with the means over the fresh seeds in place of what the search found, and
        `searched_val_log_loss`, `seeds` and `execution`, that of the first fresh seed, beside them. None: no trial
        came through all of its seeds.
    """
    top, seeds = config.select.top_k, config.select.repeats
    candidates = ranked(search.records)[:top]
    # The first execution that the search has not had.
    fresh = config.fit.executions_per_trial
    table = _read(folder / SELECT)
    known = set(zip(table["trial"], table["seed"], strict=True))
    p_dog: dict[str, np.ndarray] = {}
    progress = JobProgress(f"{label}, selection", len(candidates) * seeds, config.fit.epochs * search.folds)
    raised: dict[str, Exception] = {}
    for record in candidates:
        for seed in range(seeds):
            if (record.trial, seed) not in known and record.trial not in raised:
                try:
                    row, said = _trained(search, record, seed, fresh + seed, progress)
                except Exception as error:
                    search.check_others_may_do(error)
                    log.warning("trial %s raises with fresh seed %d, and cannot win", record.trial, seed, exc_info=True)
                    # It has no row, so that it is tried again where the job is.
                    raised[record.trial] = error
                else:
                    if seed == 0 and said is not None:
                        p_dog[record.trial] = said
                    table = pd.concat([table, pd.DataFrame([row], columns=_COLUMNS)], ignore_index=True)
                    write_csv(folder / SELECT, table)
            progress.trial_done()
    ours = table[table["seed"] < seeds].set_index("trial")
    through = [record for record in candidates if record.trial not in raised]
    means = {record.trial: float(ours.loc[[record.trial], "val_log_loss"].mean(skipna=False)) for record in through}
    able = [record for record in through if math.isfinite(means[record.trial])]
    if not able and raised:
        # As where no trial of the search completes: what raises every time is more than a bad trial.
        raise next(iter(raised.values()))
    if not able:
        log.warning("%s: no trial came through all fresh seeds; the best of the search stays the winner", label)
        return None
    winner = min(able, key=lambda record: (means[record.trial], int(record.trial)))
    log.info(
        "%s: trial %s is best of %d with %d fresh seed%s each: val_log_loss %.4f, where the search told %.4f%s",
        label,
        winner.trial,
        len(candidates),
        seeds,
        "" if seeds == 1 else "s",
        means[winner.trial],
        winner.val_log_loss,
        "" if winner is candidates[0] else f"; the search favoured trial {candidates[0].trial}",
    )
    rows = ours.loc[[winner.trial]].sort_values("seed")
    if winner.trial in p_dog:
        search.tables.write_validation(p_dog[winner.trial], winner.trial, fresh)
    else:
        # An earlier run of the job trained it, and may have been ended before it wrote this down.
        search.mend_validation(winner, fresh)
    return {
        **summary(winner),
        "val_log_loss": means[winner.trial],
        "val_accuracy": float(rows["val_accuracy"].mean()),
        "best_epoch": round(float(rows["best_epoch"].mean())),
        "searched_val_log_loss": winner.val_log_loss,
        "seeds": seeds,
        "execution": fresh,
    }


def _trained(
    search: Search, record: TrialRecord, seed: int, execution: int, progress: JobProgress
) -> tuple[list[Any], np.ndarray | None]:
    """A row of the table, and what the model says of the validation images; NaN and None if it does not end well."""
    began = time.monotonic()
    try:
        found, p_dog = search.train(record, [execution], progress)
    except DivergedError as error:
        log.warning("trial %s does not end well with fresh seed %d, and cannot win: %s", record.trial, seed, error)
        return [record.trial, seed, math.nan, math.nan, 0, math.nan], None
    seconds = round(time.monotonic() - began, 3)
    return [record.trial, seed, found.val_log_loss, found.val_accuracy, found.best_epoch, seconds], p_dog


def _read(file: Path) -> pd.DataFrame:
    """What is selected so far; a table that is damaged is kept aside."""
    try:
        table = _TABLE.read(file)
    except CorruptedFile as error:
        place = free_name(file.with_name(f"{SELECT}.damaged"))
        file.rename(place)
        log.warning("%s; it is kept as %s, and its trials are trained again", error, place.name)
        table = None
    if table is None:
        return pd.DataFrame(columns=_COLUMNS)
    return table.assign(trial=table["trial"].astype(str))
