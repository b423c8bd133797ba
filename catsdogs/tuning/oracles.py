"""Keras Tuner's oracle: `tuner` and `space`, its trials, their replay, and the trials that it may promote.

Keras Tuner's own state on disk (1.4.8) is never read: it is written in place, so a kill leaves empty files, a grid
search cannot be resumed, and a changed seed or space is not detected. An oracle depends only on its seed and on the
scores of earlier trials. Requesting each finished trial again and reporting its scores restores the full state. A
different proposal means that the search has changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import keras_tuner

from catsdogs.base.errors import UserError
from catsdogs.base.text import counted
from catsdogs.config.schema import HyperparameterConfig, SearchConfig
from catsdogs.study.trials import COMPLETED, TrialRecord

# Proposals of the Bayesian oracle, which minimizes, differ by about 1e-7 between processors and numbers of threads.
_RELATIVE_TOLERANCE = 1e-4


class _MaxTrials(int):
    """Number of trials with a text of one digit.

    Keras Tuner pads trial ids to the length of this text. Trial `0` would become `00` after raising `tuner.max_trials`.
    """

    def __str__(self) -> str:
        return "0"


def build_oracle(config: SearchConfig) -> keras_tuner.Oracle:
    """Return Keras Tuner's oracle for `tuner`, with all hyperparameters of `space` declared."""
    hp = keras_tuner.HyperParameters()
    declare_space(config.space, hp)
    oracles = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "race": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "hyperband": keras_tuner.oracles.HyperbandOracle,
        "grid": keras_tuner.oracles.GridSearchOracle,
    }
    tuner = config.tuner
    arguments: dict[str, Any] = dict(tuner.arguments)
    if tuner.oracle == "hyperband":
        arguments["max_epochs"] = config.fit.epochs
    oracle = oracles[tuner.oracle](
        objective=keras_tuner.Objective("val_log_loss", "min"),
        hyperparameters=hp,
        allow_new_entries=False,
        tune_new_entries=False,
        # A seed of 0 is a random seed to Keras Tuner.
        seed=config.seed + 1,
        # Many diverged trials in a row must not stop the search; programming errors are detected before it starts.
        max_consecutive_failed_trials=10**9,
        **arguments,
    )
    # HyperbandOracle has no argument max_trials, but every oracle respects the attribute; 0 is no limit.
    oracle.max_trials = _MaxTrials(tuner.max_trials or 0)
    return oracle


def declare_space(space: dict[str, HyperparameterConfig], hp: keras_tuner.HyperParameters) -> None:
    """Declare the hyperparameters of a space to Keras Tuner."""
    for name, entry in space.items():
        if entry.kind == "choice":
            # Keras Tuner requires values of one type; YAML may mix 0 and 0.5.
            values = list(entry.values or [])
            if any(isinstance(value, float) for value in values):
                values = [float(value) for value in values]
            hp.Choice(name, values)
        else:
            kind, number = (hp.Int, int) if entry.kind == "int" else (hp.Float, float)
            assert entry.low is not None
            assert entry.high is not None
            step = None if entry.step is None else number(entry.step)
            kind(name, number(entry.low), number(entry.high), step=step, sampling=entry.sampling or "linear")


def expected_trials(oracle: keras_tuner.Oracle, config: SearchConfig) -> int | None:
    """Return the largest number of trials of the search; None if it depends on the oracle."""
    bounds = [config.tuner.max_trials]
    if config.tuner.oracle == "hyperband":
        brackets = oracle._get_num_brackets()
        sizes = [oracle._get_size(bracket, round_) for bracket in range(brackets) for round_ in range(bracket + 1)]
        bounds.append(sum(sizes) * int(oracle.hyperband_iterations))
    elif all(entry.kind == "choice" for entry in config.space.values()):
        bounds.append(math.prod(len(set(entry.values or [])) for entry in config.space.values()))
    return min((bound for bound in bounds if bound is not None), default=None)


def replay(oracle: keras_tuner.Oracle, records: Sequence[TrialRecord], tuner_id: str, job: str) -> None:
    """Restore the state of a new oracle after these trials, in the order in which they finished, one at a time.

    Raise a `UserError` that names the job if the oracle proposes other values, or fewer trials.
    """
    for number, record in enumerate(records):
        trial = oracle.create_trial(tuner_id)
        if trial.status != "RUNNING":
            problem = f"it has {counted(len(records), 'finished trial')}, but the search now has only {number}"
            raise UserError(f"job {job}: {problem}; set tuner.max_trials to at least {len(records)}")
        proposed = trial.hyperparameters.values
        if not _same(record, proposed):
            change = f"{_listed(record.hyperparameters)}, now proposed: {_listed(searched_values(proposed))}"
            problem = f"cannot resume because the search changed: trial={record.trial} has {change}"
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


def may_be_promoted(oracle: keras_tuner.Oracle, recorded: Collection[str]) -> set[str]:
    """Return the ids of trials from which a later trial may continue, and of parents of unrecorded promoted trials.

    A round of a bracket promotes its best trials once it has completed more trials than it discards, so only the best
    few can still be promoted, whatever the others score. `recorded`: ids of finished trials, which do not run again.
    """
    if not isinstance(oracle, keras_tuner.oracles.HyperbandOracle):
        return set()
    needed = set()
    for bracket in oracle._brackets:
        rounds = bracket["rounds"]
        for number in range(len(rounds) - 1):
            promoted = {entry["past_id"]: entry["id"] for entry in rounds[number + 1]}
            needed |= {parent for parent, child in promoted.items() if child not in recorded}
            size = oracle._get_size(bracket["bracket_num"], number)
            next_size = oracle._get_size(bracket["bracket_num"], number + 1)
            ids = [entry["id"] for entry in rounds[number] if entry["id"] not in promoted]
            waiting = [oracle.trials[trial] for trial in ids if oracle.trials[trial].status == COMPLETED]
            remaining = size - len(rounds[number]) + sum(oracle.trials[trial].status == "RUNNING" for trial in ids)
            promotions = min(len(waiting) + remaining - (size - next_size), next_size - len(promoted))
            # Sorted as the oracle does.
            best_first = sorted(waiting, key=lambda trial: trial.score)
            needed |= {trial.trial_id for trial in best_first[: max(0, promotions)]}
    return needed
