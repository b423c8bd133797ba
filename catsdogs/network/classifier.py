"""Configuration of a trial -> the classifier, and the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from catsdogs.config.schema import ModelConfig, SearchConfig
from catsdogs.network.backbones import preprocess
from catsdogs.network.devices import accelerators
from catsdogs.scoring.scores import EPSILON


def full_model(config: SearchConfig, backbone: keras.Model) -> keras.Model:
    """The model that is shipped, of plain Keras layers: (B, S, S, 3), RGB, 0..255 to p_dog float32 (B, 1)."""
    size = config.backbone.image_size
    images = keras.Input((size, size, 3), dtype="float32", name="pixels")
    features = backbone(preprocess(images, config.backbone.preprocessing))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return keras.Model(images, plain_head(pooled, config.model), name="catsdogs")


def plain_head(pooled: Any, model: ModelConfig) -> Any:
    """The classifier of plain Keras layers on pooled features (B, C); gives float32 (B, 1)."""
    l2 = keras.regularizers.L2(model.l2)
    return head(pooled, model, l2, lambda: keras.layers.Dropout(model.dropout, name="head_dropout"))


def head(
    pooled: Any, model: ModelConfig, l2: keras.regularizers.Regularizer, dropout: Callable[[], keras.layers.Layer]
) -> Any:
    """Put the classifier on pooled features (B, C); gives float32 (B, 1).

    Args:
        dropout: makes the layer `head_dropout`. Every layer draws its seed when it is made, so that the order in which
            they are made decides the initial weights.
    """
    x = pooled
    if model.head_batch_norm:
        x = keras.layers.BatchNormalization(momentum=model.head_batch_norm_momentum, name="head_batch_norm")(x)
    if model.dense_units:
        x = keras.layers.Dense(model.dense_units, activation="relu", kernel_regularizer=l2, name="head_dense")(x)
    x = dropout()(x)
    return keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=l2, dtype="float32", name="p_dog")(x)


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer, label_smoothing: float) -> None:
    """Compile with the smoothed loss and the unsmoothed `log_loss`. Freezing must be done before."""
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.BinaryCrossentropy(label_smoothing=label_smoothing),
        metrics=[
            keras.metrics.MeanMetricWrapper(log_loss, name="log_loss"),
            keras.metrics.BinaryAccuracy(name="accuracy"),
        ],
        # Keras' "auto" compiles with XLA on a CPU too, where TensorFlow's XLA is several times slower.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" or accelerators() else False,
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
    boundary are switched off for the same reason. `depth` is at most the number of layers, as `cut.find_cut` checks.
    """
    layers = backbone.layers
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


def add_l2(backbone: keras.Model, regularizer: keras.regularizers.Regularizer) -> None:
    """Regularise the kernels of the backbone that are trained.

    On the variables: a regulariser set on a layer that is already built does nothing.
    """
    for variable in backbone.trainable_variables:
        if variable.name.endswith("kernel"):
            variable.regularizer = regularizer
