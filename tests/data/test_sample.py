"""Synthetic archives resemble real ones, are reproducible, and reveal the labels only by shapes."""

import dataclasses
import io
import itertools
import zipfile
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.config.schema import SampleConfig
from catsdogs.data.sample import archives as sample_module
from catsdogs.data.sample.archives import sample_archives
from catsdogs.data.sample.synthetic import synthetic_photo

SETTINGS = SampleConfig(images_per_class=120, test_images=21, seed=3, classes=2)
FEW = SampleConfig(images_per_class=8, test_images=3, seed=3, classes=2)
TINY = (Image.new("RGB", (1, 1)), 75)  # image and JPEG quality, as from `synthetic_photo`


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return sample_archives(SETTINGS, tmp_path_factory.mktemp("cache"))


def members(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def opened(files):
    return [Image.open(io.BytesIO(data)) for data in files.values()]


def test_names_are_those_of_kaggle_and_metadata_is_constant(archives):
    train, test = archives
    assert (train.name, test.name) == ("train.zip", "test.zip")
    assert set(members(train)) == {f"train/{animal}.{n}.jpg" for animal in ("cat", "dog") for n in range(120)}
    assert list(members(test)) == [f"test/{n}.jpg" for n in range(1, 22)]
    files = members(train) | members(test)
    assert len(set(files.values())) == len(files) == 261
    assert {(image.format, image.mode) for image in opened(files)} == {("JPEG", "RGB")}
    entries = [entry for path in archives for entry in zipfile.ZipFile(path).infolist()]
    assert {(entry.date_time, entry.create_system) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 3)}


@pytest.mark.parametrize("change", [{"seed": 4}, {"images_per_class": 9}, {"test_images": 4}, {"classes": 3}])
def test_every_setting_has_its_own_folder(tmp_path, change):
    first = sample_archives(FEW, tmp_path)
    second = sample_archives(dataclasses.replace(FEW, **change), tmp_path)
    assert first[0].parent != second[0].parent
    for one, other in zip(map(members, first), map(members, second), strict=True):
        same = [one[name] == other[name] for name in one.keys() & other.keys()]
        # Only the seed changes images, not their number; and test images are of all classes.
        of_new_classes = "classes" in change and "test/1.jpg" in one
        assert not any(same) if "seed" in change else all(same) or of_new_classes


@pytest.mark.parametrize("names", [["cat", "dog"], ["cat", "dog", "pet3", "pet4"]])
def test_some_training_images_are_mislabeled_and_no_test_images(tmp_path, monkeypatch, names):
    tiny, classes = Mock(return_value=TINY), len(names)
    monkeypatch.setattr(sample_module, "synthetic_photo", tiny)
    train, _ = sample_archives(SampleConfig(4000 // classes, 1000, seed=1, classes=classes), tmp_path)
    true_labels = [call.args[0] for call in tiny.call_args_list]
    labels = [names.index(name.removeprefix("train/").partition(".")[0]) for name in members(train)]
    assert 0.02 < np.not_equal(true_labels[:4000], labels).mean() < 0.04  # 0.03, standard error 0.0027
    table = pd.read_csv(train.parent / "test_labels.csv")
    assert list(table.columns) == ["id", "label"]
    assert table["id"].tolist() == list(range(1, 1001))
    assert table["label"].tolist() == true_labels[4000:]
    assert table["label"].value_counts(normalize=True).between(1 / classes - 0.05, 1 / classes + 0.05).all()


def test_sizes_jpeg_settings_and_colors_are_uninformative(archives):
    files = members(archives[0])
    labels = ["dog" in name for name in files]
    images = opened(files)
    colors = np.array([np.asarray(image).mean(axis=(0, 1)) for image in images])
    width, height = np.array([image.size for image in images]).T
    sizes = [len(data) for data in files.values()]
    quantization = [sum(image.quantization[0]) for image in images]
    for clue in (sizes, width, height, width / height, quantization, *colors.T):
        assert 0.36 < roc_auc_score(labels, clue) < 0.64  # 0.5 ± 3.7 standard errors for 120 + 120 images
    # Pixels are little informative for a linear model.
    pixels = np.stack([np.asarray(image.resize((32, 32)), float).ravel() for image in images])
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e-4, max_iter=300))
    p_dog = cross_val_predict(linear, pixels, labels, cv=4, method="predict_proba")[:, 1]
    assert roc_auc_score(labels, p_dog) < 0.78


def test_every_class_has_its_own_shape():
    """Compare images of the same random numbers."""

    def images_of(number):
        images = [synthetic_photo(number, np.random.default_rng(n))[0].convert("L").resize((32, 32)) for n in range(40)]
        return np.stack([np.asarray(image, float) for image in images])

    np.testing.assert_array_equal(images_of(2), images_of(2))
    for one, other in itertools.combinations(map(images_of, (0, 1, 2, 99)), 2):
        assert np.abs(one - other).mean() > 3
