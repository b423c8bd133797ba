"""Saved configurations of jobs, treated as untrusted input: a study may come from another person.

Only keys of the schema are read, texts are never interpolated, and a study cannot select code or output folders.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from catsdogs.base.errors import UserError
from catsdogs.config.checks import format_validation_error
from catsdogs.config.schema import AUTO, SearchConfig

# Settings of the command, never of the study: folders that are read and written.
_OF_THE_COMMAND = ("study", "studies_dir", "cache")

# Modules whose functions may build a backbone without being named by the user.
_TRUSTED_MODULES = ("keras.applications.", "catsdogs.network.backbones.", "catsdogs.network.efficientnet_lite.")


def saved_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `schema.SearchConfig` in a saved configuration, without `study`, `studies_dir` and `cache`.

    Raise ValueError, which names the key, if a value has the wrong type or range.
    """
    return {key: value for key, value in _known(config, SearchConfig).items() if key not in _OF_THE_COMMAND}


def _known(value: Any, kind: Any, name: str = "") -> Any:
    """Return the value without keys that are unknown to the dataclasses of its type; keys may be missing."""
    group: Any = next((one for one in get_args(kind) or (kind,) if dataclasses.is_dataclass(one)), None)
    prefix = f"{name}." if name else ""
    if isinstance(value, Mapping) and get_origin(kind) is dict and group is not None:
        return {key: _known(one, group, prefix + key) for key, one in value.items()}
    if isinstance(value, Mapping) and group is not None:
        kinds = _types(group)
        return {key: _known(one, kinds[key], prefix + key) for key, one in value.items() if key in kinds}
    try:
        checked = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(format_validation_error(error, value, name)) from error
    if value == "auto" and checked == AUTO:
        raise ValueError(f"{name}=auto: must be the value that was chosen")
    return value


_types = functools.cache(functools.partial(get_type_hints, include_extras=True))
_adapter = functools.cache(TypeAdapter)


def is_trusted(builder: str) -> bool:
    """Return whether a function belongs to Keras or catsdogs."""
    return builder.startswith(_TRUSTED_MODULES)


def check_builder(builder: str, job: str, named: Collection[str]) -> None:
    """Raise a `UserError` if a backbone function is neither from Keras or catsdogs nor in `named_builders`."""
    if builder not in named and not is_trusted(builder):
        problem = f"not called, because only job {job} names this function and it may run untrusted code"
        fix = f"if you trust it, add backbone.builder={builder}, or --config-dir with its folder"
        raise UserError(f"backbone.builder={builder}: {problem}; {fix}")


def named_builders(overrides: Iterable[str], folders: Iterable[Path], studies: Path) -> set[str]:
    """Return the builders that the user names, in overrides or in YAML files of `folders` outside of `studies`."""
    pairs = [(key.lstrip("+"), value) for key, _, value in (one.partition("=") for one in overrides)]
    builders = {value.strip("'\"") for key, value in pairs if key == "backbone.builder"}
    untrusted = studies.resolve()
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if hidden or file.resolve().is_relative_to(untrusted):
                continue
            with suppress(OSError, ValueError, YAMLError, OmegaConfBaseException):  # Hydra reports such a file
                node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
                groups = [node, node.get("backbone")] if isinstance(node, dict) else []
                builders |= {str(one["builder"]) for one in groups if isinstance(one, dict) and "builder" in one}
    return builders
