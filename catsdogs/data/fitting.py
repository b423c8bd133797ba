"""Values of settings that are `auto`, chosen when the images are known."""

import dataclasses
import math
from typing import TypeVar

from catsdogs.config.schema import AUTO, SearchConfig
from catsdogs.data.dataset import Dataset

Config = TypeVar("Config", bound=SearchConfig)

# The rules were measured on four sets of 300 to 8,000 photographs, see docs/CLASSES.md.
_IMAGES_OF_TRIAL = 24_000  # images that a model is trained on, over all epochs
_EPOCHS = 3, 12
_IMAGES_OF_JOB = 75_000  # over all trials and folds
_TRIALS = 3, 8
_LARGE = 1_000  # training images, for batches of 32
_SIZES = 96, 224  # pixels; the larger one is that of pretraining
_STRIDE = 32  # of the common backbones


def fit_to_data(config: Config, dataset: Dataset) -> tuple[Config, str]:
    """Replace the values `auto` by those for the images of a dataset, and return a line for the user, or ""."""
    folds = dataset.folds()
    images = len(folds[0].train_rows)
    side = dataset.rows[["width", "height"]].min(axis=1).median()
    size = config.backbone.image_size or _within(_SIZES, _STRIDE * math.ceil(side / _STRIDE))
    epochs = config.fit.epochs or _within(_EPOCHS, _IMAGES_OF_TRIAL / images)
    values: dict[str, dict[str, int]] = {
        "fit": {"epochs": epochs, "batch_size": config.fit.batch_size or (32 if images >= _LARGE else 16)},
        "split": {"folds": len(folds)},
        "backbone": {"image_size": size},
    }
    if config.tuner.max_trials == AUTO:
        trials = _within(_TRIALS, _IMAGES_OF_JOB / (images * epochs * len(folds)))
        values["tuner"] = {"max_trials": trials if config.space else 1}
    groups = {name: dataclasses.replace(getattr(config, name), **settings) for name, settings in values.items()}
    chosen = [
        f"{name}.{key}={value}"
        for name, settings in values.items()
        for key, value in settings.items()
        if getattr(getattr(config, name), key) == AUTO
    ]
    note = f"Chosen for {images:,} training images: {', '.join(chosen)}" if chosen else ""
    return dataclasses.replace(config, **groups), note


def _within(bounds: tuple[int, int], value: float) -> int:
    return min(max(round(value), bounds[0]), bounds[1])
