"""Start of Keras with its default settings, whatever `keras.json` and the environment of the user contain."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.files import read_json
from catsdogs.base.text import sanitize_line

log = logging.getLogger(__name__)

BACKENDS = ("tensorflow", "jax")

# Defaults of Keras, which catsdogs was tested with.
_SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last", "nnx_enabled": False}
_UNSUPPORTED = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED")


def backend() -> str:
    """Return Keras' backend; raise a `UserError` for variables of Keras that catsdogs does not support."""
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    if name not in BACKENDS:
        raise UserError(f"KERAS_BACKEND={name}: not supported; use tensorflow or jax")
    for variable in _UNSUPPORTED:
        if variable in os.environ:
            raise UserError(f"{variable}={os.environ[variable]}: not supported, because it changes results; unset it")
    return name


def check_backend() -> None:
    """Raise a `UserError` if Keras' backend is not supported or not installed; does not import it."""
    name = backend()
    if importlib.util.find_spec(name) is None:
        other = BACKENDS[1 - BACKENDS.index(name)]
        raise UserError(f"KERAS_BACKEND={name}: not installed; run pip install {name}, or set KERAS_BACKEND={other}")


def start_keras() -> None:
    """Import Keras with its default settings, and log which settings of the user's `keras.json` are ignored.

    Must be called before any other import of Keras. Raise a `UserError` as `check_backend`.
    """
    check_backend()
    # TensorFlow logs its startup, and a warning for each trial's model that it traces.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if "keras" in sys.modules:
        return
    home = _home()
    if ignored := _ignored(home / "keras.json"):
        log.warning("%s", sanitize_line(f"{home / 'keras.json'}: ignored ({ignored})"))
    before = os.environ.get("KERAS_HOME")
    # Keras reads its file when it is imported, and a malformed one raises. The null device contains no file.
    os.environ["KERAS_HOME"] = os.devnull
    try:
        from keras.src.backend import config
    finally:
        del os.environ["KERAS_HOME"]
        if before is not None:
            os.environ["KERAS_HOME"] = before
    config._KERAS_DIR = str(home)  # folder of downloaded weights


def _home() -> Path:
    """Return Keras' folder, by its rules."""
    base = os.path.expanduser("~")
    default = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME", default))).absolute()


def _ignored(file: Path) -> str:
    """Return the settings of `keras.json` that differ from those in use, or why it cannot be read."""
    try:
        settings = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return str(error.strerror)
    except ValueError as error:
        return first_line(error)
    if not isinstance(settings, dict):
        return "not a JSON object"
    # The variable takes precedence over the file, so only without it something is ignored.
    used = _SETTINGS | ({} if "KERAS_BACKEND" in os.environ else {"backend": "tensorflow"})
    return ", ".join(f"{key}={settings[key]}"[:80] for key in used if settings.get(key, used[key]) != used[key])
