"""Tables that earlier runs of a job left -> the trials and epochs to go on from; damage is told, never guessed at.

`trials.csv` says what is finished. It is written last, so that a process that is killed between two tables leaves at
most one trial that the others know and it does not; that trial runs again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.errors import UserError
from catsdogs.files import free_name
from catsdogs.scores import log_loss_per_image
from catsdogs.trials import COMPLETED, TrialRecord, best_trial, read_trials, trial_ids

log = logging.getLogger(__name__)

TRIALS, HISTORY, VALIDATION, SELECT = "trials.csv", "history.csv", "validation.csv", "select.csv"

# How far the log loss of predictions that went through a CSV file may be from the one that Keras told.
_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Earlier:
    """Where a job goes on.

    Attributes:
        records: finished trials, in the order in which they ended.
        history: as in `history.csv`, of these trials; empty if there is none.
    """

    records: list[TrialRecord] = field(default_factory=list)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def completed(self) -> int:
        return sum(record.status == COMPLETED for record in self.records)


def finished_trials(folder: Path, result: Mapping[str, Any] | None = None) -> list[TrialRecord]:
    """The trials that `trials.csv` of this job knows.

    Args:
        result: what is in its `result.json`.

    Raises:
        UserError: the table is damaged, or trials are missing in it.
    """
    file = folder / TRIALS
    remedy = "restore it from a copy, choose another study=NAME, or move the folder away to begin anew"
    records: list[TrialRecord] = []
    if file.is_file():
        try:
            if not file.read_bytes().endswith(b"\n"):
                raise ValueError("its end is missing")
            records = read_trials(file)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"job {folder}: its {TRIALS} is damaged ({_one_line(error)}); {remedy}") from error
    told = ((result or {}).get("trials") or {}).get("total")
    known, finished = _trials_of(_read_history(folder / HISTORY)), {record.trial for record in records}
    lost = known - finished
    # One more there is what a kill between two tables leaves.
    if len(lost) > 1 or (isinstance(told, int) and told > len(records)):
        what = "is gone" if not file.is_file() else f"holds {len(records)} trials"
        more = max(len(known | finished), told if isinstance(told, int) else 0)
        raise UserError(f"job {folder}: its {TRIALS} {what}, and {more} trials were run; {remedy}")
    return records


def read_earlier(folder: Path, result: Mapping[str, Any] | None = None) -> Earlier:
    """The finished trials and their epochs. A history that is damaged is kept aside, and the job goes on without it.

    Raises:
        UserError: as `finished_trials`.
    """
    records = finished_trials(folder, result)
    file = folder / HISTORY
    history = _read_history(file)
    if history is None:
        history = pd.DataFrame()
        if file.exists():
            place = free_name(file.with_name(f"{HISTORY}.damaged"))
            file.rename(place)
            log.warning("%s is damaged: it is kept as %s, and the job goes on without its epochs", file, place.name)
        elif records:
            log.warning("%s is lost: the job goes on without the epochs of its %d finished trials", file, len(records))
    if len(history):
        ids = {record.trial for record in records}
        for trial in sorted(set(history["trial"]) - ids):
            log.warning(
                "%s knows trial %s and %s does not: that trial did not end, and runs again", file, trial, TRIALS
            )
        history = history[history["trial"].isin(ids)].reset_index(drop=True)
    return Earlier(records, history)


def validation_fits(folder: Path, earlier: Earlier, ids: list[str]) -> bool:
    """Whether `validation.csv` holds the best trial's predictions for these images, as far as its log loss can tell."""
    best = best_trial(earlier.records)
    if best is None:
        return True
    try:
        table = _validation(folder, ids)
        expected = best.val_log_loss
        if len(earlier.history):
            # The predictions are of the first execution, the record is the mean of all.
            first = earlier.history[earlier.history["execution"] == 0]
            own = _lowest(first[first["trial"] == best.trial], table)
            expected = own if np.isfinite(own) else expected
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return validation_has(folder, ids, float(expected or 0))


def validation_has(folder: Path, ids: list[str], log_loss: float) -> bool:
    """Whether `validation.csv` holds predictions for these images that have this log loss."""
    try:
        table = _validation(folder, ids)
        found = np.mean(log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy(dtype=float)))
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return bool(np.isclose(found, log_loss, rtol=_RELATIVE_TOLERANCE, atol=1e-6))


def _validation(folder: Path, ids: list[str]) -> pd.DataFrame:
    file = folder / VALIDATION
    table = pd.read_csv(file, dtype={"id": str})
    if list(table["id"]) != ids or not file.read_bytes().endswith(b"\n"):
        raise ValueError("it is of other images, or its end is missing")
    return table


def _lowest(history: pd.DataFrame, images: pd.DataFrame) -> float:
    """The lowest val_log_loss of an execution, of every fold weighted by its images if there are several."""
    if "fold" not in history or "fold" not in images:
        return float(history["val_log_loss"].min())
    lowest, sizes = history.groupby("fold")["val_log_loss"].min(), images["fold"].value_counts()
    return float((lowest * sizes).sum(min_count=len(sizes)) / sizes.sum())


def _read_history(file: Path) -> pd.DataFrame | None:
    """None where there is none, or it is damaged."""
    try:
        if not file.read_bytes().endswith(b"\n"):
            return None
        table = pd.read_csv(file)
        table["trial"] = trial_ids(table["trial"])
        table["execution"].astype(int)
        table["epoch"].astype(int)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return table


def _trials_of(history: pd.DataFrame | None) -> set[str]:
    return set() if history is None else set(history["trial"])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
