"""Trial + data -> its model as it was at its best epoch, and the history of its training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from catsdogs.training.batches import EvaluationBatches, TrainingBatches, for_keras
from catsdogs.training.trial_data import TrialData


class DivergedError(Exception):
    """The loss or the validation log loss became NaN or infinite; `history` is as in `Training`."""

    def __init__(self, message: str, history: pd.DataFrame) -> None:
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Training:
    """What a training left behind. The model it was given holds the weights of `best_epoch`.

    Attributes:
        history: a row per epoch: epoch (from 1), loss, log_loss, accuracy, val_loss, val_log_loss, val_accuracy,
            learning_rate (at the end of the epoch), seconds.
        best_epoch: from 1; the last one where there was no validation.
        val_log_loss: of the best epoch; NaN where there was no validation.
        val_accuracy: likewise.
    """

    history: pd.DataFrame
    best_epoch: int
    val_log_loss: float
    val_accuracy: float


# Called after a batch with (epoch from 0, share of the epoch done) and, once an epoch, with its logs.
Listener = Callable[[int, float, dict[str, float] | None], None]


def trial_seed(seed: int, trial: str, run: int) -> int:
    """The seed of one run of a trial: of its weights, its dropout and its order of images; in [0, 2^31).

    Args:
        run: execution x folds + fold: a trial runs every fold of every execution.
    """
    return int(np.random.SeedSequence([seed, int(trial), run]).generate_state(1)[0] >> 1)


def execute(
    config: SearchConfig,
    line: Sequence[TrialRecord],
    data: TrialData,
    models: TrialModels,
    run: int,
    listener: Listener,
    weights: list[np.ndarray] | None = None,
) -> tuple[list[Training], TrialModel]:
    """Train a trial on one fold; on the same data and machine the same model comes out every time.

    A promoted Hyperband trial goes on from the best weights of the trial before it, and from its learning rate, with a
    new optimizer.

    Args:
        config: of the job.
        line: `trials.lineage` of the trial, or the end of it. Each is trained from its `first_epoch` to its
            `epoch_budget`.
        run: as in `trial_seed`.
        weights: what the line goes on from; None where it is whole.

    Returns:
        The trainings of the line, that of the trial itself last, and its model.

    Raises:
        DivergedError: the loss or the validation log loss is not finite.
    """
    fold = data.folds[run % len(data.folds)]
    steps = steps_per_epoch(len(fold.train_rows), config.fit.batch_size)
    trainings: list[Training] = []
    with distributed(data.batch_sizes(config.fit.batch_size)):
        for record in line:
            seed = trial_seed(config.seed, record.trial, run)
            trial = models.new_trial(with_values(config, record.hyperparameters), seed, steps * record.first_epoch)
            if weights is not None:
                models.set_weights(trial, weights)
            try:
                training = train(
                    trial.model,
                    data.features.at_cut(trial.cut),
                    data.labels,
                    fold,
                    config.fit,
                    seed,
                    record.first_epoch,
                    record.epoch_budget,
                    listener,
                    data.features.views,
                )
            except DivergedError:
                raise
            except BaseException:
                models.discard(trial)
                raise
            trainings.append(training)
            weights = trial.model.get_weights()
    return trainings, trial


def train(
    model: keras.Model,
    views: Views,
    labels: np.ndarray,
    fold: Fold,
    fit: FitConfig,
    seed: int,
    first_epoch: int = 0,
    epochs: int | None = None,
    listener: Listener | None = None,
    distinct_views: int | None = None,
) -> Training:
    """Train with early stopping on `val_log_loss`, and put the weights of the best epoch back.

    Args:
        model: compiled, its optimizer at the schedule's step for `first_epoch`.
        labels: float (N,), 0.0 or 1.0, of all rows of `views`.
        fold: without validation images all epochs are trained, without early stopping.
        seed: of the order of images.
        epochs: number of the epoch after the last, `fit.epochs` if None.
        distinct_views: of `TrainingBatches`.

    Raises:
        DivergedError: the loss or the validation log loss is not finite.
    """
    epochs = fit.epochs if epochs is None else epochs
    batches = TrainingBatches(views, labels, fold.train_rows, fit.batch_size, epochs, seed, first_epoch, distinct_views)
    callbacks: list[Any] = [keras.callbacks.TerminateOnNaN(), _Bookkeeper(batches.steps, listener)]
    validation = None
    if len(fold.validation_rows):
        validation = for_keras(EvaluationBatches(views, fold.validation_rows, ORIGINAL, fit.batch_size, labels))
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_log_loss", mode="min", patience=fit.patience, restore_best_weights=True
            )
        )
    fitted = model.fit(
        for_keras(batches),
        validation_data=validation,
        steps_per_epoch=batches.steps,
        # The batches are shuffled within each epoch already; Keras would shuffle them across all epochs.
        shuffle=False,
        initial_epoch=first_epoch,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    )
    history = pd.DataFrame(fitted.history)
    history.insert(0, "epoch", np.arange(first_epoch + 1, first_epoch + 1 + len(history)))
    finite = np.isfinite(history["loss"]) & (validation is None or np.isfinite(history["val_log_loss"]))
    if not finite.all():
        epoch = int(history["epoch"][~finite].iloc[0])
        raise DivergedError(
            f"the loss is not finite in epoch {epoch}: the learning rate is too high for these hyperparameters", history
        )
    if validation is None:
        return Training(history, int(history["epoch"].iloc[-1]), math.nan, math.nan)
    best = history.iloc[history["val_log_loss"].argmin()]
    return Training(history, int(best["epoch"]), float(best["val_log_loss"]), float(best["val_accuracy"]))


class _Bookkeeper(keras.callbacks.Callback):
    """Adds the learning rate and the seconds to the logs of an epoch, and tells the listener how far training is."""

    def __init__(self, steps: int, listener: Listener | None) -> None:
        super().__init__()
        self._steps = steps
        self._listener = listener

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._listener is not None:
            self._listener(self._epoch, (batch + 1) / self._steps, None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = time.monotonic() - self._began
        if self._listener is not None:
            self._listener(epoch, 1.0, logs)
