"""Composition of `conf/`, `sweeps/` and the command line by Hydra, names of job folders, and Hydra's errors.

Keras is not imported here: `--help` would take seconds.
"""

import hashlib
import os
import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.text import quote_words, quoted
from catsdogs.config.checks import validated
from catsdogs.config.schema import RetrainConfig, SearchConfig, setting_keys, setting_types
from catsdogs.config.setting_names import did_you_mean, unknown, unknown_setting

# Groups that name a job and are compared in the report.
COMPOSED_GROUPS = ("backbone", "augmentation", "schedule", "label_smoothing")
_GROUPS = (*COMPOSED_GROUPS, "data", "space", "tuner", "tta", "ensemble", "experiment", "sweeps")
# Launchers that need an optional dependency of catsdogs.
EXTRAS = {"joblib": "joblib", "ray": "ray"}

VERSION_BASE = "1.3"  # of Hydra's defaults
MAX_JOB_NAME = 120  # characters; file systems allow 255 bytes, and tools add prefixes

# Hydra's messages, and replacements that start with the override and contain a fix.
_HYDRA_MESSAGES = {
    r"Ambiguous value for argument '(.+)'": r"\1: several values need -m; or pass a list as key=[value1,value2]",
    r"Sweep parameters '(.+)' requires --multirun": r"\1: several values need -m",
    r"BasicSweeper does not support sweep type : .+": "interval(A,B): needs sweeps=optuna; or use choice(A,B)",
    r"Error in call to target '.+\.BasicSweeper':": "hydra.sweeper: has settings of another sweeper; add "
    "hydra/sweeper=catsdogs_optuna, or remove them",
    r"Could not override '(.+)'": r"\1: unknown setting; remove it from the command",
    r"Could not override '(.+)'\. No match in the defaults list": r"\1: not a group of this command; remove it",
    r"Could not append to config\. An item is already at '(.+)'": r"+\1: already set; remove the +",
    r"Multiple values for (.+)\. To override a value use .+": r"+\1: already chosen; remove the +",
    r"Config group override must be a string or a list\. Got NoneType": "null: not an option of a group; use its name",
    r"Could not delete '(.+)'\. No match in the defaults list": r"~\1: not chosen; remove it from the command",
}

# What to set in place of ??? in a file of conf/.
_MISSING = {
    "backbone.weights": "Keras has none to download for this backbone; use the path of a .weights.h5 or .h5 file, or "
    "null (the authors of EfficientNet-Lite0 publish its ImageNet weights in the repository tensorflow/tpu)"
}

# Names and paths -> whether null is one too, because it cannot mean none.
TEXT_KEYS = {
    **{key: type(None) not in kinds for key, kinds in setting_types(RetrainConfig) if {str, list[str]} & {*kinds}},
    **dict.fromkeys((*_GROUPS, "hydra.run.dir", "hydra.sweep.dir"), False),
    **dict.fromkeys([f"hydra.launcher.{key}" for key in ("partition", "account", "qos", "constraint", "name")], False),
}

SHARED_KEYS = ("study", "studies_dir", "cache")  # the same in all jobs of a study


def to_search_config(config: DictConfig) -> SearchConfig:
    """Return the composed configuration of a search as `validated`; a failed interpolation is a `UserError` too."""
    return validated(resolved(config), SearchConfig)


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain data, with interpolations resolved."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise UserError(format_config_error(error)) from error


def as_typed(override: str) -> str:
    """Return an override with quoted texts: Hydra would read `study=2024_01` as the number 202401."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if key.startswith("-"):
        return key + equals + os.path.expanduser(value)  # --config-dir=~/conf, which shells do not expand
    if value.startswith("{"):
        # The texts of a group, as in data={train: 2024_01}.
        for text in TEXT_KEYS:
            if text.startswith(f"{name}."):
                entry = rf"(\b{text.removeprefix(f'{name}.')}\s*:\s*)(\[[^]]*\]|[^,}}]*)"
                value = re.sub(entry, lambda match: match[1] + quote_words(match[2], numbers=True), value)
    else:
        value = quote_words(value, numbers=name in TEXT_KEYS, null=TEXT_KEYS.get(name, False))
    # Allow keys that the file of the group does not set, such as step; validation explains those without effect.
    groups = ("augmentation.", "space.", "tta.", "tuner.arguments.", "hydra.sweeper.sampler.", "hydra.sweeper.pruner.")
    return ("++" if key.startswith(groups) else "") + key + equals + value


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides as Hydra does; raise a `UserError` for values too deep or long for its parser."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except RecursionError as error:
        raise UserError(f"{max(overrides, key=len)}: too many nested lists or groups; remove some") from error
    except ValueError as error:
        if "digits" not in str(error):
            raise
        raise UserError(f"{max(overrides, key=len)}: too many digits; remove some") from error


def with_default_study(arguments: Sequence[str], overrides: Sequence[str], multirun: bool) -> list[str]:
    """Complete the command line `arguments` of `search`, which contains `overrides`.

    A bare `-m` runs `sweeps/default.yaml`, unless the command chooses a composed group, an experiment or a declared
    study. Swept keys outside the composed groups are added as `varied`: a job cannot distinguish them from constants.
    """
    parsed = parse_overrides(overrides)
    keys = {override.key_or_group for override in parsed}
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    if named := {*SHARED_KEYS} & set(swept) if multirun else None:
        raise UserError(f"{min(named)}: cannot be swept, because all jobs of a study share it; set one value")
    added = []
    if multirun and not swept and not keys & {"sweeps", "experiment", *COMPOSED_GROUPS}:
        added.append("sweeps=default")
    extra = sorted({key.lstrip("+~") for key in swept} - set(COMPOSED_GROUPS))
    if extra and "varied" not in keys:
        added.append(f"varied=[{','.join(extra)}]")
    return with_overrides(arguments, overrides, added)


def with_overrides(arguments: Sequence[str], overrides: Sequence[str], added: Sequence[str]) -> list[str]:
    """Insert overrides next to those of the command line: argparse requires positional arguments in one place."""
    index = list(arguments).index(overrides[-1]) + 1 if overrides else len(arguments)
    return [*arguments[:index], *added, *arguments[index:]]


def resume_command(arguments: Sequence[str], overrides: Sequence[str], study: str) -> str:
    """Return the shell command that resumes a study, from the command line that started it and its overrides."""
    named = any(override.partition("=")[0] == "study" for override in overrides)
    words = with_overrides(arguments, overrides, [] if named else [f"study={quoted(study)}"])
    return f"python -m catsdogs.search {shlex.join(words)}"


def job_name(choices: dict[str, str], overrides: Sequence[str], varied: Sequence[str]) -> str:
    """Return the folder name of a job: `mobilenet_v2-flip-cosine-none`, then the other varied keys with their values.

    It has at most 120 letters, digits, `.`, `_` and `-`. Shortened or cleaned names end in a digest of the original
    name, to stay distinct.
    """
    values = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    parts = [str(choices.get(group)) for group in COMPOSED_GROUPS]
    parts += [f"{key}-{values[key]}" for key in sorted(set(varied) - set(COMPOSED_GROUPS)) if key in values]
    name = "-".join(parts)
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    if cleaned == name and len(cleaned) <= MAX_JOB_NAME and not cleaned.startswith("."):
        return cleaned
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{cleaned[: MAX_JOB_NAME - 11].lstrip('.')}-{digest}"


def job_choices(hydra: Any, varied: Iterable[str] = ()) -> dict[str, str]:
    """Return the options of the composed groups of a job, and the values of keys that the sweeper or `varied` names."""
    choices = {group: str(hydra.runtime.choices[group]) for group in COMPOSED_GROUPS}
    keys = {*varied, *(hydra.sweeper.get("params") or {})} - {*COMPOSED_GROUPS}
    for override in hydra.overrides.task:
        key, _, value = override.partition("=")
        if key.lstrip("+") in keys:
            choices[key.lstrip("+")] = value
    return choices


def resolve_job_name(choices: Any, overrides: Any, sweeper: Any, varied: Any) -> str:
    """Return `job_name` from nodes of Hydra's configuration, for interpolations."""
    return job_name(dict(choices), list(overrides), [*(OmegaConf.select(sweeper, "params") or {}), *varied])


def with_value(message: str, overrides: Iterable[str]) -> str:
    """Insert the value of an override into a message that starts with its key: `fit.epochz=3: unknown setting`."""
    for override in overrides:
        override = override.removeprefix("++")
        key, equals, _ = override.partition("=")
        if equals and message.startswith(f"{key}: "):
            return override + message.removeprefix(key)
        if override.lower().endswith("=null") and message.startswith("null: "):
            return f"{key}={message}"
        if "interval(" in override and message.startswith("interval(A,B): "):
            return override + message.removeprefix("interval(A,B)")
    return message


def format_config_error(error: BaseException) -> str:
    """Return a one-line message with key, value and fix for an error of the composition."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        fix = "quote a value with special characters, as in \"key='[a]'\""
        return f"{error.override}: expected key=value; {fix} ({first_line(error).rstrip('.')})"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        extra = EXTRAS.get(option) if group.startswith("hydra/") else None
        hint = f"; pip install 'catsdogs[{extra}]' to add it;" if extra else did_you_mean(option, error.options)
        return f"{group}={option}: {unknown('option', hint, error.options)}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
            return unknown_setting(cause.full_key, map(str, cause.parent_node or {}), setting_keys(SearchConfig))
        if isinstance(cause, MissingMandatoryValue):
            fix = _MISSING.get(cause.full_key, f"set {cause.full_key}=VALUE")
            return f"{cause.full_key}: not set; {fix}"
        return f"{cause.full_key}: {first_line(cause).rstrip('.')}"
    message = first_line(error).rstrip(".")
    if match := re.fullmatch(r"Could not delete from config\. '(.+)' does not exist", message):
        message = unknown_setting(match[1], (), setting_keys(SearchConfig))
        return f"~{message}" if "did you mean" in message else f"~{match[1]}: not set; remove it from the command"
    for pattern, replacement in _HYDRA_MESSAGES.items():
        if match := re.fullmatch(pattern, message):
            return match.expand(replacement)
    return message


# Errors of a command line or configuration that is invalid.
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, UserError)


def raised_by_hydra(error: BaseException) -> bool:
    """Return whether Hydra, or a decoder that it called, raised the error: some invalid options raise a ValueError."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-2:]
    return any(str(frame.f_globals.get("__name__")).startswith("hydra.") for frame in frames)
