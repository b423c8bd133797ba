"""Start of Keras with its default settings, whatever the user's `keras.json` contains."""

import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.files import read_json
from catsdogs.base.text import sanitize_line

log = logging.getLogger(__name__)

BACKENDS = ("tensorflow", "jax")

_STARTUP_LINE = re.compile(rb"[IWE]\d{4} [\d:.]+ +\d+ \w+\.cc:\d+\]|WARNING: All log messages before absl::")

# Defaults of Keras, which catsdogs was tested with.
_SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


def check_backend() -> str:
    """Return Keras' backend without importing it; raise a `UserError` if it is not supported or not installed."""
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    if name not in BACKENDS:
        raise UserError(f"KERAS_BACKEND={name}: not supported; use tensorflow or jax")
    if importlib.util.find_spec(name) is None:
        other = BACKENDS[1 - BACKENDS.index(name)]
        raise UserError(f"KERAS_BACKEND={name}: not installed; run pip install {name}, or set KERAS_BACKEND={other}")
    return name


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
    # Keras' folder, by its rules.
    base = os.path.expanduser("~")
    default = os.path.join(base if os.access(base, os.W_OK) else "/tmp", ".keras")
    home = os.path.expanduser(before := os.environ.get("KERAS_HOME", default))
    if ignored := _ignored(Path(home, "keras.json")):
        log.warning("%s", sanitize_line(f"{home}/keras.json: ignored ({ignored})"))
    # Keras reads its file when it is imported, and a malformed one raises. The null device contains no file.
    os.environ["KERAS_HOME"] = os.devnull
    with _without_startup_lines():
        from keras.src.backend import config

        if config.backend() == "tensorflow":  # it looks for GPUs when it is first asked, and logs that there are none
            import tensorflow

            tensorflow.config.list_physical_devices()
    os.environ["KERAS_HOME"] = before
    config._KERAS_DIR = home  # folder of downloaded weights


@contextmanager
def _without_startup_lines() -> Iterator[None]:
    """Discard the log lines that TensorFlow writes to standard error, unless TF_CPP_MIN_LOG_LEVEL asks for them.

    The level alone has no effect on them, because TensorFlow writes them before its log is set up.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            # Python's stream, because it may be one that discards what it cannot write; see `continue_without_output`.
            if others := b"".join(line for line in captured if not _STARTUP_LINE.match(line)):
                sys.stderr.write(others.decode(errors="backslashreplace"))


def _ignored(file: Path) -> str:
    """Return the settings of `keras.json` that differ from those in use, or why it cannot be read."""
    try:
        settings = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or first_line(error)
    if not isinstance(settings, dict):
        return "not a JSON object"
    # The variable takes precedence over the file, so only without it something is ignored.
    used = _SETTINGS | ({} if "KERAS_BACKEND" in os.environ else {"backend": "tensorflow"})
    return ", ".join(f"{key}={settings[key]}"[:80] for key in used if settings.get(key, used[key]) != used[key])
