from __future__ import annotations

import math

import numpy as np
import pytest

from catsdogs.schedules import learning_rate, steps_per_epoch
from catsdogs.schema import Schedule


def rate(schedule, step, total=100, first_step=0):
    return float(np.asarray(learning_rate(schedule, total, first_step)(step)))


def test_cosine_equals_its_formula():
    schedule = Schedule("cosine", 0.01, 0.0, 0.1)
    for step in (0, 1, 25, 50, 99, 100):
        expected = 0.01 * (0.9 * (1 + math.cos(math.pi * step / 100)) / 2 + 0.1)
        assert rate(schedule, step) == pytest.approx(expected, rel=1e-5)


def test_cosine_ends_at_zero_and_stays_there():
    schedule = Schedule("cosine", 0.01, 0.0, 0.0)
    assert rate(schedule, 100) == pytest.approx(0.0, abs=1e-9)
    assert rate(schedule, 150) == pytest.approx(0.0, abs=1e-9)


def test_exponential_falls_by_the_same_factor_and_then_stays():
    schedule = Schedule("exponential", 0.01, 0.0, 0.01)
    assert rate(schedule, 0) == pytest.approx(0.01, rel=1e-5)
    assert rate(schedule, 50) == pytest.approx(0.001, rel=1e-4)
    assert rate(schedule, 100) == pytest.approx(0.0001, rel=1e-4)
    assert rate(schedule, 1000) == pytest.approx(0.0001, rel=1e-4)


def test_constant_is_constant():
    assert {rate(Schedule("constant", 0.01, 0.0, 0.5), step) for step in (0, 50, 100, 500)} == {np.float32(0.01)}


@pytest.mark.parametrize("kind", ["constant", "cosine", "exponential"])
def test_warm_up_is_linear_from_zero_and_then_the_schedule_begins(kind):
    schedule = Schedule(kind, 0.01, 0.2, 0.1)
    assert rate(schedule, 0) == 0.0
    assert rate(schedule, 10) == pytest.approx(0.005, rel=1e-5)
    assert rate(schedule, 20) == pytest.approx(0.01, rel=1e-5)
    final = 0.01 if kind == "constant" else 0.001
    assert rate(schedule, 100) == pytest.approx(final, rel=1e-4)


@pytest.mark.parametrize("kind", ["constant", "cosine", "exponential"])
def test_a_later_first_step_continues_the_same_schedule(kind):
    schedule = Schedule(kind, 0.01, 0.2, 0.1)
    for step in (0, 5, 30):
        assert rate(schedule, step, first_step=40) == pytest.approx(rate(schedule, step + 40), rel=1e-5)


def test_steps_count_the_last_partial_batch():
    assert [steps_per_epoch(images, 32) for images in (1, 32, 33, 64)] == [1, 1, 2, 2]
