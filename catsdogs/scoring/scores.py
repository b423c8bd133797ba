"""Labels + probabilities -> log loss, accuracy, ROC AUC, Brier score and calibration error, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

# Keras clips probabilities to [1e-7, 1 - 1e-7] in its binary cross-entropy; within the same bounds ours is the same.
EPSILON = 1e-7

# Log losses in nats that differ by no more count as equal where the simpler of two ways is wanted: no report shows a
# further digit.
EQUAL = 0.00005

_RESAMPLES = 2000
_BOOTSTRAP_SEED = 0  # fixed: scores of the same predictions are the same numbers
_BATCH_ELEMENTS = 2**17  # drawn images held at once: a few MB for any N, and faster than larger batches

_ECE_BINS = 15


@dataclass(frozen=True)
class Score:
    """One number about predictions, and the images that it comes from."""

    value: float | None  # None: not defined for these labels
    low: float | None  # 95 % percentile bootstrap interval over images; None: not defined, see `scores`
    high: float | None
    split: str
    size: int  # images


def clip(p_dog: np.ndarray) -> np.ndarray:
    """(N,) float64 in [EPSILON, 1 - EPSILON]."""
    return np.clip(np.asarray(p_dog, dtype=np.float64), EPSILON, 1 - EPSILON)


def log_loss_per_image(labels: np.ndarray, p_dog: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the probability given to what each image shows, after `clip`; never infinite.

    Args:
        labels: (N,) or (N, 1), 0.0 = cat, 1.0 = dog, unsmoothed.
        p_dog: same shape, in [0, 1].

    Returns:
        (N,) float64 in nats, 1e-7 .. 16.1.

    Raises:
        ValueError: names the row of a label that is neither 0 nor 1, or of a probability outside [0, 1] or NaN.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    p_dog = clip(p_dog)
    return -np.where(labels == 1, np.log(p_dog), np.log1p(-p_dog))


def scores(labels: np.ndarray, p_dog: np.ndarray, split: str) -> dict[str, Score]:
    """How good probabilities are.

    Keys: `log_loss` (after `clip`), `accuracy` (dog where p_dog > 0.5, as Keras counts), `roc_auc`, `brier`, and `ece`,
    the expected calibration error of `expected_calibration_error`.

    Intervals come from one percentile bootstrap over images, the same resamples for every score. There is none for a
    single image, none for `roc_auc` where one class is missing, and none for `ece`: a resample adds noise, noise adds
    calibration error, and the 95 % interval of it was seen to hold the true value in 82 % of simulated cases of 600
    images, never for calibrated ones.

    Args:
        labels: (N,) or (N, 1), 0.0 = cat, 1.0 = dog, unsmoothed; N at least 1.
        p_dog: same shape, in [0, 1].
        split: what the images are to the model, `validation` for example; every score carries it.

    Raises:
        ValueError: as `log_loss_per_image`, or no images.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    if len(labels) == 0:
        raise ValueError("scores need at least one image, got none")
    both_classes = 0 < labels.sum() < len(labels)
    values: dict[str, float | None] = {
        "log_loss": float(log_loss(labels, clip(p_dog), labels=[0, 1])),
        "accuracy": float(_right(labels, p_dog).mean()),
        "roc_auc": float(roc_auc_score(labels, p_dog)) if both_classes else None,
        "brier": float(brier_score_loss(labels, p_dog)),
        "ece": expected_calibration_error(labels, p_dog),
    }
    intervals = _intervals(labels, p_dog) if len(labels) > 1 else {}
    return {
        name: Score(value, *intervals.get(name, (None, None)), split, len(labels)) for name, value in values.items()
    }


def resamples(images: int) -> Iterator[np.ndarray]:
    """The bootstrap over images: how often every image is drawn in each of 2,000 resamples.

    They are always the same for the same number of images, so what is computed of them is paired.

    Args:
        images: N, at least 1.

    Yields:
        (B, N) float64 counts, every row of which sums to N; B is chosen so that a few MB are held at once.
    """
    batch = max(1, _BATCH_ELEMENTS // images)
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    for start in range(0, _RESAMPLES, batch):
        drawn = min(batch, _RESAMPLES - start)
        rows = rng.integers(0, images, (drawn, images)) + images * np.arange(drawn)[:, None]
        yield np.bincount(rows.ravel(), minlength=drawn * images).reshape(drawn, images).astype(np.float64)


def resampled_means(per_image: np.ndarray) -> np.ndarray:
    """(K, N), a column per image -> (K, 2000), the mean of every row in each of the `resamples`."""
    images = per_image.shape[1]
    return np.hstack([per_image @ counts.T / images for counts in resamples(images)])


def expected_calibration_error(labels: np.ndarray, p_dog: np.ndarray) -> float:
    """How far confidence and accuracy are apart, on average over images.

    Confidence is the probability of the class that is predicted, max(p_dog, 1 - p_dog). It is binned into 15 equal
    widths of [0, 1], each open below and closed above, of which two classes use the upper eight; the error is the sum
    over bins of (share of images in the bin) x |mean confidence - accuracy|.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog; N at least 1.
        p_dog: (N,) in [0, 1].

    Returns:
        In [0, 1].

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    labels, p_dog = check_inputs(labels, p_dog)
    confidence = np.maximum(p_dog, 1 - p_dog)
    bins = np.ceil(confidence * _ECE_BINS).astype(int) - 1
    gaps = np.bincount(bins, weights=confidence - _right(labels, p_dog), minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _right(labels: np.ndarray, p_dog: np.ndarray) -> np.ndarray:
    """(N,) float64: 1 where the predicted class is the label."""
    return ((p_dog > 0.5) == (labels == 1)).astype(np.float64)


def _intervals(labels: np.ndarray, p_dog: np.ndarray) -> dict[str, tuple[float | None, float | None]]:
    """The 95 % interval of every score that has one; N at least 2.

    scipy.stats.bootstrap would do for the means; how often each image is drawn, counted once per resample, serves the
    ROC AUC too, and a resample of one class, which has none, is left out instead of spoiling the interval.
    """
    order = np.argsort(p_dog, kind="stable")
    labels, p_dog = labels[order], p_dog[order]
    per_image = np.stack([log_loss_per_image(labels, p_dog), _right(labels, p_dog), (p_dog - labels) ** 2])
    # Images with the same probability form one step of the ROC curve.
    steps = np.flatnonzero(np.append(True, np.diff(p_dog) > 0))
    size = len(labels)
    parts = [np.vstack([per_image @ counts.T / size, _roc_auc(counts, labels, steps)]) for counts in resamples(size)]
    result: dict[str, tuple[float | None, float | None]] = {}
    for name, values in zip(("log_loss", "accuracy", "brier", "roc_auc"), np.hstack(parts), strict=True):
        defined = values[np.isfinite(values)]
        if len(defined):
            low, high = np.quantile(defined, [0.025, 0.975])
            result[name] = (float(low), float(high))
    return result


def _roc_auc(counts: np.ndarray, labels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(B,) ROC AUC of each resample: the share of (dog, cat) pairs in the right order, ties counted half.

    `counts` (B, N) and `labels` (N,) are of images sorted by probability, `steps` begin the runs of equal ones. NaN
    where a resample has one class only.
    """
    dogs = np.add.reduceat(counts * labels, steps, axis=1)
    cats = np.add.reduceat(counts * (1 - labels), steps, axis=1)
    pairs = dogs.sum(axis=1) * cats.sum(axis=1)
    ordered = (dogs * (np.cumsum(cats, axis=1) - cats / 2)).sum(axis=1)
    return np.divide(ordered, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def check_inputs(labels: np.ndarray, p_dog: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N,) float64, or a ValueError that names the row."""
    labels, p_dog = np.asarray(labels, dtype=np.float64), np.asarray(p_dog, dtype=np.float64)
    if labels.shape != p_dog.shape or labels.shape not in ((labels.size,), (labels.size, 1)):
        raise ValueError(f"labels and p_dog must both be (N,) or (N, 1), got {labels.shape} and {p_dog.shape}")
    labels, p_dog = labels.ravel(), p_dog.ravel()
    for row in np.flatnonzero((labels != 0) & (labels != 1))[:1]:
        raise ValueError(f"row {row}: the label must be 0 (cat) or 1 (dog), got {labels[row]:g}")
    for row in np.flatnonzero(~((p_dog >= 0) & (p_dog <= 1)))[:1]:
        raise ValueError(f"row {row}: the probability must lie in [0, 1], got {p_dog[row]:g}")
    return labels, p_dog
