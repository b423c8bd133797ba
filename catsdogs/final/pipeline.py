"""Test-time augmentation and calibration of the final model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.config.schema import AugmentationConfig, Seed, TtaConfig
from catsdogs.data.views import ORIGINAL, View, Views
from catsdogs.final.tta import Forward, predict_views, tta_views
from catsdogs.scoring.calibration import Calibration
from catsdogs.scoring.combination import uniform_mean

PIPELINE = "pipeline.json"

# Columns of predictions.csv, in the order of the steps; the last one without NaN is submitted.
OUTPUTS = ("p_dog", "p_dog_tta", "p_dog_calibrated")
Outputs = dict[str, np.ndarray]


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
    def distinct_views(self) -> list[View]:
        """Views that are predicted: the original image and `views`."""
        return list(dict.fromkeys([ORIGINAL, *self.views]))

    @property
    def uses_tta(self) -> bool:
        """Whether test-time augmentation is set, even if the augmentation changes nothing."""
        return self.tta.kind != "none"

    def __call__(self, forward: Forward, images: Views, rows: np.ndarray, description: str = "") -> Outputs:
        """Predict OUTPUTS, float64 (N,) in [0, 1] or NaN for a missing step; arguments as in `tta.predict_views`."""
        views = self.distinct_views
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
