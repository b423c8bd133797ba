"""Properties of the greedy selection of an ensemble, and its nested evaluation."""

import numpy as np
import pytest
from scipy.special import softmax

from catsdogs.scoring.combination import Combination
from catsdogs.scoring.greedy import choose_ensemble, greedy_weights
from catsdogs.scoring.scores import score_images

METHODS = pytest.mark.parametrize("method", ["probability", "logit"])


def predictions(models, images=300, classes=3, seed=0, noise=1.0):
    """Return labels (N,) and probabilities (M, N, K) of models with errors of their own, the first ones better."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(0, 1, (images, classes)) + 2 * np.eye(classes)[labels]
    scales = noise * np.linspace(0.8, 1.6, models)[:, None, None]
    return labels, softmax(logits + scales * rng.normal(0, 1, (models, images, classes)), axis=-1)


def loss(labels, p):
    return score_images(labels, p).losses.mean(axis=-1)


@METHODS
@pytest.mark.parametrize(("models", "classes"), [(1, 2), (2, 2), (7, 10), (30, 3), (60, 2)])
def test_the_ensemble_is_not_worse_than_the_best_model_on_its_own_images(method, models, classes):
    labels, p = predictions(models, classes=classes, seed=models)
    weights = greedy_weights(labels, p, method, 1)
    assert weights.shape == (models,)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert weights[weights > 0].min() >= min(0.05, weights.max() / 2) - 1e-9
    best = loss(labels, p).min()
    mixed = loss(labels, Combination(method, tuple(weights))(p))
    assert mixed <= best + 1e-6
    # Errors are independent, so a mean of several models is better than one.
    assert models < 7 or mixed < 0.98 * best
    assert models > 1 or weights[0] == 1
    np.testing.assert_array_equal(weights, greedy_weights(labels, p, method, 1))
    assert models < 7 or (weights != greedy_weights(labels, p, method, 2)).any()


@METHODS
def test_the_order_of_models_and_classes_does_not_matter(method):
    labels, p = predictions(12)
    order, classes = np.random.default_rng(1).permutation(12), np.array([2, 0, 1])
    weights = greedy_weights(labels, p, method, 1)
    np.testing.assert_allclose(greedy_weights(labels, p[order], method, 1), weights[order], atol=1e-12)
    permuted = greedy_weights(np.argsort(classes)[labels], p[:, :, classes], method, 1)
    np.testing.assert_allclose(permuted, weights, atol=1e-12)


@METHODS
def test_equal_models_share_their_weight_and_bad_ones_have_none(method):
    labels, p = predictions(3)
    uniform, wrong = np.full_like(p[:1], 1 / 3), 1 - p[:1] - 1 / 3 * (1 - 2 * p[:1])
    wrong /= wrong.sum(axis=-1, keepdims=True)
    weights = greedy_weights(labels, np.concatenate([p, p[:2], wrong, uniform]), method, 1)
    alone = greedy_weights(labels, p, method, 1)
    assert weights[5] == weights[6] == 0
    np.testing.assert_allclose(weights[:2] + weights[3:5], alone[:2], atol=0.2)
    # In a bag with both, each has the same weight; the best model is in every bag, its copy in half of them.
    both = greedy_weights(labels, p[[0, 0]], method, 1)
    np.testing.assert_array_equal(both, [0.5, 0.5])


def test_flat_weights_are_not_dropped():
    labels, p = predictions(40, images=4000, noise=0.0)
    rng = np.random.default_rng(0)
    p = softmax(np.log(p) + rng.normal(0, 2, p.shape), axis=-1)
    weights = greedy_weights(labels, p, "logit", 1)
    assert np.count_nonzero(weights) > 20
    assert weights[weights > 0].min() < 0.05


@pytest.mark.parametrize("classes", [2, 5])
def test_nested_folds_score_the_methods(classes):
    labels, p = predictions(9, classes=classes)
    combination, table = choose_ensemble(labels, p, [f"trial {number}" for number in range(9)], 1)
    assert list(table["name"]) == [*(f"trial {number}" for number in range(9)), "single", "probability", "logit"]
    of_models, of_methods = table[:9], table[9:].set_index("name")
    np.testing.assert_allclose(of_models["log_loss"], loss(labels, p))
    np.testing.assert_array_equal(of_models["log_loss"], of_models["nested_log_loss"])
    chosen = of_methods.index[of_methods["chosen"]].item()
    assert combination.method == chosen == of_methods["nested_log_loss"].idxmin() != "single"
    assert not of_models["chosen"].any()
    np.testing.assert_array_equal(of_models["weight"], combination.weights)
    assert of_methods.loc[chosen, "log_loss"] == pytest.approx(loss(labels, combination(p)))
    gains = of_methods["nested_log_loss"]["single"] - of_methods["nested_log_loss"]
    np.testing.assert_allclose(of_methods["gain"], gains, atol=1e-12)


def test_overfitting_shows_in_nested_folds():
    # Of many equally bad models, those that are best on few images are best by luck.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    p = softmax(rng.normal(0, 1, (60, 40, 2)), axis=-1)
    _, table = choose_ensemble(labels, p, [""] * 60, 1)
    assert (table["nested_log_loss"][60:] > table["log_loss"][60:] + 0.05).all()
    assert table["gain"][60] == 0  # of the best one, over its nested log loss


@pytest.mark.parametrize("images", [2, 3, 12])
def test_a_tie_goes_to_the_single_model_also_with_few_images(images):
    labels = np.arange(images) % 2
    p = np.full((3, images, 2), 0.5)
    combination, _ = choose_ensemble(labels, p, list("abc"), 1)
    assert combination == Combination("single", (1.0, 0.0, 0.0))
    single, table = choose_ensemble(labels, p[:1], ["a"], 1)
    assert single == Combination("single", (1.0,))
    assert list(table["name"]) == ["a", "single"]
