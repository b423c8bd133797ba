"""Dataclasses of all configuration groups, with the type and range of every setting.

Defaults are in `conf/` only, meanings in `descriptions.yaml`. Other packages take these plain dataclasses and never see
Hydra or OmegaConf.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, WrapValidator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from catsdogs.config.locations import expanded

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

# A setting `auto`, until `data.fitting` knows the images.
AUTO = 0


def _absolute(path: str) -> str:
    """Make a path independent of the working directory of later commands."""
    return path if path.strip() in ("", "imagenet") else str(Path(expanded(path)).absolute())


def _number_or_auto(value: Any, check: Callable[[Any], Any]) -> Any:
    return AUTO if value == "auto" else check(value)


def _threshold(value: Any) -> Any:
    if value in (None, "auto") or (isinstance(value, float) and 0 < value < 1):
        return value
    raise PydanticCustomError("threshold", "must be null, auto, or a number between 0 and 1")


Location = Annotated[str, AfterValidator(_absolute)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Count = Annotated[StrictInt, Field(ge=1, le=100_000)]
Proportion = Annotated[StrictFloat, Field(ge=0, le=1)]
Share = Annotated[StrictFloat, Field(ge=0, lt=1)]
Fitted = WrapValidator(_number_or_auto)
Resize = Literal["squeeze", "pad", "crop"]


@dataclass(config=_CONFIG)
class SampleConfig:
    """Synthetic archives."""

    images_per_class: Annotated[StrictInt, Field(ge=8, le=100_000)]
    test_images: Count
    seed: Seed
    classes: Annotated[StrictInt, Field(ge=2, le=1000)]


@dataclass(config=_CONFIG)
class DataConfig:
    """Images and their split into training and validation."""

    train: Location | None
    validation: Location | None
    test: Location | None
    sample: SampleConfig | None
    limit: Annotated[StrictInt, Field(ge=4)] | None
    ignore: list[str]
    validation_fraction: Annotated[StrictFloat, Field(gt=0, lt=1)]
    split_seed: Seed
    max_unpacked_gib: Annotated[StrictFloat, Field(gt=0, le=100_000)]
    labels: Location | None
    id_column: str | None
    class_column: str | None
    group_column: str | None
    classes: list[str] | None


@dataclass(config=_CONFIG)
class SplitConfig:
    """Holdout and folds of the labeled images."""

    holdout_fraction: Share
    folds: Annotated[StrictInt, Field(ge=1, le=100), Fitted]
    group_by: Literal["near_duplicates", "copies"]


@dataclass(config=_CONFIG)
class BackboneConfig:
    """Network without its top, and the pixel range that it expects."""

    builder: str
    arguments: dict[str, Any]
    weights: Location | None
    image_size: Annotated[StrictInt, Field(ge=16, le=1024), Fitted]
    preprocessing: Literal["none", "minus_one_to_one", "bgr_minus_mean", "imagenet_standardized"]
    train_batch_norm: StrictBool
    resize: Resize  # see `images.RESIZERS`


@dataclass(config=_CONFIG)
class AugmentationConfig:
    """Ranges of the random transforms of a view, each sampled uniformly and independently.

    Defaults are those of none, because a file may set only a few.
    """

    flip_probability: Proportion = 0.0
    rotation_degrees: Annotated[StrictFloat, Field(ge=0, le=180)] = 0.0
    shift_fraction: Annotated[StrictFloat, Field(ge=0, le=0.5)] = 0.0
    zoom_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)] = 0.0
    shear_degrees: Annotated[StrictFloat, Field(ge=0, le=45)] = 0.0
    brightness_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)] = 0.0
    contrast_fraction: Annotated[StrictFloat, Field(ge=0, le=0.9)] = 0.0
    saturation_fraction: Proportion = 0.0
    border: Literal["reflect", "replicate", "black"] = "reflect"

    @property
    def is_identity(self) -> bool:
        """Whether every view equals the original image."""
        return not any(getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "border")


@dataclass(config=_CONFIG)
class ScheduleConfig:
    """Learning rate over the optimizer steps."""

    kind: Literal["constant", "cosine", "exponential"]
    peak_lr: Annotated[StrictFloat, Field(gt=0, le=10)]
    warmup_fraction: Share
    final_fraction: Proportion


@dataclass(config=_CONFIG)
class LabelSmoothingConfig:
    """Smoothing of the training labels."""

    epsilon: Share


@dataclass(config=_CONFIG)
class ModelConfig:
    """Classifier on top of the backbone; values searched in `space` replace these."""

    unfreeze_depth: Annotated[StrictInt, Field(ge=0, le=10_000)]
    dense_units: Annotated[StrictInt, Field(ge=0, le=65_536)]
    head_batch_norm: StrictBool
    head_batch_norm_momentum: Share
    head_init: Literal["linear_probe", "random"]  # see `starts_from_probe`
    dropout: Share
    l2: Annotated[StrictFloat, Field(ge=0, le=10)]
    l2_scope: Literal["head", "head_and_backbone"]

    @property
    def starts_from_probe(self) -> bool:
        """Whether the classifier is linear and starts from a logistic regression."""
        return self.head_init == "linear_probe" and not self.dense_units and not self.head_batch_norm


@dataclass(config=_CONFIG)
class HyperparameterConfig:
    """One dimension of the search space."""

    kind: Literal["choice", "int", "float"]
    values: Annotated[list[Any], Field(min_length=1)] | None = None
    low: StrictFloat | None = None
    high: StrictFloat | None = None
    step: Annotated[StrictFloat, Field(gt=0)] | None = None
    sampling: Literal["linear", "log"] | None = None


@dataclass(config=_CONFIG)
class TunerConfig:
    """Keras Tuner's oracle, which proposes trials."""

    oracle: Literal["random", "race", "bayesian", "hyperband", "grid"]
    max_trials: Annotated[Count | None, Fitted]
    arguments: dict[str, Any]  # see ORACLE_ARGUMENTS


@dataclass(config=_CONFIG)
class NoArguments:
    """Arguments of the oracles `random`, `race` and `grid`: none."""


@dataclass(config=_CONFIG)
class BayesianArguments:
    """Arguments of the oracle `bayesian`, with the defaults of Keras Tuner."""

    num_initial_points: Count | None = None
    alpha: Annotated[StrictFloat, Field(gt=0)] = 1e-4
    beta: Annotated[StrictFloat, Field(ge=0)] = 2.6


@dataclass(config=_CONFIG)
class HyperbandArguments:
    """Arguments of the oracle `hyperband`, with the defaults of Keras Tuner."""

    factor: Annotated[StrictInt, Field(ge=2, le=1_000)] = 3
    hyperband_iterations: Annotated[StrictInt, Field(ge=1, le=1_000)] = 1


ORACLE_ARGUMENTS: dict[str, type] = dict.fromkeys(("random", "race", "grid"), NoArguments)
ORACLE_ARGUMENTS |= {"bayesian": BayesianArguments, "hyperband": HyperbandArguments}


@dataclass(config=_CONFIG)
class FitConfig:
    """Training of one trial."""

    epochs: Annotated[Count, Fitted]
    batch_size: Annotated[StrictInt, Field(ge=1, le=65_536), Fitted]
    patience: Annotated[StrictInt, Field(ge=0, le=100_000)]
    executions_per_trial: Annotated[StrictInt, Field(ge=1, le=1_000)]
    class_weights: Literal["none", "balanced"]
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]
    keep_weights_gib: Annotated[StrictFloat, Field(ge=0, le=1_000_000)]


@dataclass(config=_CONFIG)
class FeaturesConfig:
    """Stored activations of the frozen part of the backbone."""

    mode: Literal["auto", "stored", "live"]
    views: Count | None
    dtype: Literal["float32", "float16"]
    engine: Literal["auto", "openvino", "tensorflow", "keras"]
    max_gib: Annotated[StrictFloat, Field(ge=0, le=1_000_000)]


# Limit of distinct training views if `features.views` is null.
MOST_VIEWS = 10


@dataclass(config=_CONFIG)
class TtaConfig:
    """Test-time augmentation."""

    kind: Literal["none", "flip", "crops", "views", "auto"]
    views: Annotated[StrictInt, Field(ge=1, le=1_000)] | None = None
    average: Literal["probability", "logit"] = "probability"
    kinds: list[Literal["none", "flip", "crops", "views"]] | None = None

    @property
    def uses_views(self) -> bool:
        """Whether `views` has an effect."""
        return self.kind == "views" or (self.kind == "auto" and "views" in (self.kinds or []))


@dataclass(config=_CONFIG)
class SelectConfig:
    """Selection of the winner of a job."""

    top_k: Annotated[StrictInt, Field(ge=1, le=1_000)]
    repeats: Annotated[StrictInt, Field(ge=1, le=1_000)]


@dataclass(config=_CONFIG)
class TimeoutConfig:
    """Time limit of a study."""

    study_seconds: Annotated[StrictFloat, Field(gt=0)] | None


@dataclass(config=_CONFIG)
class EnsembleConfig:
    """Models that are combined into the final model."""

    kind: Literal["none", "folds", "jobs", "trials"]
    num_jobs: Annotated[StrictInt, Field(ge=1, le=100)]


@dataclass(config=_CONFIG)
class SubmissionConfig:
    """Content of `submission.csv`."""

    template: Location | None
    kind: Literal["probability", "class"]
    threshold: Annotated[Any, AfterValidator(_threshold)]


@dataclass(config=_CONFIG)
class SearchConfig:
    """Complete configuration of a job."""

    study: str
    studies_dir: Annotated[str, AfterValidator(expanded)]
    cache: Location
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
    varied: list[str]


@dataclass(config=_CONFIG)
class RetrainConfig(SearchConfig):
    """Configuration of a finished job, and how to retrain it."""

    job: str | None
    trial: str | None
    fit_on: Literal["train", "all"]
    ensemble: EnsembleConfig
    calibrate: StrictBool
    evaluate_with: Literal["auto", "search", "folds"]
    submission: SubmissionConfig


# Settings that `space` may search, each with its group.
SEARCHABLE: dict[str, type] = {
    **dict.fromkeys(("unfreeze_depth", "dense_units", "dropout", "l2"), ModelConfig),
    **dict.fromkeys(("peak_lr", "warmup_fraction", "final_fraction"), ScheduleConfig),
}


def setting_keys(group: type) -> Iterator[str]:
    """Yield the dotted keys of a configuration or group."""
    return (key for key, _ in setting_types(group))


def setting_types(group: type, prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the dotted keys of a configuration or group, each with its type and the alternatives or items of that."""
    for name, kind in get_type_hints(group).items():
        parts = (kind, *(() if get_origin(kind) is dict else get_args(kind)))
        yield prefix + name, parts
        for part in parts:
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from setting_types(part, f"{prefix}{name}.")


def leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested dictionaries with its dotted key."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
