"""Learning rate of every optimizer step, from the `schedule` configuration."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from catsdogs.config.schema import ScheduleConfig


def learning_rates(schedule: ScheduleConfig, total_steps: int, first_step: int = 0) -> np.ndarray:
    """Return the learning rates of steps 0 to `total_steps` of an optimizer that starts at `first_step`.

    After them, cosine and exponential stay at their final value. A promoted Hyperband trial starts a new optimizer in
    the middle of its schedule, at `first_step`. The result is float32 (total_steps + 1,).

    The first `warmup_fraction` of the steps warms up from 0 to `peak_lr`. Then cosine falls in half a period to
    `final_fraction * peak_lr`, and exponential falls to the same value by an equal factor per step. Source of cosine:
    Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    """
    warmup_steps = round(schedule.warmup_fraction * total_steps)
    decay_steps = max(1, total_steps - warmup_steps)
    steps = ops.arange(total_steps + 1, dtype="float32") + float(first_step)
    # Clipped, because ExponentialDecay would continue to fall after the last step.
    after_warmup = ops.clip(steps - warmup_steps, 0.0, float(decay_steps))
    decays = keras.optimizers.schedules
    if schedule.kind == "cosine":
        rates = decays.CosineDecay(schedule.peak_lr, decay_steps, alpha=schedule.final_fraction)(after_warmup)
    elif schedule.kind == "exponential":
        # With a factor of 0, every rate after the first would be 0.
        factor = max(schedule.final_fraction, 1e-6)
        rates = decays.ExponentialDecay(schedule.peak_lr, decay_steps, factor)(after_warmup)
    else:
        rates = ops.full_like(steps, schedule.peak_lr)
    if warmup_steps:
        # Computed here for all kinds: only CosineDecay has a warm-up in Keras.
        rates = ops.where(steps < warmup_steps, schedule.peak_lr * steps / warmup_steps, rates)
    return ops.convert_to_numpy(rates)


class LearningRateTable(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate schedule that looks its rates up in a variable, so one traced step serves every schedule.

    The optimizer must track `rates`, float32 (N,); an untracked variable is a constant in a compiled training step.
    """

    def __init__(self, rates: keras.Variable) -> None:
        super().__init__()
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step, and the last rate for any step after the end of the table."""
        last = self.rates.shape[0] - 1
        return ops.take(self.rates, ops.minimum(ops.cast(step, "int32"), last))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of optimizer steps in one epoch; the last batch may be smaller."""
    return math.ceil(images / batch_size)
