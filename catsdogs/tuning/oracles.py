"""Keras Tuner's oracle for `tuner` and `space`, and its number of trials."""

from __future__ import annotations

import math
from typing import Any

import keras_tuner

from catsdogs.config.schema import HyperparameterConfig, SearchConfig


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
