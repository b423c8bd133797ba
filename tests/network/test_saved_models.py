"""Small files that declare gigabytes, follow other files or run code are refused before anything is allocated."""

import os
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from catsdogs.base.errors import UserError
from catsdogs.network.saved_models import load_model, load_weights

KERNEL = "layers/dense/vars/0"


def small_model(layer=None):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs if layer is None else layer(inputs))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="dense")(x))


def replace(file: Path, **options):
    """Replace the kernel of the dense layer."""
    with h5py.File(file, "a") as root:
        del root[KERNEL]
        if link := options.pop("link", None):
            root[KERNEL] = link
        else:
            root.create_dataset(KERNEL, dtype="f4", **{"shape": (3, 1)} | options)


HUGE = {"shape": (2**29,)}
WEIGHTS = [
    (HUGE, "2.0 GiB of weights"),
    ({"chunks": (2**14, 2**14), "maxshape": (None, None)}, "1.0 GiB of weights"),
    ({"chunks": (1, 1), "compression": "gzip"}, "compressed"),
    ({"external": [("/etc/passwd", 0, 12)]}, "refers to other data"),
    ({"link": h5py.ExternalLink("/etc/passwd", "/x")}, "is a link"),
    ({"link": h5py.SoftLink("/layers")}, "is a link"),
]


@pytest.mark.parametrize(("options", "problem"), WEIGHTS)
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_are_checked_by_their_headers(tmp_path, options, problem, suffix):
    model, weights = small_model(), tmp_path / "model.weights.h5"
    model.save_weights(weights)
    load_weights(model, str(weights))
    model.save(tmp_path / "good.keras")
    expected = model.predict(np.ones((1, 32, 32, 3)), verbose=0)
    loaded = load_model(tmp_path / "good.keras", "retrain it")
    np.testing.assert_array_equal(loaded.predict(np.ones((1, 32, 32, 3)), verbose=0), expected)
    replace(weights, **dict(options))
    if suffix == ".weights.h5":
        with pytest.raises(ValueError, match=problem):
            load_weights(model, str(weights))
        return
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        bad.writestr("config.json", good.read("config.json"))
        bad.write(weights, weights.name)
    with pytest.raises(UserError, match=rf"bad\.keras: cannot be loaded \(.*{problem}.*\); retrain it"):
        load_model(tmp_path / "bad.keras", "retrain it")


def test_attributes_of_earlier_formats_cannot_list_a_weight_repeatedly(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.h5")
    load_weights(model, str(tmp_path / "model.h5"))
    with h5py.File(tmp_path / "model.h5", "a") as root:
        attributes = root["model_weights/dense"].attrs
        for number in range(2):
            attributes[f"weight_names{number}"] = np.array([attributes["weight_names"][0].encode()] * 3000)
    with pytest.raises(ValueError, match="too large"):
        load_weights(model, str(tmp_path / "model.h5"))
    os.mkfifo(tmp_path / "fifo.weights.h5")
    with pytest.raises(OSError, match="not a regular file"):
        load_weights(model, str(tmp_path / "fifo.weights.h5"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"config.json": '"units": 1000000000'}, r"14\.9 GiB of weights"),
        ({"config.json": None}, "not the members"),
        ({"assets/x": b""}, "not the members"),
        ({"config.json": b" " * 2**24}, "too large"),
        ({"config.json": b"[" * 10**5}, "recursion"),
    ],
)
def test_the_configuration_is_checked_before_variables_are_made(tmp_path, change, problem):
    small_model().save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good:
        members = {name: good.read(name) for name in good.namelist()}
    for name, content in change.items():
        if isinstance(content, str):
            content = members[name].replace(b'"units": 1', content.encode())
        members[name] = content
    with zipfile.ZipFile(tmp_path / "bad.keras", "w", zipfile.ZIP_DEFLATED) as bad:
        for name, content in members.items():
            if content is not None:
                bad.writestr(name, content)
    with pytest.raises(UserError, match=problem):
        load_model(tmp_path / "bad.keras", "retrain it")


def attention(x, layer, size=96):
    """Apply attention to all pairs of `size` x `size` positions."""
    positions = keras.layers.Reshape((size * size, 3))(keras.layers.Resizing(size, size)(x))
    pair = [positions, positions]
    outputs = layer(pair) if isinstance(layer, keras.layers.Attention) else layer(*pair)
    return keras.layers.Reshape((size, size, 3))(outputs)


def timed(x, layer):
    return keras.layers.Reshape((1, 1, 3))(keras.layers.TimeDistributed(layer)(keras.layers.Reshape((1, 32, 32, 3))(x)))


def pooled(layer):
    return keras.Sequential([keras.Input((32, 32, 3)), layer, keras.layers.GlobalAveragePooling2D()])


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: attention(x, keras.layers.MultiHeadAttention(8, 4), 32),
        lambda x: attention(x, keras.layers.Attention(), 32),
        lambda x: attention(x, keras.layers.AdditiveAttention(), 32),
        lambda x: timed(x, keras.layers.GlobalAveragePooling2D()),
        keras.layers.SeparableConv2D(9, 3, depth_multiplier=9),
    ],
)
def test_layers_of_a_usual_size_are_loaded(tmp_path, layer):
    small_model(layer).save(tmp_path / "model.keras")
    load_model(tmp_path / "model.keras", "retrain it")


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (keras.layers.UpSampling2D(2000), "output"),
        (keras.layers.Lambda(lambda x: x, output_shape=(32, 32, 3)), "Lambda"),
        (lambda x: attention(x, keras.layers.MultiHeadAttention(64, 1)), "output"),
        (lambda x: attention(x, keras.layers.GroupQueryAttention(1, 64, 64)), "output"),
        (lambda x: attention(x, keras.layers.AdditiveAttention()), "output"),
        (lambda x: attention(x, keras.layers.Attention(score_mode="concat")), "output"),
        (keras.layers.SeparableConv2D(1, 1, depth_multiplier=2**20), "output"),
        (lambda x: timed(x, pooled(keras.layers.UpSampling2D(100))), "TimeDistributed around"),
        (keras.layers.Pipeline([keras.layers.Resizing(9000, 9000), keras.layers.CenterCrop(8, 8)]), "Pipeline"),
    ],
)
def test_layers_with_huge_outputs_or_code_are_refused(tmp_path, layer, problem):
    small_model(layer).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match=problem):
        load_model(tmp_path / "model.keras", "retrain it")
