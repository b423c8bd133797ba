"""Inputs of the trials of a job, and the models that they train."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.config.schema import SearchConfig
from catsdogs.data.augment import view_keys
from catsdogs.data.dataset import Dataset, Fold
from catsdogs.data.images import pixels
from catsdogs.data.views import LiveViews, distinct_views
from catsdogs.features.reader import FeatureReader, JobImages
from catsdogs.network.backbones import load_network
from catsdogs.network.devices import batch_sizes
from catsdogs.network.schedules import steps_per_epoch
from catsdogs.network.trial_model import TrialModels
from catsdogs.scoring.classes import Classes


@dataclass(frozen=True)
class TrialData:
    """Inputs and targets for training and validation."""

    features: FeatureReader  # inputs of all rows, at any cut
    classes: Classes
    targets: np.ndarray  # float32 (N, C) of `Classes.targets`; NaN outside of the folds
    folds: tuple[Fold, ...]  # one model is trained and validated on each
    probes: dict[int, list[np.ndarray]] = field(default_factory=dict)  # see `start_from_probe`; by fold

    @property
    def validation_rows(self) -> np.ndarray:
        """Validation rows of all folds, ascending; int."""
        return np.sort(np.concatenate([fold.validation_rows for fold in self.folds]))

    def batch_sizes(self, batch_size: int) -> list[int]:
        """Return the sizes of all batches in any fold, because the folds share models."""
        counts = [len(rows) for fold in self.folds for rows in (fold.train_rows, fold.validation_rows)]
        return batch_sizes(batch_size, *counts)


def build_trial_data(
    config: SearchConfig, dataset: Dataset, folds: Sequence[Fold], depths: Sequence[int] | None = None
) -> tuple[TrialData, TrialModels]:
    """Build the inputs of the trials and the models that they train.

    For rows outside of `folds`, such as the holdout, no activations are stored, and targets are NaN so that using one
    by accident is noticed. `depths` are the unfreeze depths of the trials; None for those of the space.
    """
    network = load_network(config.backbone, config.seed)
    train_rows = np.unique(np.concatenate([fold.train_rows for fold in folds]))
    validation_rows = np.unique(np.concatenate([fold.validation_rows for fold in folds]))
    # All folds share the schedule of the largest one.
    largest = max(len(fold.train_rows) for fold in folds)
    steps = steps_per_epoch(largest, config.fit.batch_size) * config.fit.epochs
    models = TrialModels(config, network, dataset.classes, steps, depths)
    rows, views = dataset.rows, distinct_views(config.features, config.augmentation, config.fit.epochs)
    pixel_views = live_views(config, rows, dataset.root)
    images = JobImages(pixel_views, list(rows["sha256"]), train_rows, validation_rows, views)
    features = FeatureReader(config.features, network, list(models.cuts.values()), images, Path(config.cache))
    used = np.zeros(len(rows), dtype=bool)
    used[np.concatenate([train_rows, validation_rows])] = True
    targets = dataset.classes.targets(np.where(used, rows["label"], np.nan))
    return TrialData(features, dataset.classes, targets, tuple(folds)), models


def live_views(config: SearchConfig, rows: pd.DataFrame, root: Path) -> LiveViews:
    """Return views of the pixels of these images, augmented by the job's settings."""
    images = pixels(rows, root, config.backbone.image_size, Path(config.cache), config.backbone.resize)
    return LiveViews(images, view_keys(rows["sha256"]), config.augmentation, config.seed)
