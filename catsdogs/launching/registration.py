"""Registration of the declared studies, the launcher and the names of job folders with Hydra."""

from __future__ import annotations

import os
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf

from catsdogs.config.compose import resolve_job_name
from catsdogs.config.locations import sweeps_dir
from catsdogs.launching.isolated import register_launcher

_header = ConfigSource._get_header_dict


def register() -> None:
    """Register the studies of `sweeps/`, the launcher, resolvers and the reader of files; may be called repeatedly."""
    register_launcher()
    store = ConfigStore.instance()
    # Not through hydra.searchpath: it would need the parent of sweeps/. In a checkout that is the repository, and Hydra
    # would treat each of its folders as a configuration group.
    for file in sorted(sweeps_dir().glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, package="_global_", node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("catsdogs.job_name", resolve_job_name, replace=True)
    OmegaConf.register_new_resolver("catsdogs.expanded", os.path.expanduser, replace=True)
    # Hydra finds no header after a byte order mark.
    reader: Any = ConfigSource
    reader._get_header_dict = staticmethod(lambda text: _header(text.lstrip("\ufeff")))
