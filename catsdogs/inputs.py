"""Configuration + data set -> what trials read, and the models that they train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.augment import view_keys
from catsdogs.backbones import load_network
from catsdogs.dataset import Dataset
from catsdogs.features import Features
from catsdogs.images import pixels
from catsdogs.schedules import steps_per_epoch
from catsdogs.schema import SearchConfig
from catsdogs.trial_model import TrialModels
from catsdogs.tuning import TrainingSet
from catsdogs.views import LiveViews, distinct_views


def prepared(
    config: SearchConfig,
    dataset: Dataset,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    depths: Sequence[int] | None = None,
) -> tuple[TrainingSet, TrialModels]:
    """What trials read, and the models that they train.

    Args:
        depths: unfreeze depths of the trials; those of the space if None.
    """
    network = load_network(config.backbone, config.seed)
    steps = steps_per_epoch(len(train_rows), config.fit.batch_size) * config.fit.epochs
    models = TrialModels(config, network, steps, depths)
    rows = dataset.rows
    features = Features(
        config.features,
        network,
        list(models.cuts.values()),
        live_views(config, rows, dataset.root),
        list(rows["sha256"]),
        train_rows,
        validation_rows,
        distinct_views(config.features, config.augmentation, config.fit.epochs),
        Path(config.cache),
    )
    labels = rows["label"].to_numpy(dtype=np.float32)
    return TrainingSet(features, labels, train_rows, validation_rows), models


def live_views(config: SearchConfig, rows: pd.DataFrame, root: Path) -> LiveViews:
    """Pixels of these images, augmented as the job asks."""
    images = pixels(rows, root, config.backbone.image_size, Path(config.cache))
    return LiveViews(images, view_keys(rows["sha256"]), config.augmentation, config.seed)
