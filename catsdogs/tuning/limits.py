"""Time limit of a study."""

from __future__ import annotations

import time

from catsdogs.config.schema import TimeoutConfig


class StudyTimeout(Exception):
    """The time limit of the study is reached: the running trial stops and is not recorded."""


def check_timeout(timeout: TimeoutConfig, deadline: float | None) -> None:
    """Raise `StudyTimeout`, with the text for `result.json`, after the deadline (`study_deadline`; None: no limit)."""
    if deadline is not None and time.time() > deadline:
        raise StudyTimeout(f"timeout.study_seconds={timeout.study_seconds:g} reached")
