"""Tables of a job, written after every trial, and the trials and epochs of earlier runs in them.

`trials.csv` lists the finished trials. It is written last, so a kill between two tables leaves at most one trial in the
other tables that `trials.csv` does not list; that trial runs again. Corrupted tables are reported, never guessed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import free_name, write_csv
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.base.text import counted
from catsdogs.scoring.classes import Classes
from catsdogs.study.trials import TrialRecord, read_trials, write_trials

log = logging.getLogger(__name__)

TRIALS, HISTORY, VALIDATION, SELECT = "trials.csv", "history.csv", "validation.csv", "select.csv"

METRICS = ("accuracy", "log_loss", "loss", "val_accuracy", "val_loss", "learning_rate", "max_learning_rate", "seconds")
HISTORY_TABLE = Table(
    {"trial": int, "execution": int, "epoch": int, **dict.fromkeys(("val_log_loss", *METRICS), float | None)}, METRICS
)


def validation_table(classes: Classes) -> Table:
    """Return the declaration of `validation.csv`: a row per validation image, with its probabilities."""
    columns = {"id": str, "label": int, **dict.fromkeys(classes.columns(), float), "trial": int, "execution": int}
    labels = {"label": (0, len(classes) - 1)}
    return Table(columns, ("trial", "execution"), ("id",), labels, distributions=[classes.columns()])


@dataclass(frozen=True)
class ResumeState:
    """Finished trials, in the order in which they finished, and their epochs, from which a job resumes."""

    records: list[TrialRecord] = field(default_factory=list)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)  # rows of `history.csv`; empty if missing


def finished_trials(folder: Path, result: Mapping[str, Any] | None = None) -> list[TrialRecord]:
    """Return the trials of `load_resume_state`, without changing any file."""
    return _read(folder, result)[0]


def load_resume_state(folder: Path, result: Mapping[str, Any] | None = None) -> ResumeState:
    """Read the finished trials and their epochs; raise a `UserError` if `trials.csv` is corrupted or lacks trials.

    A corrupted history is renamed, and the job resumes without it.
    """
    records, history = _read(folder, result)
    file = folder / HISTORY
    if history is None:
        if file.exists():
            renamed = free_name(file.with_name(f"{HISTORY}.damaged"))
            file.rename(renamed)
            log.warning("%s: corrupted; renaming it to %s and resuming without its epochs", file, renamed.name)
        elif records:
            log.warning("%s: missing; resuming without the epochs of %d finished trials", file, len(records))
        return ResumeState(records)
    finished = history["trial"].isin([record.trial for record in records])
    for trial in history["trial"][~finished].unique():
        log.warning("%s: trial=%s is not in %s, so it did not finish; running it again", file, trial, TRIALS)
    return ResumeState(records, history[finished].reset_index(drop=True))


def _read(folder: Path, result: Mapping[str, Any] | None) -> tuple[list[TrialRecord], pd.DataFrame | None]:
    """Return the finished trials and all epochs; None instead of epochs that are missing or corrupted."""
    file = folder / TRIALS
    fix = "restore it from a backup, use a new study=NAME, or move the folder away to start over"
    try:
        records = read_trials(file)
    except CorruptedFile as error:
        raise UserError(f"job {folder}: its {TRIALS} is {error.problem}; {fix}") from error
    try:
        history = HISTORY_TABLE.read(folder / HISTORY)
    except CorruptedFile:
        history = None
    if history is not None:
        history["trial"] = history["trial"].astype(str)
    total = (result or {}).get("trials", {}).get("total") or 0
    finished = {record.trial for record in records}
    started = finished if history is None else finished.union(history["trial"])
    # A kill between two tables leaves one more trial in the history.
    if len(started - finished) > 1 or total > len(records):
        problem = "is missing" if not file.is_file() else f"lists {counted(len(records), 'trial')}"
        expected = max(len(started), total)
        raise UserError(f"job {folder}: its {TRIALS} {problem} (expected {expected}); {fix}")
    return records, history


class JobTables:
    """Finished trials and epochs of a job, in memory and on disk.

    `validation`: id and label of every validation image, and its fold if there are several.
    """

    def __init__(self, folder: Path, validation: pd.DataFrame, earlier: ResumeState, classes: Classes) -> None:
        self.folder = folder
        self._classes = classes
        self.validation = validation
        self._fold = [name for name in validation if name == "fold"]
        self._records = {record.trial: record for record in earlier.records}
        self._histories = [earlier.history] if len(earlier.history) else []
        self._uncommitted: list[pd.DataFrame] = []

    @property
    def records(self) -> list[TrialRecord]:
        """Committed trials."""
        return list(self._records.values())

    def keep_epochs(self, history: pd.DataFrame, trial: str, execution: int, fold: int) -> None:
        """Keep epochs of the running trial in memory until it is committed."""
        self._uncommitted.append(history.assign(trial=trial, execution=execution, **dict.fromkeys(self._fold, fold)))

    def epochs(self) -> int:
        """Return the number of epochs of the running trial."""
        return sum(map(len, self._uncommitted))

    def forget_epochs(self) -> None:
        """Discard the epochs of a trial that starts over."""
        self._uncommitted = []

    def commit(self, record: TrialRecord, probabilities: np.ndarray | None = None) -> None:
        """Write the tables with a finished trial; if it is the best so far, with (N, K) of its first execution.

        `trials.csv` is written last: a trial that is not in it counts as unfinished, and runs again.
        """
        if probabilities is not None:
            self.write_validation(probabilities, record.trial, 0)
        records, histories = {**self._records, record.trial: record}, [*self._histories, *self._uncommitted]
        if histories:
            table = pd.concat(histories, ignore_index=True)
            leading = ["trial", "execution", *self._fold, "epoch"]
            write_csv(self.folder / HISTORY, table[leading + [name for name in table if name not in leading]])
        write_trials(self.folder / TRIALS, records.values())
        # Updated only now: if the disk is full, the trial is not finished.
        self._records, self._histories, self._uncommitted = records, histories, []

    def write_validation(self, probabilities: np.ndarray, trial: str, execution: int) -> None:
        """Write the (N, K) probabilities of the validation images by an execution of a trial."""
        # Joined, because pandas warns about columns that are added one by one, if they are many.
        table = self.validation.join(pd.DataFrame(self._classes.to_columns(probabilities), self.validation.index))
        write_csv(self.folder / VALIDATION, table.assign(trial=trial, execution=execution))

    def has_validation_of(self, trial: str, execution: int) -> bool:
        """Return whether `validation.csv` contains the predictions of this execution of a trial for these images."""
        try:
            table = validation_table(self._classes).read(self.folder / VALIDATION)
        except CorruptedFile:
            return False
        if table is None or not {"trial", "execution"} <= set(table):  # versions up to 0.2 did not record the trial
            return False
        same = bool((table[["trial", "execution"]] == [int(trial), execution]).all(axis=None))
        return same and list(table["id"]) == list(self.validation["id"])
