import keras
import numpy as np
import pytest
import tensorflow as tf
from test_cut import BACKBONES, assert_same, network, pixels, residual, same_objects  # noqa: F401

from catsdogs.network.classifier import unfreeze
from catsdogs.network.cut import find_cut, prefix, suffix
from catsdogs.network.folding import FoldedConvolution, fold_batch_norms


def folded_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, FoldedConvolution)]


def unfrozen(preprocessing="none", drop=0.0):
    """Return a small backbone with all layers trainable, and its suffix."""
    backbone = residual(drop=drop)
    depth = len(backbone.layers)
    unfreeze(backbone, depth, train_batch_norm=False)
    return backbone, suffix(backbone, preprocessing, find_cut(backbone, depth))


def training_step(model, x):
    """Return the output in training mode and the gradient of each variable, with fixed random numbers."""
    for layer in model._flatten_layers():
        if hasattr(layer, "seed_generator"):
            layer.seed_generator.state.assign([3, 5])
    with tf.GradientTape() as tape:
        features = model(x, training=True)
        # Weighted, because the mean after a normalization has almost no gradient.
        weights = np.random.default_rng(4).normal(size=features.shape[1:])
        loss = tf.reduce_sum(features * weights.astype(features.dtype.name))
    variables = model.trainable_variables
    gradients = map(np.asarray, tape.gradient(loss, [variable.value for variable in variables]))
    return np.asarray(features), dict(zip(map(id, variables), gradients, strict=True))


def assert_equal_functions(one, other, x):
    assert_same(one(x, training=False), np.asarray(other(x, training=False)))
    (output, gradients), (expected, expected_gradients) = training_step(one, x), training_step(other, x)
    assert_same(output, expected)
    assert gradients.keys() == expected_gradients.keys()
    for variable, gradient in expected_gradients.items():
        assert_same(gradients[variable], gradient)


@pytest.fixture
def float64():
    """Use float64: rounding may move a ReLU input across zero, which changes the gradient abruptly."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_suffix_of_every_backbone_equals_the_suffix(float64, network, name):  # noqa: F811
    backbone, preprocessing = network(name, size=32)
    depth = len(backbone.layers) // 5
    cut = find_cut(backbone, depth)
    unfreeze(backbone, depth, train_batch_norm=False)
    activations = prefix(backbone, preprocessing, [cut])(pixels(backbone), training=False)
    above = suffix(backbone, preprocessing, cut)
    other = fold_batch_norms(above)
    # Xception's convolutions are separable except for shortcuts. Half of ResNet50V2's layers follow no convolution.
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in above._flatten_layers())
    assert len(folded_layers(other)) >= {"xception": 1, "resnet50_v2": norms / 2}.get(name, norms)
    assert same_objects(other.trainable_variables, above.trainable_variables)
    assert same_objects(other.variables, above.variables)
    assert len(other.trainable_variables) > 0
    if norms:
        assert_equal_functions(other, above, np.asarray(activations))
    else:
        assert_same(other(activations, training=False), np.asarray(above(activations, training=False)))


def test_entire_trunk_is_folded_if_the_cut_is_at_the_pixels(float64):
    backbone, above = unfrozen("minus_one_to_one", drop=0.5)
    assert len(folded_layers(fold_batch_norms(above))) == 2
    assert_equal_functions(fold_batch_norms(above), above, pixels(backbone))


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
    randomize_statistics(model)
    model.layers[1].trainable = True
    assert len(folded_layers(fold_batch_norms(model))) == 1
    images = np.random.default_rng(0).normal(size=(3, 7, 7, 4)).astype("float32")
    assert_equal_functions(fold_batch_norms(model), model, images)


def randomize_statistics(model):
    random = np.random.default_rng(6)
    for variable in model.variables:
        if "batch_normalization" in variable.path:
            variable.assign(random.uniform(0.2, 2, variable.shape))
    unfreeze(model, len(model.layers), train_batch_norm=False)


CASES = "plain trained_batch_norm two_consumers an_output activation other_axis penalized_output called_twice"


@pytest.mark.parametrize("case", CASES.split())
def test_other_layers_are_not_folded(case):
    inputs = keras.Input((4, 4, 4))
    activation, penalty = "relu" if case == "activation" else None, "l2" if case == "penalized_output" else None
    convolution = keras.layers.Conv2D(4, 1, activation=activation, activity_regularizer=penalty)
    norm = keras.layers.BatchNormalization(axis=1 if case == "other_axis" else -1)
    x = convolution(inputs)
    y = norm(x)
    if case == "called_twice":
        y = norm(convolution(y))
    outputs = [keras.layers.Add()([x, y]) if case == "two_consumers" else y]
    model = keras.Model(inputs, outputs + [x] * (case == "an_output"))
    randomize_statistics(model)
    norm.trainable = case == "trained_batch_norm"
    assert len(folded_layers(fold_batch_norms(model))) == (case == "plain")
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 4)).astype("float32")
    outputs, expected = (keras.tree.flatten(each(x)) for each in (fold_batch_norms(model), model))
    for one, other in zip(outputs, expected, strict=True):
        assert_same(one, np.asarray(other))


def test_frozen_convolution_stays_frozen():
    backbone, above = unfrozen()
    backbone.get_layer("block_conv").trainable = False
    expected = above.trainable_variables
    assert len(folded_layers(fold_batch_norms(above))) == 2
    assert same_objects(fold_batch_norms(above).trainable_variables, expected)
    backbone._trainable = False
    assert same_objects(fold_batch_norms(backbone).trainable_variables, backbone.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_the_scaled_kernel_once(policy):
    inputs = keras.Input((5, 5, 4))
    x = keras.layers.Conv2D(6, 3, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.GlobalMaxPooling2D(dtype=policy)(x))
    randomize_statistics(model)
    other = fold_batch_norms(model)
    assert (other.output.dtype, len(folded_layers(other))) == (model.output.dtype, 1)
    images = np.random.default_rng(0).normal(size=(3, 5, 5, 4)).astype("float32")
    step = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[policy]
    outputs, expected = (np.asarray(keras.ops.cast(each(images), "float32")) for each in (other, model))
    np.testing.assert_allclose(outputs, expected, atol=4 * step * np.abs(expected).max(), rtol=0)
    assert other.trainable_variables[0].dtype == "float32"
