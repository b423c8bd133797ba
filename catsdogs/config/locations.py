"""Folders of the configuration and of the cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def _top_level(folder: str) -> Path:
    # In an installed wheel, these folders are in the package.
    package = Path(__file__).resolve().parents[1]
    packaged = package / folder
    return packaged if packaged.is_dir() else package.parent / folder


def conf_dir() -> Path:
    """Return the absolute path of `conf/`."""
    return _top_level("conf")


def sweeps_dir() -> Path:
    """Return the absolute path of `sweeps/`."""
    return _top_level("sweeps")


def default_cache() -> Path:
    """Return the cache folder for commands without a configuration."""
    return Path(os.environ.get("CATSDOGS_CACHE", "~/.cache/catsdogs")).expanduser()


def add_cache_option(parser: argparse.ArgumentParser, use: str) -> None:
    """Add `--cache FOLDER`."""
    parser.add_argument("--cache", type=Path, default=default_cache(), help=f"{use} (default: %(default)s)")
