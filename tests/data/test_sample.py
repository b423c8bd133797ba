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
        training = any("train/" in name for name in one)
        assert not any(same) if "seed" in change else all(same) or ("classes" in change and not training)


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
