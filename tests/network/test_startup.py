import json
import os
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import run_python

from catsdogs.network import startup

OTHERS = {"floatx": "bfloat16", "epsilon": 1, "image_data_format": "channels_first", "backend": "torch"}
STARTED = """
from catsdogs.network.startup import start_keras
start_keras()
import keras
from keras.src.backend.config import keras_home
print(keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format(), keras.config.backend())
print(keras_home())
"""


def test_keras_starts_with_its_defaults_and_its_folder_for_weights(tmp_path):
    # Keras itself cannot be imported with this file.
    (tmp_path / "keras.json").write_text(json.dumps(OTHERS))
    done = run_python(tmp_path, "-c", STARTED, KERAS_HOME=str(tmp_path), KERAS_BACKEND="tensorflow")
    assert done.stdout.splitlines() == ["float32 1e-07 channels_last tensorflow", str(tmp_path)], done.stderr
    # And not a line of TensorFlow.
    (line,) = done.stderr.splitlines()
    assert line == f"{tmp_path}/keras.json: ignored (floatx=bfloat16, epsilon=1, image_data_format=channels_first)"


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_keras_starts_without_standard_error(redirection):
    code = "from catsdogs.base.output import continue_without_output as start; start();"
    code += "from catsdogs.network.startup import start_keras; start_keras(); print('started')"
    command = f"{shlex.join([sys.executable, '-c', code])} {redirection}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("started\n", 0)


def test_only_startup_lines_are_discarded_and_only_by_default(monkeypatch, capfd):
    lines = "I0000 00:00:1.2   26600 port.cc:153] on\nWARNING: All log messages before absl::InitializeLog()\nW1: x\n"
    for level, kept in (("2", "W1: x\n"), ("0", lines)):
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        with startup._without_startup_lines():
            os.write(2, lines.encode())
        assert capfd.readouterr().err == kept


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (None, "is a folder"),
        ('{"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}', ""),
        (json.dumps(OTHERS), "floatx=bfloat16, epsilon=1, image_data_format=channels_first, backend=torch"),
        ("[]", "not a JSON object"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "more than"),
    ],
)
def test_ignored_settings_of_keras_are_named(tmp_path, monkeypatch, content, ignored):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    file = tmp_path / "keras.json"
    assert startup._ignored(file) == ""
    file.mkdir() if content is None else file.write_text(content)
    found = startup._ignored(file)
    assert found.startswith(ignored) if ignored else not found


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *[(name, "not supported; use tensorflow or jax") for name in ("torch", "numpy", "TensorFlow")],
        ("jax", "not installed; run pip install jax, or set KERAS_BACKEND=tensorflow"),
    ],
)
def test_other_backends_are_refused_before_keras_is_imported(monkeypatch, capsys, name, problem):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    monkeypatch.setenv("KERAS_BACKEND", name)
    for command, *arguments in [("search", "experiment=debug"), ("predict", "x", "y"), ("doctor",)]:
        monkeypatch.setattr("sys.argv", [command, *arguments])
        assert import_module(f"catsdogs.{command}").main() == 2
        assert capsys.readouterr() == ("", f"error: KERAS_BACKEND={name}: {problem}\n")
