"""Registration of the declared studies, launcher, sweeper and names of job folders with Hydra."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.config.compose import resolve_job_name
from catsdogs.config.descriptions import format_settings
from catsdogs.config.locations import sweeps_dir
from catsdogs.launching.isolated import register_launcher


def register() -> None:
    """Register studies of `sweeps/`, launcher, sweeper, resolvers and reader of files; may be called repeatedly."""
    register_launcher()
    sweepers: Any = Plugins.instance().class_name_to_class
    sweepers["hydra_plugins.catsdogs.OptunaSweeper"] = _optuna_sweeper
    store = ConfigStore.instance()
    # Not through hydra.searchpath: it would need the parent of sweeps/. In a checkout that is the repository, and Hydra
    # would treat each of its folders as a configuration group.
    for file in sorted(sweeps_dir().glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, package="_global_", node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("catsdogs.job_name", resolve_job_name, replace=True)
    OmegaConf.register_new_resolver("catsdogs.settings", format_settings, replace=True)
    OmegaConf.register_new_resolver("catsdogs.expanded", os.path.expanduser, replace=True)
    source: Any = SourcesRegistry.instance().resolve("file")
    if not hasattr(source.load_config, "__wrapped__"):
        source.load_config = _reading(source.load_config)


def _optuna_sweeper(**settings: Any) -> Sweeper:
    # Optuna, an optional dependency, is imported for this sweeper only.
    try:
        from catsdogs.launching.optuna_sweeper import OptunaSweeper
    except ImportError as error:
        fix = "run pip install 'catsdogs[optuna]'"
        raise UserError(f"hydra/sweeper=catsdogs_optuna: requires Optuna 5; {fix} ({error})") from error
    return OptunaSweeper(**settings)


def _reading(load: Callable[[Any, str], ConfigResult]) -> Callable[[Any, str], ConfigResult]:
    """Let Hydra's reader of files find the package also after a byte order mark, and report what is not YAML."""

    @functools.wraps(load)
    def load_config(source: Any, config_path: str) -> ConfigResult:
        file = Path(source.path, source._normalize_file_name(config_path))
        try:
            result = load(source, config_path)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{file}: cannot be read; save it as YAML in UTF-8 ({reason})") from error
        result.header = source._get_header_dict(file.read_text(encoding="utf-8-sig"))
        return result

    return load_config
