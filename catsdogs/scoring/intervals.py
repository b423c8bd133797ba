"""Means over images with confidence intervals, and how often each model is best, all on the same images.

Models fail on the same hard images. Differences are therefore paired, taken per image before averaging, and have a much
narrower interval than the two losses. Intervals cover the choice of images, not the training seed. docs/SCORES.md has
their measured coverage.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest, t

# Below this number of misclassified images, a sample does not show how often large losses occur.
FEW_ERRORS = 20

# Text for metrics.json and pages.
METHOD = "95% over images, corrected for skewness (Hall 1992); accuracy: Wilson; ROC AUC: Newcombe"

_CONFIDENCE = 0.95

_RESAMPLES = 2000
_BATCH_ELEMENTS = 2**17  # sampled images held at once: a few MB for any N, and faster than larger batches


@dataclass(frozen=True)
class Estimate:
    """Mean over images with its 95% confidence interval."""

    value: float
    low: float | None  # None: fewer than 2 images
    high: float | None
    size: int  # images
    errors: int | None = None  # images that the model, or one of the compared models, misclassifies; None: unknown

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval; False if there is no interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def few_errors(self) -> bool:
        """Whether the interval may be too narrow, because fewer than FEW_ERRORS images are misclassified."""
        return self.errors is not None and self.errors < FEW_ERRORS


class ImageScores(NamedTuple):
    """Log loss of every image, and whether its predicted class is wrong: with more than two classes, both are needed.

    Both are (N,), or (M, N) with a row per model or method.
    """

    losses: np.ndarray  # float64, nats
    wrong: np.ndarray  # bool


def mean_intervals(values: np.ndarray, errors: np.ndarray | None = None, highest: float = math.inf) -> list[Estimate]:
    """Return the mean of every row with its interval.

    Losses are skewed: most are small and a few errors are large. A sample with few errors has a low mean and a low
    standard deviation, so intervals that ignore the skewness end too low. Hall's cubic transformation of the t
    statistic removes the skewness; its quantiles are those of Student's t distribution.

    The interval of a constant row has zero width. That of values with one sign does not pass 0, nor `highest`, their
    upper bound. `values` are (K, N), a row per quantity and a column per image; a ValueError if N is 0 or one is
    not finite. `errors`, int (K,), are the misclassified images.

    Source: P. Hall 1992, On the removal of skewness by transformation, J. R. Statist. Soc. B 54, 221-228.
    """
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and (K, N) with at least one image, got {values.shape}")
    size = values.shape[1]
    estimates = []
    for row, wrong in zip(values, [None] * len(values) if errors is None else errors.tolist(), strict=True):
        # The mean of a constant row may differ from it by rounding, and the interval may then exclude 0.
        value = float(row.mean()) if np.ptp(row) > 0 else float(row[0])
        variance = ((row - value) ** 2).sum() / max(1, size * (size - 1))
        low, high = value, value
        if variance > 0:
            low, high = _skewed_interval(row, value, float(variance))
            low = max(low, 0.0) if row.min() >= 0 else low
            # Equal losses differ by rounding, and may so exceed the bound.
            high = max(value, min(high, 0.0 if row.max() <= 0 else float(highest)))
        estimates.append(Estimate(value, low if size > 1 else None, high if size > 1 else None, size, wrong))
    return estimates


def _skewed_interval(row: np.ndarray, value: float, variance: float) -> tuple[float, float]:
    """Return the interval of the mean `value` of a row; `variance`, of this mean, is above 0."""
    size, error = len(row), variance**0.5
    ends = t.ppf(0.5 + _CONFIDENCE / 2, size - 1) * np.array([1, -1])
    # Unbiased third moment of the mean; of two values, it is 0.
    third = ((row - value) ** 3).sum() / (size * (size - 1) * max(1, size - 2))
    skewness = third / variance / error / 3
    if abs(skewness) > 1e-8:  # below, the difference of nearly equal numbers loses digits and changes nothing
        ends = (np.cbrt(1 + 3 * skewness * (ends - skewness / 2)) - 1) / skewness
    low, high = value - ends * error
    return float(low), float(high)


def wilson_interval(count: int, size: int) -> tuple[float, float]:
    """Return Wilson's 95% confidence interval of the share count / size; `size` is at least 1."""
    interval = binomtest(count, size).proportion_ci(_CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def paired_intervals(scores: ImageScores, others: ImageScores) -> list[Estimate]:
    """Return the mean of the differences of the losses, paired by image, of scores (M, N) and others (M, N) or (N,).

    `errors` counts the images that either model misclassifies.
    """
    return mean_intervals(scores.losses - others.losses, (scores.wrong | others.wrong).sum(axis=1))


def gains_over(scores: ImageScores, row: int) -> pd.DataFrame:
    """Compare (M, N) scores, a row per method and a column per image, with those of method `row`.

    The result has M rows: log_loss, gain (log loss of method `row` minus this one; above 0: better), and low, high,
    size and errors of the gain, as in `paired_intervals`.
    """
    base = ImageScores(*(np.broadcast_to(part[row], part.shape) for part in scores))
    gains = pd.DataFrame(paired_intervals(base, scores)).rename(columns={"value": "gain"})
    gains.insert(0, "log_loss", scores.losses.mean(axis=1))
    return gains


def share_lowest(losses: np.ndarray) -> np.ndarray:
    """Return in which fraction (K,) of the `resamples` each row of (K, N) losses has the lowest mean; ties share."""
    if not len(losses):
        return np.zeros(0)
    images = losses.shape[1]
    means = np.hstack([losses @ counts.T / images for counts in resamples(images)])
    lowest = means.min(axis=0)
    # Means of equal rows differ by rounding.
    ties = means <= lowest + 1e-12 * np.abs(lowest)
    return (ties / ties.sum(axis=0)).mean(axis=1)


def resamples(images: int) -> Iterator[np.ndarray]:
    """Yield 2,000 bootstrap resamples of N `images` as counts: how often each image is sampled.

    Each batch is (B, N) float64, and its rows sum to N. The resamples depend only on N.
    """
    batch = max(1, _BATCH_ELEMENTS // images)
    rng = np.random.default_rng(0)
    for start in range(0, _RESAMPLES, batch):
        count = min(batch, _RESAMPLES - start)
        rows = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
        yield np.bincount(rows.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
