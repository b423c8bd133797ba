"""Importance of each hyperparameter and choice for the log loss of trials, with its uncertainty."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GroupKFold

from catsdogs.comparison.choices import compared_choices
from catsdogs.comparison.study_data import StudyData
from catsdogs.scoring.scores import EPSILON
from catsdogs.study.trials import COMPLETED, STOPPED

# Minimum number of distinct points of the space. In 60 simulated studies of pure noise, R2 of the forest was at most
# 0.13 with 20 points, but up to 0.5 with 10 points.
FEWEST_POINTS = 20

_FOLDS = 5
_REPEATS = 4
_SHUFFLES = 5  # per name and fold
_TREES = 40

# Maximum epochs of a trial: Hyperband varies it, and it explains much of the log loss.
_BUDGET = "epoch_budget"


@dataclass(frozen=True)
class Importance:
    """Result of a random forest that predicts the log of the validation log loss of trials.

    `importance` is the increase of the squared error when the values of a name are shuffled among held-out trials,
    divided by twice the variance. It estimates the share of the variance that depends on the name, alone or together
    with others (the total effect of Jansen 1999, doi:10.1016/S0010-4655(98)00154-4). low and high contain 95% of the
    values of single folds.
    """

    table: pd.DataFrame  # name, importance, low, high; most important first
    r2: float  # share of the variance that is explained on held-out trials; if it is at most 0, ignore the table
    trials: int  # used ones
    epochs: int | None = None  # after which their log losses are compared; None: those of completed trials


def importance(study_data: StudyData) -> Importance | None:
    """Predict the log loss of trials from their hyperparameters and the choices of their jobs.

    Permutation importance (Breiman 2001, section 10) of a random forest on held-out trials, in 4 repeats of 5 folds.
    Trials with equal hyperparameters stay in the same fold: jobs with the same seed try the same points, and a promoted
    Hyperband trial repeats those of its parent. A missing hyperparameter counts as a value of its own. The result is
    None if the trials completed on the images of the best job are at fewer than `FEWEST_POINTS` points, or all have the
    same log loss.

    If a race has stopped trials, these count too, because those that survive are a biased sample. Then all log losses
    are the lowest ones up to the last epoch that every trial has reached on the first fold.
    """
    trials = study_data.trials
    same_images = trials["label"].isin(study_data.on_same_images()["label"])
    trials, epochs = trials[same_images], None
    if (trials["status"] == STOPPED).any() and len(study_data.epochs):
        trials, epochs = _at_common_epoch(study_data.epochs, trials[trials["status"].isin([COMPLETED, STOPPED])])
    trials = trials[trials["val_log_loss"].notna()]
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
    table = table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)
    return Importance(table, r2, len(trials), epochs)


def _at_common_epoch(epochs: pd.DataFrame, trials: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the trials with their lowest log loss up to the last epoch that all have reached, and this epoch."""
    first = epochs[epochs["execution"] == 0].merge(trials[["label", "trial"]])
    last = int(first.groupby(["label", "trial"])["epoch"].max().min()) if len(first) else 0
    lowest = first[first["epoch"] <= last].groupby(["label", "trial"])["val_log_loss"].min()
    return trials.drop(columns="val_log_loss").join(lowest, on=["label", "trial"]), last


def _encoded(values: pd.Series) -> np.ndarray:
    """Return (N,) numbers (less than all others if missing), or the rank of texts (-1 if missing)."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isfinite(numbers[values.notna().to_numpy()]).all():
        # Forests of scikit-learn 1.7 do not split a single value from NaN.
        return np.where(np.isnan(numbers), np.fmin.reduce(numbers, initial=np.inf) - 1, numbers)
    return pd.factorize(values.astype(str).where(values.notna()), sort=True)[0].astype(np.float64)


def _held_out(inputs: np.ndarray, loss: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Cross-validate a forest; return the importance (folds, F) of each column in each fold, and R2 over all trials."""
    rises, errors = [], []
    for repeat in range(_REPEATS):
        folds = GroupKFold(_FOLDS, shuffle=True, random_state=repeat)
        for train, test in folds.split(inputs, loss, points):
            forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=repeat, n_jobs=1)
            forest.fit(inputs[train], loss[train])
            errors.append((forest.predict(inputs[test]) - loss[test]) ** 2)
            options = {"scoring": "neg_mean_squared_error", "n_repeats": _SHUFFLES, "random_state": repeat}
            rises.append(permutation_importance(forest, inputs[test], loss[test], **options).importances_mean)
    variance = float(loss.var())
    return np.array(rises) / (2 * variance), float(1 - np.concatenate(errors).mean() / variance)
