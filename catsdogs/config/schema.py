"""The dataclass of every configuration group, with the range of every value.

The dataclasses own names, types and ranges; defaults live in `conf/` and nowhere else. Stages take these plain
dataclasses and never see Hydra or OmegaConf.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from catsdogs.base.errors import UserError
from catsdogs.base.text import quoted
from catsdogs.config.setting_names import did_you_mean, unknown, unknown_setting

# Numbers in YAML where a text belongs, as in `study: 2024`, are the text.
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


def _absolute(path: str) -> str:
    """So that neither a job's own directory nor a later command in another one changes what it means."""
    return path if path.strip() in ("", "imagenet") else str(Path(path).expanduser().absolute())


Location = Annotated[str, AfterValidator(_absolute)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Count = Annotated[StrictInt, Field(ge=1, le=100_000)]
Proportion = Annotated[StrictFloat, Field(ge=0, le=1)]
Share = Annotated[StrictFloat, Field(ge=0, lt=1)]


@dataclass(config=_CONFIG)
class SampleConfig:
    """Archives that are drawn instead of given."""

    images_per_class: Annotated[StrictInt, Field(ge=8, le=100_000)]
    test_images: Count
    seed: Seed


@dataclass(config=_CONFIG)
class DataConfig:
    """Which images, and how they are divided."""

    train: Location | None  # zip or folder
    test: Location | None  # zip or folder; null: no submission
    sample: SampleConfig | None  # drawn archives, used where train is null
    limit: Annotated[StrictInt, Field(ge=4)] | None  # a stratified subset of this many training images
    ignore: list[str]  # ids to leave out of training
    validation_fraction: Annotated[StrictFloat, Field(gt=0, lt=1)]
    split_seed: Seed  # apart from `seed`, so that jobs with other seeds can be compared
    max_unpacked_gib: Annotated[StrictFloat, Field(gt=0, le=100_000)]


@dataclass(config=_CONFIG)
class SplitConfig:
    """How the labelled images in use are divided."""

    holdout_fraction: Share  # share of the distinct images that no search sees
    # 1: training and validation by data.validation_fraction; more: cross-validation
    folds: Annotated[StrictInt, Field(ge=1, le=100)]
    group_by: Literal["near_duplicates", "copies"]  # what never stands on two sides


@dataclass(config=_CONFIG)
class BackboneConfig:
    """A network without its top, and the range of pixels it expects."""

    builder: str  # dotted name of a function like those in keras.applications
    arguments: dict[str, Any]  # further arguments of the builder, alpha for example
    weights: Location | None  # imagenet | path of a .weights.h5 or .h5 file | null (random)
    image_size: Annotated[StrictInt, Field(ge=16, le=1024)]
    preprocessing: Literal["none", "minus_one_to_one", "bgr_minus_mean", "imagenet_standardized"]
    train_batch_norm: StrictBool


@dataclass(config=_CONFIG)
class AugmentationConfig:
    """Ranges of the random changes of a view; every change is drawn uniformly and independently."""

    flip_probability: Proportion  # horizontal
    rotation_degrees: Annotated[StrictFloat, Field(ge=0, le=180)]  # angle in [-x, x]
    shift_fraction: Annotated[StrictFloat, Field(ge=0, le=0.5)]  # of the side, each axis in [-x, x]
    zoom_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)]  # scale in [1 - x, 1 + x]
    shear_degrees: Annotated[StrictFloat, Field(ge=0, le=45)]  # horizontal shear angle in [-x, x]
    brightness_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)]  # factor in [1 - x, 1 + x]
    contrast_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)]  # factor about mid-grey in [1 - x, 1 + x]
    saturation_fraction: Proportion  # factor in [1 - x, 1 + x]
    border: Literal["reflect", "replicate", "black"]  # what shows where the image does not reach


@dataclass(config=_CONFIG)
class ScheduleConfig:
    """Learning rate over the optimizer steps of a training."""

    kind: Literal["constant", "cosine", "exponential"]
    peak_lr: Annotated[StrictFloat, Field(gt=0, le=10)]
    warmup_fraction: Share  # of all steps, linear from 0
    final_fraction: Proportion  # of peak_lr, reached at the last step; ignored by constant


@dataclass(config=_CONFIG)
class LabelSmoothingConfig:
    epsilon: Share  # share of the target that is moved to 0.5


@dataclass(config=_CONFIG)
class ModelConfig:
    """The classifier on top of the backbone; a value searched in `space` takes the place of the one here."""

    unfreeze_depth: Annotated[StrictInt, Field(ge=0, le=10_000)]
    dense_units: Annotated[StrictInt, Field(ge=0, le=65_536)]  # 0: no hidden layer
    head_batch_norm: StrictBool
    head_batch_norm_momentum: Share  # share of the old mean kept at every step
    dropout: Share
    l2: Annotated[StrictFloat, Field(ge=0, le=10)]
    l2_scope: Literal["head", "head_and_backbone"]  # backbone: the kernels that are trained


@dataclass(config=_CONFIG)
class HyperparameterConfig:
    """One dimension of the space that Keras Tuner searches."""

    kind: Literal["choice", "int", "float"]
    values: Annotated[list[Any], Field(min_length=1)] | None = None  # choice
    low: StrictFloat | None = None  # int, float
    high: StrictFloat | None = None
    step: Annotated[StrictFloat, Field(gt=0)] | None = None
    sampling: Literal["linear", "log"] | None = None


@dataclass(config=_CONFIG)
class TunerConfig:
    """The oracle that proposes trials."""

    oracle: Literal["random", "bayesian", "hyperband", "grid"]
    max_trials: Count | None  # null: all that grid or hyperband propose
    arguments: dict[str, Any]  # further arguments of Keras Tuner's oracle


@dataclass(config=_CONFIG)
class FitConfig:
    """How one trial is trained."""

    epochs: Count
    batch_size: Annotated[StrictInt, Field(ge=1, le=65_536)]
    # epochs without a better val_log_loss before training stops
    patience: Annotated[StrictInt, Field(ge=0, le=100_000)]
    executions_per_trial: Annotated[StrictInt, Field(ge=1, le=1_000)]
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]  # of what is trained; weights stay float32


@dataclass(config=_CONFIG)
class FeaturesConfig:
    """Activations of the frozen part of the backbone, computed once."""

    mode: Literal["auto", "stored", "live"]  # auto: stored where there is room, else computed for every batch
    views: Count | None  # distinct training views; epoch e reads view e mod views
    dtype: Literal["float32", "float16"]  # of stored activations; float16 is standardised per channel
    engine: Literal["auto", "openvino", "tensorflow", "keras"]  # that runs the frozen part
    # of all stored activations; least recently used go first
    max_gib: Annotated[StrictFloat, Field(ge=0, le=1_000_000)]


# Distinct training views where `features.views` is null and there are more epochs.
MOST_VIEWS = 10


@dataclass(config=_CONFIG)
class TtaConfig:
    """Test-time augmentation: what is averaged into the final probability."""

    kind: Literal["none", "flip", "crops", "views", "auto"]  # auto: chosen on data that the model has not seen
    views: Annotated[StrictInt, Field(ge=1, le=1_000)]  # of kind views: seeded views by the job's augmentation
    average: Literal["probability", "logit"]  # what of the views is averaged


@dataclass(config=_CONFIG)
class SelectConfig:
    """How the winner of a job is named after its search."""

    # trials that are trained again with fresh seeds; 1: the best of the search wins
    top_k: Annotated[StrictInt, Field(ge=1, le=1_000)]
    repeats: Annotated[StrictInt, Field(ge=1, le=1_000)]  # for each of them; their mean decides


@dataclass(config=_CONFIG)
class TimeoutConfig:
    """When a run of a study is given up."""

    study_seconds: Annotated[StrictFloat, Field(gt=0)] | None  # from the start of the command


@dataclass(config=_CONFIG)
class EnsembleConfig:
    """The models that are combined into the final one."""

    kind: Literal["none", "folds", "jobs"]
    num_jobs: Annotated[StrictInt, Field(ge=1, le=100)]  # how many jobs


@dataclass(config=_CONFIG)
class SearchConfig:
    """Everything that decides one job."""

    study: str
    studies_dir: str  # the folder of all studies
    cache: Location  # unpacked archives, catalogues, pixels, activations
    seed: Seed
    data: DataConfig
    split: SplitConfig
    backbone: BackboneConfig
    augmentation: AugmentationConfig
    schedule: ScheduleConfig
    label_smoothing: LabelSmoothingConfig
    model: ModelConfig
    space: dict[str, HyperparameterConfig]
    tuner: TunerConfig
    fit: FitConfig
    features: FeaturesConfig
    tta: TtaConfig
    select: SelectConfig
    timeout: TimeoutConfig
    varied: list[str]  # keys that the study varies beside the composed groups; they name the job folders


@dataclass(config=_CONFIG)
class RetrainConfig(SearchConfig):
    """The configuration of a finished job, and what to do with it."""

    job: str | None  # null: the best job of the study
    trial: str | None  # null: the best trial of the job
    fit_on: Literal["train", "all"]
    ensemble: EnsembleConfig
    calibrate: StrictBool  # only where it helps images that it was not fitted on
    evaluate_with: Literal["search", "folds"]  # what tells how good a model is that has seen every image


# The fields that a space entry may search, each with the group that owns it.
SEARCHABLE: dict[str, type] = {
    "unfreeze_depth": ModelConfig,
    "dense_units": ModelConfig,
    "dropout": ModelConfig,
    "l2": ModelConfig,
    "peak_lr": ScheduleConfig,
    "warmup_fraction": ScheduleConfig,
    "final_fraction": ScheduleConfig,
}

Config = TypeVar("Config", bound=SearchConfig)


def validated(values: dict[str, Any], kind: type[Config]) -> Config:
    """A composed configuration as plain dataclasses, before any data is read.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type, is out of range, or does not fit others;
            names the key, the value and what is allowed.
    """
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError(_sentence(error, values)) from error
    check(config)
    return config


def _sentence(error: ValidationError, values: Any, prefix: str = "") -> str:
    first = error.errors()[0]
    place, value = first["loc"], first["input"]
    key = prefix + ".".join(map(str, place))
    if first["type"] == "missing" and place[0] == "space" and place[1] not in SEARCHABLE:
        return _unknown_hyperparameter(str(place[1]))
    if first["type"] == "missing":
        return f"{key} is not set; give it a value in its file, or +{key}=VALUE"
    if first["type"] == "unexpected_keyword_argument":
        for part in place[:-1]:
            values = values[part]
        return unknown_setting(key, {*map(str, values)} - {str(place[-1])}, setting_keys(SearchConfig))
    shown = quoted(value) if isinstance(value, str) else "null" if value is None else str(value).lower()
    if first["type"] == "dataclass_type":
        return f"{key}={shown}: must be a group of settings; set each as {key}.KEY=VALUE"
    hint = did_you_mean(str(value), re.findall("'([^']*)'", first["msg"])) if first["type"] == "literal_error" else ""
    return f"{key}={shown}: {first['msg'].replace('Input should', 'must')}{hint}"


def _unknown_hyperparameter(name: str) -> str:
    return f"space.{name}: {unknown('hyperparameter', did_you_mean(name, SEARCHABLE), SEARCHABLE)}"


def setting_keys(group: type, *, only_texts: bool = False, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a configuration or a group of it.

    Args:
        only_texts: skip keys whose value is neither a text nor a list of texts.
        prefix: of every key, with its dot.
    """
    for name, kind in get_type_hints(group).items():
        parts = (kind, *(() if get_origin(kind) is dict else get_args(kind)))
        if not only_texts or str in parts or list[str] in parts:
            yield prefix + name
        for part in parts:
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from setting_keys(part, only_texts=only_texts, prefix=f"{prefix}{name}.")


def check(config: SearchConfig) -> None:
    """Refuse pairs of values that do not fit, and files that are not there.

    Raises:
        UserError: names the key, the value and what is allowed.
    """
    for name, entry in config.space.items():
        _check_hyperparameter(name, entry, config)
    if config.study in ("", ".", "..") or "/" in config.study or "\\" in config.study:
        raise UserError(
            f"study={config.study}: must be the name of one folder; where it lies is told by studies_dir=FOLDER"
        )
    for name, value in config.tuner.arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"tuner.arguments.{name}={value}: must be finite")
    weights = config.backbone.weights
    if weights not in (None, "imagenet") and not (Path(weights).is_file() and weights.endswith(".h5")):
        raise UserError(
            f"backbone.weights={weights}: there is no such .h5 file; give imagenet, a .weights.h5 or .h5 file, or null"
        )
    if config.data.train is None and config.data.sample is None:
        raise UserError(
            "data.train=null: no training images are given; pass data.train=PATH of a zip or folder of labelled "
            "images, or data=sample for drawn ones"
        )
    if config.tuner.max_trials is None and config.tuner.oracle in ("random", "bayesian"):
        raise UserError(f"tuner.max_trials=null: the {config.tuner.oracle} oracle needs a number of trials, 1 or more")
    if isinstance(config, RetrainConfig):
        _check_retrain(config)


def _check_retrain(config: RetrainConfig) -> None:
    kind, num_jobs, folds = config.ensemble.kind, config.ensemble.num_jobs, config.split.folds
    if kind == "none" and num_jobs > 1:
        raise UserError(
            f"ensemble.num_jobs={num_jobs}: not supported with ensemble=none; use ensemble=jobs or ensemble=folds"
        )
    if kind == "jobs" and num_jobs == 1:
        raise UserError("ensemble.num_jobs=1: must be at least 2 with ensemble=jobs; raise it, or use ensemble=none")
    if kind == "folds" and folds == 1:
        raise UserError(
            "ensemble=folds: the job was searched with split.folds=1; search with split.folds=5, or take ensemble=none"
        )
    if kind == "folds" and config.fit_on == "all":
        raise UserError("fit_on=all: with ensemble=folds every model leaves its fold out; leave fit_on out")
    if num_jobs > 1 and config.trial is not None:
        raise UserError(
            f"trial={config.trial}: not supported with ensemble={kind} and ensemble.num_jobs={num_jobs}, which "
            "take the best trial of every job; remove trial"
        )
    if config.evaluate_with == "folds" and (kind == "folds" or folds == 1):
        why = "split.folds=1 leaves none to train" if folds == 1 else "with ensemble=folds they are the model itself"
        raise UserError(f"evaluate_with=folds: {why}; remove evaluate_with")
    unseen = kind == "folds" or config.evaluate_with == "folds" or (config.fit_on == "train" and folds == 1)
    if config.tta.kind == "auto" and not unseen:
        why = "fit_on=all" if config.fit_on == "all" else f"training on every fold of split.folds={folds}"
        remedy = "leave fit_on out" if folds == 1 else "take evaluate_with=folds"
        raise UserError(
            f"tta=auto: {why} leaves no image outside the hold-out unseen to choose on; give tta=none, flip, crops or "
            f"views, or {remedy}"
        )


def _check_hyperparameter(name: str, entry: HyperparameterConfig, config: SearchConfig) -> None:
    """A space entry must name a known field, have the keys of its kind, and stay within the field's range."""
    key = f"space.{name}"
    if name not in SEARCHABLE:
        raise UserError(_unknown_hyperparameter(name))
    group: Any = next(group for group in (config.model, config.schedule) if isinstance(group, SEARCHABLE[name]))
    if entry.kind == "choice":
        if entry.values is None:
            raise UserError(f"{key}: kind choice needs values")
        points = entry.values
    else:
        if entry.low is None or entry.high is None:
            raise UserError(f"{key}: kind {entry.kind} needs low and high")
        if entry.low >= entry.high:
            raise UserError(f"{key}.low={entry.low:g}: must be below {key}.high={entry.high:g}")
        if entry.sampling == "log" and entry.low <= 0:
            raise UserError(f"{key}.low={entry.low:g}: log sampling needs a low above 0")
        if entry.sampling == "log" and entry.step is not None and entry.step <= 1:
            raise UserError(f"{key}.step={entry.step:g}: with log sampling the step is a factor and must be above 1")
        points = [entry.low, entry.high]
    if entry.kind == "float" and isinstance(getattr(group, name), int):
        raise UserError(f"{key}: {name} takes whole numbers, so use kind int or choice with whole numbers")
    for point in points:
        whole = entry.kind == "int" and float(point).is_integer()
        try:
            dataclasses.replace(group, **{name: int(point) if whole else point})
        except ValidationError as error:
            raise UserError(_sentence(error, None, "space.")) from error
