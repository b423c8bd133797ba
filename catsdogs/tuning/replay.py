"""Replay of finished trials, which restores the state of Keras Tuner's oracle.

Keras Tuner's own state on disk (1.4.8) is never read: it is written in place, so a kill leaves empty files, a grid
search cannot be resumed, and a changed seed or space is not detected.

An oracle depends only on its seed and on the scores of earlier trials. Requesting each finished trial again and
reporting its scores restores the full state. A different proposal means that the search has changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras_tuner

from catsdogs.base.errors import UserError
from catsdogs.study.trials import COMPLETED, TrialRecord

# Proposals of the Bayesian oracle, which minimizes, differ by about 1e-7 between processors and numbers of threads.
_RELATIVE_TOLERANCE = 1e-4


def replay(oracle: keras_tuner.Oracle, records: Sequence[TrialRecord], tuner_id: str, job: str) -> None:
    """Restore the state of a new oracle after these trials, in the order in which they finished, one at a time.

    Raise a `UserError` that names the job if the oracle proposes other values, or fewer trials.
    """
    for number, record in enumerate(records):
        trial = oracle.create_trial(tuner_id)
        if trial.status != "RUNNING":
            problem = f"{len(records)} trials are finished, but the search now has only {number}"
            raise UserError(f"job {job}: {problem}; set tuner.max_trials to at least {len(records)}")
        proposed = trial.hyperparameters.values
        if not _same(record, proposed):
            change = f"{_listed(record.hyperparameters)}, now proposed: {_listed(searched_values(proposed))}"
            problem = f"cannot resume because the search changed: trial {record.trial} has {change}"
            raise UserError(f"job {job}: {problem}; use a new study=NAME, or move the folder away")
        # Recorded values replace close ones, because later proposals depend on them.
        for name, value in proposed.items():
            if isinstance(value, float) and name in record.hyperparameters:
                proposed[name] = float(record.hyperparameters[name])
        if record.status == COMPLETED:
            scores = {"val_log_loss": record.val_log_loss, "val_accuracy": record.val_accuracy}
            oracle.update_trial(trial.trial_id, {k: math.nan if v is None else v for k, v in scores.items()})
            trial.status = COMPLETED
        else:
            # An INVALID trial has this status too after the last retry.
            trial.status, trial.message = "FAILED", record.error
        oracle.end_trial(trial)


def searched_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a trial, without Keras Tuner's control keys."""
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}


def _same(record: TrialRecord, proposed: dict[str, Any]) -> bool:
    """Return whether the values and the parent of a trial match the proposal."""
    values, parent = searched_values(proposed), str(proposed.get("tuner/trial_id") or "")
    if (set(values), parent) != (set(record.hyperparameters), record.parent):
        return False
    return all(_equal(record.hyperparameters[name], value) for name, value in values.items())


def _equal(one: Any, other: Any) -> bool:
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    return math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE) if numbers else str(one) == str(other)


def _listed(values: dict[str, Any]) -> str:
    texts = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items())
