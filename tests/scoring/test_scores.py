"""Scores agree with closed forms and scikit-learn, confidence intervals with their formulas."""

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from test_intervals import binary, ends

from catsdogs.base.errors import UserError
from catsdogs.scoring.calibration import Calibration, fit
from catsdogs.scoring.classes import Classes, check_names
from catsdogs.scoring.combination import uniform_mean
from catsdogs.scoring.intervals import mean_intervals, wilson_interval
from catsdogs.scoring.scores import class_scores, confusion, expected_calibration_error, score_images, scores

KEYS = ["log_loss", "accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "brier", "ece"]


def simulated(size, seed, sharpness=1.0):
    """Labels and probabilities; calibrated for sharpness 1, overconfident above."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, size)
    labels = (rng.random(size) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    return labels, 1 / (1 + np.exp(-sharpness * logits))


def test_the_loss_of_an_image_is_minus_the_logarithm_of_the_clipped_probability_of_its_class():
    loss = score_images(np.array([1, 0, 1, 0]), binary([0.9, 0.9, 0.5, 0.2])).losses
    np.testing.assert_allclose(loss, [-np.log(0.9), -np.log(0.1), np.log(2), -np.log(0.8)], rtol=1e-12)
    loss = score_images(np.array([1, 1, 0, 0]), binary([0, 1, 0, 1])).losses
    wrong, right = -np.log(1e-7), -np.log1p(-1e-7)
    np.testing.assert_allclose(loss, [wrong, right, right, wrong], rtol=1e-8)
    result = scores(np.array([1, 1, 0, 0]), binary([0, 1, 0, 1]))
    assert result["log_loss"].value == pytest.approx((wrong + right) / 2)


def test_errors_of_scores_and_of_comparisons_have_one_definition():
    p_dog = np.tile([0.5, np.nextafter(0.5, 0), np.nextafter(0.5, 1), 0.0, 1.0, np.float32(0.5)], 2)
    labels = np.repeat([0.0, 1.0], 6)
    wrong = score_images(labels, binary(p_dog)).wrong
    assert (wrong == ((p_dog > 0.5) != (labels == 1))).all()
    assert scores(labels, binary(p_dog))["accuracy"].errors == wrong.sum()


def test_calibration_error_bins_confidence_in_fifteenths_closed_above():
    # 0.6 = 9/15 belongs to the bin that ends there, 0.61 to the next: |0.6 - 1| and |0.61 - 0| are not averaged away.
    apart = expected_calibration_error(np.array([1, 0]), binary([0.6, 0.61]))
    assert apart == pytest.approx((0.4 + 0.61) / 2)
    together = expected_calibration_error(np.array([1, 0]), binary([0.61, 0.62]))
    assert together == pytest.approx(abs(0.615 - 0.5))
    # 0.68 and 0.72 share the bin from 10/15 to 11/15, which tenths would divide.
    assert expected_calibration_error(np.array([1, 0]), binary([0.68, 0.72])) == pytest.approx(0.2)


def test_intervals_are_those_of_means_wilson_and_newcombe():
    labels, p_dog = simulated(300, seed=4, sharpness=2)
    result = scores(labels, binary(p_dog))
    errors = int(((p_dog > 0.5) != (labels == 1)).sum())
    assert {score.errors for score in result.values()} == {errors}
    for name, per_image in (("log_loss", score_images(labels, binary(p_dog)).losses), ("brier", (p_dog - labels) ** 2)):
        expected = mean_intervals(per_image[None])[0]
        assert astuple(result[name]) == pytest.approx((*astuple(expected)[:4], errors))
    assert (result["accuracy"].low, result["accuracy"].high) == wilson_interval(300 - errors, 300)
    area, dogs = result["roc_auc"], labels.sum()
    for end in ends(area):
        # Standard error of Hanley and McNeil 1982, with the mean number of images per class in both places.
        extra = (150 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        error = np.sqrt(end * (1 - end) * (1 + extra) / (dogs * (300 - dogs)))
        assert abs(end - (area.value or 0)) / error == pytest.approx(scipy.stats.norm.ppf(0.975))


@settings(max_examples=40, deadline=None)
@given(p_dog=arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)), data=st.data())
def test_every_score_stays_in_its_range(p_dog, data):
    labels = data.draw(arrays(np.float32, p_dog.shape, elements=st.sampled_from([0.0, 1.0])))
    result = scores(labels, binary(p_dog))
    assert list(result) == KEYS
    for name, score in result.items():
        highest = 16.2 if name == "log_loss" else 1 + 1e-12
        assert 0 <= score.value <= highest or (name == "roc_auc" and len(set(labels)) == 1)
        if score.low is not None:
            assert 0 <= ends(score)[0] <= score.value <= ends(score)[1] <= highest


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_roc_auc(label):
    result = scores(np.full(5, label), binary(np.linspace(0.1, 0.7, 5)))
    np.testing.assert_equal(astuple(result["roc_auc"]), (np.nan, None, None, 5, result["accuracy"].errors))
    assert result["log_loss"].low is not None


def test_a_perfect_roc_auc_may_be_lower_on_other_images():
    result = scores(np.repeat([0, 1], 50), binary(np.linspace(0, 1, 100)))["roc_auc"]
    assert result.value == ends(result)[1] == 1
    assert 0.9 < ends(result)[0] < 0.99


@pytest.mark.parametrize(
    ("labels", "p_dog", "message"),
    [
        ([0, 1, 1], [0.1, np.nan, np.nan], "must be in"),
        ([0, 0.05, 1], [0.1, 0.2, 0.3], "labels must be whole"),
        ([0, 1], [0.1, 0.2, 0.3], "labels .N,. and"),
        ([], [], "at least one"),
    ],
)
def test_invalid_predictions_are_refused(labels, p_dog, message):
    with pytest.raises(ValueError, match=message):
        scores(np.array(labels), binary(p_dog))


def several(classes, size, seed):
    """Return labels that every class has, and the probabilities that they are sampled from."""
    rng = np.random.default_rng(seed)
    probabilities = np.maximum(rng.dirichlet(np.full(classes, 0.3), size), 1e-6)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in probabilities])
    labels[:classes] = np.arange(classes)
    return labels, probabilities


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_scores_agree_with_scikit_learn(classes):
    labels, p = several(classes, 500, seed=classes)
    result = {name: score.value for name, score in scores(labels, p).items()}
    predicted = p.argmax(axis=1)
    assert result["log_loss"] == pytest.approx(metrics.log_loss(labels, p))
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert result["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    if classes > 2:
        assert result["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, p, multi_class="ovr"))
        assert result["brier"] == pytest.approx(((p - np.eye(classes)[labels]) ** 2).sum(axis=1).mean())
    else:
        assert result["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, p[:, 1]))
        assert result["brier"] == pytest.approx(metrics.brier_score_loss(labels, p[:, 1]))
    assert confusion(labels[:9], p[:9]).shape == (classes, classes)  # also without images of some classes
    table = class_scores(labels, p)
    assert table["images"].sum() == 500
    assert table["recall"].mean() == pytest.approx(result["balanced_accuracy"])


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_another_order_of_the_classes_changes_no_score(classes):
    labels, p = several(classes, 400, seed=1)
    order = np.random.default_rng(2).permutation(classes)
    other_labels, other = np.argsort(order)[labels], p[:, order]
    for name, score in scores(labels, p).items():
        assert astuple(scores(other_labels, other)[name]) == pytest.approx(astuple(score))
    for function in (uniform_mean(2, "logit"), uniform_mean(2, "probability")):
        members = np.stack([p, p[::-1]])
        np.testing.assert_allclose(function(members[..., order]), function(members)[:, order], atol=1e-12)
    np.testing.assert_allclose(Calibration(2.0, 0.0005)(other), Calibration(2.0, 0.0005)(p)[:, order], atol=1e-12)
    one, two = fit(labels, p), fit(other_labels, other)
    assert (one.temperature, one.floor) == pytest.approx((two.temperature, two.floor), rel=1e-4)


def test_columns_of_classes_and_back():
    labels = np.array([0.0, 2.0, np.nan])
    three, two = check_names(["b c", "a", "猫"], "x"), Classes(("cat", "dog"))
    assert three.columns("_tta") == ["p_b_c_tta", "p_a_tta", "p_猫_tta"]
    assert two.columns("_calibrated") == ["p_dog_calibrated"]
    np.testing.assert_array_equal(three.targets(labels), [[1, 0, 0], [0, 0, 1], [np.nan] * 3])
    np.testing.assert_array_equal(two.targets(np.array([0.0, 1.0, np.nan])), [[0], [1], [np.nan]])
    for classes in (two, three):
        p = np.random.default_rng(0).dirichlet(np.ones(len(classes)), 5)
        rounding = 1e-15 if len(classes) == 2 else 5e-9
        np.testing.assert_allclose(classes.read(pd.DataFrame(classes.to_columns(p))), p, atol=rounding)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ants"], "only class ants"),
        (["Ant", "bee", "ant"], "Ant, ant differ only in case"),
        (["a", "b", "a"], "a, a are equal; remove"),
        (["a b", "a_b", "c"], "a b, a_b would have the same column"),
        (["a", "a_tta", "b"], "column p_a_tta"),
        (["a", "b\n"], "needs a printable"),
        (["a", "caf\udce9"], "needs a printable"),
        (["a", "ID"], "not id"),
        ([f"c{number}" for number in range(1001)], "1,001 classes"),
    ],
)
def test_names_that_cannot_be_classes_are_refused(names, message):
    with pytest.raises(UserError, match=f"^data.train=x: .*{message}"):
        check_names(names, "data.train=x")
