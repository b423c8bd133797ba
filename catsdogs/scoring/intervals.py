"""Losses per image -> means with intervals, and which model is best how often, all over the same images.

Models that are scored on the same images are wrong on the same hard ones. So the difference of two of them is taken
image by image before anything is averaged: its interval is much narrower than those of the two losses suggest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from catsdogs.scoring.scores import resampled_means


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its 95 % percentile bootstrap interval over them."""

    value: float
    low: float | None  # None: fewer than 2 images
    high: float | None
    size: int  # images

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval; never where there is none."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_intervals(values: np.ndarray) -> list[Estimate]:
    """The mean of every row and its interval, every row over the same resamples of images.

    From the 2,000 `scores.resamples`, as those of `scores`, which sorts the images by probability before: the ends of
    both differ by sampling error. They tell what other images of the same kind could have shown, and nothing about
    other seeds of the training.

    Args:
        values: (K, N) finite, a row per quantity and a column per image; N at least 1.

    Returns:
        K intervals. A row of equal values has one of no width.

    Raises:
        ValueError: not such a table.
    """
    if values.ndim != 2 or not values.shape[1] or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and (K, N) with at least one image, got {values.shape}")
    size = values.shape[1]
    if size < 2 or not len(values):
        return [Estimate(float(row.mean()), None, None, size) for row in values]
    ends = np.quantile(resampled_means(values), [0.025, 0.975], axis=1).T
    found = []
    for row, (low, high) in zip(values, ends, strict=True):
        # The resampled means of equal values differ by rounding, and an interval of that may exclude 0.
        value, low, high = (row[0],) * 3 if np.ptp(row) == 0 else (row.mean(), low, high)
        found.append(Estimate(float(value), float(low), float(high), size))
    return found


def gains_over(losses: np.ndarray, row: int) -> pd.DataFrame:
    """What each of several ways to predict the same images gains over one of them.

    Args:
        losses: (K, N) log losses in nats, a row per way and a column per image.
        row: the way that all are compared with.

    Returns:
        K rows: log_loss, gain (log loss of that way minus this one; above 0 it helps), low and high (its 95 % interval
        over images), size (images).
    """
    gains = pd.DataFrame(mean_intervals(losses[row] - losses)).rename(columns={"value": "gain"})
    gains.insert(0, "log_loss", losses.mean(axis=1))
    return gains


def share_lowest(losses: np.ndarray) -> np.ndarray:
    """How often each row has the lowest mean of all.

    Args:
        losses: (K, N) finite, a row per model and a column per image; N at least 1.

    Returns:
        (K,) share of the resamples of images, in [0, 1], that sums to 1; rows that tie share theirs.
    """
    if not len(losses):
        return np.zeros(0)
    means = resampled_means(losses)
    lowest = means.min(axis=0)
    # Equal rows have means that differ by rounding.
    ties = means <= lowest + 1e-12 * np.abs(lowest)
    return (ties / ties.sum(axis=0)).mean(axis=1)
