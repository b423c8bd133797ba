"""Values of settings that are `auto`, chosen when the images are known."""

import math
from typing import TypeVar

from catsdogs.config.automatic import with_chosen
from catsdogs.config.schema import AUTO, SearchConfig
from catsdogs.data.dataset import Dataset

Config = TypeVar("Config", bound=SearchConfig)

# So that the default study takes minutes on two cores without a GPU.
_IMAGES_OF_TRIAL = 12_000  # images of `_SIDE` pixels that a model is trained on, over all epochs
_EPOCHS = 2, 6
_IMAGES_OF_JOB = 20_000  # over all trials and folds
_TRIALS = 2, 8
_SIDE = 224  # pixels
_LARGE = 1_000  # training images, for batches of 32
_SIZES = 96, 224  # pixels; the larger one is that of pretraining
_STRIDE = 32  # of the common backbones
_LEAST_OF_MANY = 160  # pixels; many images are made smaller, but not below this


def fit_to_data(config: Config, dataset: Dataset) -> tuple[Config, str]:
    """Replace the values `auto` by those for the images of a dataset, and return a line for the user, or ""."""
    folds = dataset.folds()
    images = len(folds[0].train_rows)
    side = dataset.rows[["width", "height"]].min(axis=1).median()
    size = config.backbone.image_size
    if size == AUTO:
        size = _within(_SIZES, _STRIDE * math.ceil(side / _STRIDE))
        while size > _LEAST_OF_MANY and _EPOCHS[0] * _cost(images, size) > _IMAGES_OF_TRIAL:
            size -= _STRIDE
    cost = _cost(images, size)
    epochs = config.fit.epochs or _within(_EPOCHS, _IMAGES_OF_TRIAL / cost)
    trials = _within(_TRIALS, _IMAGES_OF_JOB / (cost * epochs * len(folds))) if config.space else 1
    fit = {"epochs": epochs, "batch_size": 32 if images >= _LARGE else 16}
    others = {"split": {"folds": len(folds)}, "backbone": {"image_size": size}, "tuner": {"max_trials": trials}}
    config, chosen = with_chosen(config, {"fit": fit, **others})
    return config, f"Chosen for {images:,} training images: {', '.join(chosen)}" if chosen else ""


def _cost(images: int, size: int) -> float:
    """Return the cost of an epoch, in images of `_SIDE` pixels."""
    return images * (size / _SIDE) ** 2


def _within(bounds: tuple[int, int], value: float) -> int:
    return min(max(round(value), bounds[0]), bounds[1])
