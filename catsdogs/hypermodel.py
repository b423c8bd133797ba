"""Configuration + hyperparameters -> compiled model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner

from catsdogs.backbones import build_backbone, preprocess
from catsdogs.errors import UserError
from catsdogs.schedules import learning_rate
from catsdogs.schema import SEARCHABLE, Hyperparameter, Model, Schedule, SearchConfig
from catsdogs.scores import EPSILON


@dataclass(frozen=True)
class Hyperparameters:
    """The values of one trial: those searched, and the configuration's for those that are not."""

    unfreeze_depth: int
    dense_units: int
    dropout: float
    l2: float
    peak_lr: float
    warmup_fraction: float
    final_fraction: float


def hyperparameters(config: SearchConfig, values: dict[str, Any]) -> Hyperparameters:
    """Take searched values where there are any, else those of `model` and `schedule`.

    Args:
        values: a trial's values; Keras Tuner's control keys (`tuner/...`) are passed over.
    """
    owners: dict[type, Any] = {Model: config.model, Schedule: config.schedule}
    merged: dict[str, Any] = {}
    for field in dataclasses.fields(Hyperparameters):
        value = values.get(field.name, getattr(owners[SEARCHABLE[field.name]], field.name))
        merged[field.name] = int(value) if field.type == "int" else float(value)
    return Hyperparameters(**merged)


def declare(space: dict[str, Hyperparameter], hp: keras_tuner.HyperParameters) -> None:
    """Tell Keras Tuner the dimensions of the space."""
    for name, entry in space.items():
        if entry.kind == "choice":
            # Keras Tuner wants values of one type; YAML has 0 beside 0.5.
            values = list(entry.values or [])
            if any(isinstance(value, float) for value in values):
                values = [float(value) for value in values]
            hp.Choice(name, values)
        else:
            assert entry.low is not None
            assert entry.high is not None
            sampling = entry.sampling or "linear"
            if entry.kind == "int":
                # Without a step Keras Tuner takes 1 for linear sampling, and none for log sampling.
                step = None if entry.step is None else int(entry.step)
                if step is None and sampling == "linear":
                    step = 1
                hp.Int(name, int(entry.low), int(entry.high), step=step, sampling=sampling)
            else:
                hp.Float(name, float(entry.low), float(entry.high), step=entry.step, sampling=sampling)


class HyperModel(keras_tuner.HyperModel):
    """Our model family, for Keras Tuner.

    Args:
        total_steps: optimizer steps of a whole training, for the schedule.
    """

    def __init__(self, config: SearchConfig, total_steps: int) -> None:
        super().__init__(name="catsdogs")
        self._config = config
        self._total_steps = total_steps

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        declare(self._config.space, hp)

    def build(self, hp: keras_tuner.HyperParameters, first_step: int = 0) -> keras.Model:
        return build_model(self._config, hyperparameters(self._config, hp.values), self._total_steps, first_step)


def build_model(config: SearchConfig, values: Hyperparameters, total_steps: int, first_step: int = 0) -> keras.Model:
    """Build and compile the whole model: pixels in, probability of dog out.

    Preprocessing - backbone - GlobalAveragePooling2D - [BatchNormalization] - [Dense(relu)] - Dropout - Dense(sigmoid).

    Args:
        total_steps: optimizer steps of a whole training.
        first_step: the step of that training at which this model's optimizer starts.

    Returns:
        A compiled model from (B, S, S, 3), RGB, 0..255 to float32 (B, 1) in [0, 1]. Its metric `log_loss` is the binary
        cross-entropy of the unsmoothed label without regularisation, unlike its loss.
    """
    backbone = build_backbone(config.backbone)
    unfreeze(backbone, values.unfreeze_depth, config.backbone.train_batch_norm)
    if config.model.l2_covers == "head_and_backbone":
        _regularise(backbone, values.l2)

    size = config.backbone.image_size
    images = keras.Input((size, size, 3), dtype="float32", name="pixels")
    x = preprocess(images, config.backbone.preprocessing)
    x = backbone(x)
    x = head(x, config.model, values)
    model = keras.Model(images, x, name="catsdogs")
    compile_model(model, config, values, total_steps, first_step)
    return model


def head(features: Any, model: Model, values: Hyperparameters) -> Any:
    """Put the classifier on the backbone's last feature map (B, h, w, C); gives float32 (B, 1)."""
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    if model.head_batch_norm:
        x = keras.layers.BatchNormalization(momentum=model.head_batch_norm_momentum, name="head_batch_norm")(x)
    if values.dense_units:
        x = keras.layers.Dense(
            values.dense_units,
            activation="relu",
            kernel_regularizer=keras.regularizers.L2(values.l2),
            name="head_dense",
        )(x)
    x = keras.layers.Dropout(values.dropout, name="head_dropout")(x)
    return keras.layers.Dense(
        1,
        activation="sigmoid",
        kernel_regularizer=keras.regularizers.L2(values.l2),
        dtype="float32",
        name="p_dog",
    )(x)


def compile_model(
    model: keras.Model, config: SearchConfig, values: Hyperparameters, total_steps: int, first_step: int = 0
) -> None:
    """Compile with the smoothed loss, the unsmoothed `log_loss` and the schedule. Freezing must be done before."""
    schedule = dataclasses.replace(
        config.schedule,
        peak_lr=values.peak_lr,
        warmup_fraction=values.warmup_fraction,
        final_fraction=values.final_fraction,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate(schedule, total_steps, first_step)),
        loss=keras.losses.BinaryCrossentropy(label_smoothing=config.label_smoothing.epsilon),
        metrics=[
            keras.metrics.MeanMetricWrapper(log_loss, name="log_loss"),
            keras.metrics.BinaryAccuracy(name="accuracy"),
        ],
        # Keras' "auto" compiles with XLA on a CPU too, where TensorFlow's XLA is several times slower.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" else False,
    )
    # Else its slots come into being inside the traced training step, and TensorFlow traces that step twice.
    model.optimizer.build(model.trainable_variables)


def log_loss(labels: Any, p_dog: Any) -> Any:
    """Binary cross-entropy of each image, as `scores` computes it: the probability of the label, clipped at EPSILON.

    Keras' own metric finds the logits behind a sigmoid and does not clip, so that a few saturated images could make a
    score of thousands here and of six there.

    Args:
        labels: (B, 1) or (B,), 0.0 or 1.0.
        p_dog: (B, 1) in [0, 1].

    Returns:
        (B,) float32, at most 16.1.
    """
    # (B,) against (B, 1) would broadcast to every label against every image.
    labels = keras.ops.reshape(keras.ops.cast(labels, p_dog.dtype), keras.ops.shape(p_dog))
    p_label = labels * p_dog + (1 - labels) * (1 - p_dog)
    return keras.ops.mean(-keras.ops.log(keras.ops.maximum(p_label, EPSILON)), axis=-1)


def unfreeze(backbone: keras.Model, depth: int, train_batch_norm: bool) -> None:
    """Make exactly the last `depth` layers of the backbone trainable, and what is frozen a fixed function.

    BatchNormalization stays frozen, that is in inference mode, at every depth unless `train_batch_norm`. In Keras 3
    calling the backbone with `training=False` would not do: `fit` overrides it. Dropout and stochastic depth below the
    boundary are switched off for the same reason.

    Args:
        depth: 0 (none) to the number of layers, the input layer counted as Keras counts it.

    Raises:
        UserError: the backbone has fewer layers.
    """
    layers = backbone.layers
    if depth > len(layers):
        raise UserError(f"unfreeze_depth={depth}: {backbone.name} has {len(layers)} layers; give at most that")
    # A container that is not trainable hides the weights of layers that are.
    backbone.trainable = True
    boundary = len(layers) - depth
    for position, layer in enumerate(layers):
        batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = position >= boundary and (train_batch_norm or not batch_norm)
        if position < boundary:
            for inner in layer._flatten_layers():
                for rate in ("rate", "drop_path_rate"):
                    if isinstance(getattr(inner, rate, None), float):
                        setattr(inner, rate, 0.0)


def _regularise(backbone: keras.Model, l2: float) -> None:
    """L2 on the kernels of the backbone that are trained.

    On the variables: a regulariser set on a layer that is already built does nothing.
    """
    for variable in backbone.trainable_variables:
        if variable.name.endswith("kernel"):
            variable.regularizer = keras.regularizers.L2(l2)
