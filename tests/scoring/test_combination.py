"""Members are combined by each method, and the method with the lowest log loss is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from test_intervals import binary

from catsdogs.scoring.combination import Combination, choose, expand_to_models, uniform_mean
from catsdogs.scoring.scores import score_images


def outputs(noises, images=4000, seed=0):
    """Return labels, and the predictions of members: the truth with independent noise in the logit."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 4, images)
    labels = (rng.random(images) < expit(truth)).astype(float)
    return labels, binary(expit(np.stack([truth + rng.normal(0, noise, images) for noise in noises])))


def test_means_equal_numpy():
    second = np.array([[0.2, 0.9, 1.0], [0.4, 0.5, 0.0], [0.3, 0.99, 1.0]])
    members = binary(second)
    np.testing.assert_allclose(uniform_mean(3, "probability")(members), members.mean(axis=0))
    inside = second[:, :2]
    np.testing.assert_allclose(uniform_mean(3, "logit")(binary(inside))[:, 1], expit(logit(inside).mean(axis=0)))
    np.testing.assert_allclose(Combination("single", (0.0, 1.0, 0.0))(members), members[1])
    weighted = Combination("logit", (0.5, 0.0, 2.0))(binary(inside))[:, 1]
    np.testing.assert_allclose(weighted, expit(0.5 * logit(inside[0]) + 2 * logit(inside[2])))


@pytest.mark.parametrize("method", ["probability", "logit"])
def test_means_of_one_and_of_certain_members_stay_probabilities(method):
    members = binary([[0.0, 0.3, 1.0]] * 7)
    np.testing.assert_allclose(uniform_mean(7, method)(members), members[0], atol=2e-7)
    assert uniform_mean(7, method)(members).max() <= 1
    opposite = binary([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    np.testing.assert_allclose(uniform_mean(2, method)(opposite)[:, 1], [0, 1, 0.5], atol=1e-6)


@pytest.mark.parametrize(("sharpness", "method"), [(1.0, "probability"), (0.5, "logit")])
def test_members_with_independent_errors_are_averaged(sharpness, method):
    """Logits are averaged if members are underconfident, probabilities if they are overconfident."""
    labels, members = outputs([2.0, 2.0, 2.0])
    members = binary(expit(sharpness * logit(members[..., 1])))
    combination, table = choose(labels, members, ["a", "b", "c"])
    table = table.set_index("name")
    assert list(table.index) == ["a", "b", "c", "probability", "logit"]
    assert combination == uniform_mean(3, method)
    assert table.index[table["chosen"]].tolist() == [method]
    assert (table.loc[["probability", "logit"], "low"] > 0).all()
    np.testing.assert_allclose(table["gain"], table["log_loss"].iloc[:3].min() - table["log_loss"])
    for name, p_dog in (("logit", uniform_mean(3, "logit")(members)), ("b", members[1])):
        assert table.loc[name, "log_loss"] == pytest.approx(score_images(labels, p_dog).losses.mean())


def test_a_member_that_others_only_harm_is_used_alone():
    labels, members = outputs([6.0, 0.0, 6.0])
    combination, table = choose(labels, members, ["a", "b", "c"])
    assert combination == Combination("single", (0.0, 1.0, 0.0))
    assert table.loc[table["chosen"], "name"].tolist() == ["b"]


def test_the_simplest_of_equal_methods_is_chosen():
    labels, (member,) = outputs([0.0])
    combination, table = choose(labels, np.stack([member] * 4), list("abcd"))
    assert combination == Combination("single", (1.0, 0.0, 0.0, 0.0))
    assert table["chosen"].tolist() == [True] + [False] * 5
    combination, table = choose(labels, member[None], ["a"])
    assert (combination, len(table)) == (Combination("single", (1.0,)), 1)


@given(st.integers(0, 1000), st.sampled_from(["single", "probability", "logit"]))
def test_models_share_the_weight_of_their_member(seed, method):
    rng = np.random.default_rng(seed)
    models = rng.integers(1, 4, size=3)
    p_dog = [binary(rng.uniform(0.01, 0.99, size=(count, 5))) for count in models]
    weights = {"single": (0.0, 1.0, 0.0), "logit": tuple(rng.normal(size=3))}.get(method, (1 / 3,) * 3)
    of_members = Combination(method, weights)
    mean = np.mean if method == "probability" else lambda p, axis: binary(expit(logit(p[..., 1]).mean(axis=axis)))
    expected = of_members(np.stack([mean(p, axis=0) for p in p_dog]))
    of_models = expand_to_models(of_members, models.tolist())
    np.testing.assert_allclose(of_models(np.concatenate(p_dog)), expected, rtol=1e-9)
