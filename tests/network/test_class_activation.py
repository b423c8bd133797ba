"""Class activation maps against known locations, and against the slope of the logit."""

import keras
import numpy as np
import pytest

from catsdogs.network.backbones import load_network
from catsdogs.network.class_activation import class_activation, shares
from catsdogs.network.classifier import PROBABILITIES, full_model


def test_the_map_is_bright_where_the_class_is(config):
    """A network that detects red: the mean of red minus green is the logit of the second class."""
    job = config("model.head_batch_norm=false", "model.dense_units=0")
    model = full_model(job, load_network(job.backbone, seed=1).copy(), 1)
    weights = {name: [np.zeros(w.shape) for w in layer.get_weights()] for name, layer in _layers(model).items()}
    weights["conv_1"][0][:, :, :, 0] = [1, -1, 0]
    weights["conv_2"][0][1, 1, 0, 0] = weights[PROBABILITIES][0][0] = 1
    for name, layer in _layers(model).items():
        layer.set_weights(weights[name])
    images = np.full((9, 32, 32, 3), 90, np.uint8)
    places = list(np.ndindex(3, 3))  # the last features are 3 x 3, around pixels 5, 13 and 21
    for image, (row, column) in zip(images, places, strict=True):
        image[8 * row + 2 : 8 * row + 9, 8 * column + 2 : 8 * column + 9, 0] = 250
    maps = class_activation(model, images, np.ones(9, int))
    expected = np.zeros((9, 3, 3))
    for one, place in zip(expected, places, strict=True):
        one[place] = 1
    np.testing.assert_allclose(maps, expected)
    assert not class_activation(model, images, np.zeros(9, int)).any()  # nothing shows the other class


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("overrides", [("model.dense_units=0",), ("model.dense_units=16",)], ids=["linear", "hidden"])
def test_the_mean_share_is_the_slope_of_the_logit(config, outputs, overrides):
    job = config("model.head_batch_norm=true", *overrides)
    model = full_model(job, load_network(job.backbone, seed=1).copy(), outputs)
    rng = np.random.default_rng(0)
    for name, layer in _layers(model).items():
        if name.startswith("head") or name == PROBABILITIES:
            layer.set_weights(
                [rng.uniform(0.2, 1, w.shape) * rng.choice([-1, 1], w.shape[-1:]) for w in layer.get_weights()]
            )
    norm = model.get_layer("head_batch_norm")
    norm.set_weights(np.abs(norm.get_weights()))
    images, predicted = rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8), np.arange(10) % max(2, outputs)
    pooled = keras.Model(model.inputs[0], model.get_layer("pool").output)(images.astype(np.float32)).numpy()
    classifier = keras.Model(model.get_layer("pool").output, model.outputs[0])

    def logits(features):
        p = np.asarray(classifier(features), np.float64)
        logs = np.log(p if outputs > 1 else np.hstack([1 - p, p]))
        logs = logs - logs.mean(axis=1, keepdims=True) if outputs > 1 else logs - logs[:, ::-1]
        return logs[np.arange(10), predicted]

    slope = (logits(1.001 * pooled) - logits(0.999 * pooled)) / 0.002
    np.testing.assert_allclose(shares(model, images, predicted).mean(axis=(1, 2)), slope, rtol=0.01, atol=0.02)


def _layers(model):
    return {
        layer.name: layer for layer in model._flatten_layers() if layer.weights and not isinstance(layer, keras.Model)
    }
