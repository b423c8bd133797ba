"""Validation of a composed configuration: types and ranges by the schema, then settings that depend on each other."""

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed, quoted
from catsdogs.config.locations import MODEL, typed_model
from catsdogs.config.schema import (
    ORACLE_ARGUMENTS,
    SEARCHABLE,
    BackboneConfig,
    HyperparameterConfig,
    RetrainConfig,
    SearchConfig,
    setting_keys,
)
from catsdogs.config.setting_names import did_you_mean, unknown, unknown_setting

Config = TypeVar("Config", bound=SearchConfig)

# Limit of the values of one dimension with a step, because grid search lists them all.
MOST_VALUES = 10_000


def validated(values: dict[str, Any], kind: type[Config]) -> Config:
    """Return a composed configuration as plain dataclasses, before any data is read, with the file of the weights.

    Raise a `UserError` if a key is unknown or missing, or a value has the wrong type or range or does not fit another.
    """
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(format_validation_error(error, values)) from error
    config.backbone.weights = weights_file(config.backbone)
    check(config)
    return config


def format_validation_error(error: ValidationError, values: Any, prefix: str = "") -> str:
    """Return `key=value: problem` for an error of a configuration, or of one of its settings, named by `prefix`."""
    errors = error.errors()
    # A misspelled key also leaves the right one missing, and is the cause.
    first = next((one for one in errors if one["type"] == "unexpected_keyword_argument"), errors[0])
    path, value = first["loc"], first["input"]
    key = prefix + ".".join(map(str, path))
    if first["type"] == "missing":
        if path[0] == "space" and len(path) > 1 and path[1] not in SEARCHABLE:
            return _unknown_hyperparameter(str(path[1]))
        return f"{key}: not set; add +{key}=VALUE, or set it in its file"
    if first["type"] == "unexpected_keyword_argument":
        for part in path[:-1]:
            values = values[part]
        siblings = {*map(str, values)} - {str(path[-1])}
        if path[0] == "space":
            siblings = {field.name for field in dataclasses.fields(HyperparameterConfig)}
        return unknown_setting(key, siblings, setting_keys(SearchConfig))
    shown = quoted(value) if isinstance(value, str) else "null" if value is None else str(value).lower()
    shown = f"{shown[:200]}..." if len(shown) > 200 else shown
    if first["type"] == "string_type" and isinstance(value, int | float):
        kind = "boolean" if isinstance(value, bool) else "number"
        return f"{key}={shown}: YAML read a {kind}; quote it in its file, as in '2024_01'"
    if first["type"] == "dataclass_type":
        return f"{key}={shown}: must be a group of settings; set each as {key}.KEY=VALUE"
    hint = did_you_mean(str(value), re.findall("'([^']*)'", first["msg"])) if first["type"] == "literal_error" else ""
    return f"{key}={shown}: {first['msg'].replace('Input should', 'must')}{hint}"


def weights_file(backbone: BackboneConfig) -> str | None:
    """Return `weights` or, if it is a folder, its final model or its file that is named after the network.

    File names start with the last part of `builder`, without regard to case and punctuation, as those that Keras
    downloads. Of several, those without top count, then those with `arguments.alpha` in their names. Raise a
    `UserError` unless one remains.
    """
    folder, network = backbone.weights, backbone.builder.rpartition(".")[2]
    if folder in (None, "imagenet") or not os.path.isdir(folder):
        return folder
    if (model := typed_model(folder) / MODEL).is_file():
        return str(model)
    # MobileNet is not mobilenet_v2, nor ResNet50 resnet50v2.
    pattern = "(weights_)?" + r"[\W_]*".join(re.sub(r"[\W_]", "", network)) + r"(?![\W_]*v\d|[^\W_])"
    files = sorted(file.name for file in Path(folder).glob("*.h5"))
    named = [file for file in files if re.match(pattern, file, re.IGNORECASE)]
    named = [file for file in named if re.search("no_?top", file)] or named
    if len(named) > 1 and "alpha" in backbone.arguments:
        alpha = re.sub(r"\A\d+\Z", r"\g<0>.0", str(backbone.arguments["alpha"]))
        pattern = rf"(?<!\d){re.escape(alpha)}(?!\d)".replace(r"\.", r"[\W_]")
        named = [file for file in named if re.search(pattern, file)] or named
    if len(named) == 1:
        return str(Path(folder, named[0]))
    shown = listed(named or files, 20) or "it has no .h5 file and no best/model.keras"
    problem = f"{'several' if named else 'no'} files named after {network} ({shown})"
    raise UserError(f"backbone.weights={folder}: {problem}; use the path of one file")


def _unknown_hyperparameter(name: str) -> str:
    return f"space.{name}: {unknown('hyperparameter', did_you_mean(name, SEARCHABLE), SEARCHABLE)}"


def check(config: SearchConfig) -> None:
    """Raise a `UserError` if values do not fit each other, or files are missing."""
    if not isinstance(config, RetrainConfig):
        for name, dimension in config.space.items():
            _check_dimension(name, dimension, config)
        _check_tuner(config)
    problems = [*_conflicts(config), *(_conflicts_of_retrain(config) if isinstance(config, RetrainConfig) else ())]
    if problems:
        raise UserError(problems[0])


def _conflicts(config: SearchConfig) -> Iterator[str]:
    if config.study in ("", ".", "..") or "/" in config.study or "\\" in config.study:
        problem = "must be a folder name, not a path; set the parent folder with studies_dir=FOLDER"
        yield f"study={config.study}: {problem}"
    try:
        os.path.abspath(os.path.join(config.studies_dir, config.study)).encode()
    except UnicodeEncodeError:  # TensorFlow cannot write there
        yield f"study={config.study}: its path is not UTF-8 text; set LC_ALL=C.UTF-8, or use another name or folder"
    weights = config.backbone.weights
    if weights not in (None, "imagenet") and not (weights.endswith((".h5", ".keras")) and os.path.isfile(weights)):
        problem = "not a .h5 or .keras file" if os.path.exists(weights) else "file not found"
        fix = "use imagenet, null, the path of a .weights.h5, .h5 or .keras file, or a study"
        yield f"backbone.weights={weights}: {problem}; {fix}"
    if config.data.validation is not None and config.split.folds > 1:
        problem = "not supported with data.validation; use split.folds=1, or data.validation=null"
        yield f"split.folds={config.split.folds}: {problem}"
    if config.data.train is None and config.data.sample is None:
        yield (
            "data.train=null: no training images; pass a zip or folder, as in python -m catsdogs.search "
            "data.train=train.zip, or use data=sample"
        )
    tta, kinds = config.tta, config.tta.kinds or []
    if tta.kind == "auto" and ("none" not in kinds or len(kinds) < 2 or len(set(kinds)) < len(kinds)):
        problem = "must be none and at least one other kind to compare with it, each once; use tta.kinds=[none,flip]"
        shown = "null" if config.tta.kinds is None else f"[{','.join(kinds)}]"
        yield f"tta.kinds={shown}: {problem}"
    if tta.uses_views and tta.views is None:
        yield f"tta.views=null: must be set with tta={tta.kind} and its kind views; set tta.views=10"
    if config.tuner.max_trials is None and config.tuner.oracle in ("random", "race", "bayesian"):
        yield f"tuner.max_trials=null: must be at least 1 with tuner.oracle={config.tuner.oracle}"


def _conflicts_of_retrain(config: RetrainConfig) -> Iterator[str]:
    kind, num_jobs, folds = config.ensemble.kind, config.ensemble.num_jobs, config.split.folds
    if kind in ("none", "trials") and num_jobs > 1:
        yield f"ensemble.num_jobs={num_jobs}: not supported with ensemble={kind}; use ensemble=jobs or ensemble=folds"
    if kind == "jobs" and num_jobs == 1:
        yield "ensemble.num_jobs=1: must be at least 2 with ensemble=jobs; raise it, or use ensemble=none"
    if kind == "folds" and folds == 1:
        yield "ensemble=folds: not supported for a job with split.folds=1; search with split.folds=5, or remove it"
    if kind == "folds" and config.fit_on == "all":
        yield "fit_on=all: not supported with ensemble=folds, whose models exclude one fold each; remove it"
    if num_jobs > 1 and config.trial is not None:
        problem = f"an ensemble of {num_jobs} jobs takes the best trial of each; remove trial"
        yield f"trial={config.trial}: not supported with ensemble.num_jobs={num_jobs}, because {problem}"


def _check_dimension(name: str, dimension: HyperparameterConfig, config: SearchConfig) -> None:
    """Check that a dimension of the space names a known setting, fits its type and stays within its range."""
    key = f"space.{name}"
    if name not in SEARCHABLE:
        raise UserError(_unknown_hyperparameter(name))
    group: Any = next(group for group in (config.model, config.schedule) if isinstance(group, SEARCHABLE[name]))
    kind = "int" if isinstance(getattr(group, name), int) else "float"
    if dimension.kind not in ("choice", kind):
        takes, values = ("integers", "integers") if kind == "int" else ("fractions", "numbers")
        raise UserError(f"{key}.kind={dimension.kind}: {name} takes {takes}; use kind {kind}, or choice with {values}")
    unused = ("low", "high", "step", "sampling") if dimension.kind == "choice" else ("values",)
    for part in unused:
        if (value := getattr(dimension, part)) is not None:
            fix = f"remove it (if a file sets it, with ~{key}.{part}), or set {key}.kind"
            fix += f"={kind if dimension.kind == 'choice' else 'choice'}"
            raise UserError(f"{key}.{part}={value}: not used by {key}.kind={dimension.kind}; {fix}")
    for end, value in _extreme_values(key, dimension):
        try:
            dataclasses.replace(group, **{name: value})
        except ValidationError as error:
            message = format_validation_error(error, None, "space.")
            raise UserError(message.replace(f"{key}=", f"{key}.{end}=", 1)) from error


def _extreme_values(key: str, dimension: HyperparameterConfig) -> list[tuple[str, Any]]:
    """Return the values of a choice, or low and high, each with its key, after checking the keys of the kind."""
    if dimension.kind == "choice":
        values = dimension.values
        if values is None:
            raise UserError(f"{key}.kind=choice: {key}.values is not set; add +{key}.values=[A,B]")
        for value in values:
            if not isinstance(value, bool) and values.count(value) > 1:
                raise UserError(f"{key}.values={values}: contains {value} twice; remove the repeated value")
        return [("values", value) for value in values]
    low, high, step = dimension.low, dimension.high, dimension.step
    if low is None or high is None:
        raise UserError(f"{key}.kind={dimension.kind}: needs {key}.low and {key}.high; set both")
    if dimension.kind == "int":
        for end, number in (("low", low), ("high", high), ("step", step)):
            if number is not None and not number.is_integer():
                raise UserError(f"{key}.{end}={number:g}: must be an integer with {key}.kind=int")
        low, high = int(low), int(high)
    if low >= high:
        raise UserError(f"{key}.low={low:g}: must be below {key}.high={high:g}")
    if dimension.sampling == "log" and low <= 0:
        raise UserError(f"{key}.low={low:g}: must be above 0 with {key}.sampling=log")
    if step is not None:
        _check_step(key, low, high, step, dimension.sampling == "log")
    return [("low", low), ("high", high)]


def _check_step(key: str, low: float, high: float, step: float, log: bool) -> None:
    """Check that a range has between two and MOST_VALUES values; with log sampling, a step is a factor."""
    if log and step <= 1:
        raise UserError(f"{key}.step={step:g}: must be above 1 with {key}.sampling=log, where it is a factor")
    steps = math.log(high / low, step) if log else (high - low) / step
    # Rounding may make the last step slightly too long.
    if steps < 1 - 1e-9:
        raise UserError(f"{key}.step={step:g}: larger than the range from {low:g} to {high:g}; use a smaller step")
    if steps > MOST_VALUES:
        values = f"more than {MOST_VALUES:,} values from low to high"
        raise UserError(f"{key}.step={step:g}: gives {values}; use a larger step, or remove it")


def _check_tuner(config: SearchConfig) -> None:
    oracle, arguments = config.tuner.oracle, config.tuner.arguments
    if oracle == "hyperband" and not config.space:
        raise UserError("tuner=hyperband: not supported with an empty space; use tuner=random")
    if oracle == "race" and config.fit.executions_per_trial > 1:
        key = f"fit.executions_per_trial={config.fit.executions_per_trial}"
        raise UserError(f"{key}: not supported with tuner=race; use 1, or tuner=random")
    kind = ORACLE_ARGUMENTS[oracle]
    known = [field.name for field in dataclasses.fields(kind)]
    for name, value in arguments.items():
        if name not in known:
            problem = unknown(f"argument of the {oracle} oracle", did_you_mean(name, known), known)
            raise UserError(f"tuner.arguments.{name}={value}: {problem if known else f'{problem}; remove it'}")
    try:
        TypeAdapter(kind).validate_python(arguments)
    except ValidationError as error:
        raise UserError(format_validation_error(error, arguments, "tuner.arguments.")) from error
