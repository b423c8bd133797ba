"""Means over images with confidence intervals, and how often each model is best, all on the same images.

Models that are scored on the same images fail on the same hard ones. Differences are therefore paired: taken per image
before averaging. Their interval is much narrower than the intervals of the two losses suggest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from catsdogs.scoring.scores import resampled_means


@dataclass(frozen=True)
class Estimate:
    """Mean over images with its 95% percentile bootstrap interval."""

    value: float
    low: float | None  # None: fewer than 2 images
    high: float | None
    size: int  # images

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval; False if there is no interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_intervals(values: np.ndarray) -> list[Estimate]:
    """Return the mean of every row with its interval; all rows use the same resamples of images.

    Uses the 2,000 `scores.resamples`. `scores` sorts images by probability first, so its bounds differ by sampling
    error. Intervals cover the choice of images, not the training seed.

    Args:
        values: (K, N) finite, a row per quantity and a column per image; N at least 1.

    Returns:
        K estimates. The interval of a constant row has zero width.

    Raises:
        ValueError: `values` has another shape, or is not finite.
    """
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and (K, N) with at least one image, got {values.shape}")
    size = values.shape[1]
    if size < 2 or not len(values):
        return [Estimate(float(row.mean()), None, None, size) for row in values]
    ends = np.quantile(resampled_means(values), [0.025, 0.975], axis=1).T
    estimates = []
    for row, (low, high) in zip(values, ends, strict=True):
        # Resampled means of a constant row differ by rounding, and that interval may exclude 0.
        value, low, high = (row[0],) * 3 if np.ptp(row) == 0 else (row.mean(), low, high)
        estimates.append(Estimate(float(value), float(low), float(high), size))
    return estimates


def gains_over(losses: np.ndarray, row: int) -> pd.DataFrame:
    """Compare the log losses of several methods with one of them.

    Args:
        losses: (K, N) log losses in nats, a row per method and a column per image.
        row: index of the method to compare with.

    Returns:
        K rows: log_loss, gain (log loss of method `row` minus this one; above 0: better), low and high (95% interval of
        the gain over images), size (images).
    """
    gains = pd.DataFrame(mean_intervals(losses[row] - losses)).rename(columns={"value": "gain"})
    gains.insert(0, "log_loss", losses.mean(axis=1))
    return gains


def share_lowest(losses: np.ndarray) -> np.ndarray:
    """Return how often each row has the lowest mean.

    Args:
        losses: (K, N) finite, a row per model and a column per image; N at least 1.

    Returns:
        (K,) fraction of resamples in [0, 1], with sum 1; tied rows share a resample.
    """
    if not len(losses):
        return np.zeros(0)
    means = resampled_means(losses)
    lowest = means.min(axis=0)
    # Means of equal rows differ by rounding.
    ties = means <= lowest + 1e-12 * np.abs(lowest)
    return (ties / ties.sum(axis=0)).mean(axis=1)
