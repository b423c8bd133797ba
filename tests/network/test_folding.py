from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_cut import BACKBONES, assert_same, network, pixels, residual, same_objects  # noqa: F401

from catsdogs.network.classifier import unfreeze
from catsdogs.network.cut import find_cut, prefix, suffix
from catsdogs.network.folding import FoldedConvolution, folded


def folds(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, FoldedConvolution)]


def unfrozen(preprocessing="none", drop=0.0):
    """A small backbone, trained from the pixels on, and its suffix."""
    backbone = residual(drop=drop)
    depth = len(backbone.layers)
    unfreeze(backbone, depth, train_batch_norm=False)
    return backbone, suffix(backbone, preprocessing, find_cut(backbone, depth))


def training_step(model, x):
    """Output in training mode and gradients by variable, the same random numbers every time."""
    for layer in model._flatten_layers():
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([3, 5])
    with tf.GradientTape() as tape:
        features = model(x, training=True)
        # Weighted, because the mean behind a normalisation has hardly any gradient.
        weights = np.random.default_rng(4).normal(size=features.shape[1:])
        loss = tf.reduce_sum(features * weights.astype(features.dtype.name))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    return np.asarray(features), {
        id(variable): np.asarray(gradient) for variable, gradient in zip(variables, gradients, strict=True)
    }


def assert_equal_functions(one, other, x):
    assert_same(one(x, training=False), np.asarray(other(x, training=False)))
    (found, found_gradients), (expected, expected_gradients) = training_step(one, x), training_step(other, x)
    assert_same(found, expected)
    assert found_gradients.keys() == expected_gradients.keys()
    for variable, gradient in expected_gradients.items():
        assert_same(found_gradients[variable], gradient)


@pytest.fixture
def float64():
    """So that no ReLU, of up to millions, is on the other side of zero after rounding: that jumps in the gradient."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("name", BACKBONES)
def test_the_folded_suffix_of_every_backbone_is_the_suffix(float64, network, name):  # noqa: F811
    backbone, preprocessing = network(name, size=32)
    depth = len(backbone.layers) // 5
    cut = find_cut(backbone, depth)
    unfreeze(backbone, depth, train_batch_norm=False)
    activations = prefix(backbone, preprocessing, [cut])(pixels(backbone), training=False)
    above = suffix(backbone, preprocessing, cut)
    other = folded(above)
    # Xception's convolutions are separable but for its shortcuts; half of ResNet50V2's normalisations follow none.
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in above._flatten_layers())
    assert len(folds(other)) >= {"xception": 1, "resnet50_v2": norms / 2}.get(name, norms)
    assert same_objects(other.trainable_variables, above.trainable_variables)
    assert same_objects(other.variables, above.variables)
    assert len(other.trainable_variables) > 0
    if norms:
        assert_equal_functions(other, above, np.asarray(activations))
    else:
        assert_same(other(activations, training=False), np.asarray(above(activations, training=False)))


def test_all_of_a_trunk_is_folded_from_pixels_on(float64):
    backbone, above = unfrozen("minus_one_to_one", drop=0.5)
    assert len(folds(folded(above))) == 2
    assert_equal_functions(folded(above), above, pixels(backbone))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda: keras.layers.Conv2D(6, 3, strides=2, padding="same", bias_initializer="normal"),
        lambda: keras.layers.Conv2D(6, 3, groups=2, use_bias=False),
        lambda: keras.layers.Conv2D(6, 2, dilation_rate=2, padding="same"),
        lambda: keras.layers.DepthwiseConv2D(3, strides=2, depth_multiplier=3, bias_initializer="normal"),
        lambda: keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
    ],
)
def test_every_kind_of_convolution_folds(convolution, scale, center):
    inputs = keras.Input((7, 7, 4))
    x = keras.layers.BatchNormalization(scale=scale, center=center, epsilon=0.1)(convolution()(inputs))
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(x))
    randomise_statistics(model)
    model.layers[1].trainable = True
    assert len(folds(folded(model))) == 1
    assert_equal_functions(folded(model), model, np.random.default_rng(0).normal(size=(3, 7, 7, 4)).astype("float32"))


def randomise_statistics(model):
    random = np.random.default_rng(6)
    for variable in model.variables:
        if "batch_normalization" in variable.path:
            variable.assign(random.uniform(0.2, 2, variable.shape))
    model.trainable = False
    model.trainable = True
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)


CASES = "plain trained_batch_norm two_consumers an_output activation other_axis penalised_output called_twice"


@pytest.mark.parametrize("case", CASES.split())
def test_what_cannot_be_folded_is_left_alone(case):
    inputs = keras.Input((4, 4, 4))
    activation, penalty = "relu" if case == "activation" else None, "l2" if case == "penalised_output" else None
    convolution = keras.layers.Conv2D(4, 1, activation=activation, activity_regularizer=penalty)
    norm = keras.layers.BatchNormalization(axis=1 if case == "other_axis" else -1)
    x = convolution(inputs)
    y = norm(x)
    if case == "called_twice":
        y = norm(convolution(y))
    outputs = [keras.layers.Add()([x, y]) if case == "two_consumers" else y]
    model = keras.Model(inputs, outputs + [x] * (case == "an_output"))
    randomise_statistics(model)
    norm.trainable = case == "trained_batch_norm"
    assert len(folds(folded(model))) == (case == "plain")
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype("float32")
    for found, wanted in zip(keras.tree.flatten(folded(model)(x)), keras.tree.flatten(model(x)), strict=True):
        assert_same(found, np.asarray(wanted))


def test_training_the_folded_model_trains_the_original_and_leaves_its_statistics():
    backbone, above = unfrozen("minus_one_to_one", drop=0.5)
    for model in (above, folded(above)):
        model.compile("sgd", "mse", run_eagerly=True)
        before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in backbone.variables}
        model.train_on_batch(pixels(backbone), np.ones((2, 6), "float32"))
        moved = {v.path for v in backbone.variables if not np.array_equal(before[v.path], np.asarray(v))}
        assert {path for path in moved if "seed_generator" not in path} == {
            v.path for v in backbone.trainable_variables
        }
        assert {"stem/kernel", "block_conv/kernel"} <= moved
        assert not any("_bn" in path for path in moved)


def test_a_penalty_on_a_kernel_is_still_a_loss():
    backbone, above = unfrozen()
    above = folded(above)
    assert above.losses == []
    kernel = backbone.get_layer("block_conv").kernel
    kernel.regularizer = keras.regularizers.L2(0.5)
    (loss,) = above.losses
    assert float(loss) == pytest.approx(0.5 * np.square(np.asarray(kernel)).sum())


def test_a_frozen_convolution_stays_frozen():
    backbone, above = unfrozen()
    backbone.get_layer("block_conv").trainable = False
    expected = above.trainable_variables
    assert len(folds(folded(above))) == 2
    assert same_objects(folded(above).trainable_variables, expected)
    backbone._trainable = False
    assert same_objects(folded(backbone).trainable_variables, backbone.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_the_scaled_kernel_once(policy):
    inputs = keras.Input((5, 5, 4))
    x = keras.layers.Conv2D(6, 3, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D(dtype=policy)(x))
    randomise_statistics(model)
    other = folded(model)
    assert (other.output.dtype, len(folds(other))) == (model.output.dtype, 1)
    images = np.random.default_rng(0).normal(size=(3, 5, 5, 4)).astype("float32")
    step = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[policy]
    found, expected = (np.asarray(keras.ops.cast(each(images), "float32")) for each in (other, model))
    np.testing.assert_allclose(found, expected, atol=4 * step * np.abs(expected).max(), rtol=0)
    assert other.trainable_variables[0].dtype == "float32"
