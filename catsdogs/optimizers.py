"""`optimizer` configuration -> Adam, and what may be added: weight decay, rates by block, an average of the weights."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
from keras import ops

from catsdogs.schema import PLAIN_ADAM, SearchConfig

# Kernels of a block whose layers have no name that tells it.
KERNELS_PER_BLOCK = 3

# block_16_expand, block6h_dwconv2, conv5_block3_1_conv, block14_sepconv1, expanded_conv_14_project, ...
_NAME_OF_BLOCK = re.compile(r"(.*block_?\d+[a-z]?|expanded_conv_\d+)(_|$)")


def make_optimizer(
    config: SearchConfig, rates: keras.optimizers.schedules.LearningRateSchedule, backbone: keras.Model
) -> keras.optimizers.Adam:
    """The optimizer of a structure: Keras' own Adam where no trial of this job asks for more.

    Args:
        rates: the learning rate of the classifier.
        backbone: what of it is trained has been decided.
    """
    if config.optimizer == PLAIN_ADAM and not set(vars(PLAIN_ADAM)) & set(config.space):
        return keras.optimizers.Adam(rates)
    return BlockAdam(rates, blocks(backbone), config.optimizer.ema_momentum)


def blocks(backbone: keras.Model) -> dict[int, int]:
    """The block of every trained variable, counted from the top, where 1 is the last one; keys are `id(variable)`.

    A block is the layers in a row whose names tell the same one: up to `block` and its number (`block_16_expand`,
    `block6h_dwconv2`, `conv5_block3_1_conv`), or `expanded_conv_14` of MobileNetV3. Where names tell none, three layers
    with kernels in a row make a block, counted from the top; fewer where a block with a name follows. A layer without a
    kernel, such as a normalization, whose name tells none is of the block above it.
    """
    found: dict[int, int] = {}
    block, kernels, named = 1, 0, ""
    for layer in reversed(backbone.layers):
        variables = layer.trainable_variables
        if not variables:
            continue
        match = _NAME_OF_BLOCK.match(layer.name)
        name = match.group(1) if match else ""
        has_kernel = any(_is_kernel(variable) for variable in variables)
        another = name != named or (not name and kernels == KERNELS_PER_BLOCK)
        if kernels and another and (name or has_kernel):
            block, kernels = block + 1, 0
        if not kernels:
            named = name
        kernels += has_kernel
        found.update({id(variable): block for variable in variables})
    return found


def block_rates(layer_decay: float, count: int) -> np.ndarray:
    """Factors on the learning rate: float32 (count + 1,), of the classifier and of blocks 1 to `count`.

    Source: Howard and Ruder 2018, arXiv:1801.06146, section 3.2, by block and not by layer.
    """
    return (layer_decay ** np.arange(count + 1)).astype(np.float32)


def block_starts(
    probe_epochs: float, thaw_epochs: float, steps_per_epoch: float, count: int, first_step: int = 0
) -> np.ndarray:
    """The optimizer's step at which the classifier and blocks 1 to `count` begin to be trained: int32 (count + 1,).

    The classifier begins at once, block k after `probe_epochs + thaw_epochs * (k - 1) / count`. So every block has the
    same time before the next one begins; with `thaw_epochs=count` that is one epoch, as in ULMFiT.

    Args:
        first_step: the step of a whole training at which the optimizer starts. What began before has a negative step.

    Source: Kumar et al. 2022, arXiv:2202.10054 (probe); Howard and Ruder 2018, arXiv:1801.06146, section 3.3 (thaw).
    """
    epochs = probe_epochs + thaw_epochs * np.arange(count) / max(count, 1)
    return np.concatenate([[0], np.round(epochs * steps_per_epoch)]).astype(np.int32) - np.int32(first_step)


class BlockAdam(keras.optimizers.Adam):
    """Adam with decoupled weight decay and a learning rate and a beginning for every block.

    A block that has not begun keeps its weights, but Adam's moments follow its gradients: when it begins, they are
    those of as many steps as the bias correction counts.

    Weight decay takes `weight_decay * learning rate of the block` of every kernel at every step, before Adam's own
    step. Biases and weights of normalizations, which have one dimension, are left alone.

    Args:
        learning_rate: of the classifier.
        block_of: `blocks`; what is not in it is the classifier's, block 0.
        ema_momentum: None: no average of the weights is kept.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101 (weight decay).
    """

    def __init__(
        self,
        learning_rate: keras.optimizers.schedules.LearningRateSchedule,
        block_of: dict[int, int],
        ema_momentum: float | None = None,
    ) -> None:
        average = {} if ema_momentum is None else {"use_ema": True, "ema_momentum": ema_momentum}
        super().__init__(learning_rate, **average)
        # A function, because TensorFlow would take a dictionary apart to save what is in it.
        self._block = lambda variable: block_of.get(id(variable), 0)
        self.count = max(block_of.values(), default=0)
        self._rates = self.add_variable((self.count + 1,), "ones", "float32", name="block_rates")
        self._starts = self.add_variable((self.count + 1,), "zeros", "int32", name="block_starts")
        # Keras' own `weight_decay` takes the learning rate of the classifier for all.
        self._kernel_decay = self.add_variable((), "zeros", "float32", name="kernel_decay")

    def set(self, weight_decay: float, rates: np.ndarray, starts: np.ndarray) -> None:
        """What a trial varies.

        Args:
            rates: `block_rates`.
            starts: `block_starts`.
        """
        self._kernel_decay.assign(weight_decay)
        self._rates.assign(rates)
        self._starts.assign(starts)

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            self._places = tuple((self._block(variable), _is_kernel(variable)) for variable in variables)
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # On TensorFlow the variable is not Keras', so that only its index tells which it is.
        block, is_kernel = self._places[self._get_variable_index(variable)]
        begun = ops.cast(self.iterations, "int32") >= self._starts[block]
        rate = ops.cast(learning_rate, "float32") * ops.where(begun, self._rates[block], 0.0)
        if is_kernel:
            decay, by = ops.cast(self._kernel_decay, variable.dtype), ops.cast(rate, variable.dtype)
            self.assign_sub(variable, variable * decay * by)
        super().update_step(gradient, variable, rate)


class AveragedWeights(keras.callbacks.Callback):
    """Validates, and lets the callbacks behind it see, the averaged weights; training goes on from its own.

    Keras' SwapEMAWeights swaps on TensorFlow by adding and subtracting, which rounds the weights at every swap.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trained: list[np.ndarray] | None = None

    def on_test_begin(self, logs: Any = None) -> None:
        variables = self.model.trainable_variables
        self._trained = [ops.convert_to_numpy(variable).copy() for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        self._unshare()

    def on_train_end(self, logs: Any = None) -> None:
        # Now Keras has put the averages in for good.
        self._unshare()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._trained is not None:
            for variable, value in zip(self.model.trainable_variables, self._trained, strict=True):
                variable.assign(value)
            self._trained = None

    def _unshare(self) -> None:
        """JAX shares the arrays of the averages with the model, whose next step frees them."""
        for variable in self.model.trainable_variables:
            variable.assign(ops.convert_to_numpy(variable).copy())


def averages(optimizer: Any) -> bool:
    """Whether an optimizer, or the one that it wraps, keeps an average of the weights."""
    return bool(getattr(optimizer, "inner_optimizer", optimizer).use_ema)


def _is_kernel(variable: Any) -> bool:
    return len(variable.shape) > 1
