"""Confidence intervals of means over images agree with SciPy and the normal distribution."""

import numpy as np
import pytest
import scipy.stats

from catsdogs.scoring.intervals import Estimate, mean_intervals, resampled_means, resamples, share_lowest


def skewed(rows, images, seed):
    """Return values distributed like log losses: most small, a few large."""
    return np.random.default_rng(seed).gamma(0.3, 0.2, (rows, images))


@pytest.mark.parametrize("images", [60, 700])
def test_intervals_agree_with_scipy(images):
    values = skewed(3, images, seed=1) - 0.05
    for row, estimate in zip(values, mean_intervals(values), strict=True):
        seed = np.random.default_rng(2)
        expected = scipy.stats.bootstrap((row,), np.mean, method="percentile", random_state=seed).confidence_interval
        assert estimate.value == row.mean()
        assert estimate.size == images
        # Bounds are random too, with a standard error of about 2% of the width at 2,000 resamples.
        width = expected.high - expected.low
        assert estimate.low == pytest.approx(expected.low, abs=0.06 * width)
        assert estimate.high == pytest.approx(expected.high, abs=0.06 * width)


def test_all_rows_use_the_same_resamples():
    values = skewed(2, 100, seed=4)
    one, other, difference = resampled_means(np.vstack([values, values[0] - values[1]]))
    np.testing.assert_allclose(one - other, difference, atol=1e-12)
    together, single = mean_intervals(values)[1], mean_intervals(values[1:])[0]
    assert (together.low, together.high) == pytest.approx((single.low, single.high), rel=1e-12)


def test_resamples_have_as_many_images_as_the_data():
    for images in (1, 7, 3000):
        counts = list(resamples(images))
        assert sum(map(len, counts)) == 2000
        assert max(batch.nbytes for batch in counts) <= 2**20
        assert all((batch.sum(axis=1) == images).all() for batch in counts)
    sampled = np.concatenate(counts)
    assert sampled.mean(axis=0) == pytest.approx(np.ones(3000), abs=0.15)
    assert sampled.var() == pytest.approx(1, abs=0.02)  # Poisson, nearly


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3])
def test_the_interval_of_a_constant_has_zero_width(value):
    estimate = mean_intervals(np.full((1, 333), value))[0]
    assert estimate == Estimate(value, value, value, 333)
    assert estimate.excludes_zero == (value != 0)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (None, None, False)],
)
def test_an_interval_excludes_zero_on_either_side(low, high, excludes):
    assert Estimate(0.15, low, high, 9).excludes_zero == excludes


def test_the_share_of_the_lowest_is_the_normal_probability():
    rng = np.random.default_rng(7)
    one = rng.normal(0, 1, 4000)
    difference = rng.normal(0, 1, 4000)
    difference += 0.01 - difference.mean()
    expected = scipy.stats.norm.cdf(0.01 / (difference.std() / np.sqrt(4000)))
    assert share_lowest(np.stack([one, one + difference]))[0] == pytest.approx(expected, abs=0.04)


def test_shares_sum_to_one_and_ties_are_shared():
    values = skewed(3, 80, seed=8)
    share = share_lowest(np.stack([values[0], values[1], values[0], values[2] + 1]))
    assert share.sum() == pytest.approx(1)
    assert share[0] == share[2] > 0
    assert share[3] == 0
    assert share_lowest(np.stack([values[0], values[0] * (1 + 1e-15)])).tolist() == [0.5, 0.5]
    assert share_lowest(values[:1]).tolist() == [1.0]
    assert share_lowest(np.array([[1.0], [0.5]])).tolist() == [0.0, 1.0]
    assert share_lowest(np.zeros((0, 5))).tolist() == []
    assert mean_intervals(np.zeros((0, 5))) == []
    # One image has no interval.
    assert mean_intervals(np.array([[2.0], [3.0]])) == [Estimate(2.0, None, None, 1), Estimate(3.0, None, None, 1)]


@pytest.mark.parametrize("values", [np.zeros((2, 0)), np.zeros(3), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="finite and"):
        mean_intervals(values)
