"""Folders of the configuration and of the cache."""

import argparse
import os
from pathlib import Path

from catsdogs.base.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed wheel, the folders of the configuration are in the package.
_PARENT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent

# In the folder `best` of a study.
MODEL = "model.keras"
ACTIVATION = "class_activation.json"


def conf_dir() -> Path:
    """Return the absolute path of `conf/`."""
    return _PARENT / "conf"


def sweeps_dir() -> Path:
    """Return the absolute path of `sweeps/`."""
    return _PARENT / "sweeps"


def expanded(path: str) -> str:
    """Return a path with the home folder for a leading `~` or `~USER`; an unknown USER is part of a file name.

    Raise a `UserError` if the home folder of this user is unknown: a folder `~` would be created.
    """
    whole = os.path.expanduser(path)
    if whole == "~" or whole.startswith("~/"):
        raise UserError(f"{path}: the home folder is unknown; set HOME, or use an absolute path")
    return whole


def typed_path(text: str) -> Path:
    """Return a path of the command line; shells do not expand `~` in quotes and in --cache=~/folder."""
    return Path(expanded(text))


def typed_study(text: str) -> Path:
    """Return a study folder of the command line, of which also the folder `best` may be typed."""
    path = typed_path(text)
    return path.parent if path.name == "best" and (path / MODEL).is_file() else path


def typed_model(text: str) -> Path:
    """Return a model of the command line, of which also the study may be typed."""
    path = typed_path(text)
    return path / "best" if (path / "best" / MODEL).is_file() else path


def default_cache() -> str:
    """Return the cache folder for commands without a configuration, before `~` is expanded."""
    return os.environ.get("CATSDOGS_CACHE", "~/.cache/catsdogs")


def add_cache_option(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--cache FOLDER`."""
    # argparse converts a default that is a text, if it is used.
    parser.add_argument("--cache", type=typed_path, default=default_cache(), help=f"{use} (default: %(default)s)")
