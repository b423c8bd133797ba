"""`schedule` configuration + number of steps -> learning rate of every optimizer step."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from catsdogs.config.schema import ScheduleConfig


def learning_rates(schedule: ScheduleConfig, total_steps: int, first_step: int = 0) -> np.ndarray:
    """The learning rates of the steps 0 to `total_steps` of a training that began at `first_step` of a schedule.

    Steps of the optimizer count from 0: `ceil(images / batch) x epochs` of them make up a whole training. A promoted
    Hyperband trial starts a new optimizer in the middle of its schedule, at `first_step`.

    Args:
        total_steps: of the schedule, 1 or more; beyond it cosine and exponential stay at their final value.
        first_step: 0 or more.

    Returns:
        float32 (total_steps + 1,).

    Source: warm-up from 0 to `peak_lr` over the first `warmup_fraction` of the steps; then cosine, one half period
    down to `final_fraction * peak_lr` (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts), or
    exponential, the same factor at every step, to the same value.
    """
    warmup_steps = round(schedule.warmup_fraction * total_steps)
    decay_steps = max(1, total_steps - warmup_steps)
    steps = ops.arange(total_steps + 1, dtype="float32") + float(first_step)
    # Held at the end, where ExponentialDecay alone would go on falling.
    after_warmup = ops.clip(steps - warmup_steps, 0.0, float(decay_steps))
    decays = keras.optimizers.schedules
    if schedule.kind == "cosine":
        rates = decays.CosineDecay(schedule.peak_lr, decay_steps, alpha=schedule.final_fraction)(after_warmup)
    elif schedule.kind == "exponential":
        # A rate of exactly 0 would end the training at its first step.
        factor = max(schedule.final_fraction, 1e-6)
        rates = decays.ExponentialDecay(schedule.peak_lr, decay_steps, factor)(after_warmup)
    else:
        rates = ops.full_like(steps, schedule.peak_lr)
    if warmup_steps:
        # CosineDecay has a warm-up of its own, ExponentialDecay has none: this one serves both.
        rates = ops.where(steps < warmup_steps, schedule.peak_lr * steps / warmup_steps, rates)
    return ops.convert_to_numpy(rates)


class LearningRateTable(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of a step from a variable, so that one traced training step serves every schedule.

    Args:
        rates: float32 (N,) variable, which whoever holds the optimizer must let it track: a variable that it does not
            know is a constant to a compiled step.
    """

    def __init__(self, rates: keras.Variable) -> None:
        super().__init__()
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        last = self.rates.shape[0] - 1
        return ops.take(self.rates, ops.minimum(ops.cast(step, "int32"), last))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps of one pass over the images; the last batch may be smaller."""
    return math.ceil(images / batch_size)
