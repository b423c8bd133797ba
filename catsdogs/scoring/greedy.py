"""Greedy selection of an ensemble among many models, evaluated with nested folds.

Source: Caruana et al. 2004, Ensemble selection from libraries of models, ICML: selection with replacement, bagged.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from catsdogs.scoring.combination import Combination
from catsdogs.scoring.intervals import gains_over
from catsdogs.scoring.scores import TIE_TOLERANCE, clip, score_images, stratified_folds

_PICKS = 20  # models of an ensemble, each possibly several times
_BAGS = 20  # each with half of the models, and the best one
_EQUAL = 1e-9  # log losses of equal models, which differ by rounding

# Smaller weights are dropped: such models cost time at every prediction, and gain little.
_LOWEST_WEIGHT = 1 / _PICKS


def choose_ensemble(
    labels: np.ndarray, p: np.ndarray, names: Sequence[str], seed: int
) -> tuple[Combination, pd.DataFrame]:
    """Choose between the best model and the greedy means of probabilities and of logits.

    The score of a method is nested: each of FOLDS stratified folds of the images is predicted with the model or the
    weights that are chosen on the other folds. Returns the first method, in this order, with a nested log loss within
    TIE_TOLERANCE of the lowest, with weights chosen on all images, and a table with a row per model and per method:
    name, log_loss (on the images that chose the weights), nested_log_loss, the other columns of `gains_over` the method
    "single", weight (of a model in the result), chosen. Arguments are those of `greedy_weights`.
    """
    count = len(p)
    methods = ("single", *(("probability", "logit") if count > 1 else ()))
    combinations = [_choose(labels, p, method, seed) for method in methods]
    nested = np.empty((len(methods), *p.shape[1:]))
    for others, own in stratified_folds(labels, seed):
        for outputs, method in zip(nested, methods, strict=True):
            outputs[own] = _choose(labels[others], p[:, others], method, seed)(p[:, own])
    every = score_images(labels, np.concatenate([p, nested]))
    table = pd.DataFrame({"name": [*names, *methods]}).join(gains_over(every, count + methods.index("single")))
    table = table.rename(columns={"log_loss": "nested_log_loss"})
    plain = score_images(labels, np.stack([combination(p) for combination in combinations])).losses.mean(axis=1)
    table.insert(1, "log_loss", [*table["nested_log_loss"][:count], *plain])
    losses = table["nested_log_loss"].to_numpy()[count:]
    chosen = int(np.argmax(losses <= losses.min() + TIE_TOLERANCE))
    table["weight"] = [*combinations[chosen].weights, *(None for _ in methods)]
    table["chosen"] = table.index == count + chosen
    return combinations[chosen], table


def _choose(labels: np.ndarray, p: np.ndarray, method: str, seed: int) -> Combination:
    if method == "single":
        best = int(score_images(labels, p).losses.mean(axis=1).argmin())
        return Combination(method, tuple(float(model == best) for model in range(len(p))))
    return Combination(method, tuple(greedy_weights(labels, p, method, seed).tolist()))


def greedy_weights(labels: np.ndarray, p: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Return the weights (M,) of M models in an ensemble with a low log loss; their sum is 1, and many are 0.

    Every bag starts from the best model and adds the one that lowers the log loss most, _PICKS times; its weights are
    those of the best ensemble on the way, so it is not worse than the best model. Weights are averaged over the bags.
    Those below _LOWEST_WEIGHT, or below half of the largest one if that is less, are dropped. Equal models share their
    weight, and the order of the models does not matter.

    `labels` are int (N,), of images that no model was trained on, `p` (M, N, K). `method` is "probability" or "logit",
    as in `Combination`; `seed` is that of the bags.
    """
    count, images = len(p), np.arange(len(labels))
    p_label = clip(p[:, images, labels])
    # For the mean of logits, the log loss is log sum exp over the classes of the mean logit relative to the label.
    # Classes come first, because sums over the first axis are fast; float32 halves the time.
    values = p_label[None] if method == "probability" else np.log(clip(p) / p_label[:, :, None]).transpose(2, 0, 1)
    values = np.ascontiguousarray(values, dtype=np.float32)
    order, rng = np.argsort(-np.log(p_label).mean(axis=1), kind="stable"), np.random.default_rng(seed)
    weights = np.zeros(count)
    for _ in range(_BAGS):
        bag = order[np.sort([0, *rng.permutation(np.arange(1, count))[: count // 2]])]
        weights[bag] += _pick(values[:, bag], method) / _BAGS
    weights[weights < min(_LOWEST_WEIGHT, weights.max() / 2) - 1e-9] = 0
    return weights / weights.sum()


def _pick(values: np.ndarray, method: str) -> np.ndarray:
    """Return the weights of the models in a bag, (M,), from the values of `greedy_weights`, float32 (1 or K, M, N)."""
    counts, best, lowest = np.zeros(values.shape[1]), np.zeros(values.shape[1]), np.inf
    total, means = np.zeros_like(values[:, :1]), np.empty_like(values)
    for size in range(1, _PICKS + 1):
        np.add(values, total, out=means)
        means /= size
        images = -np.log(means[0]) if method == "probability" else np.log(np.exp(means, out=means).sum(axis=0))
        losses = images.mean(axis=1, dtype=np.float64)
        # Equal models share a pick.
        picked = losses <= losses.min() + _EQUAL
        counts += picked / picked.sum()
        total = np.tensordot(values, counts.astype(np.float32), axes=(1, 0))[:, None]
        if losses.min() < lowest - _EQUAL:
            lowest, best = float(losses.min()), counts / size
    return best
