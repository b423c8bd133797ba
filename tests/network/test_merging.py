"""A merged model predicts the combination of its members, also after Keras saves and loads it."""

import keras
import numpy as np
import pytest

from catsdogs.features.engine import build_engine
from catsdogs.network.backbones import load_network
from catsdogs.network.classifier import full_model
from catsdogs.network.merging import merge_models
from catsdogs.network.saved_models import load_model
from catsdogs.scoring.classes import DEFAULT
from catsdogs.scoring.combination import Combination, uniform_mean

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype("float32")
CONV_1, CONV_2 = 1, 3  # layers of the tiny backbone with weights


@pytest.fixture
def members(config):
    """Build models of one backbone with different weights from one layer up, and different classifiers."""

    def make(first_different, *overrides, count=3, outputs=1):
        job = config("model.head_batch_norm=false", *overrides)
        network = load_network(job.backbone, seed=1)
        models = []
        for seed in range(count):
            keras.utils.set_random_seed(10 + seed)
            backbone = network.copy()
            for layer in backbone.layers[first_different:]:
                layer.set_weights([np.random.default_rng(seed).normal(0, 0.3, w.shape) for w in layer.get_weights()])
            models.append(full_model(job, backbone, outputs))
        return models

    return make


def predict(model):
    outputs = keras.ops.convert_to_numpy(model(IMAGES, training=False))
    return DEFAULT.from_output(outputs) if outputs.shape[1] == 1 else outputs


def kernels(model):
    """Return the number of distinct convolution kernels."""
    return len({id(weight) for weight in model.weights if "conv_" in weight.path and weight.path.endswith("kernel")})


@pytest.mark.parametrize("outputs", [1, 3, 10, 100])
@pytest.mark.parametrize(
    ("combination", "first_different", "convolutions"),
    [
        (uniform_mean(3, "probability"), CONV_1, 6),
        (uniform_mean(3, "logit"), CONV_2, 4),
        (Combination("logit", (0.7, -0.2, 1.1)), 5, 2),
        (Combination("single", (0.0, 1.0, 0.0)), CONV_1, 2),
    ],
    ids=["probability", "logit", "weighted", "single"],
)
def test_merged_model_predicts_the_combination(members, tmp_path, combination, first_different, convolutions, outputs):
    models = members(first_different, outputs=outputs)
    expected = combination(np.stack([predict(model) for model in models]))
    assert np.ptp(expected) > 1e-3
    merged = merge_models(models, combination)
    np.testing.assert_allclose(predict(merged), expected, atol=2e-6)
    assert kernels(merged) == convolutions
    merged.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(predict(loaded), predict(merged))
    shapes = (None, 32, 32, 3), (None, outputs)
    assert ((loaded.input_shape, loaded.output_shape), kernels(loaded)) == (shapes, convolutions)


def test_images_are_resized_for_smaller_members_and_every_engine_agrees(members, tmp_path):
    large = members(CONV_2, count=2)
    small = members(CONV_2, "backbone.image_size=24", count=2)
    combination = Combination("logit", (0.4, 0.3, 0.2, 0.1))
    resized = keras.layers.Resizing(24, 24)(IMAGES)
    p = [DEFAULT.from_output(keras.ops.convert_to_numpy(model(resized, training=False))) for model in small]
    merged = merge_models([*large, *small], combination)
    np.testing.assert_allclose(predict(merged), combination(np.stack([*map(predict, large), *p])), atol=2e-6)
    assert kernels(merged) == 3 + 3
    merged.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras", "")
    np.testing.assert_array_equal(predict(loaded), predict(merged))
    for engine in ("auto", "tensorflow"):
        assert build_engine(loaded, engine).difference < 1e-5
    # Only the members in use determine the image size.
    only_small = merge_models([large[0], small[0]], Combination("probability", (0.0, 1.0)))
    assert only_small.input_shape == (None, 24, 24, 3)


def test_members_of_different_backbones_or_preprocessing_share_nothing(members):
    first, third = members(CONV_2, count=2)
    (second,) = members(CONV_2, "backbone.preprocessing=none", count=1)
    (fourth,) = members(CONV_1, "backbone.builder=catsdogs.network.backbones.small_cnn", count=1)
    models = [first, second, third, fourth]
    expected = np.mean([predict(model) for model in models], axis=0)
    merged = merge_models(models, uniform_mean(4, "probability"))
    np.testing.assert_allclose(predict(merged), expected, atol=2e-6)
    # The first and third member share one of their two convolutions.
    assert kernels(merged) == 3 + 2


def test_members_with_different_statistics_below_the_cut_share_nothing():
    models = []
    for mean in (100.0, 150.0):
        inside = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(3, 1, name="conv_0", kernel_initializer="ones")(inside)
        statistics = keras.layers.Normalization(name="statistics")
        x = keras.layers.Conv2D(4, 3, name="conv_1", kernel_initializer="ones")(statistics(x))
        backbone = keras.Model(inside, x)
        statistics.set_weights([np.full(3, mean, "float32"), np.full(3, 100.0, "float32"), np.int64(1)])
        statistics.finalize_state()
        pixels = keras.Input((32, 32, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(backbone(pixels))
        scaled = keras.layers.Rescaling(0.001)(pooled)
        models.append(keras.Model(pixels, keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")(scaled)))
    assert abs(predict(models[0]) - predict(models[1])).min() > 0.01
    merged = merge_models(models, uniform_mean(2, "probability"))
    np.testing.assert_allclose(predict(merged), (predict(models[0]) + predict(models[1])) / 2, atol=2e-6)
