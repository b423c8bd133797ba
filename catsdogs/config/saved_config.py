"""The configuration that a job's `result.json` holds -> what may be read of it: a study may come from somebody else.

What it says is data. Only the keys of the schema are read, texts are taken letter by letter, and nothing in it chooses
which code runs or which folders are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from catsdogs.base.errors import UserError
from catsdogs.config.schema import SearchConfig

# Which folders are read and written is for the command to say, not for the study.
_OF_THE_COMMAND = ("study", "studies_dir", "cache")

# Where a function may come from that builds a backbone although nobody but the study names it.
_TRUSTED_MODULES = ("keras.applications.", "catsdogs.network.backbones.")


def saved_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `schema.SearchConfig` that a saved configuration has, as plain data.

    Keys of other versions, and those that say where to write (`study`, `studies_dir`, `cache`), are left out.
    """
    return {key: value for key, value in _known(config, SearchConfig).items() if key not in _OF_THE_COMMAND}


def _known(value: Any, kind: Any) -> Any:
    """The value without the keys that the dataclasses in this type do not have."""
    group = next((one for one in get_args(kind) or (kind,) if dataclasses.is_dataclass(one)), None)
    if group is None or not isinstance(value, Mapping):
        return value
    if get_origin(kind) is dict:
        return {key: _known(one, group) for key, one in value.items()}
    kinds = get_type_hints(group)
    return {key: _known(one, kinds[key]) for key, one in value.items() if key in kinds}


def is_trusted(builder: str) -> bool:
    """Whether this function is one of Keras or of catsdogs."""
    return builder.startswith(_TRUSTED_MODULES)


def check_builder(builder: str, job: str, named: Collection[str]) -> None:
    """Refuse to call a function that only the study names.

    Args:
        builder: `backbone.builder`.
        job: whose it is.
        named: the builders that the user names, as `named_builders` finds them.

    Raises:
        UserError: it is neither of Keras nor of catsdogs, nor named by the user.
    """
    if builder not in named and not is_trusted(builder):
        raise UserError(
            f"backbone.builder={builder}: this function is named by job {job} alone, and calling it would run code of "
            "whoever made the study; if you know it, add backbone.builder=... with this name to the command, or "
            "--config-dir with the folder that names it"
        )


def named_builders(overrides: Iterable[str], folders: Iterable[Path], studies: Path) -> set[str]:
    """The `backbone.builder` of every override, and of every YAML file in folders of the user's.

    Args:
        studies: the folder of all studies, which may be in one of these folders: what lies there names nothing.
    """
    pairs = [(key.lstrip("+"), value) for key, _, value in (one.partition("=") for one in overrides)]
    found = {value.strip("'\"") for key, value in pairs if key == "backbone.builder"}
    theirs = studies.resolve()
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if not hidden and not file.resolve().is_relative_to(theirs):
                found |= _builders_in(file)
    return found


def _builders_in(file: Path) -> set[str]:
    try:
        node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return set()  # it is no configuration, or Hydra names what is wrong with it
    groups = [node, node.get("backbone")] if isinstance(node, dict) else []
    named = (group.get("builder") for group in groups if isinstance(group, dict))
    return {builder for builder in named if isinstance(builder, str)}
