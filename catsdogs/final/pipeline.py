"""Test-time augmentation and calibration of the final model: views, their averages, and the choice of the best kind."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.config.schema import AugmentationConfig, Seed, TtaConfig
from catsdogs.data.augment import CROPS
from catsdogs.data.images import in_threads
from catsdogs.data.views import MIRRORED, ORIGINAL, View, Views
from catsdogs.scoring.calibration import Calibration
from catsdogs.scoring.combination import uniform_mean
from catsdogs.scoring.intervals import gains_over
from catsdogs.scoring.scores import TIE_TOLERANCE, log_loss_per_image

log = logging.getLogger(__name__)

PIPELINE = "pipeline.json"

# Columns of predictions.csv, in the order of the steps; the last one without NaN is submitted.
OUTPUTS = ("p_dog", "p_dog_tta", "p_dog_calibrated")
Outputs = dict[str, np.ndarray]

# Pixels (B, S, S, 3) -> [p_dog (B, 1)], for example an `InferenceEngine`.
Forward = Callable[[np.ndarray], list[np.ndarray]]

# Images per call of the model.
CHUNK = 64


@dataclass(frozen=True)
class Pipeline:
    """Steps from the outputs of a model to the submitted probabilities."""

    tta: TtaConfig  # its kind is not auto
    augmentation: AugmentationConfig  # for the kind views
    seed: int  # for the kind views
    calibration: Calibration | None  # of the averaged outputs; None: not calibrated

    @property
    def views(self) -> list[View]:
        """Views that are averaged."""
        return tta_views(self.tta.kind, self.tta.views, self.augmentation)

    @property
    def uses_tta(self) -> bool:
        """Whether test-time augmentation is set, even if the augmentation changes nothing."""
        return self.tta.kind != "none"

    def __call__(self, forward: Forward, images: Views, rows: np.ndarray, description: str = "") -> Outputs:
        """Predict OUTPUTS, float64 (N,) in [0, 1] or NaN for a missing step; arguments as in `predict_views`."""
        views = list(dict.fromkeys([ORIGINAL, *self.views]))
        p_dog = predict_views(forward, images, rows, views, description)
        return self.steps(p_dog[0], p_dog[[views.index(view) for view in self.views]] if self.uses_tta else None)

    def steps(self, plain: np.ndarray, p_dog: np.ndarray | None) -> Outputs:
        """Return OUTPUTS as `__call__`, from p_dog of the images (N,) and of `views` (V, N) or None."""
        missing = np.full(len(plain), np.nan)
        average = missing if p_dog is None else uniform_mean(len(p_dog), self.tta.average)(p_dog)
        uncalibrated = plain if p_dog is None else average
        calibrated = missing if self.calibration is None else self.calibration(uncalibrated)
        return dict(zip(OUTPUTS, (plain, average, calibrated), strict=True))


def final_output(outputs: Any) -> np.ndarray:
    """Return the last of OUTPUTS that is not NaN, for each image; (N,)."""
    return pd.DataFrame(outputs, columns=OUTPUTS).ffill(axis=1)[OUTPUTS[-1]].to_numpy()


class _File(Record):
    # A new field needs a default here: files of earlier versions lack it.
    tta: TtaConfig
    augmentation: AugmentationConfig
    seed: Seed
    calibration: Calibration | None


def write_pipeline(folder: Path, pipeline: Pipeline, combination: dict[str, Any]) -> None:
    """Write `pipeline.json`; the combination is for information, because it is part of the saved model."""
    write_json(folder / PIPELINE, {**dataclasses.asdict(pipeline), "combination": combination})


def read_pipeline(folder: Path) -> Pipeline | None:
    """Read `pipeline.json`, or raise a `UserError`; return None for folders of version 0.1, which did not write it."""
    try:
        record = _File.read(folder / PIPELINE)
        if record is None:
            return None
        if record.tta.kind == "auto":
            raise CorruptedFile(folder / PIPELINE, "tta.kind=auto: must be the chosen kind")
        if record.tta.uses_views and record.tta.views is None:
            raise CorruptedFile(folder / PIPELINE, "tta.views=null: must be set with tta.kind=views")
    except CorruptedFile as error:
        raise UserError(f"{error}; retrain the model, or pass --plain to predict without this file") from error
    return Pipeline(record.tta, record.augmentation, record.seed, record.calibration)


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


def views_by_kind(tta: TtaConfig, augmentation: AugmentationConfig) -> dict[str, list[View]]:
    """Return the views of `none`, the first, and of the kind; for `auto`, those of all its kinds."""
    kinds = ["none", *((tta.kinds or []) if tta.kind == "auto" else [tta.kind])]
    if tta.kind == "views" and augmentation.is_identity:
        log.warning("tta=views: the augmentation of the job changes nothing, so the original image is used")
    return {kind: tta_views(kind, tta.views, augmentation) for kind in kinds}


def choose_tta(labels: np.ndarray, by_kind: dict[str, np.ndarray]) -> tuple[str, str, pd.DataFrame]:
    """Choose the kind with the fewest views among those with a log loss within TIE_TOLERANCE of the lowest.

    The score of the chosen kind on these images is slightly optimistic, less so with more images.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog; of images that the model was not trained on.
        by_kind: kind -> (V, N) p_dog of its views; `none` is required.

    Returns:
        The kind, the average, and a table with a row per kind and average: kind, average, views, the columns of
        `gains_over` none, chosen.
    """
    # Both averages of a single view are the view itself.
    choices = [(kind, how) for kind, p in by_kind.items() for how in ("probability", "logit")[: 2 if len(p) > 1 else 1]]
    averages = [uniform_mean(len(by_kind[kind]), how)(by_kind[kind]) for kind, how in choices]
    losses = np.stack([log_loss_per_image(labels, p_dog) for p_dog in averages])
    table = pd.DataFrame(choices, columns=["kind", "average"]).assign(views=[len(by_kind[kind]) for kind, _ in choices])
    table = table.join(gains_over(losses, choices.index(("none", "probability"))))
    best = table[table["log_loss"] <= table["log_loss"].min() + TIE_TOLERANCE]
    chosen = best.sort_values(["views", "log_loss"], kind="stable").index[0]
    table["chosen"] = table.index == chosen
    return *choices[chosen], table


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


def predict_views(
    forward: Forward, images: Views, rows: np.ndarray, views: list[View], description: str = ""
) -> np.ndarray:
    """Return the probability of dog, float64 (V, N) in [0, 1], for V views of N images.

    A `UserError` is raised if an output of the model is not a probability.

    Args:
        images: source of the pixels.
        rows: int (N,).
        description: name of the images in the log; empty logs nothing.
    """
    p_dog = np.zeros((len(views), len(rows)))
    chunks = [(view, start) for view in range(len(views)) for start in range(0, len(rows), CHUNK)]

    def read(chunk: tuple[int, int]) -> np.ndarray:
        view, start = chunk
        return images.read(rows[start : start + CHUNK], views[view])

    # Threads decode and augment the next chunks while the model runs.
    for (view, start), pixels in zip(chunks, in_threads(read, chunks, description, ahead=4), strict=True):
        outputs = forward(pixels)[0].reshape(-1)
        wrong = outputs[~((outputs >= 0) & (outputs <= 1))]
        if len(wrong):
            raise UserError(f"the model predicts {wrong[0]:g}, not a probability; retrain it")
        p_dog[view, start : start + CHUNK] = outputs
    return p_dog
