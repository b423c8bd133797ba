"""What several models say of the same images -> one probability, the way chosen on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from catsdogs.comparison.paired import mean_intervals
from catsdogs.scores import EQUAL, clip, log_loss_per_image


@dataclass(frozen=True)
class Combination:
    """How the probabilities of members become one.

    Attributes:
        way: "single" (one member alone), "probability" (their mean), "logit" (the mean of their logits) or "stacked"
            (a logistic regression on their logits).
        weights: of every member.
        bias: added to the weighted sum of logits; 0 but for stacked.
    """

    way: str
    weights: tuple[float, ...]
    bias: float = 0.0

    @property
    def of_logits(self) -> bool:
        """Whether logits are summed, and not probabilities."""
        return self.way in ("logit", "stacked")

    def __call__(self, members: np.ndarray) -> np.ndarray:
        """p_dog (K, N) in [0, 1] of every member -> (N,) float64 in [0, 1]."""
        weights = np.array(self.weights)
        if self.of_logits:
            return expit(weights @ logit(clip(members)) + self.bias)
        return np.clip(weights @ np.asarray(members, dtype=np.float64), 0, 1)


@dataclass(frozen=True)
class EnsembleChoice:
    """The combination that these images favour.

    Attributes:
        table: a row for every member and every way: name ("member 0", "probability", ...), log_loss, gain (log loss of
            the best single member minus this one; above 0 it helps), low and high (its 95 % interval over images), size
            (images), chosen. Stacked is cross-fitted.
    """

    combination: Combination
    table: pd.DataFrame


def mean_of(members: int, way: str) -> Combination:
    """The plain mean of so many members, of their probabilities or logits as `way` says."""
    return Combination(way, (1 / members,) * members)


def shared_out(combination: Combination, models: Sequence[int]) -> Combination:
    """The combination of models, from that of the members that they belong to.

    The models of a member share its weight. So of logits each member says the mean of its models' logits; of
    probabilities that of their probabilities. A member alone is the mean of its models' logits.

    Args:
        combination: of K members.
        models: how many models each of the K members has, 1 or more; those of a member follow one another.
    """
    way = "logit" if combination.way == "single" and max(models) > 1 else combination.way
    weights = [weight / count for weight, count in zip(combination.weights, models, strict=True) for _ in range(count)]
    return Combination(way, tuple(weights), combination.bias)


def stacked(labels: np.ndarray, members: np.ndarray) -> Combination:
    """A logistic regression on the members' logits, with scikit-learn's usual L2 penalty.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog, both there.
        members: (K, N) p_dog.
    """
    found = LogisticRegression(max_iter=1000).fit(logit(clip(members)).T, labels)
    return Combination("stacked", tuple(found.coef_[0].tolist()), float(found.intercept_[0]))


def cross_stacked(labels: np.ndarray, members: np.ndarray, folds: int = 5, seed: int = 0) -> np.ndarray:
    """(N,) what stacking gives images that it was not fitted on; arguments as in `stacked`."""
    found = np.empty(len(labels))
    for others, own in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        found[own] = stacked(labels[others], members[:, others])(members[:, own])
    return found


def choose(labels: np.ndarray, members: np.ndarray) -> EnsembleChoice:
    """Choose among the best member alone, both means and stacking.

    The simplest, in this order, of those whose log loss is within EQUAL of the lowest. Stacking also changes
    temperatures: where its lead comes from that, calibrating a mean gives the same.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog; of images that no member was trained on. So the folds of one trial can be
            compared on the hold-out alone, and what several trials of the same folds say out of fold on all images.
        members: (K, N) p_dog of K members.

    Raises:
        ValueError: no members, or as `scores.log_loss_per_image`.
    """
    labels, members = np.asarray(labels, dtype=np.float64), np.asarray(members, dtype=np.float64)
    if members.ndim != 2 or not len(members):
        raise ValueError(f"members must be (K, N) with at least one member, got {members.shape}")
    count = len(members)
    alone = np.stack([log_loss_per_image(labels, p_dog) for p_dog in members])
    best = int(alone.mean(axis=1).argmin())
    ways = [Combination("single", tuple(float(member == best) for member in range(count)))]
    losses = [alone[best]]
    if count > 1:
        ways += [mean_of(count, "probability"), mean_of(count, "logit")]
        losses += [log_loss_per_image(labels, way(members)) for way in ways[1:]]
        if min(labels.sum(), len(labels) - labels.sum()) >= 5:
            ways.append(stacked(labels, members))
            losses.append(log_loss_per_image(labels, cross_stacked(labels, members)))
    means = np.array([loss.mean() for loss in losses])
    chosen = int(np.flatnonzero(means <= means.min() + EQUAL)[0])
    every = np.vstack([alone, *losses[1:]])
    gains = mean_intervals(alone[best] - every)
    table = pd.DataFrame({"name": [f"member {k}" for k in range(count)] + [way.way for way in ways[1:]]})
    table["log_loss"] = every.mean(axis=1)
    table["gain"] = [gain.value for gain in gains]
    table["low"] = [gain.low for gain in gains]
    table["high"] = [gain.high for gain in gains]
    table["size"] = len(labels)
    table["chosen"] = table.index == (best if chosen == 0 else count + chosen - 1)
    return EnsembleChoice(ways[chosen], table)
