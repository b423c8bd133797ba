"""Combine the predictions of several models for the same images; the method is chosen on data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax

from catsdogs.scoring.intervals import gains_over
from catsdogs.scoring.scores import TIE_TOLERANCE, clip, score_images


@dataclass(frozen=True)
class Combination:
    """Weights and method that combine the probabilities of members."""

    method: str  # "single" (one member alone), "probability" (their mean) or "logit" (the mean of their logits)
    weights: tuple[float, ...]  # one per member

    def __call__(self, members: np.ndarray) -> np.ndarray:
        """Combine probabilities (M, N, K) of M members; returns (N, K) float64 with sums of 1.

        The mean of logits is the softmax of the mean of logarithms; for two classes, that is the same.
        """
        if self.method == "logit":
            return softmax(np.tensordot(self.weights, np.log(clip(members)), axes=1), axis=-1)
        return np.clip(np.tensordot(self.weights, np.asarray(members, dtype=np.float64), axes=1), 0, 1)


def uniform_mean(members: int, method: str) -> Combination:
    """Return the unweighted mean of `members` members, of their probabilities or of their logits."""
    return Combination(method, (1 / members,) * members)


def expand_to_models(combination: Combination, models: Sequence[int]) -> Combination:
    """Return the combination of models that equals a combination of their M members.

    The models of a member share its weight equally. A single member with several models is the mean of their logits.
    `models`: number of models of each member, at least 1; models of one member are adjacent.
    """
    method = "logit" if combination.method == "single" and max(models) > 1 else combination.method
    weights = [weight / count for weight, count in zip(combination.weights, models, strict=True) for _ in range(count)]
    return Combination(method, tuple(weights))


def choose(labels: np.ndarray, members: np.ndarray, names: Sequence[str]) -> tuple[Combination, pd.DataFrame]:
    """Choose between the best single member, the mean of probabilities and the mean of logits.

    Returns the first of these, in this order, with a log loss within TIE_TOLERANCE of the lowest, and a table with a
    row per member and per method: name, the columns of `gains_over` the best single member, chosen. `labels` (N,) and
    `members`, probabilities (M, N, K), are as in `scores.score_images`, of images that no member was trained on.
    """
    count = len(members)
    means = [uniform_mean(count, method) for method in ("probability", "logit")] if count > 1 else []
    every = score_images(labels, np.stack([*members, *(mean(members) for mean in means)]))
    losses = every.losses.mean(axis=1)
    best = int(losses[:count].argmin())
    chosen = next(row for row in (best, *range(count, len(losses))) if losses[row] <= losses.min() + TIE_TOLERANCE)
    table = pd.DataFrame({"name": [*names, *(mean.method for mean in means)]}).join(gains_over(every, best))
    table["chosen"] = table.index == chosen
    single = Combination("single", tuple(float(member == chosen) for member in range(count)))
    return single if chosen < count else means[chosen - count], table
