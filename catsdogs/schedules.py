"""`schedule` configuration + number of steps -> learning rate of an optimizer step."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from catsdogs.schema import Schedule


def learning_rate(
    schedule: Schedule, total_steps: int, first_step: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of step s of a training that began at `first_step` of a schedule of `total_steps`.

    Steps of the optimizer count from 0: `ceil(images / batch) x epochs` of them make up a whole training. A promoted
    Hyperband trial starts a new optimizer in the middle of its schedule, at `first_step`.

    Args:
        total_steps: 1 or more; beyond it cosine and exponential stay at their final value.
        first_step: 0 or more.

    Source: warm-up from 0 to `peak_lr` over the first `warmup_fraction` of the steps; then cosine, one half period
    down to `final_fraction * peak_lr` (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts), or
    exponential, the same factor at every step, to the same value.
    """
    return _Schedule(
        kind=schedule.kind,
        peak_lr=schedule.peak_lr,
        warmup_steps=round(schedule.warmup_fraction * total_steps),
        total_steps=total_steps,
        final_fraction=schedule.final_fraction,
        first_step=first_step,
    )


def learning_rates(schedule: Schedule, total_steps: int, first_step: int = 0) -> np.ndarray:
    """`learning_rate` of the steps 0 to `total_steps` of an optimizer, as a table: float32 (total_steps + 1,)."""
    steps = np.arange(total_steps + 1, dtype=np.float32)
    rates = ops.convert_to_numpy(learning_rate(schedule, total_steps, first_step)(steps))
    return np.broadcast_to(rates, steps.shape).astype(np.float32)


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


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Keras' CosineDecay and ExponentialDecay behind one warm-up, shifted by `first_step`.

    Keras' CosineDecay has a warm-up of its own, ExponentialDecay has none; one warm-up for all kinds is ours.
    """

    def __init__(
        self, kind: str, peak_lr: float, warmup_steps: int, total_steps: int, final_fraction: float, first_step: int
    ) -> None:
        super().__init__()
        self.kind = kind
        self.peak_lr = peak_lr
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.final_fraction = final_fraction
        self.first_step = first_step
        decay_steps = max(1, total_steps - warmup_steps)
        self._decay: Any = None
        if kind == "cosine":
            self._decay = keras.optimizers.schedules.CosineDecay(peak_lr, decay_steps, alpha=final_fraction)
        elif kind == "exponential":
            # A rate of exactly 0 would end the training at its first step.
            self._decay = keras.optimizers.schedules.ExponentialDecay(peak_lr, decay_steps, max(final_fraction, 1e-6))

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32") + float(self.first_step)
        after_warmup = ops.maximum(step - self.warmup_steps, 0.0)
        # Held at the end, where ExponentialDecay alone would go on falling.
        after_warmup = ops.minimum(after_warmup, float(max(1, self.total_steps - self.warmup_steps)))
        rate = self._decay(after_warmup) if self._decay is not None else ops.convert_to_tensor(self.peak_lr, "float32")
        if self.warmup_steps == 0:
            return rate
        return ops.where(step < self.warmup_steps, self.peak_lr * step / self.warmup_steps, rate)

    def get_config(self) -> dict[str, Any]:
        names = ("kind", "peak_lr", "warmup_steps", "total_steps", "final_fraction", "first_step")
        return {name: getattr(self, name) for name in names}
