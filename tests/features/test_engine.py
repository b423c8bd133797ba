import dataclasses
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import keras
import numpy as np
import pytest

from catsdogs.base.errors import UserError
from catsdogs.config.compose import to_search_config
from catsdogs.config.locations import conf_dir
from catsdogs.features import engine
from catsdogs.features.engine import TOLERANCE, build_engine, max_relative_error
from catsdogs.network.backbones import build_backbone, preprocess

# Not `pytest.importorskip`, because importing OpenVINO outside of the engine sends telemetry.
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
every_engine = pytest.mark.parametrize("name", [pytest.param("openvino", marks=needs_openvino), "tensorflow", "keras"])
FAILS = Mock(side_effect=RuntimeError("no operation\nNamed Warp"))
QUICK = ("mobilenet_v2_035", "small_cnn")
BACKBONES = [
    pytest.param(path.stem, marks=() if path.stem in QUICK else pytest.mark.slow)
    for path in sorted((conf_dir() / "backbone").glob("*.yaml"))
]


@pytest.fixture(scope="module")
def model():
    """Return a network with two outputs of different rank, normalization, dropout and a strided convolution."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((24, 24, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(6.0)(x)
    middle = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(middle)
    dropped = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(pooled))
    outputs = [keras.layers.Dense(1, activation="sigmoid")(dropped), middle]
    model = keras.Model(inputs, outputs)
    # A new normalization has no effect, so the test would not detect an engine that omits it.
    rng = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return model


def images(count, side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def by_keras(model, pixels):
    outputs = model(pixels.astype(np.float32), training=False)
    return [keras.ops.convert_to_numpy(output) for output in (outputs if isinstance(outputs, list) else [outputs])]


@every_engine
def test_every_engine_agrees_with_keras_for_every_batch_size(model, name):
    forward = build_engine(model, name)
    assert forward.name.startswith(name)
    assert forward.name[-1].isdigit()
    assert 0 <= forward.difference <= 1e-5
    for count in (1, 3, 32, 33):
        pixels = images(count, seed=count)
        pixels.setflags(write=False)  # stored pixels are mapped read-only
        outputs, expected = forward(pixels), by_keras(model, pixels)
        assert [output.dtype for output in outputs] == [np.float32, np.float32]
        assert max_relative_error(outputs, expected) < 1e-5


@every_engine
def test_outputs_of_an_image_do_not_depend_on_its_batch_or_on_later_calls(model, name):
    forward, pixels = build_engine(model, name), images(70)
    outputs = forward(pixels)  # writable pixels: an engine could keep their memory
    copies = [output.copy() for output in outputs]
    with ThreadPoolExecutor(1) as thread:
        single = thread.submit(forward, pixels[40:41]).result()
    assert max_relative_error(single, [output[40:41] for output in outputs]) < 1e-5
    # Not contiguous and in another order.
    assert max_relative_error(forward(pixels[::-2]), [output[::-2] for output in outputs]) < 1e-5
    for output, copy in zip(outputs, copies, strict=True):
        np.testing.assert_array_equal(output, copy)
    np.testing.assert_array_equal(pixels, images(70))


@every_engine
def test_twelve_outputs_are_returned_in_order(name):
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, [keras.layers.Conv2D(width, 1)(inputs) for width in range(1, 13)])
    assert [output.shape[-1] for output in build_engine(model, name)(images(2, 16))] == list(range(1, 13))


@pytest.mark.lowest
@needs_openvino
def test_openvino_is_imported_without_telemetry_and_obeys_the_thread_limit(model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run: Any = build_engine(model, "openvino").run
    assert len(run._queue) == 1
    assert "openvino" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


@needs_openvino
def test_auto_selects_the_fastest_installed_engine(model, monkeypatch):
    assert build_engine(model).name.startswith("openvino")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0"])
    assert build_engine(model).name.startswith("tensorflow")


def error_of(*arguments):
    with pytest.raises(UserError) as caught:
        build_engine(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_engine_that_is_not_available_is_refused(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "catsdogs[fast]" in error_of(model, "openvino")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert "KERAS_BACKEND=tensorflow (now jax)" in error_of(model, "tensorflow")
    assert build_engine(model).name.startswith("keras (jax)")


def off_by(share):
    """Return a TensorFlow engine with an error of this share in its second output, as `max_relative_error`."""

    def make(model):
        def run(pixels):
            first, second = by_keras(model, pixels)
            second = second.copy()
            second[0, 0, 0, 0] += share * max(1, np.abs(second).max())
            return [first, second]

        return "tensorflow 0", run

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [(off_by(3 * TOLERANCE), "3.0e-04"), (off_by(np.nan), "inf"), (FAILS, "RuntimeError: no operation Named Warp")],
)
def test_engine_that_differs_or_fails_is_refused(model, monkeypatch, caplog, make, reason):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(engine._ENGINES, "tensorflow", make)
    assert build_engine(model).name.startswith("keras")
    (record,) = [record for record in caplog.records if record.name == "catsdogs.features.engine"]
    assert "features.engine=auto: skipping tensorflow" in record.getMessage()
    assert reason in record.getMessage()
    assert reason in error_of(model, "tensorflow")


def test_engine_within_the_tolerance_is_used_and_weights_that_are_not_finite_are_refused(model, monkeypatch):
    monkeypatch.setitem(engine._ENGINES, "tensorflow", off_by(TOLERANCE / 3))
    assert build_engine(model, "tensorflow").difference == pytest.approx(TOLERANCE / 3, rel=0.1)
    inputs = keras.Input((16, 16, 3))
    assert "not finite" in error_of(keras.Model(inputs, keras.layers.Rescaling(np.nan)(inputs)))


def test_relative_error_is_relative_to_the_largest_value_of_each_output():
    def array(*values):
        return np.array(values, dtype=np.float32)

    assert max_relative_error([array(0)], [array(0)]) == 0
    assert max_relative_error([array(1, -3), array(1)], [array(1, -4), array(2)]) == 0.5
    for wrong in ([array(0, 0)], [], [array(np.nan)], [np.zeros(1)]):
        assert max_relative_error(wrong, [array(0)]) == np.inf


@needs_openvino
@pytest.mark.parametrize("backbone", BACKBONES)
def test_openvino_runs_every_backbone_with_a_classifier(composed, backbone):
    side = 64 if backbone == "small_cnn" else 96
    config = to_search_config(composed("data.train=x", f"backbone={backbone}", "backbone.weights=null")).backbone
    network = build_backbone(dataclasses.replace(config, weights=None, image_size=side))
    inputs = keras.Input((side, side, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(network(preprocess(inputs, config.preprocessing)))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(16, activation="relu")(pooled))
    outputs = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.3)(x))
    model = keras.Model(inputs, [outputs, pooled])
    forward = build_engine(model, "openvino")
    assert forward.difference < 1e-5
    pixels = images(6, side)
    assert max_relative_error(forward(pixels), by_keras(model, pixels)) < 1e-5
