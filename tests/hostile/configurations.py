"""Overrides, spaces and YAML files: how to make and check a configuration."""

import dataclasses
import functools
import itertools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import HOSTILE
from hydra import compose, initialize_config_dir
from pydantic import TypeAdapter
from synthetic_images import folder_of

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.config.checks import validated
from catsdogs.config.compose import as_typed, to_search_config, with_default_study, with_value
from catsdogs.config.effects import check_search
from catsdogs.config.hyperparameters import unfreeze_depths, with_values
from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import SearchConfig
from catsdogs.launching.failures import user_message
from catsdogs.launching.registration import register
from catsdogs.tuning.oracles import build_oracle, expected_trials

TINY: tuple[str, ...] = ("data=sample", "backbone=small_cnn", "backbone.image_size=32", "space=small_cnn")
TINY += ("tuner.max_trials=8", "fit.epochs=10", "fit.batch_size=32", "split.folds=1")
OVERRIDES = HOSTILE["valid_overrides"]
GROUPS = ("augmentation/light", "schedule/cosine_warmup", "space/default", "tuner/bayesian", "backbone/small_cnn")

register()


@functools.cache
def composed() -> SearchConfig:
    return compose_words(TINY)


def compose_words(arguments: Sequence[str]) -> SearchConfig:
    """Do what `search` does with its arguments before it reads any data."""
    words = [as_typed(word) for word in arguments]
    try:
        words = with_default_study(words, words, False)
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = to_search_config(compose("search", overrides=list(words)))
        check_search([(config, words)])
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        raise UserError(with_value(message, words)) from error
    return config


def make_overrides(folder: Path) -> None:
    for number, word in enumerate(OVERRIDES):
        (folder / f"{number}.txt").write_text(word)


def read_override(folder: Path, file: Path) -> SearchConfig:
    return compose_words([*TINY, os.fsdecode(file.read_bytes())])


def make_groups(folder: Path) -> None:
    for name in GROUPS:
        group, option = name.split("/")
        folder_of(folder, {f"{group}/mine.yaml": (conf_dir() / group / f"{option}.yaml").read_bytes()})


def read_group(folder: Path, file: Path) -> SearchConfig:
    return compose_words([*TINY, f"hydra.searchpath=[{folder}]", f"{file.parent.name}=mine"])


def make_spaces(folder: Path) -> None:
    """Write every space with every oracle."""
    spaces, oracles = ("default", "head", "wide", "small_cnn"), ("random", "bayesian", "grid", "hyperband")
    for space, oracle in itertools.product(spaces, oracles):
        config = dataclasses.asdict(compose_words([*TINY, f"space={space}", f"tuner={oracle}"]))
        parts = {key: config[key] for key in ("space", "tuner", "model", "schedule")}
        write_json(folder / f"{space}-{oracle}.json", parts)


def read_space(folder: Path, file: Path) -> SearchConfig:
    return validated(dataclasses.asdict(composed()) | json.loads(file.read_bytes()), SearchConfig)


def config_problem(config: SearchConfig, valid: Any) -> str:
    """Check that the oracle proposes values that the space declares and every setting accepts."""
    oracle = build_oracle(config)
    count = expected_trials(oracle, config)
    if not (count is None or count >= 1) or not unfreeze_depths(config):
        return f"{count} trials"
    values = oracle.populate_space("0").get("values") or {}
    for name, value in values.items():
        if name not in config.space:
            continue
        entry = config.space[name]
        inside = value in (entry.values or ()) if entry.kind == "choice" else entry.low <= value <= entry.high
        if not inside or not math.isfinite(value):
            return f"{name}={value} is not in {entry}"
    replaced = dataclasses.asdict(with_values(config, values))
    TypeAdapter(SearchConfig).validate_python(replaced)
    numbers = [one for group in replaced.values() if isinstance(group, dict) for one in group.values()]
    return "" if all(math.isfinite(one) for one in numbers if isinstance(one, float)) else "a number is not finite"
