"""Temperature scaling with a probability floor, applied only if it lowers the cross-validated log loss.

Fit after averaging over views, because an average of calibrated outputs is not calibrated. Fit on images that the model
was not trained on, because outputs on training images are overconfident. If these images also selected the trial or the
epoch, the fit is slightly overconfident; the holdout score shows by how much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.model_selection import StratifiedKFold

from catsdogs.scoring.intervals import Estimate, misclassified, paired_intervals
from catsdogs.scoring.scores import EPSILON, check_inputs, clip, log_loss_per_image

# Minimum number of images to fit. In simulations of calibrated models, an applied fit raised the log loss by at most
# 0.015 with 200 images and by up to 0.08 with 100; label smoothing of 0.1 costs 0.05.
FEWEST = 200

# Temperatures below 1 / 20 fit only images that are all classified correctly; there, only the floor has an effect.
HIGHEST_TEMPERATURE = 20.0
HIGHEST_FLOOR = 0.05

FOLDS = 5  # of cross-fitting

_FLOORS = 200  # candidates; neighbors differ by 3% to 7%


@dataclass(frozen=True)
class Calibration:
    """Function from probabilities to probabilities that keeps 0.5 and the order, apart from ties at the floor."""

    # Keys and ranges are checked where a calibration is read from a file.
    __pydantic_config__ = ConfigDict(extra="forbid")

    # Divides logits: below 1 raises confidence, above 1 lowers it.
    temperature: Annotated[float, Field(ge=1 / HIGHEST_TEMPERATURE, le=HIGHEST_TEMPERATURE, strict=True)]
    # Lowest probability of either class afterwards.
    floor: Annotated[float, Field(ge=EPSILON, le=HIGHEST_FLOOR, strict=True)]

    def __call__(self, p_dog: np.ndarray) -> np.ndarray:
        """Calibrate (N,) probabilities in [0, 1]; returns (N,) float64 in [floor, 1 - floor]."""
        return np.clip(expit(logit(clip(p_dog)) / self.temperature), self.floor, 1 - self.floor)


IDENTITY = Calibration(temperature=1.0, floor=EPSILON)


@dataclass(frozen=True)
class CalibrationResult:
    """Calibration and its effect."""

    calibration: Calibration  # fitted on all images; IDENTITY if not applied
    # Uncalibrated minus cross-fitted log loss, paired by image; above 0: calibration helps. NaN: too few images.
    gain: Estimate
    applied: bool  # whether the gain is above 0
    reason: str | None  # why it is not applied, for `metrics.json`


def cross_fitted(labels: np.ndarray, p_dog: np.ndarray) -> np.ndarray:
    """Return cross-fitted calibrated probabilities, (N,) float64, with a log loss that is not optimistic.

    Each of FOLDS folds is calibrated by a fit on the others, or by IDENTITY if images are too few. Arguments and errors
    are those of `scores.log_loss_per_image`.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    calibrated = IDENTITY(p_dog)
    if _enough(labels):
        for others, own in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels):
            calibrated[own] = fit(labels[others], p_dog[others])(p_dog[own])
    return calibrated


def fit_if_better(labels: np.ndarray, p_dog: np.ndarray) -> CalibrationResult:
    """Fit a calibration, and apply it if it helps images it was not fitted on; arguments as `cross_fitted`, N > 0."""
    labels, p_dog = check_inputs(labels, p_dog)
    losses, size = log_loss_per_image(labels, p_dog), len(labels)
    if not _enough(labels):
        unknown = Estimate(math.nan, None, None, size, int(misclassified(losses).sum()))
        reason = f"{size:,} images are too few; it needs {FEWEST}, with {FOLDS} of each class"
        return CalibrationResult(IDENTITY, unknown, False, reason)
    gain = paired_intervals(losses[None], log_loss_per_image(labels, cross_fitted(labels, p_dog)))[0]
    if gain.value <= 0:
        return CalibrationResult(IDENTITY, gain, False, "it does not improve the cross-validated log loss")
    return CalibrationResult(fit(labels, p_dog), gain, True, None)


def fit(labels: np.ndarray, p_dog: np.ndarray) -> Calibration:
    """Return the temperature, then the floor, with the lowest log loss on these images.

    The floor is at least 1 / (2 N + 2), the estimated error rate if N images show no error (Krichevsky and Trofimov
    1981). Without it, a single error on a new image could cost 16 nats. The temperature is that of scikit-learn's
    `CalibratedClassifierCV(method="temperature")`, which requires a classifier and has neither bounds nor a floor.

    `labels` and `p_dog` are checked, and of both classes.
    """
    # Logits of the true class: below 0, the image is misclassified.
    margins = np.where(labels == 1, 1, -1) * logit(clip(p_dog))

    def log_loss(log_inverse: float) -> float:
        return float(np.logaddexp(0, -np.exp(log_inverse) * margins).mean())

    # Convex in 1 / temperature, so unimodal in its logarithm.
    bound = np.log(HIGHEST_TEMPERATURE)
    inverse = np.exp(minimize_scalar(log_loss, bounds=(-bound, bound), options={"xatol": 1e-6}).x)
    p_label = expit(margins * inverse)
    lowest = max(EPSILON, 1 / (2 * len(labels) + 2))
    floors = np.geomspace(lowest, HIGHEST_FLOOR, _FLOORS)
    losses = [-np.log(np.clip(p_label, floor, 1 - floor)).mean() for floor in floors]
    return Calibration(float(1 / inverse), float(floors[int(np.argmin(losses))]))


def _enough(labels: np.ndarray) -> bool:
    dogs = int(labels.sum())
    return len(labels) >= FEWEST and min(dogs, len(labels) - dogs) >= FOLDS
