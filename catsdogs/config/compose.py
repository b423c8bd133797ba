"""`conf/`, `sweeps/` and the command line -> a checked configuration.

Hydra composes; this file tells it our declared studies and how job folders are named, and turns its errors
into sentences. Nothing here imports Keras, so that `--help` answers at once.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.text import quote_numbers, quoted
from catsdogs.config.schema import RetrainConfig, SearchConfig, setting_keys, validated
from catsdogs.config.setting_names import did_you_mean, unknown, unknown_setting

# The groups whose choices name a job and are compared in the report.
COMPOSED_GROUPS = ("backbone", "augmentation", "schedule", "label_smoothing")

# Options of Hydra's launchers and sweepers that come with an extra of ours.
EXTRAS = {"joblib": "joblib", "ray": "ray", "optuna": "optuna"}

# Of Hydra: which of its defaults hold.
VERSION_BASE = "1.3"

# Longest name of a job folder; file systems end at 255 bytes, and tools add prefixes.
MAX_JOB_NAME = 120

# Messages of Hydra that do not start with the override, and ours.
_HYDRA_MESSAGES = {
    r"Ambiguous value for argument '(.+)'": r"\1: several values need -m; or pass a list as key=[value1,value2]",
    r"Sweep parameters '(.+)' requires --multirun": r"\1: several values need -m",
    r"Could not override '(.+)'": r"\1: unknown setting; remove it from the command",
    r"Could not append to config\. An item is already at '(.+)'": r"+\1: already set; remove the +",
    r"Could not delete '(.+)'\. No match in the defaults list": r"~\1: not chosen; remove it from the command",
}

_TEXT_KEYS = frozenset(setting_keys(RetrainConfig, only_texts=True))


def to_search_config(config: DictConfig) -> SearchConfig:
    """The composed configuration of a search as plain dataclasses.

    Raises:
        UserError: a key is unknown or missing, or a value is of the wrong type, out of range or does not fit others.
    """
    return validated(resolved(config), SearchConfig)


def resolved(config: DictConfig) -> dict[str, Any]:
    """What Hydra composed, its interpolations replaced by their values."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise UserError(format_config_error(error)) from error


def as_typed(override: str) -> str:
    """An override whose texts stay texts: Hydra would read the number 202401 in `study=2024_01`."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") in _TEXT_KEYS:
        value = quote_numbers(value)
    # A dimension of the space may be given keys that its file leaves out, such as step.
    return ("++" if key.startswith("space.") else "") + key + equals + value


def with_default_study(arguments: Sequence[str], overrides: Sequence[str], multirun: bool) -> list[str]:
    """The command line of `search`, completed.

    A bare `-m`, one that sweeps nothing and chooses neither a composed group nor an experiment nor a declared study,
    runs `sweeps/default.yaml`. What a sweep varies beside the composed groups is passed on, because a job cannot tell
    its varied keys from its constant ones.

    Args:
        arguments: the whole command line.
        overrides: the part of it that Hydra takes for overrides.
        multirun: whether `-m` was given.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    keys = {override.key_or_group for override in parsed}
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    added = []
    if multirun and not swept and not keys & {"sweeps", "experiment", *COMPOSED_GROUPS}:
        added.append("sweeps=default")
    extra = sorted({key.lstrip("+~") for key in swept} - set(COMPOSED_GROUPS))
    if extra and "varied" not in keys:
        added.append(f"varied=[{','.join(extra)}]")
    return with_overrides(arguments, overrides, added)


def with_overrides(arguments: Sequence[str], overrides: Sequence[str], added: Sequence[str]) -> list[str]:
    """The command line with overrides added beside its own: argparse refuses positional arguments in two places."""
    place = list(arguments).index(overrides[-1]) + 1 if overrides else len(arguments)
    return [*arguments[:place], *added, *arguments[place:]]


def resume_command(arguments: Sequence[str], overrides: Sequence[str], study: str) -> str:
    """The command that goes on with a study, quoted for a shell.

    Args:
        arguments: the command line that began it.
        overrides: the part of it that Hydra takes for overrides.
        study: its name, which is a time stamp where the command line gives none.
    """
    named = any(override.partition("=")[0] == "study" for override in overrides)
    words = with_overrides(arguments, overrides, [] if named else [f"study={quoted(study)}"])
    return f"python -m catsdogs.search {shlex.join(words)}"


def job_name(choices: dict[str, str], overrides: Sequence[str], varied: Sequence[str]) -> str:
    """Name a job after its choices: `mobilenet_v2-flip-cosine-none`, then every other key that its study varies.

    Args:
        choices: option of every configuration group, as Hydra records them.
        overrides: the overrides of this job, `key=value`.
        varied: keys that the study varies.

    Returns:
        A name of at most 120 characters out of letters, digits, `.`, `_` and `-`. The order of overrides does not
        matter; names that had to be shortened or cleaned end in a digest of the whole, so that they stay apart.
    """
    parts = [str(choices.get(group)) for group in COMPOSED_GROUPS]
    values = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    for key in sorted(set(varied) - set(COMPOSED_GROUPS)):
        if key in values:
            parts.append(f"{key}-{values[key]}")
    whole = "-".join(parts)
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", whole)
    if cleaned == whole and len(cleaned) <= MAX_JOB_NAME and not cleaned.startswith("."):
        return cleaned
    digest = hashlib.sha256(whole.encode()).hexdigest()[:10]
    return f"{cleaned[: MAX_JOB_NAME - 11].lstrip('.')}-{digest}"


def job_choices(hydra: Any, varied: Iterable[str] = ()) -> dict[str, str]:
    """The options of the composed groups of a job, and the values of everything else that its study varies.

    Args:
        hydra: the job's `hydra` node.
        varied: keys that the study varies beside those of its sweeper.
    """
    choices = {group: str(hydra.runtime.choices[group]) for group in COMPOSED_GROUPS}
    keys = {*varied, *(hydra.sweeper.get("params") or {})} - {*COMPOSED_GROUPS}
    for override in hydra.overrides.task:
        key, _, value = override.partition("=")
        if key.lstrip("+") in keys:
            choices[key.lstrip("+")] = value
    return choices


def resolve_job_name(choices: Any, overrides: Any, sweeper: Any, varied: Any) -> str:
    swept = list(OmegaConf.select(sweeper, "params") or {})
    return job_name(dict(choices), list(overrides), swept + list(varied))


def format_config_error(error: BaseException) -> str:
    """What went wrong while composing, in one sentence that names the key, the value and the remedy."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value ({first_line(error).rstrip('.')}); "
            "quote a value with special characters, as in \"key='[a]'\""
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        extra = EXTRAS.get(option) if group.startswith("hydra/") else None
        hint = f"; pip install 'catsdogs[{extra}]' to add it;" if extra else did_you_mean(option, error.options)
        return f"{group}={option}: {unknown('option', hint, error.options)}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
            return unknown_setting(cause.full_key, map(str, cause.parent_node or {}), setting_keys(SearchConfig))
        return f"{cause.full_key}: {first_line(cause).rstrip('.')}"
    message = first_line(error).rstrip(".")
    if match := re.fullmatch(r"Could not delete from config\. '(.+)' does not exist", message):
        return f"~{unknown_setting(match[1], (), setting_keys(SearchConfig))}"
    for pattern, ours in _HYDRA_MESSAGES.items():
        if match := re.fullmatch(pattern, message):
            return match.expand(ours)
    return message


# What a command line or a configuration raises that cannot be composed, or is refused.
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, UserError)


def raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra itself refused something: for a few mistakes it raises a bare ValueError."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("hydra.")
