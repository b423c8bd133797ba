"""Trials that are finished -> an oracle of Keras Tuner that knows them, as if it had proposed them in this process.

Keras Tuner's own state on disk is never read. It is written in place, so a kill leaves empty files; finished trials are
passed over where `tuner0.json` is missing; a trial that was saved and is not in `oracle.json` runs for ever; a grid
search cannot be continued; a changed seed or space is not noticed (all in 1.4.8). An oracle is a function of its seed
and of what the trials before found, so asking it again for each finished trial and telling it again what came out
restores it whole, random numbers included. What it proposes must be what was run, or the search is another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras_tuner

from catsdogs.base.errors import UserError
from catsdogs.study.trials import COMPLETED, TrialRecord

# Another number of threads, or another processor, moves what the Bayesian oracle proposes by some 1e-7: it minimises.
_RELATIVE_TOLERANCE = 1e-4


def replay(oracle: keras_tuner.Oracle, records: Sequence[TrialRecord], tuner_id: str, job: str) -> None:
    """Bring a new oracle to where it was after these trials.

    Args:
        oracle: has proposed nothing yet.
        records: in the order in which the trials ended; one after the other, as one process runs them.
        tuner_id: of the tuner that will go on.
        job: names the job in an error.

    Raises:
        UserError: the oracle proposes something else, or fewer trials.
    """
    for number, record in enumerate(records):
        trial = oracle.create_trial(tuner_id)
        if trial.status != "RUNNING":
            raise UserError(
                f"job {job}: {len(records)} trials are finished and the search would end after {number}; "
                f"raise tuner.max_trials to {len(records)} or more"
            )
        proposed = trial.hyperparameters.values
        if not _same(record, proposed):
            raise UserError(
                f"job {job}: trial {record.trial} was run with {_told(record.hyperparameters)}, and the search would "
                f"now begin it with {_told(searched_values(proposed))}; choose another study=NAME, or move it away"
            )
        # What was run, and not what is close to it: further proposals come of these values.
        for name, value in proposed.items():
            if isinstance(value, float) and name in record.hyperparameters:
                proposed[name] = float(record.hyperparameters[name])
        if record.status == COMPLETED:
            scores = {"val_log_loss": record.val_log_loss, "val_accuracy": record.val_accuracy}
            oracle.update_trial(trial.trial_id, {k: math.nan if v is None else v for k, v in scores.items()})
            trial.status = COMPLETED
        else:
            # What INVALID, which is tried again by oracles that may, has become by the end.
            trial.status = "FAILED"
            trial.message = record.error
        oracle.end_trial(trial)


def searched_values(values: dict[str, Any]) -> dict[str, Any]:
    """A trial's hyperparameters without Keras Tuner's control keys, which share their dictionary."""
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}


def _same(record: TrialRecord, proposed: dict[str, Any]) -> bool:
    """Whether a trial was what the oracle proposes, parents of promoted trials included."""
    values, parent = searched_values(proposed), str(proposed.get("tuner/trial_id") or "")
    if (set(values), parent) != (set(record.hyperparameters), record.parent):
        return False
    return all(_equal(record.hyperparameters[name], value) for name, value in values.items())


def _equal(one: Any, other: Any) -> bool:
    numbers = isinstance(one, (int, float)) and isinstance(other, (int, float))
    return math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE) if numbers else str(one) == str(other)


def _told(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
