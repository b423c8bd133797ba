import json

import pytest
from conftest import run_python

from catsdogs.base.errors import UserError
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


@pytest.mark.parametrize("content", [json.dumps(OTHERS), None])
def test_keras_starts_with_its_defaults_and_its_folder_for_weights(tmp_path, content):
    (tmp_path / "mine").mkdir()
    # Keras itself cannot be imported with this file, or with a folder in its place.
    file = tmp_path / "mine" / "keras.json"
    file.mkdir() if content is None else file.write_text(content)
    done = run_python(tmp_path, "-c", STARTED, KERAS_HOME=str(tmp_path / "mine"), KERAS_BACKEND="tensorflow")
    assert done.stdout.splitlines() == ["float32 1e-07 channels_last tensorflow", str(tmp_path / "mine")], done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "keras.json" in line]
    found = "is a folder" if content is None else "floatx=bfloat16, epsilon=1, image_data_format=channels_first"
    assert line == f"{tmp_path}/mine/keras.json: ignored ({found})"


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (None, ""),
        ('{"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}', ""),
        (json.dumps(OTHERS), "floatx=bfloat16, epsilon=1, image_data_format=channels_first, backend=torch"),
        ("[]", "not a JSON object"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "more than"),
    ],
)
def test_ignored_settings_of_keras_are_named(tmp_path, monkeypatch, content, ignored):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if content is not None:
        (tmp_path / "keras.json").write_text(content)
    found = startup._ignored(tmp_path / "keras.json")
    assert found.startswith(ignored) if ignored else not found


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        *[("KERAS_BACKEND", name, "not supported; use tensorflow or jax") for name in ("torch", "numpy", "TensorFlow")],
        ("KERAS_BACKEND", "jax", "not installed; run pip install jax, or set KERAS_BACKEND=tensorflow"),
        ("KERAS_MAX_EPOCHS", "1", "not supported, because it changes results; unset it"),
    ],
)
def test_variables_of_keras_that_are_not_supported_are_refused(monkeypatch, name, value, problem):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}={value}: {problem}$"):
        startup.check_backend()


@pytest.mark.parametrize("command", [("search", "data=sample"), ("predict", "x", "y"), ("doctor",)])
def test_commands_refuse_another_backend_in_one_line(run, command):
    done = run(*command, KERAS_BACKEND="torch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: KERAS_BACKEND=torch: not supported; use tensorflow or jax\n"
