"""Test-time augmentation and calibration of the final model: views, their averages, and the choice of the best kind."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.records import SUM_TOLERANCE, CorruptedFile, Record
from catsdogs.config.schema import AugmentationConfig, Resize, Seed, TtaConfig
from catsdogs.data.augment import CROPS
from catsdogs.data.images import in_threads
from catsdogs.data.views import MIRRORED, ORIGINAL, View, Views
from catsdogs.scoring.calibration import HIGHEST_FLOOR, Calibration
from catsdogs.scoring.classes import DEFAULT, STEPS, Classes, ClassNames
from catsdogs.scoring.combination import uniform_mean
from catsdogs.scoring.intervals import ImageScores, gains_over
from catsdogs.scoring.scores import TIE_TOLERANCE, score_images

log = logging.getLogger(__name__)

PIPELINE = "pipeline.json"

# Probabilities, float64 (N, K), of the steps that were computed, in the order of STEPS; the last ones are submitted.
Outputs = dict[str, np.ndarray]

# Pixels (B, S, S, 3) -> [probabilities (B, C)] of the outputs of `Classes`, for example an `InferenceEngine`.
Forward = Callable[[np.ndarray], list[np.ndarray]]

# Kind of test-time augmentation and average of its views, probability or logit.
Choice = tuple[str, str]
NO_TTA: Choice = ("none", "probability")

# Images per call of the model.
CHUNK = 64


@dataclass(frozen=True)
class Pipeline:
    """Steps from the outputs of a model to the submitted probabilities."""

    tta: TtaConfig  # its kind is not auto
    augmentation: AugmentationConfig  # for the kind views
    seed: int  # for the kind views
    calibration: Calibration | None  # of the averaged outputs; None: not calibrated
    classes: Classes = DEFAULT
    resize: Resize = "squeeze"  # of images to squares
    threshold: float | None = None  # of the second of two classes; None: the likeliest class is predicted

    @property
    def views(self) -> list[View]:
        """Views that are averaged."""
        return tta_views(self.tta.kind, self.tta.views, self.augmentation)

    @property
    def uses_tta(self) -> bool:
        """Whether test-time augmentation is set, even if the augmentation changes nothing."""
        return self.tta.kind != "none"

    @property
    def last_step(self) -> str:
        """The last of STEPS that is computed."""
        return STEPS[2] if self.calibration is not None else STEPS[1] if self.uses_tta else STEPS[0]

    def __call__(self, forward: Forward, images: Views, rows: np.ndarray, description: str = "") -> Outputs:
        """Predict images; arguments as in `average_views`."""
        chosen = (self.tta.kind, self.tta.average) if self.uses_tta else NO_TTA
        choices = {NO_TTA: [ORIGINAL], chosen: self.views}
        averages = average_views(forward, images, rows, choices, self.classes, description)
        return self.steps(averages[NO_TTA], averages[chosen] if self.uses_tta else None)

    def steps(self, plain: np.ndarray, average: np.ndarray | None) -> Outputs:
        """Return the outputs, from probabilities (N, K) of the images, and their average over `views` or None."""
        outputs = {STEPS[0]: plain}
        if average is not None:
            outputs[STEPS[1]] = average
        if self.calibration is not None:
            outputs[STEPS[2]] = self.calibration(final_output(outputs))
        return outputs


def final_output(outputs: Outputs) -> np.ndarray:
    """Return the probabilities of the last step, (N, K)."""
    return list(outputs.values())[-1]


def columns_of(outputs: Outputs, classes: Classes) -> dict[str, np.ndarray]:
    """Return the columns of a table, each (N,), for the steps that were computed."""
    return {name: one for step, p in outputs.items() for name, one in classes.to_columns(p, step).items()}


class _File(Record):
    # A new field needs a default here: files of earlier versions lack it.
    classes: ClassNames
    resize: Resize = "squeeze"
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    tta: TtaConfig
    augmentation: AugmentationConfig
    seed: Seed
    calibration: Calibration | None


def write_pipeline(folder: Path, pipeline: Pipeline, combination: dict[str, Any]) -> None:
    """Write `pipeline.json`; the combination is for information, because it is part of the saved model."""
    record = dataclasses.asdict(pipeline) | {"classes": list(pipeline.classes.names), "combination": combination}
    write_json(folder / PIPELINE, record)


def read_pipeline(folder: Path) -> Pipeline | None:
    """Read `pipeline.json`, or raise a `UserError`; return None for folders of version 0.1, which did not write it."""
    try:
        record = _File.read(folder / PIPELINE)
        if record is None:
            return None
        classes = Classes(tuple(record.classes))
        if record.tta.kind == "auto":
            raise CorruptedFile(folder / PIPELINE, "tta.kind=auto: must be the chosen kind")
        if record.tta.uses_views and record.tta.views is None:
            raise CorruptedFile(folder / PIPELINE, "tta.views=null: must be set with tta.kind=views")
        if record.calibration is not None and record.calibration.floor > (highest := 2 * HIGHEST_FLOOR / len(classes)):
            problem = f"calibration.floor={record.calibration.floor}: must be at most {highest:g}"
            raise CorruptedFile(folder / PIPELINE, f"{problem} with {len(classes)} classes")
    except CorruptedFile as error:
        raise UserError(f"{error}; retrain the model") from error
    return Pipeline(
        record.tta, record.augmentation, record.seed, record.calibration, classes, record.resize, record.threshold
    )


def tta_views(kind: str, views: int | None, augmentation: AugmentationConfig) -> list[View]:
    """Return the views that a kind averages; `views` is required by the kind of this name.

    none: the image. flip: the image and its mirror image. crops: the crops of `augment.crops` and their mirror images.
    views: the first `views` seeded augmentations; the image if the augmentation changes nothing.
    """
    if kind == "none":
        return [ORIGINAL]
    if kind == "flip":
        return [ORIGINAL, MIRRORED]
    if kind == "crops":
        return [View(which, number) for number in range(CROPS) for which in ("crop", "mirrored crop")]
    if augmentation.is_identity:
        return [ORIGINAL]
    assert views is not None
    return [View("tta", number) for number in range(views)]


def tta_choices(tta: TtaConfig, augmentation: AugmentationConfig) -> dict[Choice, list[View]]:
    """Return the views of NO_TTA, the first, and of the set choice; for `auto`, those of both averages of its kinds."""
    if tta.kind == "views" and augmentation.is_identity:
        log.warning("tta=views: the augmentation of the job changes nothing, so the original image is used")
    choices = {NO_TTA: [ORIGINAL]}
    for kind in (tta.kinds or []) if tta.kind == "auto" else [tta.kind]:
        views = tta_views(kind, tta.views, augmentation)
        # Both averages of a single view are the view itself.
        averages = ["probability", "logit"][: len(views)] if tta.kind == "auto" else [tta.average]
        choices |= {(kind, average): views for average in averages if kind != "none"}
    return choices


def choose_tta(
    labels: np.ndarray, averages: Mapping[Choice, np.ndarray], views: Mapping[Choice, Sequence[View]]
) -> tuple[Choice, pd.DataFrame]:
    """Choose the kind with the fewest views among those with a log loss within TIE_TOLERANCE of the lowest.

    The score of the choice on these images is slightly optimistic, less so with more images.

    Args:
        labels: (N,), 0 .. K - 1, of images that the model was not trained on.
        averages: probabilities (N, K) of each choice; NO_TTA is required.
        views: the views that each choice averages.

    Returns:
        The choice, and a table with a row per choice: kind, average, views, the columns of `gains_over` NO_TTA, chosen.
    """
    choices = list(averages)
    scores = [score_images(labels, averages[choice]) for choice in choices]
    every = ImageScores(np.stack([one.losses for one in scores]), np.stack([one.wrong for one in scores]))
    table = pd.DataFrame(choices, columns=["kind", "average"]).assign(views=[len(views[one]) for one in choices])
    table = table.join(gains_over(every, choices.index(NO_TTA)))
    best = table[table["log_loss"] <= table["log_loss"].min() + TIE_TOLERANCE]
    chosen = best.sort_values(["views", "log_loss"], kind="stable").index[0]
    table["chosen"] = table.index == chosen
    return choices[chosen], table


def describe_choice(table: pd.DataFrame) -> dict[str, Any]:
    """Return the choice of `choose_tta` for `metrics.json`, from its table, compared with the best other kind.

    A choice other than none is compared with none. value, low, high: log loss of `against` minus that of `kind`.
    """
    kind = table.loc[table["chosen"], "kind"].iloc[0]
    others = table[table["chosen"] if kind != "none" else table["kind"] != "none"]
    row = others.sort_values("log_loss", kind="stable").iloc[0]
    against, ends = "none", (row["gain"], row["low"], row["high"])
    if kind == "none":
        against, ends = row["kind"], (-row["gain"], -row["high"], -row["low"])
    value, low, high = (None if pd.isna(end) else float(end) for end in ends)
    counts: dict[str, Any] = {"rows": len(table), **{name: int(row[name]) for name in ("size", "errors")}}
    counts["average"] = next(iter(table.loc[table["chosen"] & (table["views"] > 1), "average"]), None)
    choice = {"kind": kind, "tested": True, "kinds": list(dict.fromkeys(table["kind"])), "against": against}
    return {**choice, "value": value, "low": low, "high": high, **counts}


def average_views(
    forward: Forward,
    images: Views,
    rows: np.ndarray,
    choices: Mapping[Choice, Sequence[View]],
    classes: Classes,
    description: str = "",
    plain: np.ndarray | None = None,
) -> dict[Choice, np.ndarray]:
    """Return the averages of views of N images, float64 (N, K) in [0, 1] for every choice.

    All views of at most CHUNK images are in memory. A `UserError` is raised if outputs are not probabilities.

    Args:
        images: source of the pixels.
        rows: int (N,).
        choices: the views that each averages.
        description: name of the images in the log; empty logs nothing.
        plain: probabilities (N, K) of the images without augmentation; None: they are predicted too.
    """
    views = list(dict.fromkeys(view for each in choices.values() for view in each))
    predicted = [view for view in views if plain is None or view != ORIGINAL]
    means = {choice: np.empty((len(rows), len(classes))) for choice in choices}
    starts = range(0, len(rows), CHUNK)

    def read(chunk: tuple[int, View]) -> np.ndarray:
        start, view = chunk
        return images.read(rows[start : start + CHUNK], view)

    # Threads decode and augment the next chunks while the model runs.
    pixels = in_threads(read, [(start, view) for start in starts for view in predicted], description, ahead=4)
    for start in starts:
        outputs = {view: _probabilities(forward(next(pixels))[0], classes) for view in predicted}
        if plain is not None:
            outputs[ORIGINAL] = plain[start : start + CHUNK]
        for choice, each in choices.items():
            mean = uniform_mean(len(each), choice[1])
            means[choice][start : start + CHUNK] = mean(np.stack([outputs[view] for view in each]))
    return means


def _probabilities(outputs: np.ndarray, classes: Classes) -> np.ndarray:
    """Return the probabilities of all classes, (B, K), from those of the outputs; a `UserError` for other values."""
    wrong = outputs[~((outputs >= 0) & (outputs <= 1))]
    if len(wrong):
        raise UserError(f"the model predicts {wrong[0]:g}, not a probability; retrain it")
    probabilities = classes.from_output(outputs)
    sums = probabilities.sum(axis=1)
    if len(wrong := sums[np.abs(sums - 1) > SUM_TOLERANCE]):
        raise UserError(f"the model predicts probabilities with the sum {wrong[0]:g}, not 1; retrain it")
    return probabilities
