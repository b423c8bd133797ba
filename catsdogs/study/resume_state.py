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

import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import free_name
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.study.trials import TrialRecord, read_trials

log = logging.getLogger(__name__)

TRIALS, HISTORY, VALIDATION, SELECT = "trials.csv", "history.csv", "validation.csv", "select.csv"

HISTORY_TABLE = Table({"trial": int, "execution": int, "epoch": int, "val_log_loss": float})
VALIDATION_TABLE = Table(
    {"id": str, "label": int, "p_dog": float, "trial": int, "execution": int}, optional=("trial", "execution")
)


@dataclass(frozen=True)
class ResumeState:
    """Where a job goes on.

    Attributes:
        records: finished trials, in the order in which they ended.
        history: as in `history.csv`, of these trials; empty if there is none.
    """

    records: list[TrialRecord] = field(default_factory=list)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)


def finished_trials(folder: Path, result: Mapping[str, Any] | None = None) -> list[TrialRecord]:
    """As `read_earlier`, without the epochs; nothing is changed."""
    return _read(folder, result)[0]


def load_resume_state(folder: Path, result: Mapping[str, Any] | None = None) -> ResumeState:
    """The finished trials and their epochs. A history that is damaged is kept aside, and the job goes on without it.

    Args:
        result: what is in the job's `result.json`.

    Raises:
        UserError: `trials.csv` is damaged, or trials are missing in it.
    """
    records, history = _read(folder, result)
    file = folder / HISTORY
    if history is None:
        if file.exists():
            place = free_name(file.with_name(f"{HISTORY}.damaged"))
            file.rename(place)
            log.warning("%s is damaged: it is kept as %s, and the job goes on without its epochs", file, place.name)
        elif records:
            log.warning("%s is lost: the job goes on without the epochs of its %d finished trials", file, len(records))
        return ResumeState(records)
    finished = history["trial"].isin([record.trial for record in records])
    for trial in history["trial"][~finished].unique():
        log.warning("%s knows trial %s and %s does not: that trial did not end, and runs again", file, trial, TRIALS)
    return ResumeState(records, history[finished].reset_index(drop=True))


def _read(folder: Path, result: Mapping[str, Any] | None) -> tuple[list[TrialRecord], pd.DataFrame | None]:
    """Finished trials, and all epochs; None where there are none, or they are damaged."""
    file = folder / TRIALS
    remedy = "restore it from a copy, choose another study=NAME, or move the folder away to begin anew"
    try:
        records = read_trials(file)
    except CorruptedFile as error:
        raise UserError(f"job {folder}: its {TRIALS} is damaged ({error.reason}); {remedy}") from error
    try:
        history = HISTORY_TABLE.read(folder / HISTORY)
    except CorruptedFile:
        history = None
    if history is not None:
        history["trial"] = history["trial"].astype(str)
    told = (result or {}).get("trials", {}).get("total") or 0
    finished = {record.trial for record in records}
    known = finished if history is None else finished.union(history["trial"])
    # One more there is what a kill between two tables leaves.
    if len(known - finished) > 1 or told > len(records):
        what = "is gone" if not file.is_file() else f"holds {len(records)} trials"
        more = max(len(known), told)
        raise UserError(f"job {folder}: its {TRIALS} {what}, and {more} trials were run; {remedy}")
    return records, history


def validation_is_of(folder: Path, ids: list[str], trial: str, execution: int) -> bool:
    """Whether `validation.csv` holds what this execution of a trial said of these images.

    Versions up to 0.2 did not write whose predictions these are.
    """
    try:
        table = VALIDATION_TABLE.read(folder / VALIDATION)
    except CorruptedFile:
        return False
    if table is None or not {"trial", "execution"} <= set(table):
        return False
    return list(table["id"]) == ids and bool((table[["trial", "execution"]] == [int(trial), execution]).all(axis=None))
