"""Trials -> how much each hyperparameter and each choice matters to the log loss, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from catsdogs.comparison.choices import STUDY, compared_choices
from catsdogs.comparison.evidence import Evidence
from catsdogs.scores import EPSILON

FEWEST_TRIALS = 10

_FOLDS = 5
_REPEATS = 4
_SHUFFLES = 5  # of every name in every fold
_TREES = 40
_SEED = 0  # fixed: the same trials give the same numbers

# How many epochs a trial might train: Hyperband varies it, and it explains much.
_BUDGET = "epoch_budget"


@dataclass(frozen=True)
class Importance:
    """What a random forest learnt about the log of the validation log loss of trials.

    Attributes:
        table: name, importance, low, high; most important first. `importance` is by how much the squared error on
            held-out trials rises when the values of the name are shuffled among them, divided by twice the variance of
            the log of the log loss. That estimates the share of the variance that goes with the name, alone or together
            with others (the total effect of Jansen 1999, doi:10.1016/S0010-4655(98)00154-4): 0 is nothing, 1
            everything, and names that matter together each count in full. low and high hold 95 % of what the single
            folds gave; with few trials that is wide.
        r2: share of the variance that the forest explains on held-out trials; at most 0: it explains nothing, and the
            table says nothing.
        trials: completed trials that it learnt from.
    """

    table: pd.DataFrame
    r2: float
    trials: int

    @property
    def tells(self) -> bool:
        """Whether the forest explains anything, so that the table may be read."""
        return self.r2 > 0


def importance(evidence: Evidence) -> Importance | None:
    """Learn the log loss of trials from their hyperparameters and from the choices of their jobs.

    Permutation importance (Breiman 2001, section 10) of a random forest on held-out trials, in 4 repeats of 5 folds. A
    promoted Hyperband trial and the one that it goes on from are never on different sides. A hyperparameter that a
    trial does not have counts as a value of its own. With Hyperband `epoch_budget`, the epochs that a trial might
    train, is among the names.

    Returns:
        None if fewer than 10 trials completed on the images of the best job, or nothing varies among them.
    """
    trials = _comparable_trials(evidence)
    if len(trials) < FEWEST_TRIALS:
        return None
    loss = np.log(np.maximum(trials["val_log_loss"].to_numpy(dtype=np.float64), EPSILON))
    names = [*compared_choices(evidence), *evidence.hyperparameters, _BUDGET]
    columns = {
        name: _encoded(trials[STUDY if name == STUDY else name]) for name in dict.fromkeys(names) if name in trials
    }
    columns = {name: values for name, values in columns.items() if len(np.unique(values)) > 1}
    lines = _lines(trials)
    if not columns or np.ptp(loss) == 0 or len(np.unique(lines)) < 2:
        return None
    inputs = np.column_stack(list(columns.values()))
    rises, r2 = _held_out(inputs, loss, lines)
    low, high = np.quantile(rises, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"name": list(columns), "importance": rises.mean(axis=0), "low": low, "high": high})
    order = table["importance"].sort_values(ascending=False, kind="stable").index
    return Importance(table.loc[order].reset_index(drop=True), r2, len(trials))


def _comparable_trials(evidence: Evidence) -> pd.DataFrame:
    """Completed trials that were validated on the same images as the best job."""
    board = evidence.board[evidence.board["val_log_loss"].notna()]
    if board.empty or evidence.trials.empty:
        return evidence.trials.iloc[:0]
    same = (board["data_digest"] == board["data_digest"].iloc[0]) | (board.index == board.index[0])
    alike = evidence.trials["label"].isin(board.loc[same, "label"])
    return evidence.trials[alike & evidence.trials["val_log_loss"].notna()]


def _encoded(values: pd.Series) -> np.ndarray:
    """(N,) numbers as they are, else the place among the sorted texts; NaN, which a forest can split, if missing."""
    missing = values.isna().to_numpy()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isfinite(numbers[~missing]).all():
        return numbers
    codes = np.unique(values[~missing].astype(str), return_inverse=True)[1]
    encoded = np.full(len(values), np.nan)
    encoded[~missing] = codes
    return encoded


def _lines(trials: pd.DataFrame) -> np.ndarray:
    """(N,) a number per line of trials: those that went on from each other are one training."""
    keys = list(zip(trials["label"], trials["trial"].astype(str), strict=True))
    parents = dict(zip(keys, zip(trials["label"], trials["parent"].fillna("").astype(str), strict=True), strict=True))
    roots = []
    for key in keys:
        seen = {key}
        while parents.get(key) in parents and parents[key] not in seen:
            key = parents[key]
            seen.add(key)
        roots.append(key)
    numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[root] for root in roots])


def _held_out(inputs: np.ndarray, loss: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, float]:
    """Cross-validate a forest.

    Args:
        inputs: (N, F).
        loss: (N,).
        lines: (N,) trials of the same line stay on the same side.

    Returns:
        (folds, F) by how much the mean squared error of each fold rises when a column is shuffled within it, divided by
        twice the variance of `loss`; and R2 over all held-out trials of all repeats.
    """
    rng = np.random.default_rng(_SEED)
    names = inputs.shape[1]
    count = int(lines.max()) + 1
    rises, errors = [], []
    for repeat in range(_REPEATS):
        fold_of_line = rng.permutation(np.arange(count) % _FOLDS)
        for fold in range(min(_FOLDS, count)):
            test = fold_of_line[lines] == fold
            forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=repeat, n_jobs=1)
            forest.fit(inputs[~test], loss[~test])
            # All shuffled copies in one call: a forest is slow to start.
            copies = np.tile(inputs[test], (1 + names * _SHUFFLES, 1, 1))
            for name in range(names):
                for copy in range(1 + name * _SHUFFLES, 1 + (name + 1) * _SHUFFLES):
                    copies[copy, :, name] = rng.permutation(copies[copy, :, name])
            predicted = forest.predict(copies.reshape(-1, names)).reshape(len(copies), -1)
            squared = (predicted - loss[test]) ** 2
            errors.append(squared[0])
            shuffled = squared[1:].mean(axis=1).reshape(names, _SHUFFLES).mean(axis=1)
            rises.append(shuffled - squared[0].mean())
    variance = float(loss.var())
    return np.array(rises) / (2 * variance), float(1 - np.concatenate(errors).mean() / variance)
