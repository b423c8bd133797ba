"""The compiled model that a trial trains: the suffix above the cut, and the classifier.

A model is built and traced once for every structure (unfreeze depth and classifier width), so memory does not grow with
the number of trials. Everything else that varies between trials (dropout, L2, learning rates, seeds, weights) is a
variable, set when a trial starts. The model or its optimizer must track all of them: an untracked variable is a
constant in a compiled training step.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catsdogs.config.hyperparameters import unfreeze_depths
from catsdogs.config.schema import SearchConfig
from catsdogs.network.backbones import LoadedBackbone
from catsdogs.network.classifier import PROBABILITIES, add_l2, compile_model, full_model, head, plain_head, unfreeze
from catsdogs.network.cut import Cut, find_cut, suffix
from catsdogs.network.folding import fold_batch_norms
from catsdogs.network.schedules import LearningRateTable, learning_rates
from catsdogs.scoring.classes import Classes
from catsdogs.study.weight_files import read_arrays

log = logging.getLogger(__name__)

# Limit on the weights of all cached structures; high, because TensorFlow does not free the memory of a dropped one.
MAX_CACHED_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class TrialModel:
    """The compiled model of a trial, valid until another trial of the same structure starts."""

    config: SearchConfig
    model: keras.Model  # activations (B, *cut.shape) -> probabilities float32 (B, C)
    cut: Cut  # the input of the model
    backbone: keras.Model  # the model trains its layers above the cut
    settings: _Settings  # dropout and L2 of the trial
    rates: keras.Variable  # learning rates of the trial
    initial: list[tuple[keras.Variable, np.ndarray]]  # variables and their values at the start of every trial
    seeds: list[keras.Variable]  # of the random layers


class TrialModels:
    """The models of a job's trials.

    `total_steps` are the optimizer steps of a full training; `depths` are the unfreeze depths of all trials, None for
    those of the space.
    """

    def __init__(
        self,
        config: SearchConfig,
        network: LoadedBackbone,
        classes: Classes,
        total_steps: int,
        depths: Sequence[int] | None = None,
    ) -> None:
        self._network = network
        self._classes = classes
        self._total_steps = total_steps
        self._structures: OrderedDict[tuple[int, int], TrialModel] = OrderedDict()
        backbone, batch_norm = network.backbone, config.backbone.train_batch_norm
        self.cuts = {depth: find_cut(backbone, depth, batch_norm) for depth in depths or unfreeze_depths(config)}

    def new_trial(self, config: SearchConfig, seed: int, first_step: int = 0) -> TrialModel:
        """Return the model of a trial, reset as if it were newly built.

        The initial weights of the classifier, for classes in natural order, and its dropout masks equal those of a
        model built right after `keras.utils.set_random_seed(seed)`. Its optimizer starts at step `first_step` of a full
        training.
        """
        trial = dataclasses.replace(self._structure(config), config=config)
        for variable, value in trial.initial:
            variable.assign(value)
        pooled = keras.Input(trial.settings.output.shape[1:], dtype="float32")
        keras.utils.set_random_seed(seed)
        with _precision(config.fit.precision):
            initial = keras.Model(pooled, plain_head(pooled, config.model, self._classes.outputs))
        # The order of the classes permutes the outputs of the trained model, and changes nothing else.
        ranks, kernel = self._classes.ranks, initial.layers[-1].kernel
        permuted = keras.ops.take(kernel, ranks, axis=1) if len(ranks) > 2 else kernel * (ranks[1] - ranks[0])
        kernel.assign(permuted)
        _copy_head(initial, trial.model)
        for number, state in enumerate(trial.seeds):
            state.assign(np.random.SeedSequence([seed, number]).generate_state(2).astype(state.dtype))
        self._set(trial)
        trial.rates.assign(learning_rates(config.schedule, self._total_steps, first_step))
        return trial

    def discard(self, trial: TrialModel) -> None:
        """Drop this model from the cache, because an error may have left it in an undefined state."""
        del self._structures[_structure_key(trial.config)]

    def read_weights(self, config: SearchConfig, file: Path) -> list[np.ndarray]:
        """Read the weights of a trial with this configuration, without optimizer; errors are those of `read_arrays`."""
        return read_arrays(file, self._structure(config).model.get_weights())

    def set_weights(self, trial: TrialModel, weights: list[np.ndarray]) -> None:
        """Set the weights to those of a model of the same structure, and keep the hyperparameters."""
        trial.model.set_weights(weights)
        self._set(trial)

    def untrained_model(self, config: SearchConfig) -> keras.Model:
        """Build the `full_model` of a trial with this configuration, with other weights."""
        return full_model(config, self._network.copy(), self._classes.outputs)

    def full_model(self, trial: TrialModel) -> keras.Model:
        """Build the final model: prefix, trained suffix and classifier from Keras' own float32 layers."""
        backbone = self._network.copy()
        backbone.set_weights(trial.backbone.get_weights())
        model = full_model(trial.config, backbone, self._classes.outputs)
        _copy_head(trial.model, model)
        return model

    def _set(self, trial: TrialModel) -> None:
        trial.settings.dropout.assign(trial.config.model.dropout)
        trial.settings.l2.assign(trial.config.model.l2)

    def _structure(self, config: SearchConfig) -> TrialModel:
        key = _structure_key(config)
        if key not in self._structures:
            # The backbone, its initial weights, and at most two Adam slots per weight.
            structure_bytes = 4 * sum(weight.nbytes for weight in self._network.weights)
            if self._structures and (len(self._structures) + 1) * structure_bytes > MAX_CACHED_BYTES:
                log.info("memory limit reached: dropping the model structure that was used least recently")
                self._structures.popitem(last=False)
            with _precision(config.fit.precision):
                self._structures[key] = self._build(config)
        self._structures.move_to_end(key)
        return self._structures[key]

    def _build(self, config: SearchConfig) -> TrialModel:
        depth = config.model.unfreeze_depth
        cut = self.cuts[depth]
        backbone = self._network.copy()
        unfreeze(backbone, depth, config.backbone.train_batch_norm)
        settings = _Settings()
        l2 = _AdjustableL2(settings)
        if config.model.l2_scope == "head_and_backbone":
            add_l2(backbone, l2)
        trunk = fold_batch_norms(suffix(backbone, config.backbone.preprocessing, cut))
        activations = keras.Input(cut.shape, dtype="float32", name="activations")
        pooled = settings(trunk(activations))
        outputs = head(pooled, config.model, self._classes.outputs, l2, lambda: _AdjustableDropout(settings))
        model = keras.Model(activations, outputs, name="trial")
        rates = keras.Variable(np.zeros(self._total_steps + 1, np.float32), trainable=False, name="learning_rates")
        optimizer = keras.optimizers.Adam(LearningRateTable(rates))
        # An attribute, because the optimizer tracks only its attributes.
        optimizer.learning_rate_table = rates
        compile_model(model, optimizer, config.label_smoothing.epsilon)
        weights = {id(variable) for variable in trunk.weights}
        seeds = [variable for variable in trunk.variables if id(variable) not in weights]  # of its random layers
        set_per_trial = {id(variable) for variable in [*seeds, rates]}
        # Keras resets the metrics. The variables of a LossScaleOptimizer include those of the wrapped optimizer.
        resettable = [*trunk.variables, *model.optimizer.variables]
        initial = [
            (variable, keras.ops.convert_to_numpy(variable).copy())
            for variable in {id(variable): variable for variable in resettable}.values()
            if id(variable) not in set_per_trial
        ]
        return TrialModel(config, model, cut, backbone, settings, rates, initial, seeds)


def _structure_key(config: SearchConfig) -> tuple[int, int]:
    return config.model.unfreeze_depth, config.model.dense_units


class _Settings(keras.layers.Layer):
    """A layer that returns its input and owns the variables of `_AdjustableDropout` and `_AdjustableL2`."""

    def __init__(self) -> None:
        super().__init__(name="settings")

    def build(self, input_shape: Any) -> None:
        # No autocast: bfloat16 would round 0.3.
        scalar = {"shape": (), "dtype": "float32", "trainable": False, "autocast": False, "initializer": "zeros"}
        self.dropout = self.add_weight(name="dropout", **scalar)
        self.l2 = self.add_weight(name="l2", **scalar)

    def call(self, pooled: Any) -> Any:
        return pooled


class _AdjustableDropout(keras.layers.Layer):
    def __init__(self, settings: _Settings) -> None:
        super().__init__(name="head_dropout")
        # In a function, because Keras would track a layer attribute as a sublayer.
        self._settings = lambda: settings
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        # keras.random.dropout tests `rate == 0` in Python, which fails for a traced variable. On TensorFlow in float32,
        # this code samples the same masks.
        rate = self._settings().dropout
        uniform = keras.random.uniform(keras.ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        return keras.ops.where(uniform >= rate, inputs * keras.ops.cast(1 / (1 - rate), inputs.dtype), 0)


class _AdjustableL2(keras.regularizers.Regularizer):
    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def __call__(self, weights: Any) -> Any:
        return self._settings.l2 * keras.ops.sum(keras.ops.square(weights))


def _copy_head(source: keras.Model, target: keras.Model) -> None:
    """Copy the head's weights and dropout seeds between layers with the same name."""
    for layer in source.layers:
        if layer.name.startswith("head_") or layer.name == PROBABILITIES:
            copy = target.get_layer(layer.name)
            copy.set_weights(layer.get_weights())
            seed, copied_seed = getattr(layer, "seed_generator", None), getattr(copy, "seed_generator", None)
            if seed is not None and copied_seed is not None:
                # Copied through NumPy: JAX would share the array and free it when one of the models releases it.
                copied_seed.state.assign(keras.ops.convert_to_numpy(seed.state).copy())


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Create layers with this dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
