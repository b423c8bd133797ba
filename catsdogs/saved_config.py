"""The configuration that a job's `result.json` holds -> what may be read of it: a study may come from somebody else.

What it says is data. Only the keys of the schema are read, texts are taken letter by letter, and nothing in it chooses
which code runs or which folders are written.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from catsdogs.errors import UserError
from catsdogs.schema import SearchConfig

# Which folders are read and written is for the command to say, not for the study.
_OF_THE_COMMAND = ("study", "studies", "cache")

# Where a function may come from that builds a backbone although nobody but the study names it.
_TRUSTED_MODULES = ("keras.applications.", "catsdogs.backbones.")


def saved_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `schema.SearchConfig` that a saved configuration has, as plain data.

    Keys of other versions, and those that say where to write (`study`, `studies`, `cache`), are left out.
    """
    known: Any = copy.deepcopy({key: value for key, value in config.items() if key not in _OF_THE_COMMAND})
    try:
        TypeAdapter(SearchConfig).validate_python(known)
    except ValidationError as error:
        # What else is wrong with it is told once the command line had its say.
        for place in (one["loc"] for one in error.errors() if one["type"] == "unexpected_keyword_argument"):
            del functools.reduce(operator.getitem, place[:-1], known)[place[-1]]
    return known


def check_builder(builder: str, job: str, named: Collection[str]) -> None:
    """Refuse to call a function that only the study names.

    Args:
        builder: `backbone.builder`.
        job: whose it is.
        named: the builders that the user names, as `named_builders` finds them.

    Raises:
        UserError: it is neither of Keras nor of catsdogs, nor named by the user.
    """
    if builder not in named and not builder.startswith(_TRUSTED_MODULES):
        raise UserError(
            f"backbone.builder={builder}: this function is named by job {job} alone, and calling it would run code of "
            "whoever made the study; if you know it, add backbone.builder=... with this name to the command, or "
            "--config-dir with the folder that names it"
        )


def named_builders(overrides: Iterable[str], folders: Iterable[Path]) -> set[str]:
    """The `backbone.builder` of every override, and of every YAML file in folders of the user's."""
    values = [value for key, _, value in (one.partition("=") for one in overrides) if key == "backbone.builder"]
    found = {value.strip("'\"") for value in values}
    for file in (file for folder in folders for file in folder.rglob("*.yaml")):
        try:
            node = OmegaConf.load(file)
        except (OSError, YAMLError, OmegaConfBaseException):
            continue  # it is no configuration, or Hydra names what is wrong with it
        if isinstance(node, DictConfig):
            wanted = (OmegaConf.select(node, key, throw_on_missing=False) for key in ("builder", "backbone.builder"))
            found |= {str(one) for one in wanted if one is not None}
    return found
