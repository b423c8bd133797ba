"""Configuration of a trial + seed -> the compiled model of that trial: what is trained, above the cut.

A model is built and traced once for every structure, that is unfreeze depth and classifier width. What else trials vary
(dropout, L2, learning rates, seeds, weights) are variables that are set when a trial starts. So a trial costs no new
graph, and memory does not grow with the number of trials. All of these variables belong to the model or to its
optimizer: one that Keras does not know of would be a constant in a compiled training step.
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

from catsdogs.base.files import replacing
from catsdogs.config.hyperparameters import unfreeze_depths
from catsdogs.config.schema import SearchConfig
from catsdogs.network.backbones import LoadedBackbone
from catsdogs.network.classifier import add_l2, compile_model, full_model, head, plain_head, unfreeze
from catsdogs.network.cut import Cut, find_cut, suffix
from catsdogs.network.folding import folded
from catsdogs.network.schedules import LearningRateTable, learning_rates

log = logging.getLogger(__name__)

# Bytes of the weights of all structures that are kept. What TensorFlow holds of a structure that is dropped it does not
# give back, so as many are kept as reasonably can be.
KEPT_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class TrialModel:
    """A compiled model at the start of a trial, or after it; it is another trial's once that has started in it.

    Attributes:
        config: of the trial.
        model: activations (B, *cut.shape) -> p_dog float32 (B, 1).
        cut: the tensor that it reads.
        backbone: of which the model trains what lies above the cut.
        settings, rates: what varies from trial to trial.
        initial: the variables that a trial starts with the same, and their values.
        seeds: of the random layers.
    """

    config: SearchConfig
    model: keras.Model
    cut: Cut
    backbone: keras.Model
    settings: _Settings
    rates: keras.Variable
    initial: list[tuple[keras.Variable, np.ndarray]]
    seeds: list[keras.Variable]


class TrialModels:
    """The models of a job's trials.

    Args:
        config: of the job.
        total_steps: optimizer steps of a whole training, for the schedule.
        wanted: the unfreeze depths of all trials to come; those of the space if None.
    """

    def __init__(
        self, config: SearchConfig, network: LoadedBackbone, total_steps: int, wanted: Sequence[int] | None = None
    ) -> None:
        self._network = network
        self._total_steps = total_steps
        self._structures: OrderedDict[tuple[int, int], TrialModel] = OrderedDict()
        batch_norm = config.backbone.train_batch_norm
        self.cuts = {
            depth: find_cut(network.backbone, depth, batch_norm) for depth in wanted or unfreeze_depths(config)
        }

    def new_trial(self, config: SearchConfig, seed: int, first_step: int = 0) -> TrialModel:
        """The model of a trial, as if it were newly built.

        The initial weights of the classifier and the masks of its dropout are those of a model built right after
        `keras.utils.set_random_seed(seed)`.

        Args:
            config: of the trial.
            first_step: the step of a whole training at which this model's optimizer starts.
        """
        trial = dataclasses.replace(self._structure(config), config=config)
        for variable, value in trial.initial:
            variable.assign(value)
        keras.utils.set_random_seed(seed)
        _copy_head(self._plain_head(trial), trial.model)
        for number, state in enumerate(trial.seeds):
            state.assign(np.random.SeedSequence([seed, number]).generate_state(2).astype(state.dtype))
        self._set(trial)
        trial.rates.assign(learning_rates(config.schedule, self._total_steps, first_step))
        return trial

    def discard(self, trial: TrialModel) -> None:
        """Do not use this model again: an error may have left it in any state."""
        del self._structures[_key(trial.config)]

    def save_weights(self, trial: TrialModel, file: Path) -> None:
        """Without the optimizer: a promoted trial starts a new one, and its slots would fill the disk."""
        with replacing(file) as temporary:
            np.savez(temporary, *trial.model.get_weights())

    def read_weights(self, file: Path) -> list[np.ndarray]:
        """What `save_weights` wrote.

        Raises:
            OSError, ValueError, EOFError, zipfile.BadZipFile: it is not there, or damaged.
        """
        with np.load(file) as saved:
            return [saved[name] for name in saved.files]

    def set_weights(self, trial: TrialModel, weights: list[np.ndarray]) -> None:
        """Weights of a model of the same structure; the hyperparameters stay."""
        trial.model.set_weights(weights)
        self._set(trial)

    def full_model(self, trial: TrialModel) -> keras.Model:
        """The model that is shipped: prefix, trained suffix and classifier in plain float32 Keras layers."""
        backbone = self._network.copy()
        backbone.set_weights(trial.backbone.get_weights())
        model = full_model(trial.config, backbone)
        _copy_head(trial.model, model)
        return model

    def _set(self, trial: TrialModel) -> None:
        trial.settings.dropout.assign(trial.config.model.dropout)
        trial.settings.l2.assign(trial.config.model.l2)

    def _structure(self, config: SearchConfig) -> TrialModel:
        key = _key(config)
        if key not in self._structures:
            # The backbone, the weights that it starts a trial with, and at most two slots of Adam for each.
            one = 4 * sum(weight.nbytes for weight in self._network.weights)
            if self._structures and (len(self._structures) + 1) * one > KEPT_BYTES:
                log.info("the space has more structures than fit into memory: one is dropped, to be built again")
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
        trunk = folded(suffix(backbone, config.backbone.preprocessing, cut))
        activations = keras.Input(cut.shape, dtype="float32", name="activations")
        pooled = settings(trunk(activations))
        p_dog = head(pooled, config.model, l2, lambda: _AdjustableDropout(settings))
        model = keras.Model(activations, p_dog, name="trial")
        rates = keras.Variable(np.zeros(self._total_steps + 1, np.float32), trainable=False, name="learning_rates")
        optimizer = keras.optimizers.Adam(LearningRateTable(rates))
        # Assigned, so that the optimizer tracks the variable.
        optimizer.learning_rate_table = rates
        compile_model(model, optimizer, config.label_smoothing.epsilon)
        seeds = _seeds(trunk)
        known = {id(variable) for variable in [*seeds, rates]}
        # Without the metrics, which Keras resets itself. A LossScaleOptimizer holds the one that it wraps.
        resettable = [*trunk.variables, *model.optimizer.variables]
        initial = [
            (variable, keras.ops.convert_to_numpy(variable).copy())
            for variable in {id(variable): variable for variable in resettable}.values()
            if id(variable) not in known
        ]
        return TrialModel(config, model, cut, backbone, settings, rates, initial, seeds)

    def _plain_head(self, trial: TrialModel) -> keras.Model:
        pooled = keras.Input(trial.settings.output.shape[1:], dtype="float32")
        with _precision(trial.config.fit.precision):
            return keras.Model(pooled, plain_head(pooled, trial.config.model))


def _key(config: SearchConfig) -> tuple[int, int]:
    """Of the structure of a trial."""
    return config.model.unfreeze_depth, config.model.dense_units


class _Settings(keras.layers.Layer):
    """Passes pooled features on, and owns what varies from trial to trial."""

    def __init__(self) -> None:
        super().__init__(name="settings")

    def build(self, input_shape: Any) -> None:
        # Without autocast: 0.3 is not 0.3 in bfloat16.
        make = {"shape": (), "dtype": "float32", "trainable": False, "autocast": False, "initializer": "zeros"}
        self.dropout = self.add_weight(name="dropout", **make)
        self.l2 = self.add_weight(name="l2", **make)

    def call(self, pooled: Any) -> Any:
        return pooled


class _AdjustableDropout(keras.layers.Layer):
    """Keras' Dropout with a rate that can be set."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__(name="head_dropout")
        # Not as it is: as an attribute it would become a layer inside this one.
        self._settings = lambda: settings
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        # keras.random.dropout asks whether its rate is 0, which a variable cannot tell while it is traced. These are
        # its masks, on TensorFlow in float32.
        rate = self._settings().dropout
        drawn = keras.random.uniform(keras.ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        return keras.ops.where(drawn >= rate, inputs * keras.ops.cast(1 / (1 - rate), inputs.dtype), 0)


class _AdjustableL2(keras.regularizers.Regularizer):
    """Keras' L2 with a factor that can be set."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def __call__(self, weights: Any) -> Any:
        return self._settings.l2 * keras.ops.sum(keras.ops.square(weights))


def _copy_head(source: keras.Model, target: keras.Model) -> None:
    """Copy weights, and the state of the dropout where both have one, between layers of one name."""
    for layer in source.layers:
        if layer.name.startswith("head_") or layer.name == "p_dog":
            other = target.get_layer(layer.name)
            other.set_weights(layer.get_weights())
            theirs, ours = getattr(layer, "seed_generator", None), getattr(other, "seed_generator", None)
            if theirs is not None and ours is not None:
                # By way of NumPy: JAX would share the array, and free it when one of the models is done with it.
                ours.state.assign(keras.ops.convert_to_numpy(theirs.state).copy())


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The states of every random layer."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


@contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers made inside compute in this policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
