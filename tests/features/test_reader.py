import dataclasses
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from conftest import ENGINE

from catsdogs.config.schema import AugmentationConfig
from catsdogs.config.schema import FeaturesConfig as Settings
from catsdogs.data.views import ORIGINAL, View, distinct_views
from catsdogs.features import reader as features_module
from catsdogs.features.reader import FeatureReader, JobImages
from catsdogs.features.store import Store
from catsdogs.network.backbones import load_network
from catsdogs.network.cut import find_cut, prefix

SETTINGS = Settings(mode="auto", views=None, dtype="float32", engine=ENGINE, max_gib=1.0)
HASHES = [f"{row:064x}" for row in range(60)]


@pytest.fixture
def network(config):
    return load_network(config().backbone, seed=1)


@pytest.fixture
def make(network, training_data, tmp_path):
    """Build readers of `training_data` at the cuts of depths 0 and 2, with one cache."""

    def build(settings=SETTINGS, network=network, pixels=training_data.views, views=2, hashes=HASHES, train=None):
        cuts = [find_cut(network.backbone, depth) for depth in (0, 2)]
        rows = training_data.train_rows if train is None else train
        images = JobImages(pixels, hashes, rows, training_data.validation_rows, views)
        return FeatureReader(settings, network, cuts, images, tmp_path / "cache")

    return build


@pytest.fixture
def fills(monkeypatch):
    """List of the views that were computed and stored, in order."""
    views = []
    produce = FeatureReader._produce

    def counting(self, view, indices):
        views.append((view.kind, view.number))
        return produce(self, view, indices)

    monkeypatch.setattr(FeatureReader, "_produce", counting)
    return views


@pytest.mark.parametrize("mode", ["stored", "live"])
@pytest.mark.parametrize(
    ("view", "rows"), [(ORIGINAL, [59, 40, 41]), (ORIGINAL, [3, 59]), (View("train", 1), [3, 39, 0, 3])]
)
def test_activations_equal_those_of_keras(make, network, training_data, mode, view, rows):
    features = make(dataclasses.replace(SETTINGS, mode=mode))
    rows = np.array(rows)
    images = training_data.views.read(rows, view).astype("float32")
    for depth in (0, 2):
        cut = find_cut(network.backbone, depth)
        below = prefix(network.backbone, network.settings.preprocessing, [cut])
        expected = keras.ops.convert_to_numpy(below(images, training=False))
        activations = features.at_cut(cut).read(rows, view)
        assert activations.dtype == np.float32
        np.testing.assert_allclose(activations, expected, rtol=1e-4, atol=1e-5)


def test_view_is_computed_once_for_all_cuts_jobs_and_studies(make, network, fills):
    for _ in range(2):
        features = make()
        features.prepare()
        for depth in (2, 0):
            views = features.at_cut(find_cut(network.backbone, depth))
            views.read(np.array([1, 2]), View("train", 0))
            views.read(np.array([1, 2]), View("train", 1))
            views.read(np.array([50]), ORIGINAL)
    assert sorted(fills) == [("plain", 0), ("train", 0), ("train", 1)]
    assert list(features.summary()["cuts"].values()) == [[8], [8, 8, 4]]
    # Only the views that are read are computed.
    features = make(views=9)
    features.prepare()
    features.at_cut(find_cut(network.backbone, 2)).read(np.array([0]), View("train", 4))
    assert fills[3:] == [("train", 4)]


def test_an_engine_that_equals_keras_has_no_difference(make, caplog):
    with caplog.at_level(logging.INFO):
        make(dataclasses.replace(SETTINGS, engine="keras")).prepare()
    assert "frozen prefix runs on keras" in caplog.text
    assert "difference from Keras: none" in caplog.text


def test_values_that_are_not_finite_are_computed_for_every_batch(make, network, monkeypatch, caplog):
    features, cut, rows = make(), find_cut(network.backbone, 2), np.arange(40)
    features.prepare()
    before = features.read(cut, rows, View("train", 0))
    stored = features._open[cut, View("train", 0)]
    damaged = stored.values.copy()
    damaged[20] = np.nan  # the digest of a large array covers some rows only
    features._open[cut, View("train", 0)] = dataclasses.replace(stored, values=damaged)
    np.testing.assert_allclose(features.read(cut, rows, View("train", 0)), before, rtol=1e-5, atol=1e-6)
    assert "corrupted (NaN or infinity), delete it; computing activations for every batch instead" in caplog.text


@pytest.mark.parametrize("setting", ["weights", "preprocessing", "augmentation", "seed", "image", "order", "dtype"])
def test_every_input_is_part_of_the_key(make, config, training_data, fills, setting):
    make().prepare()
    fills.clear()
    old = training_data.views
    zoomed = dataclasses.replace(old.augmentation, zoom_fraction=0.3)
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "weights": lambda: {"network": load_network(config().backbone, seed=2)},
        "preprocessing": lambda: {"network": load_network(config("backbone.preprocessing=none").backbone, seed=1)},
        "augmentation": lambda: {"pixels": dataclasses.replace(old, augmentation=zoomed)},
        "seed": lambda: {"pixels": dataclasses.replace(old, seed=2)},
        "image": lambda: {"hashes": ["f" * 64, *HASHES[1:]]},
        "order": lambda: {"train": training_data.train_rows[::-1]},
        "dtype": lambda: {"settings": dataclasses.replace(SETTINGS, dtype="float16")},
    }
    make(**changes[setting]()).prepare()
    assert ("train", 0) in fills
    # Validation images are not augmented.
    assert (("plain", 0) in fills) == (setting in ("weights", "preprocessing", "dtype"))


def test_unaugmented_views_are_shared_across_seeds(make, training_data, fills):
    identity = AugmentationConfig(0.0, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, "reflect")
    old = training_data.views
    for seed in (1, 2):
        make(pixels=dataclasses.replace(old, augmentation=identity, seed=seed), views=1).prepare()
    assert sorted(fills) == [("plain", 0), ("train", 0)]
    assert distinct_views(SETTINGS, identity, epochs=5) == 1
    # With augmentation, one view per epoch up to a limit.
    moves = dataclasses.replace(identity, flip_probability=0.5)
    assert [distinct_views(SETTINGS, moves, epochs) for epochs in (1, 30)] == [1, 10]


def test_activations_are_computed_for_every_batch_if_there_is_no_room(make, network, fills, caplog):
    rows, view, cut = np.array([1, 5]), View("train", 0), find_cut(network.backbone, 2)
    expected = make().at_cut(cut).read(rows, view)
    fills.clear()
    features = make(dataclasses.replace(SETTINGS, max_gib=1e-6), views=3)
    with caplog.at_level(logging.WARNING):
        features.prepare()
    assert "computing activations for every batch instead" in caplog.text
    assert "activation cache for 3 training views at " in caplog.text
    np.testing.assert_allclose(features.at_cut(cut).read(rows, view), expected, rtol=1e-5, atol=1e-6)
    assert fills == []


@pytest.mark.parametrize(
    ("fill", "message"),
    [(Mock(side_effect=OSError(errno.ENOSPC, "out of disk")), "out of disk"), (Mock(), "another job evicted")],
)
def test_job_continues_if_the_store_fails(make, network, monkeypatch, caplog, fill, message):
    rows, cut = np.array([1, 5]), find_cut(network.backbone, 2)
    expected = make(dataclasses.replace(SETTINGS, mode="live")).at_cut(cut).read(rows, View("train", 1))
    features = make()
    features.prepare()
    monkeypatch.setattr(Store, "fill", fill)
    np.testing.assert_allclose(features.at_cut(cut).read(rows, View("train", 1)), expected, rtol=1e-5, atol=1e-6)
    assert message in caplog.text
    assert not features.summary()["stored"]


def test_the_error_of_a_cache_that_cannot_be_written_is_raised(make, network, tmp_path):
    (tmp_path / "cache").write_text("")
    features = make()

    def through_keras():
        try:
            features.at_cut(find_cut(network.backbone, 2)).read(np.array([1]), View("train", 1))
        except OSError as error:  # TensorFlow's threads raise another error
            raise ValueError("PyFunc") from error

    with pytest.raises(NotADirectoryError), features.reading():
        through_keras()


def test_threads_that_read_the_same_view_fill_it_once(make, network, fills):
    features, cut = make(), find_cut(network.backbone, 2)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: features.at_cut(cut).read(np.arange(5), View("train", 0)), range(4)))
    assert fills == [("train", 0)]
    assert all((result == results[0]).all() for result in results)


def test_fill_stops_when_the_job_stops(make, network, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 8)
    features = make()
    with features.reading():
        pass
    with pytest.raises(InterruptedError):
        features.prepare()
    assert make()._store.entries() == []
