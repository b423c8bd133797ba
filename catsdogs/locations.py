"""Where the configuration and the cache are."""

from __future__ import annotations

from pathlib import Path


def _top_level(folder: str) -> Path:
    """The packaged folder if it is there (an installed wheel), else the checkout's (also an editable install)."""
    package = Path(__file__).resolve().parent
    packaged = package / folder
    return packaged if packaged.is_dir() else package.parent / folder


def conf_dir() -> Path:
    """Absolute path of `conf/`."""
    return _top_level("conf")


def sweeps_dir() -> Path:
    """Absolute path of `sweeps/`."""
    return _top_level("sweeps")
