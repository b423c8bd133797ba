"""Labels + probabilities -> probabilities that mean what they say: a temperature and a floor, kept only if they help.

Fit after averaging over views, and on images that the model was not trained on: an average of calibrated outputs is not
calibrated, and outputs on training images are too sure. Where these images have chosen the trial or the epoch, the fit
is a little too sure, which the hold-out shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.model_selection import StratifiedKFold

from catsdogs.scoring.intervals import Estimate, mean_intervals
from catsdogs.scoring.scores import EPSILON, check_inputs, clip, log_loss_per_image

# Fewer images are not fitted to. In simulations of calibrated models a fit that was kept raised the log loss by at most
# 0.015 with 200 images and by up to 0.08 with 100; smoothing of 0.1 costs 0.05.
FEWEST = 200

# Beyond 1 / 20, which only images that are all classified right ask for, nothing but the floor counts.
HIGHEST_TEMPERATURE = 20.0
HIGHEST_FLOOR = 0.05

FOLDS = 5  # by which calibration is cross-fitted

_FLOORS = 200  # that are tried; neighbours differ by 3 to 7 %


@dataclass(frozen=True)
class Calibration:
    """A function from probabilities to probabilities; 0.5 stays, and the order does, but for ties at the floor."""

    temperature: float  # above 0; logits are divided by it, so below 1 makes surer and above 1 less sure
    floor: float  # the lowest probability of either class that is given afterwards, in [EPSILON, HIGHEST_FLOOR]

    def __call__(self, p_dog: np.ndarray) -> np.ndarray:
        """(N,) in [0, 1] -> (N,) float64 in [floor, 1 - floor]."""
        return np.clip(expit(logit(clip(p_dog)) / self.temperature), self.floor, 1 - self.floor)


IDENTITY = Calibration(temperature=1.0, floor=EPSILON)


@dataclass(frozen=True)
class CalibrationResult:
    """Whether to calibrate."""

    calibration: Calibration  # fitted on all images; IDENTITY where it is not kept
    gain: Estimate  # log loss as it is minus cross-fitted log loss, image by image; above 0 calibration helps
    applied: bool  # whether the gain is above 0


def fit(labels: np.ndarray, p_dog: np.ndarray) -> Calibration:
    """The temperature, then the floor, that give these images the lowest log loss.

    The floor is at least 1 / (2 N + 2), the estimate of a rate of errors of which N images show none (Krichevsky and
    Trofimov 1981): without it a single error among the images to come could cost 16 nats.

    scikit-learn's `CalibratedClassifierCV(method="temperature")` finds the same temperature; it wants a classifier in
    place of probabilities, and has neither bounds nor a floor.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog, unsmoothed.
        p_dog: (N,) in [0, 1].

    Returns:
        IDENTITY for fewer than FEWEST images, or where one class is missing.

    Raises:
        ValueError: as `scores.log_loss_per_image`.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    return _fit(labels, p_dog) if _enough(labels) else IDENTITY


def cross_fitted(labels: np.ndarray, p_dog: np.ndarray) -> np.ndarray:
    """What calibration gives images that it was not fitted on, so that its log loss flatters nobody.

    Args:
        labels, p_dog: as in `fit`.

    Returns:
        (N,) float64, every fold of FOLDS by a fit on the others; by IDENTITY where there are too few images for that.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    found = IDENTITY(p_dog)
    if _enough(labels, FOLDS):
        for others, own in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels):
            found[own] = _fit(labels[others], p_dog[others])(p_dog[own])
    return found


def fit_if_better(labels: np.ndarray, p_dog: np.ndarray) -> CalibrationResult:
    """Fit, and keep it only if it helps images that it was not fitted on.

    Args:
        labels, p_dog: as in `fit`; N at least 1.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    gains = log_loss_per_image(labels, p_dog) - log_loss_per_image(labels, cross_fitted(labels, p_dog))
    # IDENTITY gives the same but for rounding, and rounding is no gain.
    gain = mean_intervals(gains[None] if _enough(labels, FOLDS) else np.zeros((1, len(labels))))[0]
    kept = gain.value > 0
    return CalibrationResult(fit(labels, p_dog) if kept else IDENTITY, gain, kept)


def _fit(labels: np.ndarray, p_dog: np.ndarray) -> Calibration:
    # Logits for what the image shows: below 0 it is classified wrong.
    margins = np.where(labels == 1, 1, -1) * logit(clip(p_dog))

    def log_loss(log_inverse: float) -> float:
        return float(np.logaddexp(0, -np.exp(log_inverse) * margins).mean())

    # Convex in 1 / temperature, so it has one minimum in its logarithm too.
    bound = np.log(HIGHEST_TEMPERATURE)
    inverse = np.exp(minimize_scalar(log_loss, bounds=(-bound, bound), options={"xatol": 1e-6}).x)
    p_label = expit(margins * inverse)
    lowest = max(EPSILON, 1 / (2 * len(labels) + 2))
    floors = np.geomspace(lowest, HIGHEST_FLOOR, _FLOORS)
    losses = [-np.log(np.clip(p_label, floor, 1 - floor)).mean() for floor in floors]
    return Calibration(float(1 / inverse), float(floors[int(np.argmin(losses))]))


def _enough(labels: np.ndarray, of_each: int = 1) -> bool:
    dogs = int(labels.sum())
    return len(labels) >= FEWEST and min(dogs, len(labels) - dogs) >= of_each
