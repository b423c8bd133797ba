"""Calibration recovers a distortion of probabilities, agrees with scikit-learn, and does not harm."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, logit
from test_intervals import binary

from catsdogs.scoring.calibration import FEWEST, HIGHEST_FLOOR, IDENTITY, Calibration, cross_fitted, fit, fit_if_better
from catsdogs.scoring.scores import EPSILON, score_images

pytestmark = pytest.mark.lowest


def calibrated(images, seed, spread=3.0):
    """Return labels sampled from probabilities, and these probabilities."""
    rng = np.random.default_rng(seed)
    p_dog = expit(rng.normal(0, spread, images))
    return (rng.random(images) < p_dog).astype(int), binary(p_dog)


def scaled(probabilities, factor):
    return binary(expit(logit(probabilities[:, 1]) * factor))


def mean_loss(labels, p_dog):
    return float(score_images(labels, p_dog).losses.mean())


def test_temperature_and_floor_minimize_the_log_loss():
    labels, p_dog = calibrated(2000, seed=3)
    labels[:20] = 1 - labels[:20]  # wrong labels, which only a floor can make cheap
    p_dog = scaled(p_dog, 3)
    result = fit(labels, p_dog)

    def with_temperature(log_temperature):
        return mean_loss(labels, Calibration(np.exp(log_temperature[0]), EPSILON)(p_dog))

    best = scipy.optimize.minimize(with_temperature, [0.0], method="Nelder-Mead")
    assert np.log(result.temperature) == pytest.approx(best.x[0], abs=1e-3)
    floors = np.linspace(1 / 4002, HIGHEST_FLOOR, 2001)
    losses = [mean_loss(labels, Calibration(result.temperature, floor)(p_dog)) for floor in floors]
    assert mean_loss(labels, result(p_dog)) == pytest.approx(min(losses), abs=1e-5)
    assert result.floor > 2 / 4002


@pytest.mark.parametrize("seed", range(6))
def test_calibrated_outputs_stay_and_a_scaling_of_logits_is_undone(seed):
    labels, p_dog = calibrated(4000, seed)
    for factor in (0.4, 1.0, 2.5):
        fitted = fit(labels, scaled(p_dog, factor))
        assert fitted.temperature == pytest.approx(factor, rel=0.08)
        assert fitted.floor < 0.01
    other_labels, other = calibrated(20_000, seed + 100)
    result = fit_if_better(labels, p_dog)
    assert mean_loss(other_labels, result.calibration(other)) <= mean_loss(other_labels, other) + 0.002
    if not result.applied:
        assert result.calibration == IDENTITY
        assert result.gain.value <= 0


def test_the_decision_uses_images_that_were_not_fitted(monkeypatch):
    """An image must not be calibrated by a fit on itself."""
    labels, p_dog = calibrated(300, seed=5)
    seen: list[set[float]] = []

    def memorize(labels, p_dog):
        seen.append(set(p_dog[:, 1]))
        known = dict(zip(p_dog[:, 1], labels, strict=True))
        return lambda inputs: binary([known.get(p, 0.5) for p in inputs[:, 1]])

    monkeypatch.setattr("catsdogs.scoring.calibration.fit", memorize)
    np.testing.assert_array_equal(cross_fitted(labels, p_dog), 0.5)
    assert len(seen) == 5
    assert {len(part) for part in seen} == {240}
    assert not fit_if_better(labels, p_dog).applied


def test_certain_probabilities_get_a_floor():
    labels = np.tile([0, 1], 500)
    p_dog = binary(labels.astype(float))
    p_dog[:10] = 1 - p_dog[:10]
    result = fit_if_better(labels, p_dog)
    # 1% are wrong with certainty; the best log loss is the entropy.
    assert result.applied
    assert result.gain.excludes_zero
    assert result.calibration.temperature > 1
    entropy = -0.01 * np.log(0.01) - 0.99 * np.log(0.99)
    assert mean_loss(labels, result.calibration(p_dog)) == pytest.approx(entropy, 1e-3)
    assert np.isfinite(result.calibration(binary([0.0, 1.0]))).all()


def test_no_errors_do_not_mean_certainty():
    labels = np.tile([0, 1], 500)
    p_dog = binary(0.05 + 0.9 * labels)
    assert fit(labels, p_dog).floor == pytest.approx(1 / 2002)
    assert fit(labels, p_dog)(p_dog).max() == pytest.approx(1 - 1 / 2002)


def test_too_few_images_are_not_fitted():
    labels, p_dog = calibrated(FEWEST, seed=7)
    p_dog = 0.2 + 0.6 * p_dog
    assert fit_if_better(labels, p_dog).applied
    few = fit_if_better(labels[:-1], p_dog[:-1])
    assert (few.applied, few.calibration, few.gain.size) == (False, IDENTITY, FEWEST - 1)
    # Not measured, so there is no interval of zero width.
    assert (str(few.gain.value), few.gain.low, few.gain.high) == ("nan", None, None)
    assert few.reason.startswith("199 images are too few; it needs 200, with 5 of at least two classes")
    np.testing.assert_allclose(cross_fitted(labels[:-1], p_dog[:-1]), p_dog[:-1])
    assert not fit_if_better(np.ones(1), binary(np.ones(1))).applied
    assert not fit_if_better(np.append(np.zeros(999), 1.0), binary(np.full(1000, 0.3))).applied


def test_invalid_probabilities_are_refused():
    for function in (cross_fitted, fit_if_better):
        with pytest.raises(ValueError, match="must be in"):
            function(np.array([0.0, 1.0]), binary([0.5, np.nan]))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_the_floor_keeps_order_and_sum(classes):
    p = np.random.default_rng(classes).dirichlet(np.full(classes, 0.1), 300)
    for floor in (1e-7, 0.01 / classes, 0.1 / classes):
        after = Calibration(1.5, floor)(p)
        np.testing.assert_allclose(after.sum(axis=1), 1)
        assert after.min() >= floor
        order = np.argsort(p, axis=1)
        assert (np.diff(np.take_along_axis(after, order, axis=1), axis=1) >= 0).all()
