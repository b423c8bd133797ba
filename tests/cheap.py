"""Jobs without training time: the models, the images and Keras' training are fakes.

A model is one number, and its log loss is a function of that number. Training changes the number by the seed and the
epoch. The tables therefore depend on seeds, epochs and the weights of a promoted trial's parent.
"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.data.dataset import Dataset
from catsdogs.features.reader import Fills
from catsdogs.scoring.classes import DEFAULT
from catsdogs.study.weight_files import read_arrays
from catsdogs.training.execution import Training

IMAGES = 12


class Models:
    """Fake of `TrialModels`."""

    def new_trial(self, config, seed, first_step=0):
        model = SimpleNamespace(number=seed / 2**31, values=config.model, train_on_batch=lambda *batch: None)
        model.get_weights = lambda: [np.array(model.number)]
        return SimpleNamespace(model=model, cut=SimpleNamespace(shape=(1,)))

    def discard(self, trial):
        pass

    def read_weights(self, config, file):
        return read_arrays(file, [np.array(0.0)])

    def set_weights(self, trial, weights):
        trial.model.number = float(weights[0])


def log_loss(model):
    """Return the log loss of a model, in (0, 1)."""
    values = model.values
    return 0.5 + 0.4 * math.sin(97 * model.number + 5 * values.dropout + 1e3 * values.l2 + values.unfreeze_depth)


class Job:
    """Replacement of Keras in `catsdogs.tuning.job.run_job`."""

    def __init__(self, monkeypatch, folder: Path):
        self.trained: list[tuple[int, int]] = []  # (first epoch, seed) of every training that started
        # Called before every epoch with the number of the training, from 1; may raise.
        self.before: Callable[[int], object] = lambda training: None
        self.labels = np.arange(IMAGES) % 2
        rows = pd.DataFrame({"id": list(map(str, range(IMAGES))), "label": self.labels.astype(float)})
        rows["path"], rows["sha256"] = rows["id"] + ".jpg", rows["id"].str.zfill(64)
        rows["width"] = rows["height"] = 224
        rows["split"], rows["fold"] = ["train"] * (IMAGES - 4) + ["validation"] * 4, [-1] * (IMAGES - 4) + [0] * 4
        self.dataset = Dataset(rows, folder, None, None, rows[:0], "digest", "digest")

        # Slow parts of a job.
        monkeypatch.setattr("catsdogs.tuning.job._forget_models", lambda: None)
        monkeypatch.setattr("os.fsync", lambda handle: None)
        monkeypatch.setattr("catsdogs.tuning.job.load_dataset", lambda *arguments: self.dataset)
        monkeypatch.setattr("catsdogs.training.trial_data.build_trial_data", self.build)
        monkeypatch.setattr("catsdogs.training.execution.train", self.train)
        monkeypatch.setattr("catsdogs.tuning.tuner.Search._predictions", self.predictions)

    def build(self, config, dataset, folds):
        """Fake of `catsdogs.training.trial_data.build_trial_data`."""
        from catsdogs.training.trial_data import TrialData

        features: Any = SimpleNamespace(problem=None, views=1, at_cut=lambda cut: None)
        features.prepare, features.reading, features.summary = lambda: None, contextlib.nullcontext, dict
        features.fills = lambda: Fills(0.0, 0, 0)
        return TrialData(features, DEFAULT, DEFAULT.targets(self.labels), tuple(folds)), Models()

    def reset(self) -> None:
        """Disable `fail` and forget earlier trainings."""
        self.before = lambda training: None
        self.trained.clear()

    def fail(self, training: int, error: BaseException | type[BaseException]) -> None:
        """Raise this error before every epoch of a training."""

        def before(number: int) -> None:
            if number == training:
                raise error

        self.before = before

    def train(self, model, views, targets, fold, fit, plan, listener):
        """Fake of `catsdogs.training.execution.train`; the last epoch is the best one and determines the score."""
        self.trained.append((plan.first_epoch, plan.seed))
        epoch_scores = []
        for epoch in range(plan.first_epoch, plan.epochs):
            self.before(len(self.trained))
            model.number = math.modf(model.number * 1.7 + plan.seed / 2**31 + epoch / 7)[0]
            epoch_scores.append({"epoch": epoch + 1, "loss": log_loss(model), "val_log_loss": log_loss(model)})
            listener.progress(epoch, 1.0, epoch_scores[-1])
            rung = listener.rungs.get(epoch + 1, lambda *_: False)
            if rung(epoch + 1, lambda: self._outputs(model, fold.validation_rows)):
                break
        score = epoch_scores[-1]["val_log_loss"]
        history = pd.DataFrame(epoch_scores).assign(val_log_loss=score, learning_rate=0.1, seconds=0.0)
        return Training(history, plan.epochs, score, 0.5)

    def predictions(self, trial, rows):
        return DEFAULT.from_output(self._outputs(trial.model, rows))

    def _outputs(self, model, rows):
        p_label = math.exp(-log_loss(model))
        return np.where(self.labels[rows] == 1, p_label, 1 - p_label)[:, None]
