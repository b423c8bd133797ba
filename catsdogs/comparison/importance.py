"""Trials -> how much each hyperparameter and each choice matters to the log loss, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GroupKFold

from catsdogs.comparison.choices import compared_choices
from catsdogs.comparison.study_data import StudyData
from catsdogs.scoring.scores import EPSILON

# Different points of the space. Of 60 simulated studies in which chance alone decided, the forest claimed to explain at
# most R2 = 0.13 where there were 20 points, and up to 0.5 where there were 10.
FEWEST_POINTS = 20

_FOLDS = 5
_REPEATS = 4
_SHUFFLES = 5  # of every name in every fold
_TREES = 40

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
    def is_informative(self) -> bool:
        """Whether the forest explains anything, so that the table may be read."""
        return self.r2 > 0


def importance(study_data: StudyData) -> Importance | None:
    """Learn the log loss of trials from their hyperparameters and from the choices of their jobs.

    Permutation importance (Breiman 2001, section 10) of a random forest on held-out trials, in 4 repeats of 5 folds.
    Trials of the same hyperparameters are never on different sides: jobs with one seed try the same points, and a
    promoted Hyperband trial has those of the one that it goes on from. A hyperparameter that a trial does not have
    counts as a value of its own. With Hyperband `epoch_budget`, the epochs that a trial might train, is among the
    names.

    Returns:
        None if trials at fewer than FEWEST_POINTS points completed on the images of the best job, or all gave the same.
    """
    trials = _comparable_trials(study_data)
    loss = np.log(np.maximum(trials["val_log_loss"].to_numpy(dtype=np.float64), EPSILON))
    names = [*compared_choices(study_data), *study_data.hyperparameters, _BUDGET]
    columns = {name: _encoded(trials[name]) for name in dict.fromkeys(names) if name in trials}
    inputs = pd.DataFrame({name: values for name, values in columns.items() if len(np.unique(values)) > 1})
    searched = [name for name in study_data.hyperparameters if name in inputs]
    if not searched or np.ptp(loss) == 0:
        return None
    points = inputs.groupby(searched, dropna=False).ngroup().to_numpy()
    if len(np.unique(points)) < FEWEST_POINTS:
        return None
    rises, r2 = _held_out(inputs.to_numpy(), loss, points)
    low, high = np.quantile(rises, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"name": list(inputs), "importance": rises.mean(axis=0), "low": low, "high": high})
    order = table["importance"].sort_values(ascending=False, kind="stable").index
    return Importance(table.loc[order].reset_index(drop=True), r2, len(trials))


def _comparable_trials(study_data: StudyData) -> pd.DataFrame:
    """Completed trials that were validated on the same images as the best job."""
    board = study_data.leaderboard[study_data.leaderboard["val_log_loss"].notna()]
    if board.empty or study_data.trials.empty:
        return study_data.trials.iloc[:0]
    same = (board["data_digest"] == board["data_digest"].iloc[0]) | (board.index == board.index[0])
    alike = study_data.trials["label"].isin(board.loc[same, "label"])
    return study_data.trials[alike & study_data.trials["val_log_loss"].notna()]


def _encoded(values: pd.Series) -> np.ndarray:
    """(N,) numbers as they are, NaN, which a forest can split, if missing; else the place among the texts, or -1."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isfinite(numbers[values.notna().to_numpy()]).all():
        return numbers
    return pd.factorize(values.astype(str).where(values.notna()), sort=True)[0].astype(np.float64)


def _held_out(inputs: np.ndarray, loss: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Cross-validate a forest; trials of the same point stay on the same side.

    Returns:
        (folds, F) by how much the mean squared error of each fold rises when a column is shuffled within it, divided by
        twice the variance of `loss`; and R2 over all held-out trials of all repeats.
    """
    rises, errors = [], []
    for repeat in range(_REPEATS):
        folds = GroupKFold(_FOLDS, shuffle=True, random_state=repeat)
        for train, test in folds.split(inputs, loss, points):
            forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=repeat, n_jobs=1)
            forest.fit(inputs[train], loss[train])
            errors.append((forest.predict(inputs[test]) - loss[test]) ** 2)
            told = {"scoring": "neg_mean_squared_error", "n_repeats": _SHUFFLES, "random_state": repeat}
            rises.append(permutation_importance(forest, inputs[test], loss[test], **told).importances_mean)
    variance = float(loss.var())
    return np.array(rises) / (2 * variance), float(1 - np.concatenate(errors).mean() / variance)
