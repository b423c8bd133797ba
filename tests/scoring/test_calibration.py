"""Calibration finds what was done to probabilities, agrees with scikit-learn, and does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, logit

from catsdogs.scoring.calibration import FEWEST, HIGHEST_FLOOR, IDENTITY, Calibration, cross_fitted, fit, fit_if_better
from catsdogs.scoring.scores import EPSILON, clip, log_loss_per_image


def calibrated(images: int, seed: int, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the probabilities themselves."""
    rng = np.random.default_rng(seed)
    p_dog = expit(rng.normal(0, spread, images))
    return (rng.random(images) < p_dog).astype(float), p_dog


def mean_loss(labels: np.ndarray, p_dog: np.ndarray) -> float:
    return float(log_loss_per_image(labels, p_dog).mean())


def test_temperature_and_floor_are_the_best_there_are() -> None:
    labels, p_dog = calibrated(2000, seed=3)
    labels[:20] = 1 - labels[:20]  # wrong labels, which only a floor can pay for
    p_dog = expit(logit(p_dog) * 3)
    found = fit(labels, p_dog)

    def with_temperature(log_temperature: np.ndarray) -> float:
        return mean_loss(labels, Calibration(np.exp(log_temperature[0]), EPSILON)(p_dog))

    best = scipy.optimize.minimize(with_temperature, [0.0], method="Nelder-Mead")
    assert np.log(found.temperature) == pytest.approx(best.x[0], abs=1e-3)
    floors = np.linspace(1 / 4002, HIGHEST_FLOOR, 2001)
    losses = [mean_loss(labels, Calibration(found.temperature, floor)(p_dog)) for floor in floors]
    assert mean_loss(labels, found(p_dog)) == pytest.approx(min(losses), abs=1e-5)
    assert found.floor > 2 / 4002


@pytest.mark.parametrize("seed", range(6))
def test_what_is_calibrated_stays_and_what_was_done_to_logits_is_undone(seed: int) -> None:
    labels, p_dog = calibrated(4000, seed)
    for factor in (0.4, 1.0, 2.5):
        fitted = fit(labels, expit(logit(p_dog) * factor))
        assert fitted.temperature == pytest.approx(factor, rel=0.08)
        assert fitted.floor < 0.01
    other_labels, other = calibrated(20_000, seed + 100)
    found = fit_if_better(labels, p_dog)
    assert mean_loss(other_labels, found.calibration(other)) <= mean_loss(other_labels, other) + 0.002
    if not found.applied:
        assert found.calibration == IDENTITY
        assert found.gain.value <= 0


def test_the_verdict_is_about_images_that_were_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of an image must not come back to it: chance cannot be fitted twice."""
    labels, p_dog = calibrated(300, seed=5)
    seen: list[set[float]] = []

    def learns_by_heart(labels: np.ndarray, p_dog: np.ndarray) -> object:
        seen.append(set(p_dog))
        known = dict(zip(p_dog, labels, strict=True))
        return lambda wanted: np.array([known.get(p, 0.5) for p in wanted])

    monkeypatch.setattr("catsdogs.scoring.calibration._fit", learns_by_heart)
    np.testing.assert_array_equal(cross_fitted(labels, p_dog), 0.5)
    assert len(seen) == 5
    assert {len(part) for part in seen} == {240}
    assert not fit_if_better(labels, p_dog).applied


def test_cross_fitting_repeats_itself_and_is_about_a_fit() -> None:
    labels, p_dog = calibrated(1000, seed=6)
    smoothed = 0.1 + 0.8 * p_dog
    found = cross_fitted(labels, smoothed)
    np.testing.assert_array_equal(found, cross_fitted(labels, smoothed))
    np.testing.assert_allclose(found, fit(labels, smoothed)(smoothed), atol=0.05)


def test_certain_probabilities_are_given_a_floor() -> None:
    labels = np.tile([0.0, 1.0], 500)
    p_dog = labels.copy()
    p_dog[:10] = 1 - p_dog[:10]
    found = fit_if_better(labels, p_dog)
    # 1 % are wrong with certainty; to say so costs their entropy.
    assert found.applied
    assert found.gain.excludes_zero
    assert found.calibration.temperature > 1
    entropy = -0.01 * np.log(0.01) - 0.99 * np.log(0.99)
    assert mean_loss(labels, found.calibration(p_dog)) == pytest.approx(entropy, 1e-3)
    assert np.isfinite(found.calibration(np.array([0.0, 1.0]))).all()


def test_a_lack_of_errors_is_no_certainty() -> None:
    labels = np.tile([0.0, 1.0], 500)
    p_dog = 0.05 + 0.9 * labels
    assert fit(labels, p_dog).floor == pytest.approx(1 / 2002)
    assert fit(labels, p_dog)(p_dog).max() == pytest.approx(1 - 1 / 2002)


def test_few_images_are_not_fitted_to() -> None:
    labels, p_dog = calibrated(FEWEST, seed=7)
    p_dog = 0.2 + 0.6 * p_dog
    assert fit_if_better(labels, p_dog).applied
    few = fit_if_better(labels[:-1], p_dog[:-1])
    assert (few.applied, few.calibration, few.gain.value, few.gain.size) == (False, IDENTITY, 0.0, FEWEST - 1)
    np.testing.assert_allclose(cross_fitted(labels[:-1], p_dog[:-1]), p_dog[:-1])
    assert fit(np.ones(1000), np.full(1000, 0.9)) == IDENTITY
    assert not fit_if_better(np.ones(1), np.ones(1)).applied
    assert not fit_if_better(np.append(np.zeros(999), 1.0), np.full(1000, 0.3)).applied


def test_calibration_keeps_the_order_and_the_middle() -> None:
    p_dog = np.linspace(0, 1, 101)
    for calibration in (IDENTITY, Calibration(0.3, 0.001), Calibration(4.0, 0.05)):
        after = calibration(p_dog)
        assert (np.diff(after) >= 0).all()
        assert after[50] == pytest.approx(0.5)
        assert after.min() >= calibration.floor
        assert after.max() <= 1 - calibration.floor
        np.testing.assert_allclose(after[::-1], 1 - after)
    np.testing.assert_allclose(IDENTITY(p_dog), clip(p_dog))


def test_what_is_no_probability_is_refused() -> None:
    for function in (fit, cross_fitted, fit_if_better):
        with pytest.raises(ValueError, match="row 1: the probability"):
            function(np.array([0.0, 1.0]), np.array([0.5, np.nan]))
