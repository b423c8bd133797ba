"""Training of a trial: its model at the best epoch, and the history of its epochs."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pandas as pd

from catsdogs.config.hyperparameters import with_values
from catsdogs.config.schema import FitConfig, SearchConfig
from catsdogs.data.dataset import Fold
from catsdogs.data.views import ORIGINAL, Views
from catsdogs.network.devices import distributed
from catsdogs.network.schedules import steps_per_epoch
from catsdogs.network.trial_model import TrialModel, TrialModels
from catsdogs.study.trials import TrialRecord
from catsdogs.training.batches import EpochPlan, EvaluationBatches, TrainingBatches, for_keras
from catsdogs.training.linear_probe import start_from_probe
from catsdogs.training.trial_data import TrialData


class DivergedError(Exception):
    """Loss or validation log loss that is NaN or infinite; `history` is as in `Training`."""

    def __init__(self, message: str, history: pd.DataFrame) -> None:
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Training:
    """Result of a training; the model has the weights of `best_epoch`."""

    # A row per epoch: epoch (from 1), loss, log_loss, accuracy, val_loss, val_log_loss, val_accuracy, learning_rate (at
    # the end of the epoch), max_learning_rate (of its steps), seconds.
    history: pd.DataFrame
    best_epoch: int  # from 1; without validation, the last
    val_log_loss: float  # at the best epoch; NaN without validation
    val_accuracy: float


# Called after an epoch with its number, from 1, and a function that returns the outputs, float32 (n, C), for the
# validation images of the fold at the best epoch so far; returns whether the training stops.
AtRung = Callable[[int, Callable[[], np.ndarray]], bool]


@dataclass(frozen=True)
class Listener:
    """What is called during a training."""

    # With (epoch from 0, finished fraction of it, None) after a batch, and with (epoch, 1.0, logs) after an epoch.
    progress: Callable[[int, float, dict[str, float] | None], None] = lambda *_: None
    rungs: Mapping[int, AtRung] = field(default_factory=dict)  # by number of the epoch


def trial_seed(seed: int, trial: str, run: int) -> int:
    """Return the seed of one run of a trial, for weights, dropout and the order of images; in [0, 2^31).

    `run` is execution * number of folds + fold: a trial trains on every fold in every execution.
    """
    return int(np.random.SeedSequence([seed, int(trial), run]).generate_state(1)[0] >> 1)


def execute(
    config: SearchConfig,
    records: Sequence[TrialRecord],
    data: TrialData,
    models: TrialModels,
    run: int,
    listener: Listener,
    weights: list[np.ndarray] | None = None,
) -> tuple[list[Training], TrialModel]:
    """Train a trial on one fold; the model is reproducible on the same data and machine.

    A promoted Hyperband trial continues from the best weights and the learning rate of its parent, with a new
    optimizer. Returns the training of each record, and the model of the last one; raises `DivergedError` as `train`.

    `records` are `trials.lineage` of the trial, or its last records, each trained from `first_epoch` to `epoch_budget`;
    `run` is as in `trial_seed`; `weights` are those before the first record, None for new ones.
    """
    number = run % len(data.folds)
    fold = data.folds[number]
    steps = steps_per_epoch(len(fold.train_rows), config.fit.batch_size)
    trainings: list[Training] = []
    with distributed(data.batch_sizes(config.fit.batch_size)):
        for record in records:
            seed = trial_seed(config.seed, record.trial, run)
            epochs = config.fit.epochs if record.epoch_budget is None else record.epoch_budget
            plan = EpochPlan(seed, epochs, record.first_epoch, data.features.views)
            own = with_values(config, record.hyperparameters)
            trial = models.new_trial(own, seed, steps * record.first_epoch)
            try:
                if weights is not None:
                    models.set_weights(trial, weights)
                elif own.model.starts_from_probe:
                    start_from_probe(trial, data, number)
                views = data.features.at_cut(trial.cut)
                training = train(trial.model, views, data.targets, fold, config.fit, plan, listener)
            except BaseException as error:
                if not isinstance(error, DivergedError):
                    models.discard(trial)
                raise
            trainings.append(training)
            weights = trial.model.get_weights()
    return trainings, trial


def train(
    model: keras.Model,
    views: Views,
    targets: np.ndarray,
    fold: Fold,
    fit: FitConfig,
    plan: EpochPlan,
    listener: Listener | None = None,
) -> Training:
    """Train with early stopping on `val_log_loss`, and restore the weights of the best epoch.

    Without validation rows, all epochs are trained. `DivergedError` is raised if the loss or the validation log loss is
    not finite. `model` is compiled, its optimizer at the schedule's step for `plan.first_epoch`; `targets` are those
    of all rows of `views`, float32 (N, C) as in `Classes.targets`.
    """
    listener = listener or Listener()
    weights = (_balanced_weights(targets, fold.train_rows),) if fit.class_weights == "balanced" else ()
    batches = TrainingBatches(views, (targets, *weights), fold.train_rows, fit.batch_size, plan)
    callbacks: list[Any] = [keras.callbacks.TerminateOnNaN(), _EpochLogger(batches.steps, listener)]
    validation = None
    if len(fold.validation_rows):
        validation = for_keras(EvaluationBatches(views, fold.validation_rows, ORIGINAL, fit.batch_size, (targets,)))
        stopping = keras.callbacks.EarlyStopping(
            "val_log_loss", patience=fit.patience, mode="min", restore_best_weights=True
        )
        images = for_keras(EvaluationBatches(views, fold.validation_rows, ORIGINAL, fit.batch_size))
        callbacks += [stopping, _Rungs(listener.rungs, stopping, images)]
    fitted = model.fit(
        for_keras(batches),
        validation_data=validation,
        steps_per_epoch=batches.steps,
        # Batches are already shuffled within each epoch; Keras would shuffle them across all epochs.
        shuffle=False,
        initial_epoch=plan.first_epoch,
        epochs=plan.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    history = pd.DataFrame(fitted.history)
    history.insert(0, "epoch", np.arange(len(history)) + plan.first_epoch + 1)
    finite = np.isfinite(history["loss"]) & (validation is None or np.isfinite(history["val_log_loss"]))
    if not finite.all():
        epoch = int(history["epoch"][~finite].iloc[0])
        fix = "set a lower schedule.peak_lr, or space.peak_lr.high"
        raise DivergedError(f"the loss is not finite in epoch {epoch}; {fix}", history)
    if validation is None:
        return Training(history, int(history["epoch"].iloc[-1]), math.nan, math.nan)
    best = history.iloc[history["val_log_loss"].argmin()]
    return Training(history, int(best["epoch"]), float(best["val_log_loss"]), float(best["val_accuracy"]))


def _balanced_weights(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weights of all images, float32 (N,): all classes of `rows` have the same sum, and the mean is 1."""
    _, places, counts = np.unique(targets[rows], axis=0, return_inverse=True, return_counts=True)
    weights = np.ones(len(targets), dtype=np.float32)
    weights[rows] = len(rows) / (len(counts) * counts[places.ravel()])
    return weights


class _Rungs(keras.callbacks.Callback):
    """Calls at rungs, with the weights that early stopping would restore."""

    def __init__(self, rungs: Mapping[int, AtRung], stopping: keras.callbacks.EarlyStopping, images: Any) -> None:
        super().__init__()
        self._rungs = rungs
        self._stopping = stopping
        self._images = images

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 not in self._rungs or self.model.stop_training or self._stopping.best_weights is None:
            return
        current = self.model.get_weights()
        self.model.set_weights(self._stopping.best_weights)
        stops = self._rungs[epoch + 1](epoch + 1, lambda: self.model.predict(self._images, verbose=0))
        self.model.set_weights(current)
        self.model.stop_training = stops


class _EpochLogger(keras.callbacks.Callback):
    """Learning rate and seconds in the logs of each epoch, and calls of the listener."""

    def __init__(self, steps: int, listener: Listener) -> None:
        super().__init__()
        self._steps = steps
        self._progress = listener.progress

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._progress(self._epoch, (batch + 1) / self._steps, None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)  # of a LossScaleOptimizer
        end, rates = int(optimizer.iterations), keras.ops.convert_to_numpy(optimizer.learning_rate_table)
        logs["max_learning_rate"] = float(rates[max(0, end - self._steps) : end].max(initial=0.0))
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = time.monotonic() - self._started
        self._progress(epoch, 1.0, logs)
