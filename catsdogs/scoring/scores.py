"""Log loss, accuracy, ROC AUC, Brier score and calibration error, with confidence intervals."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from catsdogs.scoring.intervals import Estimate, mean_intervals, misclassified, wilson_interval

# The bounds of Keras' binary cross-entropy, so both log losses agree.
EPSILON = 1e-7

# Log losses in nats that differ by at most this count as equal: reports show no further digit.
TIE_TOLERANCE = 0.00005

_ECE_BINS = 15


def clip(p_dog: np.ndarray) -> np.ndarray:
    """Clip probabilities; returns (N,) float64 in [EPSILON, 1 - EPSILON]."""
    return np.clip(np.asarray(p_dog, dtype=np.float64), EPSILON, 1 - EPSILON)


def log_loss_per_image(labels: np.ndarray, p_dog: np.ndarray) -> np.ndarray:
    """Return minus the logarithm of the probability of the true class of each image, after `clip`.

    Returns (N,) float64 in nats, 1e-7 .. 16.1. `labels` are (N,) or (N, 1), 0.0 = cat, 1.0 = dog, unsmoothed, and
    `p_dog` has the same shape, in [0, 1]; other values raise a ValueError.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    p_dog = clip(p_dog)
    losses = -np.where(labels == 1, np.log(p_dog), np.log1p(-p_dog))
    # 0.5 predicts a cat, as in Keras. `misclassified` begins at log 2, the loss of a dog.
    return np.where((labels == 0) & (p_dog == 0.5), np.nextafter(np.log(2), 0), losses)


def scores(labels: np.ndarray, p_dog: np.ndarray) -> dict[str, Estimate]:
    """Score probabilities.

    Keys: `log_loss` (after `clip`), `accuracy` (dog if p_dog > 0.5, as in Keras), `roc_auc`, `brier`, and `ece` from
    `expected_calibration_error`.

    Confidence intervals are those of `mean_intervals`, Wilson's for the accuracy and Newcombe's for `roc_auc`. A single
    image has only that of the accuracy, and `roc_auc` is NaN without interval if one class is missing. `ece` has none:
    resampling adds noise, and so calibration error. Arguments and errors are those of `log_loss_per_image`; N > 0.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    if len(labels) == 0:
        raise ValueError("scores need at least one image, got none")
    wrong, size = int(misclassified(log_loss_per_image(labels, p_dog)).sum()), len(labels)
    auc = _roc_auc(labels, p_dog) if 0 < labels.sum() < size else (np.nan, None, None)
    return {
        "log_loss": log_loss_interval(labels, p_dog),
        "accuracy": Estimate(1 - wrong / size, *wilson_interval(size - wrong, size), size, wrong),
        "roc_auc": Estimate(auc[0], auc[1], auc[2], size, wrong),
        "brier": mean_intervals(((p_dog - labels) ** 2)[None], np.array([wrong]), highest=1.0)[0],
        "ece": Estimate(expected_calibration_error(labels, p_dog), None, None, size, wrong),
    }


def log_loss_interval(labels: np.ndarray, p_dog: np.ndarray) -> Estimate:
    """Return the log loss with its interval and the number of misclassified images; arguments as in `scores`."""
    losses = log_loss_per_image(labels, p_dog)[None]
    return mean_intervals(losses, misclassified(losses).sum(axis=1), highest=-np.log(EPSILON))[0]


def expected_calibration_error(labels: np.ndarray, p_dog: np.ndarray) -> float:
    """Return the mean absolute difference of confidence and accuracy over bins of images.

    Confidence is the probability of the predicted class, binned into 15 intervals of equal width in [0, 1], each open
    below and closed above. The error is the sum over bins of (fraction of images) x |mean confidence - accuracy|.

    Arguments as in `scores`. Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    confidence = np.maximum(p_dog, 1 - p_dog)
    bins = np.ceil(confidence * _ECE_BINS).astype(int) - 1
    correct = ~misclassified(log_loss_per_image(labels, p_dog))
    gaps = np.bincount(bins, weights=confidence - correct, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _roc_auc(labels: np.ndarray, p_dog: np.ndarray) -> tuple[float, float, float]:
    """Return the area under the ROC curve with its 95% confidence interval; both classes are needed.

    The interval contains the areas from which the measured one differs by at most 1.96 standard errors, under the model
    of Hanley and McNeil. Bootstrap and DeLong intervals cover too seldom near an area of 1.

    Source: R. G. Newcombe 2006, Statistics in Medicine 25, 559-573, method 5.
    """
    area, dogs = float(roc_auc_score(labels, p_dog)), labels.sum()
    cats, half = len(labels) - dogs, len(labels) / 2 - 1

    def excess(other: float) -> float:
        variance = other * (1 - other) * (1 + half * ((1 - other) / (2 - other) + other / (1 + other))) / (dogs * cats)
        return (area - other) ** 2 - norm.ppf(0.975) ** 2 * variance

    inside = min(max(area, 1e-9), 1 - 1e-9)  # an area of 0 or 1 is itself a root
    return area, float(brentq(excess, 0, inside)), float(brentq(excess, inside, 1))


def check_inputs(labels: np.ndarray, p_dog: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as (N,) float64; raise a ValueError for labels other than 0 and 1, and for p_dog outside [0, 1]."""
    labels, p_dog = np.asarray(labels, dtype=np.float64), np.asarray(p_dog, dtype=np.float64)
    if labels.shape != p_dog.shape or not (np.isin(labels, (0, 1)) & (p_dog >= 0) & (p_dog <= 1)).all():
        raise ValueError("labels must be 0 (cat) or 1 (dog), and p_dog in [0, 1], of the same shape")
    return labels.ravel(), p_dog.ravel()
