"""`timeout` and `fit.max_parameters` -> what a trial, or the run of a study, is given up for."""

from __future__ import annotations

import time

from catsdogs.schema import SearchConfig


class TooLargeError(Exception):
    """The model of a trial has more parameters than `fit.max_parameters`: a failed trial."""


class TrialTimeoutError(Exception):
    """A trial took longer than `timeout.trial_seconds`: a failed trial."""


class BudgetSpent(Exception):
    """The time of the study is over: the trial that runs is given up and leaves no record."""


def over(study_seconds: float) -> str:
    """How `result.json` and the log tell that the time of a study is over."""
    return f"timeout.study_seconds={study_seconds:g} are over"


class Limits:
    """What bounds the trials of a job.

    Args:
        deadline: `time.time()` at which the run of the study is over; None: never.
    """

    def __init__(self, config: SearchConfig, deadline: float | None) -> None:
        self._parameters = config.fit.max_parameters
        self._timeout = config.timeout
        self._deadline = deadline
        self._began = time.monotonic()

    def begin_trial(self) -> None:
        self._began = time.monotonic()

    def trial_seconds(self) -> float:
        """Since the trial began."""
        return round(time.monotonic() - self._began, 3)

    def check_budget(self) -> None:
        """Raises: BudgetSpent."""
        if self._deadline is not None and time.time() > self._deadline:
            raise BudgetSpent(over(self._timeout.study_seconds or 0))

    def check_time(self) -> None:
        """Raises: BudgetSpent, TrialTimeoutError."""
        self.check_budget()
        most = self._timeout.trial_seconds
        if most is not None and time.monotonic() - self._began > most:
            raise TrialTimeoutError(f"the trial took longer than timeout.trial_seconds={most:g}")

    def check_size(self, parameters: int) -> None:
        """Raises: TooLargeError."""
        if self._parameters is not None and parameters > self._parameters:
            raise TooLargeError(
                f"too large: the model has {parameters:,} parameters, and fit.max_parameters is {self._parameters:,}"
            )
