"""Settings that are `auto` until the images are known."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from catsdogs.config.schema import AUTO, SearchConfig

Config = TypeVar("Config", bound=SearchConfig)

_SETTINGS: tuple[tuple[str, str], ...] = (("fit", "epochs"), ("fit", "batch_size"), ("split", "folds"))
_SETTINGS += (("backbone", "image_size"), ("tuner", "max_trials"))


def with_chosen(config: Config, values: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Replace settings that are `auto`, and return the configuration with the texts of these settings.

    `values` has groups of values by name. Settings that it lacks, or with the value None, stay.
    """
    config, chosen = copy.deepcopy(config), []
    for group, name in _SETTINGS:
        value = values.get(group, {}).get(name)
        if getattr(getattr(config, group), name) == AUTO and value is not None:
            setattr(getattr(config, group), name, value)
            chosen.append(f"{group}.{name}={value}")
    return config, chosen
