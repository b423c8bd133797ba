"""Confidence intervals of means over images agree with SciPy and the normal distribution."""

import numpy as np
import pytest
import scipy.stats

from catsdogs.scoring.intervals import Estimate, ImageScores, mean_intervals, paired_intervals, resamples, share_lowest


def ends(score):
    """Return the ends of an interval that must exist."""
    assert score.low is not None
    assert score.high is not None
    return np.array([score.low, score.high])


def binary(second):
    """Return the probabilities (..., N, 2) of two classes from those of the second (..., N)."""
    return np.stack([1 - np.asarray(second, dtype=float), second], axis=-1)


def skewed(rows, images, seed):
    """Return values distributed like log losses: most small, a few large."""
    return np.random.default_rng(seed).gamma(0.3, 0.2, (rows, images))


@pytest.mark.parametrize("images", [20, 60, 700])
def test_the_ends_are_quantiles_of_halls_statistic(images):
    values = skewed(3, images, seed=1) - 0.05
    values[2] *= -1
    for row, estimate in zip(values, mean_intervals(values), strict=True):
        assert (estimate.value, estimate.size) == (row.mean(), images)
        skewness, root = scipy.stats.skew(row, bias=False), np.sqrt(images)
        t = (row.mean() - np.array([estimate.high, estimate.low])) / scipy.stats.sem(row)
        # Hall 1992, the transformation of the t statistic before it is inverted.
        hall = t + skewness * t**2 / (3 * root) + skewness**2 * t**3 / (27 * images) + skewness / (6 * root)
        expected = scipy.stats.t.ppf([0.025, 0.975], images - 1)
        np.testing.assert_allclose(hall, expected, rtol=1e-9)


def test_intervals_cover_the_mean_of_a_skewed_population():
    """Models with 5% errors; of percentile bootstrap intervals, 6% end below the mean."""
    rng = np.random.default_rng(0)
    population = np.where(rng.random(8000) < 0.05, 0.7 + rng.exponential(1.5, 8000), rng.gamma(0.3, 0.1, 8000))
    intervals = mean_intervals(population[rng.integers(0, 8000, (4000, 400))])
    below = np.mean([interval.low > population.mean() for interval in intervals])
    above = np.mean([interval.high < population.mean() for interval in intervals])
    assert 0.94 <= 1 - below - above <= 0.96
    assert 0.015 <= min(below, above) <= max(below, above) <= 0.035


def test_few_values_have_finite_intervals():
    tiny = [0.2, 0.2, 0.2 + 1e-16], [0, 1e-300], [0, 0, 1e-120]
    for values in ([0.1, 0.3], [1e-7] * 399 + [16.0], [5.0, 5.0, -5.0], *tiny):
        interval = mean_intervals(np.array([values]))[0]
        low, high = ends(interval)
        assert low >= 0 or min(values) < 0
        assert low <= interval.value <= high
    assert mean_intervals(np.array([[0.4, 0.9]]), highest=1.0)[0].high == 1


def test_paired_intervals_count_images_that_either_model_misclassifies():
    losses = np.full((2, 100), 0.1)
    losses[0, :12], losses[1, 5:20] = 0.7, 2.0
    one, two = (ImageScores(row, row > 0.1) for row in losses)
    first = ImageScores(losses[:1], losses[:1] > 0.1)
    assert paired_intervals(first, two)[0].errors == 20
    assert not paired_intervals(first, two)[0].few_errors
    assert [pair.errors for pair in paired_intervals(ImageScores(losses, losses > 0.1), one)] == [12, 20]
    assert Estimate(0.1, 0.0, 0.2, 100, 19).few_errors
    assert not Estimate(0.1, 0.0, 0.2, 100).few_errors


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
    assert not Estimate(0.1, -0.1, 0.2, 9).excludes_zero


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
    assert not mean_intervals(np.array([[2.0]]))[0].excludes_zero
    assert mean_intervals(np.array([[2.0], [3.0]])) == [Estimate(2.0, None, None, 1), Estimate(3.0, None, None, 1)]


@pytest.mark.parametrize("values", [np.zeros((2, 0)), np.zeros(3), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="finite and"):
        mean_intervals(values)
