"""Registration of the declared studies, the launcher and the names of job folders with Hydra."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.config.compose import resolve_job_name
from catsdogs.config.locations import sweeps_dir
from catsdogs.launching.isolated import register_launcher


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
    FileConfigSource.load_config = _load_config  # type: ignore[method-assign]


_LOAD_CONFIG = FileConfigSource.load_config


def _load_config(source: FileConfigSource, name: str) -> ConfigResult:
    """Read a configuration file as Hydra does, and its package also after a byte order mark."""
    file = Path(source.path, source._normalize_file_name(name))
    try:
        result = _LOAD_CONFIG(source, name)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: cannot be read; save it as YAML in UTF-8 ({reason})") from error
    result.header = source._get_header_dict(file.read_text(encoding="utf-8-sig"))
    return result
