"""Start of a linear classifier: logistic regression on the features of the backbone.

Random weights of the classifier need epochs to converge, and their first gradients distort the pretrained features
(Kumar et al. 2022, arXiv:2202.10054).
"""

import warnings

import keras
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.data.views import View
from catsdogs.network.classifier import PROBABILITIES
from catsdogs.network.trial_model import TrialModel
from catsdogs.training.batches import EvaluationBatches, for_keras
from catsdogs.training.trial_data import TrialData

_STRENGTHS = np.logspace(-4, -1, 4)  # inverse strengths of the L2 regularization, for standardized features
_MAX_FOLDS = 3  # to choose the strength
_MAX_ITERATIONS = 100  # close to the optimum is enough for a start


def start_from_probe(trial: TrialModel, data: TrialData, fold: int) -> None:
    """Set the classifier of a new trial to the regression on the training images of a fold.

    It is fitted once per fold, since all trials of a job start from the same features.
    """
    if fold not in data.probes:
        data.probes[fold] = _fit(trial, data, data.folds[fold].train_rows)
    trial.model.get_layer(PROBABILITIES).set_weights(data.probes[fold])


def _fit(trial: TrialModel, data: TrialData, rows: np.ndarray) -> list[np.ndarray]:
    """Return kernel (F, C) and bias (C,) of the classifier, C as in `Classes.outputs`."""
    # The view of the first epoch, because it is stored anyway.
    views, view = data.features.at_cut(trial.cut), View("train", 0)
    batches = EvaluationBatches(views, rows, view, trial.config.fit.batch_size)
    features = keras.Model(trial.model.input, trial.settings.output).predict(for_keras(batches), verbose=0)
    targets, ranks = data.targets[rows], data.classes.ranks
    labels = (targets.argmax(axis=1) if len(ranks) > 2 else targets[:, 0]).astype(int)
    # The order of the classes permutes the weights, and changes nothing else.
    kernel, bias = _regression(features, ranks[labels], trial.config.fit.class_weights == "balanced")
    if len(ranks) > 2:
        return [kernel[:, ranks], bias[ranks]]
    sign = ranks[1] - ranks[0]
    return [sign * kernel, sign * bias]


def _regression(features: np.ndarray, labels: np.ndarray, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (F, C) and bias (C,) of a logistic regression of labels (N,) on features (N, F)."""
    regression = LogisticRegression(class_weight="balanced" if balanced else None, max_iter=_MAX_ITERATIONS)
    folds, all_rows = min(_MAX_FOLDS, np.bincount(labels).min()), np.arange(len(labels))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), regression),
        {"logisticregression__C": _STRENGTHS if folds > 1 else _STRENGTHS[:1]},
        scoring="neg_log_loss",
        cv=StratifiedKFold(folds, shuffle=True, random_state=0) if folds > 1 else [(all_rows, all_rows)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaler, fitted = search.fit(features.astype(np.float64), labels).best_estimator_
    kernel = (fitted.coef_ / scaler.scale_).T
    return kernel, fitted.intercept_ - scaler.mean_ @ kernel
