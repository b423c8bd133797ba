"""Configuration files of the user. Names and paths in them stay as written: YAML reads `study: 2024_01` as 202401."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from catsdogs.config.compose import TEXT_KEYS, as_typed
from catsdogs.config.locations import conf_dir

_NULL = "tag:yaml.org,2002:null"


class _UserFiles(FileConfigSource):
    """The files of `conf/` and `--config-dir`."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a file, then set its names and paths from the text of the file."""
        result = super().load_config(config_path)
        if Path(self.path) == conf_dir():
            return result
        group = config_path.rpartition("/")[0].replace("/", ".")
        package = result.header.get("package") or "_group_"
        prefix = {"_global_": "", "_group_": group}.get(package, package)
        file = Path(self.path) / self._normalize_file_name(config_path)
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        for path, value in _texts(node, f"{prefix}." if prefix else "", ()):
            settings: Any = result.config
            for name in path[:-1]:
                settings = settings[name]
            settings[path[-1]] = value
        return result


def _texts(node: Any, prefix: str, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path in the file and the text of every name and path; of sweep parameters, the override's value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value != "<<":  # the mapping that it merges is read where it is defined
                yield from _texts(value, prefix, (*path, key.value))
        return
    setting = prefix + ".".join(path)
    swept = setting.removeprefix("hydra.sweeper.params.")
    if swept.lstrip("+") not in TEXT_KEYS or node.tag == _NULL:
        return
    if isinstance(node, yaml.SequenceNode):
        yield path, [one.value for one in node.value]
    else:
        yield path, node.value if swept == setting else as_typed(f"{swept}={node.value}").partition("=")[2]


def register_files() -> None:
    """Register the reader of files with Hydra, after Hydra's own plugins; may be called repeatedly."""
    SourcesRegistry.instance().types["file"] = _UserFiles
