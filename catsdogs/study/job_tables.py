"""Tables of a job, written after every trial: `trials.csv`, `history.csv` and `validation.csv`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.study.resume_state import HISTORY, TRIALS, VALIDATION, ResumeState
from catsdogs.study.trials import TrialRecord, write_trials


class JobTables:
    """Finished trials and epochs of a job, in memory and on disk.

    `validation`: id and label of every validation image, and its fold if there are several.
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

    def commit(self, record: TrialRecord, p_dog: np.ndarray | None = None) -> None:
        """Write the tables with a finished trial; if it is the best so far, with `p_dog` of its first execution.

        `trials.csv` is written last: a trial that is not in it counts as unfinished, and runs again.
        """
        if p_dog is not None:
            self.write_validation(p_dog, record.trial, 0)
        records, histories = {**self._records, record.trial: record}, [*self._histories, *self._uncommitted]
        if histories:
            table = pd.concat(histories, ignore_index=True)
            leading = ["trial", "execution", *self._fold, "epoch"]
            write_csv(self.folder / HISTORY, table[leading + [name for name in table if name not in leading]])
        write_trials(self.folder / TRIALS, records.values())
        # Updated only now: if the disk is full, the trial is not finished.
        self._records, self._histories, self._uncommitted = records, histories, []

    def write_validation(self, p_dog: np.ndarray, trial: str, execution: int) -> None:
        """Write the predictions of an execution of a trial for the validation images."""
        write_csv(self.folder / VALIDATION, self.validation.assign(p_dog=p_dog, trial=trial, execution=execution))
