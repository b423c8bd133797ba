"""Trials and their epochs -> `trials.csv`, `history.csv` and `validation.csv` of a job, written after every trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.study.resume_state import HISTORY, TRIALS, VALIDATION, ResumeState
from catsdogs.study.trials import TrialRecord, write_trials


class JobTables:
    """What is known of a job's trials, and on disk once a trial is committed.

    Args:
        folder: of the job.
        validation: id and label of every validation image, and its fold where there are several.
        earlier: what is on disk already.
    """

    def __init__(self, folder: Path, validation: pd.DataFrame, earlier: ResumeState) -> None:
        self.folder = folder
        self.validation = validation
        self._fold = [name for name in validation if name == "fold"]
        self._records = {record.trial: record for record in earlier.records}
        self._histories = [earlier.history] if len(earlier.history) else []
        self._uncommitted: list[pd.DataFrame] = []

    @property
    def records(self) -> list[TrialRecord]:
        return list(self._records.values())

    def keep_epochs(self, history: pd.DataFrame, trial: str, execution: int, fold: int) -> None:
        """Of a trial that runs; they are written when it is committed."""
        self._uncommitted.append(history.assign(trial=trial, execution=execution, **dict.fromkeys(self._fold, fold)))

    def epochs(self) -> int:
        """How many epochs the trial that runs has had."""
        return sum(map(len, self._uncommitted))

    def forget_epochs(self) -> None:
        """Of a trial that begins again."""
        self._uncommitted = []

    def commit(self, record: TrialRecord, p_dog: np.ndarray | None = None) -> None:
        """Write down a trial that has ended.

        `trials.csv` comes last: what it knows is finished, and a trial that it does not know runs again and writes the
        others anew.

        Args:
            p_dog: of the validation images by its first execution, if it is the best trial so far.
        """
        if p_dog is not None:
            self.write_validation(p_dog, record.trial, 0)
        records, histories = {**self._records, record.trial: record}, [*self._histories, *self._uncommitted]
        if histories:
            table = pd.concat(histories, ignore_index=True)
            leading = ["trial", "execution", *self._fold, "epoch"]
            write_csv(self.folder / HISTORY, table[leading + [name for name in table if name not in leading]])
        write_trials(self.folder / TRIALS, records.values())
        # Not before: where the disk is full, the trial is not finished.
        self._records, self._histories, self._uncommitted = records, histories, []

    def write_validation(self, p_dog: np.ndarray, trial: str, execution: int) -> None:
        """Write down what an execution of a trial says of the validation images."""
        write_csv(self.folder / VALIDATION, self.validation.assign(p_dog=p_dog, trial=trial, execution=execution))
