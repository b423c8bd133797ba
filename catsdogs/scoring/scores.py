"""Log loss, accuracy, ROC AUC, Brier score and other scores of probabilities, with confidence intervals."""

import warnings

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold

from catsdogs.base.records import SUM_TOLERANCE
from catsdogs.scoring.intervals import Estimate, ImageScores, mean_intervals, wilson_interval

# The bounds of Keras' binary cross-entropy, so both log losses agree.
EPSILON = 1e-7

# Log losses in nats that differ by at most this count as equal: reports show no further digit.
TIE_TOLERANCE = 0.00005

FOLDS = 5  # of images, to evaluate what is fitted to them

_ECE_BINS = 15

# Images of a report's gallery.
MOST_ERRORS = 24
MOST_UNCERTAIN = 12


def clip(probabilities: np.ndarray) -> np.ndarray:
    """Clip probabilities; returns float64 in [EPSILON, 1 - EPSILON], of the same shape."""
    return np.clip(np.asarray(probabilities, dtype=np.float64), EPSILON, 1 - EPSILON)


def score_images(labels: np.ndarray, probabilities: np.ndarray) -> ImageScores:
    """Return minus the logarithm of the probability of each image's label, after `clip`, and whether it is wrong.

    The predicted class is the most probable one, of equal ones the first; so 0.5 predicts the first of two classes, as
    in Keras. Both results are (..., N); losses are in nats, 1e-7 .. 16.1. `labels` are (N,), 0 .. K - 1, unsmoothed,
    and `probabilities` (..., N, K) in [0, 1] with a sum of 1; other values raise a ValueError.
    """
    labels, probabilities = check_inputs(labels, probabilities)
    of_label = np.take_along_axis(probabilities, labels.reshape((1,) * (probabilities.ndim - 2) + (-1, 1)), axis=-1)
    return ImageScores(-np.log(clip(of_label[..., 0])), probabilities.argmax(axis=-1) != labels)


def instructive_images(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the misclassified images, and of at most 12 uncertain ones.

    Those of the highest log loss, and of the lowest probability of the predicted class, come first. The uncertain
    images are not among the first 24 misclassified ones. Arguments are those of `score_images`, with N images.
    """
    losses, wrong = score_images(labels, probabilities)
    by_loss, by_confidence = (np.argsort(one, kind="stable") for one in (-losses, probabilities.max(axis=1)))
    errors = by_loss[wrong[by_loss]]
    return errors, by_confidence[~np.isin(by_confidence, errors[:MOST_ERRORS])][:MOST_UNCERTAIN]


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Estimate]:
    """Score probabilities (N, K).

    Keys: `log_loss` (after `clip`), `accuracy`, `balanced_accuracy` (mean recall of the classes that have images),
    `macro_f1` (mean of the classes that are labels or predicted), `roc_auc` (mean of every class against the others
    for K > 2), `brier` (of the second class for K = 2, summed over the classes for K > 2) and `ece` from
    `expected_calibration_error`.

    Confidence intervals are those of `mean_intervals`, Wilson's for the accuracy and, for K = 2, Newcombe's for
    `roc_auc`. A single image has only that of the accuracy, and `roc_auc` is NaN without interval if no class can be
    compared with others. The others have none: for `ece`, resampling adds noise, and so calibration error. Arguments
    and errors are those of `score_images`; N > 0.
    """
    labels, probabilities = check_inputs(labels, probabilities)
    if len(labels) == 0:
        raise ValueError("scores need at least one image, got none")
    losses, wrong = score_images(labels, probabilities)
    errors, size, count = int(wrong.sum()), len(labels), probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    squares = ((probabilities - np.eye(count)[labels]) ** 2).sum(axis=1) / (2 if count == 2 else 1)
    recalls = [float((predicted[labels == label] == label).mean()) for label in np.unique(labels)]

    def plain(value: float) -> Estimate:
        return Estimate(float(value), None, None, size, errors)

    return {
        "log_loss": mean_intervals(losses[None], np.array([errors]), highest=-np.log(EPSILON))[0],
        "accuracy": Estimate(1 - errors / size, *wilson_interval(size - errors, size), size, errors),
        "balanced_accuracy": plain(float(np.mean(recalls))),
        "macro_f1": plain(f1_score(labels, predicted, average="macro", zero_division=0)),
        "roc_auc": Estimate(*_roc_auc(labels, probabilities), size, errors),
        "brier": mean_intervals(squares[None], np.array([errors]), highest=1.0 if count == 2 else 2.0)[0],
        "ece": plain(expected_calibration_error(labels, probabilities)),
    }


def class_scores(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return a row per class: images, precision (NaN: never predicted) and recall (NaN: no images).

    Arguments and errors are those of `score_images`, with (N, K) probabilities.
    """
    labels, probabilities = check_inputs(labels, probabilities)
    precision, recall, _, images = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=np.arange(probabilities.shape[1]), zero_division=np.nan
    )
    return pd.DataFrame({"images": images, "precision": precision, "recall": recall})


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return how many images of each class (rows) are predicted as each class (columns); int (K, K)."""
    labels, probabilities = check_inputs(labels, probabilities)
    return confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(probabilities.shape[1]))


def log_loss_interval(labels: np.ndarray, probabilities: np.ndarray) -> Estimate:
    """Return the log loss with its interval and the number of misclassified images; arguments as in `scores`."""
    losses, wrong = score_images(labels, probabilities)
    return mean_intervals(losses[None], np.array([wrong.sum()]), highest=-np.log(EPSILON))[0]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean absolute difference of confidence and accuracy over bins of images.

    Confidence is the probability of the predicted class, binned into 15 intervals of equal width in [0, 1], each open
    below and closed above. The error is the sum over bins of (fraction of images) x |mean confidence - accuracy|.

    Arguments as in `scores`. Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    labels, probabilities = check_inputs(labels, probabilities)
    confidence = probabilities.max(axis=1)
    bins = np.ceil(confidence * _ECE_BINS).astype(int) - 1
    correct = probabilities.argmax(axis=1) == labels
    gaps = np.bincount(bins, weights=confidence - correct, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float | None, float | None]:
    """Return the area under the ROC curve with its interval, which is None for more than two classes."""
    count = probabilities.shape[1]
    if count == 2:
        return _binary_roc_auc(labels, probabilities[:, 1]) if len(np.unique(labels)) == 2 else (np.nan, None, None)
    comparable = [label for label in np.unique(labels) if (labels != label).any()]
    areas = [roc_auc_score(labels == label, probabilities[:, label]) for label in comparable]
    return float(np.mean(areas)) if areas else np.nan, None, None


def _binary_roc_auc(labels: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve of the second class with its 95% confidence interval; both are needed.

    The interval contains the areas from which the measured one differs by at most 1.96 standard errors, under the model
    of Hanley and McNeil. Bootstrap and DeLong intervals cover too seldom near an area of 1.

    Source: R. G. Newcombe 2006, Statistics in Medicine 25, 559-573, method 5.
    """
    area, ones = float(roc_auc_score(labels, second)), labels.sum()
    zeros, half = len(labels) - ones, len(labels) / 2 - 1

    def excess(other: float) -> float:
        variance = other * (1 - other) * (1 + half * ((1 - other) / (2 - other) + other / (1 + other))) / (ones * zeros)
        return (area - other) ** 2 - norm.ppf(0.975) ** 2 * variance

    inside = min(max(area, 1e-9), 1 - 1e-9)  # an area of 0 or 1 is itself a root
    return area, float(brentq(excess, 0, inside)), float(brentq(excess, inside, 1))


def stratified_folds(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of places of images, for each of FOLDS folds: all others, and its own."""
    splitter = StratifiedKFold if np.bincount(labels).max() >= FOLDS else KFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes with fewer images than folds
        return list(splitter(min(FOLDS, len(labels)), shuffle=True, random_state=seed).split(labels, labels))


def check_inputs(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as int (N,) and probabilities as float64 (..., N, K); raise a ValueError as `score_images`."""
    given, probabilities = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 1 or probabilities.shape[-2:-1] != given.shape or probabilities.shape[-1] < 2:
        shapes = f"{given.shape}, {probabilities.shape}"
        raise ValueError(f"expected labels (N,) and probabilities (..., N, K), got {shapes}")
    if not np.isin(given, np.arange(probabilities.shape[-1])).all():
        raise ValueError(f"labels must be whole numbers from 0 to {probabilities.shape[-1] - 1}")
    sums = probabilities.sum(axis=-1)
    if not ((probabilities >= 0) & (probabilities <= 1)).all() or not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        raise ValueError("probabilities must be in [0, 1], and those of an image must have the sum 1")
    return given.astype(np.int64), probabilities
