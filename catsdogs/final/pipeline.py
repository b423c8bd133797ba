"""What stands between a model's outputs and what is submitted: views that are averaged, and calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.config.schema import AugmentationConfig, TtaConfig
from catsdogs.data.views import ORIGINAL, View, Views
from catsdogs.final.tta import averaged, predict_views, tta_views
from catsdogs.scoring.calibration import Calibration

PIPELINE = "pipeline.json"

# Columns of predictions.csv; the last one that is there is submitted.
OUTPUTS = ("p_dog", "p_dog_tta", "p_dog_calibrated")


@dataclass(frozen=True)
class Pipeline:
    """Plain outputs -> submitted ones."""

    tta: TtaConfig  # of a kind that is not auto
    augmentation: AugmentationConfig  # of the views of kind views
    seed: int  # likewise
    calibration: Calibration | None  # of the averaged outputs; None: they stay as they are

    @property
    def over(self) -> list[View]:
        return tta_views(self.tta.kind, self.tta.views, self.augmentation)

    @property
    def averages(self) -> bool:
        """Whether there is test-time augmentation; of an augmentation that changes nothing too, to say so."""
        return self.tta.kind != "none"

    def __call__(
        self, forward: Callable[[np.ndarray], list[np.ndarray]], views: Views, rows: np.ndarray, what: str = ""
    ) -> dict[str, np.ndarray]:
        """Every one of OUTPUTS, float64 (N,) in [0, 1]; NaN where there is no such step.

        Args:
            forward, views, rows, what: as in `tta.predict_views`.
        """
        over = list(dict.fromkeys([ORIGINAL, *(self.over if self.averages else [])]))
        p_dog = predict_views(forward, views, rows, over, what)
        return self.steps(p_dog[0], p_dog[[over.index(view) for view in self.over]] if self.averages else None)

    def steps(self, plain: np.ndarray, p_dog: np.ndarray | None) -> dict[str, np.ndarray]:
        """As `__call__`, of what the model says of the images (N,) and of the views of `over` (V, N), if there are."""
        nothing = np.full(len(plain), np.nan)
        average = nothing if p_dog is None else averaged(p_dog, self.tta.average)
        last = plain if p_dog is None else average
        calibrated = nothing if self.calibration is None else self.calibration(last)
        return dict(zip(OUTPUTS, (plain, average, calibrated), strict=True))


def submitted(outputs: Any) -> np.ndarray:
    """The last step of OUTPUTS that there is, image by image; (N,)."""
    return pd.DataFrame(outputs, columns=OUTPUTS).ffill(axis=1)[OUTPUTS[-1]].to_numpy()


class _File(Record):
    tta: TtaConfig
    augmentation: AugmentationConfig
    seed: int
    calibration: Calibration | None


def write_pipeline(folder: Path, pipeline: Pipeline, combination: dict[str, Any]) -> None:
    """Write `pipeline.json`; how models are combined is part of the model, and told here for the reader alone."""
    write_json(folder / PIPELINE, {**dataclasses.asdict(pipeline), "combination": combination})


def read_pipeline(folder: Path) -> Pipeline | None:
    """None where there is none: an earlier version wrote the folder.

    Raises:
        UserError: it is damaged.
    """
    try:
        told = _File.read(folder / PIPELINE)
    except CorruptedFile as error:
        raise UserError(f"{error}; retrain, or give --plain for the model alone") from error
    return None if told is None else Pipeline(told.tta, told.augmentation, told.seed, told.calibration)
