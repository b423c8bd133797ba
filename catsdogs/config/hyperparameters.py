"""Hyperparameters of a trial: their values in a configuration, and the unfreeze depths of a space."""

import dataclasses
from typing import Any

from catsdogs.config.schema import SEARCHABLE, ModelConfig, ScheduleConfig, SearchConfig


def with_values(config: SearchConfig, values: dict[str, Any]) -> SearchConfig:
    """Return the configuration of a trial: the configuration of its job with these hyperparameters."""

    def put(settings: Any) -> Any:
        # Keep the type of the setting: Keras Tuner and tables store 3 as 3.0.
        own = {name: value for name, value in values.items() if isinstance(settings, SEARCHABLE.get(name, ()))}
        return dataclasses.replace(settings, **{name: type(getattr(settings, name))(own[name]) for name in own})

    return dataclasses.replace(config, model=put(config.model), schedule=put(config.schedule))


def hyperparameters(config: SearchConfig) -> dict[str, int | float]:
    """Return the value of every searchable hyperparameter in this configuration."""
    owners = {ModelConfig: config.model, ScheduleConfig: config.schedule}
    return {name: getattr(owners[owner], name) for name, owner in SEARCHABLE.items()}


def unfreeze_depths(config: SearchConfig) -> list[int]:
    """Return every unfreeze depth in the space of a job, ascending."""
    entry = config.space.get("unfreeze_depth")
    if entry is None:
        return [config.model.unfreeze_depth]
    if entry.kind == "choice":
        return sorted({int(value) for value in entry.values or []})
    # With log sampling a step is a factor, so any integer is possible.
    step = 1 if entry.step is None or entry.sampling == "log" else int(entry.step)
    return list(range(int(entry.low or 0), int(entry.high or 0) + 1, step))


def with_largest_model(config: SearchConfig) -> SearchConfig:
    """Return the configuration of a trial with the largest depth and the widest classifier in the space of a job."""
    units = config.space.get("dense_units")
    most = config.model.dense_units if units is None else max(units.values or [units.high or 0])
    return with_values(config, {"unfreeze_depth": unfreeze_depths(config)[-1], "dense_units": most})
