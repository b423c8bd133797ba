"""The dataclass of every configuration group, with the range of every value.

The dataclasses own names, types and ranges; defaults live in `conf/` and nowhere else. Stages take these plain
dataclasses and never see Hydra or OmegaConf.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from catsdogs.errors import UserError


def _within(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Any:
    """A field whose number lies between low and high; None passes where the type allows it."""
    return field(default=MISSING, metadata={"low": low, "high": high, "open_low": open_low, "open_high": open_high})


def _one_of(*options: str) -> Any:
    """A field whose text is one of the options."""
    return field(default=MISSING, metadata={"options": options})


@dataclass
class Sample:
    """Archives that are drawn instead of given."""

    images_per_class: int = _within(8, 100_000)
    test_images: int = _within(1, 100_000)
    seed: int = _within(0, 2**31 - 1)


@dataclass
class Data:
    """Which images, and how they are divided."""

    train: str | None = MISSING  # zip or folder
    test: str | None = MISSING  # zip or folder; null: no submission
    sample: Sample | None = MISSING  # drawn archives, used where train is null
    limit: int | None = _within(4, math.inf)  # a stratified subset of this many training images
    ignore: list[str] = MISSING  # ids to leave out of training
    validation_fraction: float = _within(0, 1, open_low=True, open_high=True)
    split_seed: int = _within(0, 2**31 - 1)  # apart from `seed`, so that jobs with other seeds can be compared
    max_unpacked_gib: float = _within(0, 100_000, open_low=True)


@dataclass
class Split:
    """How the labelled images in use are divided."""

    holdout: float = _within(0, 1, open_high=True)  # share of the distinct images that no search sees
    folds: int = _within(1, 100)  # 1: training and validation by data.validation_fraction; more: cross-validation
    together: str = _one_of("near_duplicates", "copies")  # what never stands on two sides


@dataclass
class Backbone:
    """A network without its top, and the range of pixels it expects."""

    builder: str = MISSING  # dotted name of a function like those in keras.applications
    arguments: dict[str, Any] = MISSING  # further arguments of the builder, alpha for example
    weights: str | None = MISSING  # imagenet | path of a .weights.h5 or .h5 file | null (random)
    image_size: int = _within(16, 1024)
    preprocessing: str = _one_of("none", "minus_one_to_one", "bgr_minus_mean", "imagenet_standardised")
    train_batch_norm: bool = MISSING


@dataclass
class Augmentation:
    """Ranges of the random changes of a view; every change is drawn uniformly and independently."""

    flip_probability: float = _within(0, 1)  # horizontal
    rotation_degrees: float = _within(0, 180)  # angle in [-x, x]
    shift_fraction: float = _within(0, 0.5)  # of the side, each axis in [-x, x]
    zoom_fraction: float = _within(0, 0.9)  # scale in [1 - x, 1 + x]
    shear_degrees: float = _within(0, 45)  # horizontal shear angle in [-x, x]
    brightness_fraction: float = _within(0, 0.9)  # factor in [1 - x, 1 + x]
    contrast_fraction: float = _within(0, 0.9)  # factor about mid-grey in [1 - x, 1 + x]
    saturation_fraction: float = _within(0, 1)  # factor in [1 - x, 1 + x]
    border: str = _one_of("reflect", "replicate", "black")  # what shows where the image does not reach


@dataclass
class Schedule:
    """Learning rate over the optimizer steps of a training."""

    kind: str = _one_of("constant", "cosine", "exponential")
    peak_lr: float = _within(0, 10, open_low=True)
    warmup_fraction: float = _within(0, 1, open_high=True)  # of all steps, linear from 0
    final_fraction: float = _within(0, 1)  # of peak_lr, reached at the last step; ignored by constant


@dataclass
class LabelSmoothing:
    epsilon: float = _within(0, 1, open_high=True)  # share of the target that is moved to 0.5


@dataclass
class Model:
    """The classifier on top of the backbone; a value searched in `space` takes the place of the one here."""

    unfreeze_depth: int = _within(0, 10_000)
    dense_units: int = _within(0, 65_536)  # 0: no hidden layer
    head_batch_norm: bool = MISSING
    head_batch_norm_momentum: float = _within(0, 1, open_high=True)  # share of the old mean kept at every step
    dropout: float = _within(0, 1, open_high=True)
    l2: float = _within(0, 10)
    l2_covers: str = _one_of("head", "head_and_backbone")  # backbone: the kernels that are trained


@dataclass
class Hyperparameter:
    """One dimension of the space that Keras Tuner searches."""

    kind: str = _one_of("choice", "int", "float")
    values: list[Any] | None = None  # choice
    low: float | None = None  # int, float
    high: float | None = None
    step: float | None = None
    sampling: str | None = field(default=None, metadata={"options": ("linear", "log")})


@dataclass
class Tuner:
    """The oracle that proposes trials."""

    oracle: str = _one_of("random", "bayesian", "hyperband", "grid")
    max_trials: int | None = _within(1, 100_000)  # null: all that grid or hyperband propose
    arguments: dict[str, Any] = MISSING  # further arguments of Keras Tuner's oracle


@dataclass
class Fit:
    """How one trial is trained."""

    epochs: int = _within(1, 100_000)
    batch_size: int = _within(1, 65_536)
    patience: int = _within(0, 100_000)  # epochs without a better val_log_loss before training stops
    executions_per_trial: int = _within(1, 1_000)
    precision: str = _one_of("float32", "mixed_bfloat16", "mixed_float16")  # of what is trained; weights stay float32
    max_parameters: int | None = _within(1, math.inf)  # a trial whose whole model has more is recorded as failed


@dataclass
class Features:
    """Activations of the frozen part of the backbone, computed once."""

    mode: str = _one_of("auto", "stored", "live")  # auto: stored where there is room, else computed for every batch
    views: int | None = _within(1, 100_000)  # distinct training views; epoch e reads view e mod views
    dtype: str = _one_of("float32", "float16")  # of stored activations; float16 is standardised per channel
    engine: str = _one_of("auto", "openvino", "tensorflow", "keras")  # that runs the frozen part
    max_gib: float = _within(0, 1_000_000)  # of all stored activations; least recently used go first


# Distinct training views where `features.views` is null and there are more epochs.
MOST_VIEWS = 10


@dataclass
class Tta:
    """Test-time augmentation: what is averaged into the final probability."""

    kind: str = _one_of("none", "flip", "crops", "views", "auto")  # auto: chosen on data that the model has not seen
    views: int = _within(1, 1_000)  # of kind views: seeded views by the job's augmentation
    average: str = _one_of("probability", "logit")  # what of the views is averaged


@dataclass
class Select:
    """How the winner of a job is named after its search."""

    top: int = _within(1, 1_000)  # trials that are trained again with fresh seeds; 1: the best of the search wins
    seeds: int = _within(1, 1_000)  # for each of them; their mean decides


@dataclass
class Timeout:
    """When a trial, or a run of a study, is given up."""

    trial_seconds: float | None = _within(0, math.inf, open_low=True)  # a trial that takes longer is a failed one
    study_seconds: float | None = _within(0, math.inf, open_low=True)  # from the start of the command


@dataclass
class Resume:
    """What the same command does with what is in the study already."""

    failed: str = _one_of("retry", "skip")  # with jobs that failed before


@dataclass
class Ensemble:
    """The models that are combined into the final one."""

    kind: str = _one_of("none", "folds", "jobs")
    size: int = _within(1, 100)  # how many jobs


@dataclass
class SearchConfig:
    """Everything that decides one job."""

    study: str = MISSING
    studies: str = MISSING  # the folder of all studies
    cache: str = MISSING  # unpacked archives, catalogues, pixels, activations
    seed: int = _within(0, 2**31 - 1)
    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    backbone: Backbone = field(default_factory=Backbone)
    augmentation: Augmentation = field(default_factory=Augmentation)
    schedule: Schedule = field(default_factory=Schedule)
    label_smoothing: LabelSmoothing = field(default_factory=LabelSmoothing)
    model: Model = field(default_factory=Model)
    space: dict[str, Hyperparameter] = field(default_factory=dict)
    tuner: Tuner = field(default_factory=Tuner)
    fit: Fit = field(default_factory=Fit)
    features: Features = field(default_factory=Features)
    tta: Tta = field(default_factory=Tta)
    select: Select = field(default_factory=Select)
    timeout: Timeout = field(default_factory=Timeout)
    resume: Resume = field(default_factory=Resume)
    varied: list[str] = MISSING  # keys that the study varies beside the composed groups; they name the job folders


@dataclass
class RetrainConfig(SearchConfig):
    """The configuration of a finished job, and what to do with it."""

    job: str | None = MISSING  # null: the best job of the study
    trial: str | None = MISSING  # null: the best trial of the job
    fit_on: str = _one_of("train", "all")
    ensemble: Ensemble = field(default_factory=Ensemble)
    calibrate: bool = MISSING  # only where it helps images that it was not fitted on
    judged_by: str = _one_of("search", "folds")  # what tells how good a model is that has seen every image


# The fields that a space entry may search, each with the group that owns it.
SEARCHABLE: dict[str, type] = {
    "unfreeze_depth": Model,
    "dense_units": Model,
    "dropout": Model,
    "l2": Model,
    "peak_lr": Schedule,
    "warmup_fraction": Schedule,
    "final_fraction": Schedule,
}


def check(config: SearchConfig) -> None:
    """Refuse values out of range and pairs that do not fit, before any data is read.

    Raises:
        UserError: names the key, the value and what is allowed.
    """
    for key, value, metadata in _leaves(config, ""):
        _check_value(key, value, metadata)
    for name, entry in config.space.items():
        _check_hyperparameter(name, entry)
    if config.study in ("", ".", "..") or "/" in config.study or "\\" in config.study:
        raise UserError(
            f"study={config.study}: must be the name of one folder; where it lies is told by studies=FOLDER"
        )
    for name, value in config.tuner.arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"tuner.arguments.{name}={value}: must be finite")
    weights = config.backbone.weights
    if weights not in (None, "imagenet") and not Path(str(weights)).is_file():
        raise UserError(
            f"backbone.weights={weights}: there is no such file; give imagenet, a .weights.h5 or .h5 file, or null"
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
    kind, size, folds = config.ensemble.kind, config.ensemble.size, config.split.folds
    if kind == "none" and size > 1:
        raise UserError(f"ensemble.size={size}: ensemble=none is one model; take ensemble=jobs or ensemble=folds")
    if kind == "jobs" and size == 1:
        raise UserError("ensemble.size=1: ensemble=jobs combines several jobs; give 2 or more, or take ensemble=none")
    if kind == "folds" and folds == 1:
        raise UserError(
            "ensemble=folds: the job was searched with split.folds=1; search with split.folds=5, or take ensemble=none"
        )
    if kind == "folds" and config.fit_on == "all":
        raise UserError("fit_on=all: with ensemble=folds every model leaves its fold out; leave fit_on out")
    if size > 1 and config.trial is not None:
        raise UserError(
            f"trial={config.trial}: ensemble={kind} with ensemble.size={size} takes the best trial of every job; leave "
            "trial out"
        )
    if config.judged_by == "folds" and (kind == "folds" or folds == 1):
        why = "split.folds=1 leaves none to train" if folds == 1 else "with ensemble=folds they are the model itself"
        raise UserError(f"judged_by=folds: {why}; leave judged_by out")
    unseen = kind == "folds" or config.judged_by == "folds" or (config.fit_on == "train" and folds == 1)
    if config.tta.kind == "auto" and not unseen:
        why = "fit_on=all" if config.fit_on == "all" else f"training on every fold of split.folds={folds}"
        remedy = "leave fit_on out" if folds == 1 else "take judged_by=folds"
        raise UserError(
            f"tta=auto: {why} leaves no image outside the hold-out unseen to choose on; give tta=none, flip, crops or "
            f"views, or {remedy}"
        )


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Every field of a tree of dataclasses as (key, value, metadata)."""
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        key = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{key}.")
        elif isinstance(value, dict) and all(dataclasses.is_dataclass(entry) for entry in value.values()):
            for name, entry in value.items():
                yield from _leaves(entry, f"{key}.{name}.")
        else:
            yield key, value, item.metadata


def _check_value(key: str, value: Any, metadata: Any) -> None:
    if value == MISSING:
        raise UserError(f"{key} is not set; pass {key}=VALUE")
    if value is None:
        return
    if "options" in metadata and value not in metadata["options"]:
        raise UserError(f"{key}={value}: must be one of {', '.join(metadata['options'])}")
    if "low" in metadata:
        low, high = metadata["low"], metadata["high"]
        above = value > low if metadata["open_low"] else value >= low
        below = value < high if metadata["open_high"] else value <= high
        if not (above and below):
            raise UserError(f"{key}={value}: must lie in {_interval(metadata)}")


def _interval(metadata: Any) -> str:
    low, high = metadata["low"], metadata["high"]
    left = "(" if metadata["open_low"] or low == -math.inf else "["
    right = ")" if metadata["open_high"] or high == math.inf else "]"
    return f"{left}{low:g}, {high:g}{right}"


def _check_hyperparameter(name: str, entry: Hyperparameter) -> None:
    """A space entry must name a known field, have the keys of its kind, and stay within the field's range."""
    key = f"space.{name}"
    if name not in SEARCHABLE:
        raise UserError(f"{key}: no such hyperparameter; known are {', '.join(SEARCHABLE)}")
    target = next(item for item in dataclasses.fields(SEARCHABLE[name]) if item.name == name)
    if entry.kind == "choice":
        if not entry.values:
            raise UserError(f"{key}.values={entry.values}: a choice needs a list of at least one value")
        points = entry.values
    else:
        if entry.low is None or entry.high is None:
            raise UserError(f"{key}: kind {entry.kind} needs low and high")
        if entry.low >= entry.high:
            raise UserError(f"{key}.low={entry.low:g}: must be below {key}.high={entry.high:g}")
        if entry.step is not None and entry.step <= 0:
            raise UserError(f"{key}.step={entry.step:g}: must be above 0")
        if entry.sampling == "log" and entry.low <= 0:
            raise UserError(f"{key}.low={entry.low:g}: log sampling needs a low above 0")
        if entry.sampling == "log" and entry.step is not None and entry.step <= 1:
            raise UserError(f"{key}.step={entry.step:g}: with log sampling the step is a factor and must be above 1")
        points = [entry.low, entry.high]
    integer = target.type == "int" or target.type is int
    for point in points:
        if isinstance(point, bool) or not isinstance(point, (int, float)):
            raise UserError(f"{key}: {point!r} is not a number")
        if integer and (entry.kind == "float" or float(point) != int(point)):
            raise UserError(f"{key}: {name} takes whole numbers, so use kind int or choice with whole numbers")
        _check_value(key, point, target.metadata)
