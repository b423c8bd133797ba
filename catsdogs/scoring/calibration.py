"""Temperature scaling with a probability floor, applied only if it lowers the cross-validated log loss.

Fit after averaging over views, because an average of calibrated outputs is not calibrated. Fit on images that the model
was not trained on, because outputs on training images are overconfident. If these images also selected the trial or the
epoch, the fit is slightly overconfident; the holdout score shows by how much.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from catsdogs.scoring.intervals import Estimate, ImageScores, paired_intervals
from catsdogs.scoring.scores import EPSILON, FOLDS, check_inputs, clip, score_images, stratified_folds

# Minimum number of images to fit. In simulations of calibrated models, an applied fit raised the log loss by at most
# 0.015 with 200 images and by up to 0.08 with 100; label smoothing of 0.1 costs 0.05.
FEWEST = 200

# Temperatures below 1 / 20 fit only images that are all classified correctly; there, only the floor has an effect.
HIGHEST_TEMPERATURE = 20.0
HIGHEST_FLOOR = 0.05  # with two classes; 0.1 / K with K

_FLOORS = 200  # candidates; neighbors differ by 3% to 7%


@dataclass(frozen=True)
class Calibration:
    """Function of probabilities that keeps the order of the classes, apart from ties at the floor."""

    # Keys and ranges are checked where a calibration is read from a file.
    __pydantic_config__ = ConfigDict(extra="forbid")

    # Divides logits: below 1 raises confidence, above 1 lowers it.
    temperature: Annotated[float, Field(ge=1 / HIGHEST_TEMPERATURE, le=HIGHEST_TEMPERATURE, strict=True)]
    # Lower probabilities are raised to it. Below 1 / K, which the reader of a file checks.
    floor: Annotated[float, Field(ge=EPSILON, le=HIGHEST_FLOOR, strict=True)]

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrate (N, K) probabilities in [0, 1]; returns (N, K) float64 with sums of 1.

        Those below the floor are raised to it, and the others are scaled down so that the sum stays 1.
        """
        scaled = softmax(np.log(clip(probabilities)) / self.temperature, axis=1)
        (scale,) = _scales(scaled, np.array([self.floor]))
        return np.maximum(scaled * scale[:, None], self.floor)


IDENTITY = Calibration(temperature=1.0, floor=EPSILON)


@dataclass(frozen=True)
class CalibrationResult:
    """Calibration and its effect."""

    calibration: Calibration  # fitted on all images; IDENTITY if not applied
    # Uncalibrated minus cross-fitted log loss, paired by image; above 0: calibration helps. NaN: too few images.
    gain: Estimate
    applied: bool  # whether the gain is above 0
    reason: str | None  # why it is not applied, for `metrics.json`


def cross_fitted(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return cross-fitted calibrated probabilities, (N, K) float64, with a log loss that is not optimistic.

    Each of FOLDS folds is calibrated by a fit on the others, or by IDENTITY if images are too few. Arguments, (N,) and
    (N, K), and errors are those of `scores.score_images`.
    """
    labels, probabilities = check_inputs(labels, probabilities)
    calibrated = IDENTITY(probabilities)
    if _enough(labels):
        for others, own in stratified_folds(labels, seed=0):
            calibrated[own] = fit(labels[others], probabilities[others])(probabilities[own])
    return calibrated


def fit_if_better(labels: np.ndarray, probabilities: np.ndarray) -> CalibrationResult:
    """Fit a calibration, and apply it if it helps images it was not fitted on; arguments as `cross_fitted`, N > 0."""
    labels, probabilities = check_inputs(labels, probabilities)
    before = score_images(labels, probabilities)
    if not _enough(labels):
        unknown = Estimate(math.nan, None, None, len(labels), int(before.wrong.sum()))
        reason = f"{len(labels):,} images are too few; it needs {FEWEST}, with {FOLDS} of at least two classes"
        return CalibrationResult(IDENTITY, unknown, False, reason)
    after = score_images(labels, cross_fitted(labels, probabilities))
    gain = paired_intervals(ImageScores(before.losses[None], before.wrong[None]), after)[0]
    if gain.value <= 0:
        return CalibrationResult(IDENTITY, gain, False, "it does not improve the cross-validated log loss")
    return CalibrationResult(fit(labels, probabilities), gain, True, None)


def fit(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Return the temperature, then the floor, with the lowest log loss on these images.

    The floor is at least 1 / (2 N + K), the estimated error rate if N images show no error (Krichevsky and Trofimov
    1981). Without it, a single error on a new image could cost 16 nats. The temperature is that of scikit-learn's
    `CalibratedClassifierCV(method="temperature")`, which requires a classifier and has neither bounds nor a floor.

    `labels` (N,) and `probabilities` (N, K) are checked, and of at least two classes.
    """
    logs, classes = np.log(clip(probabilities)), probabilities.shape[1]
    of_label = logs[np.arange(len(labels)), labels]

    def log_loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float((logsumexp(logs * inverse, axis=1) - of_label * inverse).mean())

    # Convex in 1 / temperature, so unimodal in its logarithm.
    bound = np.log(HIGHEST_TEMPERATURE)
    temperature = float(np.exp(-minimize_scalar(log_loss, bounds=(-bound, bound), options={"xatol": 1e-6}).x))
    scaled = softmax(logs / temperature, axis=1)
    p_label = scaled[np.arange(len(labels)), labels]
    highest = 2 * HIGHEST_FLOOR / classes
    floors = np.geomspace(min(max(EPSILON, 1 / (2 * len(labels) + classes)), highest), highest, _FLOORS)
    losses = [
        -np.log(np.maximum(p_label * scale, floor)).mean()
        for floor, scale in zip(floors, _scales(scaled, floors), strict=True)
    ]
    return Calibration(temperature, float(floors[int(np.argmin(losses))]))


def _scales(probabilities: np.ndarray, floors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for every floor the factors s (N,) with which max(s * p, floor) has the sum 1, for p (N, K)."""
    ascending = np.sort(probabilities, axis=1)
    sums = ascending[:, ::-1].cumsum(axis=1)[:, ::-1]  # of all but the lowest j probabilities, j = 0 .. K - 1
    rows = np.arange(len(ascending))
    for floor in floors:
        low = np.zeros(len(ascending), dtype=int)
        while True:
            scale = (1 - floor * low) / sums[rows, low]
            # The highest probability stays above the floor, which is below 1 / K.
            below = ascending[rows, low] * scale < floor
            if not below.any():
                break
            low += below
        yield scale


def _enough(labels: np.ndarray) -> bool:
    return len(labels) >= FEWEST and bool((np.bincount(labels) >= FOLDS).sum() > 1)
