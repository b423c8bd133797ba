"""The classifier on top of a backbone, and how the model of a trial is unfrozen, regularized and compiled."""

from collections.abc import Callable
from typing import Any

import keras

from catsdogs.config.schema import ModelConfig, SearchConfig
from catsdogs.network.backbones import preprocess
from catsdogs.network.devices import accelerators
from catsdogs.scoring.scores import EPSILON

# Name of the last layer.
PROBABILITIES = "probabilities"


def full_model(config: SearchConfig, backbone: keras.Model, outputs: int) -> keras.Model:
    """Build the final model from built-in Keras layers: (B, S, S, 3), RGB, 0..255 to float32 (B, outputs) of `head`."""
    size = config.backbone.image_size
    images = keras.Input((size, size, 3), dtype="float32", name="pixels")
    features = backbone(preprocess(images, config.backbone.preprocessing))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return keras.Model(images, plain_head(pooled, config.model, outputs), name="catsdogs")


def plain_head(pooled: Any, model: ModelConfig, outputs: int) -> Any:
    """Add the classifier, built from Keras' own layers, to pooled features; arguments and result as in `head`."""
    l2 = keras.regularizers.L2(model.l2)
    return head(pooled, model, outputs, l2, lambda: keras.layers.Dropout(model.dropout, name="head_dropout"))


def head(
    pooled: Any,
    model: ModelConfig,
    outputs: int,
    l2: keras.regularizers.Regularizer,
    dropout: Callable[[], keras.layers.Layer],
) -> Any:
    """Add the classifier to pooled features (B, F); return float32 (B, outputs), `Classes.outputs`.

    A single output is a sigmoid, the probability of the second of two classes; several are a softmax. `dropout` creates
    the layer `head_dropout`. Each layer takes its seed when it is created, so the initial weights depend on the order
    of creation.
    """
    x = pooled
    if model.head_batch_norm:
        x = keras.layers.BatchNormalization(momentum=model.head_batch_norm_momentum, name="head_batch_norm")(x)
    if model.dense_units:
        x = keras.layers.Dense(model.dense_units, activation="relu", kernel_regularizer=l2, name="head_dense")(x)
    x = dropout()(x)
    activation = "sigmoid" if outputs == 1 else "softmax"
    last = keras.layers.Dense(outputs, activation, kernel_regularizer=l2, dtype="float32", name=PROBABILITIES)
    return last(x)


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer, label_smoothing: float) -> None:
    """Compile with the smoothed loss and the unsmoothed metric `log_loss`. Freeze layers before."""
    loss, accuracy = keras.losses.CategoricalCrossentropy, keras.metrics.CategoricalAccuracy
    if model.output_shape[-1] == 1:
        loss, accuracy = keras.losses.BinaryCrossentropy, keras.metrics.BinaryAccuracy
    model.compile(
        optimizer=optimizer,
        loss=loss(label_smoothing=label_smoothing),
        metrics=[keras.metrics.MeanMetricWrapper(log_loss, "log_loss"), accuracy("accuracy")],
        # Keras' "auto" also uses XLA on a CPU, where TensorFlow's XLA is several times slower.
        jit_compile="auto" if keras.backend.backend() != "tensorflow" or accelerators() else False,
    )
    # Slot variables that are created inside the traced training step would make TensorFlow trace it twice.
    model.optimizer.build(model.trainable_variables)


def log_loss(targets: Any, outputs: Any) -> Any:
    """Return minus the logarithm of the probability of each image's label, (B,) float32 of at most 16.1.

    Probabilities are clipped as in `scoring.scores`. Keras' metrics compute it from the logits, without clipping: a few
    saturated images can then raise the score from six to thousands. `targets` are those of `Classes.targets`, (B, C),
    or (B,) if C is 1; `outputs` are (B, C) in [0, 1].
    """
    # (B,) against (B, 1) would broadcast to every target against every image.
    targets = keras.ops.reshape(keras.ops.cast(targets, outputs.dtype), keras.ops.shape(outputs))
    p_label = targets * outputs
    if outputs.shape[-1] == 1:
        p_label = p_label + (1 - targets) * (1 - outputs)
    return -keras.ops.log(keras.ops.maximum(keras.ops.sum(p_label, axis=-1), EPSILON))


def unfreeze(backbone: keras.Model, depth: int, train_batch_norm: bool) -> None:
    """Make exactly the last `depth` layers of the backbone trainable, and the other layers a fixed function.

    BatchNormalization stays frozen, in inference mode, at every depth unless `train_batch_norm`. Calling the backbone
    with `training=False` is not enough, because `fit` overrides it in Keras 3. Dropout and stochastic depth below the
    boundary are disabled for the same reason. `cut.find_cut` checks that `depth` is at most the number of layers.
    """
    layers = backbone.layers
    # A frozen container hides the weights of its trainable layers.
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
    """Regularize the trainable kernels of the backbone; on the variables, since a built layer ignores its setting."""
    for variable in backbone.trainable_variables:
        if variable.name.endswith("kernel"):
            variable.regularizer = regularizer
