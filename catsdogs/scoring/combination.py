"""What several models say of the same images -> one probability, the method chosen on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from catsdogs.scoring.intervals import gains_over
from catsdogs.scoring.scores import EQUAL, clip, log_loss_per_image


@dataclass(frozen=True)
class Combination:
    """How the probabilities of members become one."""

    method: str  # "single" (one member alone), "probability" (their mean) or "logit" (the mean of their logits)
    weights: tuple[float, ...]  # of every member

    def __call__(self, members: np.ndarray) -> np.ndarray:
        """p_dog (K, N) in [0, 1] of every member -> (N,) float64 in [0, 1]."""
        weights = np.array(self.weights)
        if self.method == "logit":
            return expit(weights @ logit(clip(members)))
        return np.clip(weights @ np.asarray(members, dtype=np.float64), 0, 1)


def uniform_mean(members: int, method: str) -> Combination:
    """The plain mean of so many members, of their probabilities or logits as `method` says."""
    return Combination(method, (1 / members,) * members)


def expand_to_models(combination: Combination, models: Sequence[int]) -> Combination:
    """The combination of models, from that of the members that they belong to.

    The models of a member share its weight. So of logits each member says the mean of its models' logits; of
    probabilities that of their probabilities. A member alone is the mean of its models' logits.

    Args:
        combination: of K members.
        models: how many models each of the K members has, 1 or more; those of a member follow one another.
    """
    method = "logit" if combination.method == "single" and max(models) > 1 else combination.method
    weights = [weight / count for weight, count in zip(combination.weights, models, strict=True) for _ in range(count)]
    return Combination(method, tuple(weights))


def choose(labels: np.ndarray, members: np.ndarray, names: Sequence[str]) -> tuple[Combination, pd.DataFrame]:
    """Choose among the best member alone and both means.

    The simplest, in this order, of those whose log loss is within EQUAL of the lowest.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog; of images that no member was trained on. So the folds of one trial can be
            compared on the hold-out alone, and what several trials of the same folds say out of fold on all images.
        members: (K, N) p_dog of K members, 1 or more.
        names: of the members.

    Returns:
        The combination, and a table with a row for every member and every method: name, those of `gains_over` the best
        single member, chosen.

    Raises:
        ValueError: as `scores.log_loss_per_image`.
    """
    count = len(members)
    means = [uniform_mean(count, method) for method in ("probability", "logit")] if count > 1 else []
    every = np.stack([log_loss_per_image(labels, p_dog) for p_dog in [*members, *(mean(members) for mean in means)]])
    losses = every.mean(axis=1)
    best = int(losses[:count].argmin())
    chosen = next(row for row in (best, *range(count, len(every))) if losses[row] <= losses.min() + EQUAL)
    table = pd.DataFrame({"name": [*names, *(mean.method for mean in means)]}).join(gains_over(every, best))
    table["chosen"] = table.index == chosen
    single = Combination("single", tuple(float(member == chosen) for member in range(count)))
    return single if chosen < count else means[chosen - count], table
