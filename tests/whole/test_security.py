"""Promises of docs/SECURITY.md: each names its tests. Those about models, arrays and weights are tested here."""

import hashlib
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from synthetic_images import folder_of, jpeg
from test_foreign_study import EVIL

from catsdogs.base.errors import UserError
from catsdogs.base.records import CorruptedFile
from catsdogs.predict import _predict
from catsdogs.study.weight_files import read_arrays

pytestmark = pytest.mark.lowest

ROOT = Path(__file__).parents[2]


def test_every_promise_names_existing_tests():
    rows = re.findall(r"^\| (?!promise|---).*", (ROOT / "docs" / "SECURITY.md").read_text(), re.MULTILINE)
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for file, name in tests:
            assert f"\ndef {name}(" in (ROOT / file).read_text(), row
    assert len(rows) > 10


def import_module(config):
    config["layers"][1] |= {"module": "evil", "class_name": "Anything", "registered_name": "Anything"}


def call_function(config):
    function = {"module": "evil", "class_name": "function", "config": "build", "registered_name": "build"}
    config["layers"][2]["config"]["activation"] = function


def lambda_layer(config):
    code = keras.saving.serialize_keras_object(lambda x: [__import__("pathlib").Path("executed").touch(), x][1])
    config["layers"][1] |= {"module": "keras.layers", "class_name": "Lambda", "config": {"function": code}}


def linked_weights(weights):
    del weights["layers/dense/vars/0"]
    weights["layers/dense/vars/0"] = h5py.ExternalLink("secret.h5", "values")


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize("change", [import_module, call_function, lambda_layer, linked_weights])
def test_a_model_file_runs_no_code_and_reads_no_other_file(tmp_path, monkeypatch, change):
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid", name="dense")]
    keras.Sequential(layers).save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as file:
        members = {name: file.read(name) for name in file.namelist()}
    if change is linked_weights:
        weights = io.BytesIO(members["model.weights.h5"])
        with h5py.File(weights, "r+") as file, h5py.File(tmp_path / "secret.h5", "w") as secret:
            secret["values"] = np.ones((192, 1), np.float32)
            change(file)
        members["model.weights.h5"] = weights.getvalue()
    else:
        model = json.loads(members["config.json"])
        change(model["config"])
        members["config.json"] = json.dumps(model).encode()
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(folder_of(tmp_path, {"a.jpg": jpeg(1)}))
    with pytest.raises(UserError, match=r"model\.keras: "):
        _predict(["model.keras", "a.jpg"])
    assert not (tmp_path / "executed").exists()


def test_weights_of_a_trial_are_not_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    pickled, not_finite = pickle.dumps([Evil()] * 100), np.full(2**15, np.nan, np.float32).tobytes()
    for content, problem in (
        (pickled, "digest differs"),
        (hashlib.sha256(pickled).digest() + pickled, "values of another model"),
        (bytes(2**20), "larger than"),
        (hashlib.sha256(not_finite).digest() + not_finite, "not finite"),
    ):
        (tmp_path / "0-0.bin").write_bytes(content)
        with pytest.raises((CorruptedFile, OSError), match=problem):
            read_arrays(tmp_path / "0-0.bin", [np.zeros(2**15, np.float32)])
    assert not (tmp_path / "executed").exists()
