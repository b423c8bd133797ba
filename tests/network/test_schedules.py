import keras
import numpy as np
import pytest

from catsdogs.config.schema import ScheduleConfig
from catsdogs.network.schedules import LearningRateTable, learning_rates

# Fraction of the peak rate, from 1 at the end of the warm-up to 0.1 at the last step.
DECAYS = {
    "constant": lambda time: np.ones_like(time),
    "cosine": lambda time: 0.9 * (1 + np.cos(np.pi * time)) / 2 + 0.1,
    "exponential": lambda time: 0.1**time,
}


@pytest.mark.parametrize("first_step", [0, 40])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("kind", DECAYS)
def test_rates_follow_the_formula_and_stay_at_the_last_value(kind, warmup, first_step):
    rates = learning_rates(ScheduleConfig(kind, 0.01, warmup, 0.1), 100, first_step)
    assert (rates.dtype, rates.shape) == (np.float32, (101,))
    time = (np.arange(101) + first_step) / 100
    rising = time / warmup if warmup else np.ones(101)
    after = np.clip((time - warmup) / (1 - warmup), 0, 1)
    np.testing.assert_allclose(rates, 0.01 * np.where(time < warmup, rising, DECAYS[kind](after)), rtol=1e-5)


def test_final_rate_is_zero_for_cosine_and_tiny_for_exponential():
    assert learning_rates(ScheduleConfig("cosine", 0.01, 0.0, 0.0), 100)[-1] == pytest.approx(0, abs=1e-9)
    assert learning_rates(ScheduleConfig("exponential", 0.01, 0.0, 0.0), 100)[-1] == pytest.approx(1e-8, rel=1e-3)


def test_step_beyond_the_table_gets_the_last_rate():
    table = LearningRateTable(keras.Variable([0.5, 0.25, 0.125]))
    assert [float(table(step)) for step in (0, 1, 2, 9)] == [0.5, 0.25, 0.125, 0.125]
