"""Final models of studies, as `retrain` wrote them into `best/`: scores, recipe and predictions."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field

from catsdogs.base.records import LARGEST_LOSS, Count, Listed, Part, Record, Seconds, Table
from catsdogs.config.schema import Resize
from catsdogs.scoring.classes import STEPS, Classes, ClassNames
from catsdogs.scoring.intervals import Estimate
from catsdogs.study.job_tables import METRICS
from catsdogs.study.jobs import JobConfig
from catsdogs.study.trials import searched_values

_Loss = Annotated[float, Field(ge=-LARGEST_LOSS, le=LARGEST_LOSS)]  # or a difference of two


class _Score(Record):
    value: _Loss | None = None
    low: _Loss | None = None
    high: _Loss | None = None
    split: str | None = None
    size: Annotated[Count, Field(ge=1)] | None = None
    errors: Count | None = None  # written since version 0.3
    reason: str | None = None


def _in_range(details: dict[str, _Score]) -> dict[str, _Score]:
    for name, score in details.items():
        highest = math.inf if "log_loss" in name else 2 if "brier" in name else 1
        if score.value is not None and not 0 <= score.value <= highest:
            raise ValueError(f"{name}.value={score.value} is not in its range")
    return details


class _TtaChoice(_Score):
    kind: str
    average: Literal["probability", "logit"] | None = None
    rows: Count | None = None
    tested: bool
    kinds: Listed[str]
    against: str = ""


class _Member(Record):
    job: str | None = None
    trial: str | None = None


class _Ensemble(Record):
    way: str | None = None
    members: Listed[_Member]
    method: str | None = None  # of the trials; written since version 0.3, with ensemble=trials, as all below
    gain: _Score | None = None
    ms_per_image: Seconds | None = None
    ms_per_image_single: Seconds | None = None


class Metrics(Record):
    """`metrics.json`."""

    classes: ClassNames
    job: str | None = None
    trial: str | None = None
    fit_on: str | None = None
    validated_by: str | None = None
    ensemble: _Ensemble | None = None
    details: Annotated[Part[_Score], AfterValidator(_in_range)]
    interval: str = "95% over images"
    warnings: list[str] = Field([])  # written since version 0.3
    chosen_on_validation: Listed[str]  # written since version 0.3
    tta: Part[Any]
    tta_gain: Part[_Score]  # written since version 0.3
    tta_choice: _TtaChoice | None = None  # written since version 0.3, with tta=auto
    calibration_gain: Part[_Score]
    test_images_not_scored: Count | None = None  # written since version 0.3
    seconds: Part[Seconds]


class Recipe(Record):
    """`recipe.json`."""

    config: Annotated[JobConfig | None, BeforeValidator(lambda config: config or None)] = None
    hyperparameters: Annotated[Part[Any], AfterValidator(searched_values)]
    versions: Part[str]


_Row = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=64)]


def _rectangle(rows: list[_Row]) -> list[_Row]:
    if len({len(row) for row in rows}) > 1:
        raise ValueError("map has rows of different lengths")
    return rows


class ClassActivation(Record):
    """`class_activation.json`, written since version 0.3."""

    resize: Resize
    maps: Part[Annotated[list[_Row], Field(min_length=1, max_length=64), AfterValidator(_rectangle)]]  # by image id


_EPOCH_METRICS = ("val_log_loss", *METRICS)
HISTORY_TABLE = Table({"epoch": int, **dict.fromkeys(_EPOCH_METRICS, float | None)}, optional=_EPOCH_METRICS)


def predictions_table(classes: Classes) -> Table:
    """Return the declaration of `predictions.csv`; only the output of the network is always there."""
    columns = {step: classes.columns(step) for step in STEPS}
    numbers = dict.fromkeys((name for names in columns.values() for name in names), float | None)
    return Table(
        {**dict.fromkeys(("id", "split", "fold"), str), "label": int | None, **numbers},
        optional=("fold", *columns["_tta"], *columns["_calibrated"]),
        ranges={"label": (0, len(classes) - 1)},
        distributions=list(columns.values()),
    )


@dataclass(frozen=True)
class FinalModel:
    """Contents of the folder `best/` of a study, as written by `retrain`."""

    study: str
    folder: Path
    metrics: dict[str, Any]
    classes: Classes
    # id, label (NaN: unknown), split and the columns of the classes for every step that was computed (NaN: it was not)
    predictions: pd.DataFrame
    history: pd.DataFrame  # a row per epoch of the first member of an ensemble; empty if the file is missing
    recipe: dict[str, Any]  # empty if the file is missing
    activation: ClassActivation | None  # None if the file is missing

    def result(self) -> tuple[str, str, Estimate] | None:
        """Return split, steps after the network (", with TTA" or "") and log loss of what it submits; None without one.

        The images are those with the least influence on it: labeled test images, else holdout, else validation images.
        """
        steps = {"_calibrated": ", calibrated", "_tta": ", with TTA", "": ""}
        details = self.metrics["details"]
        for prefix, (suffix, step) in itertools.product(("test_", "holdout_", ""), steps.items()):
            score = details.get(f"{prefix}log_loss{suffix}", {})
            if score.get("value") is not None and score["size"]:
                accuracy = details.get(f"{prefix}accuracy{suffix}", {}).get("value")
                wrong = score["errors"] if accuracy is None else round((1 - accuracy) * score["size"])
                wrong = wrong if wrong is None else min(wrong, score["size"])
                numbers = (score["value"], score["low"], score["high"], score["size"], wrong)
                return score["split"] or "validation", step, Estimate(*numbers)
        return None

    def contains(self, job: str, trial: str) -> bool:
        """Return whether this trial is the final model, or a member of its ensemble."""
        members = (self.metrics["ensemble"] or {}).get("members") or [self.metrics]
        return any((member.get("job"), member.get("trial")) == (job, trial) for member in members)

    def validation(self, step: str = "") -> pd.DataFrame:
        """Return the labeled validation images that have the predictions of a step: id, label, probabilities.

        The probabilities are in the columns of the step "".
        """
        names = dict(zip(self.classes.columns(step), self.classes.columns(), strict=True))
        table = self.predictions[self.predictions["split"] == "validation"]
        table = table.reindex(columns=["id", "label", *names]).rename(columns=names).dropna()
        return table.astype({"label": int})
