"""`timeout.study_seconds` -> whether the time of a study is over."""

from __future__ import annotations

import time

from catsdogs.config.schema import TimeoutConfig


class StudyTimeout(Exception):
    """The time of the study is over: the trial that runs is given up and leaves no record."""


def check_timeout(timeout: TimeoutConfig, deadline: float | None) -> None:
    """Return while there is time left until `deadline`, which is `study.study_deadline`.

    Raises:
        BudgetSpent: in the words of `result.json` and of the log.
    """
    if deadline is not None and time.time() > deadline:
        raise StudyTimeout(f"timeout.study_seconds={timeout.study_seconds:g} reached")
