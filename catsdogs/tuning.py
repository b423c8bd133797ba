"""Oracle + trials: one Keras Tuner search.

Keras Tuner proposes values and keeps its books under `tuner/`; training, seeds, records and the choice of the best
trial are ours.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import time
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
import pandas as pd
from keras_tuner.engine import base_tuner

from catsdogs.batches import PlainBatches, for_keras
from catsdogs.devices import batch_sizes, distributed
from catsdogs.errors import UserError
from catsdogs.features import Features
from catsdogs.files import write_csv
from catsdogs.hypermodel import declare, depths, hyperparameters
from catsdogs.progress import JobProgress
from catsdogs.provenance import now
from catsdogs.schedules import steps_per_epoch
from catsdogs.schema import SearchConfig
from catsdogs.training import DivergedError, Training, train
from catsdogs.trial_model import TrialModel, TrialModels
from catsdogs.trials import COMPLETED, TrialRecord, best_trial, write_trials
from catsdogs.views import PLAIN

log = logging.getLogger(__name__)

OBJECTIVE = keras_tuner.Objective("val_log_loss", "min")


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """What every trial of a job trains on and is scored on.

    Attributes:
        features: inputs of all rows, at any cut.
        labels: float32 (N,), 0.0 cat, 1.0 dog.
        train_rows: int, the rows of the training split.
        validation_rows: int, the rows of the validation split.
    """

    features: Features
    labels: np.ndarray
    train_rows: np.ndarray
    validation_rows: np.ndarray


def trial_seed(seed: int, trial: str, execution: int) -> int:
    """The seed of one execution of a trial: of its weights, its dropout and its order of images; in [0, 2^31)."""
    return int(np.random.SeedSequence([seed, int(trial), execution]).generate_state(1)[0] >> 1)


def build_oracle(config: SearchConfig) -> keras_tuner.Oracle:
    """Keras Tuner's oracle for `tuner`, the whole space declared.

    Raises:
        UserError: the oracle does not take the arguments, or has nothing to search.
    """
    hp = keras_tuner.HyperParameters()
    declare(config.space, hp)
    oracles = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "hyperband": keras_tuner.oracles.HyperbandOracle,
        "grid": keras_tuner.oracles.GridSearchOracle,
    }
    tuner = config.tuner
    arguments: dict[str, Any] = dict(tuner.arguments)
    if tuner.oracle == "hyperband":
        if not config.space:
            raise UserError("tuner=hyperband with an empty space has nothing to search; use tuner=random")
        arguments["max_epochs"] = config.fit.epochs
    else:
        arguments["max_trials"] = tuner.max_trials
    try:
        oracle = oracles[tuner.oracle](
            objective=OBJECTIVE,
            hyperparameters=hp,
            allow_new_entries=False,
            tune_new_entries=False,
            # A seed of 0 is a random seed to Keras Tuner.
            seed=config.seed + 1,
            # A diverging trial must not end the search, however many of them follow each other; programming errors
            # are found before it begins.
            max_consecutive_failed_trials=10**9,
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"tuner.arguments={dict(tuner.arguments)}: the {tuner.oracle} oracle says: {error}") from error
    if tuner.oracle == "hyperband":
        # HyperbandOracle takes no max_trials, but every oracle heeds it.
        oracle.max_trials = tuner.max_trials
    return oracle


def expected_trials(oracle: keras_tuner.Oracle, config: SearchConfig) -> int | None:
    """How many trials the search will run at most; None where only the oracle will know."""
    bounds = [config.tuner.max_trials]
    if config.tuner.oracle == "hyperband":
        brackets = oracle._get_num_brackets()
        sizes = [oracle._get_size(bracket, round_) for bracket in range(brackets) for round_ in range(bracket + 1)]
        bounds.append(sum(sizes) * int(oracle.hyperband_iterations))
    elif all(entry.kind == "choice" for entry in config.space.values()):
        bounds.append(math.prod(len(set(entry.values or [])) for entry in config.space.values()))
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


class SearchTuner(base_tuner.BaseTuner):
    """Runs the trials of one job and writes its tables after each of them.

    Args:
        models: of the trials of this job.
        folder: of the job; gets `tuner/`, `trials.csv`, `history.csv` and `validation.csv`.
        validation_ids: id of every row in `data.validation_rows`.
        progress: told how far training is.
    """

    def __init__(
        self,
        config: SearchConfig,
        oracle: keras_tuner.Oracle,
        data: TrainingSet,
        models: TrialModels,
        folder: Path,
        validation_ids: list[str],
        progress: JobProgress,
    ) -> None:
        self._config = config
        self._data = data
        self._models = models
        self._folder = folder
        self._validation_ids = validation_ids
        self._progress = progress
        counts = len(data.train_rows), len(data.validation_rows)
        self._batch_sizes = batch_sizes(config.fit.batch_size, *counts)
        self._steps = steps_per_epoch(len(data.train_rows), config.fit.batch_size)
        self._records: dict[str, TrialRecord] = {}
        self._histories: list[pd.DataFrame] = []
        self._tracebacks: list[str] = []
        self._began = time.monotonic()
        # No hypermodel: Keras Tuner would build from it, where our models are built once for many trials.
        super().__init__(oracle, None, directory=str(folder), project_name="tuner", overwrite=True)

    def _populate_initial_space(self) -> None:
        """Nothing to do: the space is declared whole, and Keras Tuner would build a model only to find it."""

    @property
    def records(self) -> list[TrialRecord]:
        return list(self._records.values())

    @property
    def first_traceback(self) -> str:
        """Of the first trial that failed, or empty."""
        return self._tracebacks[0] if self._tracebacks else ""

    def try_one_step(self) -> None:
        """Build a model and train one batch of zeros, so that an error of ours is not a series of failed trials."""
        # The deepest unfreezing, which is the one that the backbone may not have.
        deepest = {"unfreeze_depth": depths(self._config)[-1]}
        size = min(self._config.fit.batch_size, len(self._data.train_rows))
        with distributed(self._batch_sizes):
            trial = self._models.start(hyperparameters(self._config, deepest), self._config.seed)
            trial.model.train_on_batch(np.zeros((size, *trial.cut.shape), np.float32), np.zeros((size, 1), np.float32))

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train the executions of a trial; give their mean scores."""
        self._began = time.monotonic()
        control = trial.hyperparameters.values
        first_epoch = int(control.get("tuner/initial_epoch", 0))
        epochs = int(control.get("tuner/epochs", self._config.fit.epochs))
        trainings: list[Training] = []
        for execution in range(self._config.fit.executions_per_trial):
            try:
                with distributed(self._batch_sizes):
                    training, model = self._run_execution(trial, execution, first_epoch, epochs)
                if execution == 0 and self._may_be_best(training):
                    # Now: the next execution, or trial, starts in the same model.
                    p_dog = self._predictions(model)
            except DivergedError as error:
                self._keep_history(error.history, trial.trial_id, execution)
                raise
            trainings.append(training)
            self._keep_history(training.history, trial.trial_id, execution)
        scores = {
            "val_log_loss": statistics.fmean(training.val_log_loss for training in trainings),
            "val_accuracy": statistics.fmean(training.val_accuracy for training in trainings),
        }
        best = best_trial(self.records)
        self._records[trial.trial_id] = TrialRecord(
            trial=trial.trial_id,
            status=COMPLETED,
            val_log_loss=scores["val_log_loss"],
            val_accuracy=scores["val_accuracy"],
            epochs=round(statistics.fmean(len(training.history) for training in trainings)),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
            seconds=round(time.monotonic() - self._began, 3),
            hyperparameters=searched_values(control),
            parent=str(control.get("tuner/trial_id", "")),
            first_epoch=first_epoch,
            epoch_budget=epochs,
            ended=now(),
        )
        if best is None or best_trial(self.records) is not best:
            self._write_validation(p_dog)
        return scores

    def _may_be_best(self, training: Training) -> bool:
        best = best_trial(self.records)
        if best is None or best.val_log_loss is None or self._config.fit.executions_per_trial > 1:
            return True
        return training.val_log_loss < best.val_log_loss

    def _run_execution(self, trial: Any, execution: int, first_epoch: int, epochs: int) -> tuple[Training, TrialModel]:
        seed = trial_seed(self._config.seed, trial.trial_id, execution)
        control = trial.hyperparameters.values
        started = self._models.start(hyperparameters(self._config, control), seed, first_epoch * self._steps)
        parent = control.get("tuner/trial_id")
        if parent is not None:
            # A promoted Hyperband trial goes on from its parent's weights, and from its parent's learning rate.
            self._models.load_weights(started, self._weights(parent, execution))
        epochs_before = execution * (epochs - first_epoch)

        def listener(epoch: int, share: float, logs: dict[str, float] | None) -> None:
            self._progress.epoch(epochs_before + epoch - first_epoch, share, epoch, epochs, logs)

        try:
            training = train(
                started.model,
                self._data.features.at(started.cut),
                self._data.labels,
                self._data.train_rows,
                self._data.validation_rows,
                self._config.fit,
                seed,
                first_epoch,
                epochs,
                listener,
                self._data.features.views,
            )
        except DivergedError:
            raise
        except BaseException as error:
            self._models.forget(started)
            if self._data.features.problem is not None:
                # Not a trial that failed: no other would do better.
                raise keras_tuner.errors.FatalError(str(self._data.features.problem)) from error
            raise
        if self._config.tuner.oracle == "hyperband":
            self._models.save_weights(started, self._weights(trial.trial_id, execution))
        return training, started

    def _keep_history(self, history: pd.DataFrame, trial_id: str, execution: int) -> None:
        self._histories.append(history.assign(trial=trial_id, execution=execution))

    def _weights(self, trial_id: str, execution: int) -> Path:
        return Path(self.get_trial_dir(trial_id)) / f"execution_{execution}.npz"

    def _predictions(self, trial: TrialModel) -> np.ndarray:
        """(N,) float64 of the validation rows."""
        views = self._data.features.at(trial.cut)
        batches = PlainBatches(views, self._data.validation_rows, PLAIN, self._config.fit.batch_size)
        with distributed(self._batch_sizes):
            return trial.model.predict(for_keras(batches), verbose=0).reshape(-1).astype(np.float64)

    def _write_validation(self, p_dog: np.ndarray) -> None:
        labels = self._data.labels[self._data.validation_rows].astype(int)
        table = pd.DataFrame({"id": self._validation_ids, "label": labels, "p_dog": p_dog})
        write_csv(self._folder / "validation.csv", table)

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        if trial.trial_id not in self._records or trial.status != COMPLETED:
            self._tracebacks.append(trial.message or "")
            lines = (trial.message or "").strip().splitlines() or [trial.status]
            log.warning("trial %s failed: %s", trial.trial_id, lines[-1])
            self._records[trial.trial_id] = TrialRecord(
                trial=trial.trial_id,
                status=str(trial.status),
                val_log_loss=None,
                val_accuracy=None,
                epochs=sum(len(history) for history in self._histories if history["trial"].iloc[0] == trial.trial_id),
                best_epoch=0,
                seconds=round(time.monotonic() - self._began, 3),
                hyperparameters=searched_values(trial.hyperparameters.values),
                error=lines[-1],
                ended=now(),
            )
        write_trials(self._folder / "trials.csv", self.records)
        if self._histories:
            table = pd.concat(self._histories, ignore_index=True)
            leading = ["trial", "execution", "epoch"]
            write_csv(self._folder / "history.csv", table[leading + [name for name in table if name not in leading]])
        self._progress.trial_done()


def searched_values(values: dict[str, Any]) -> dict[str, Any]:
    """A trial's hyperparameters without Keras Tuner's control keys, which share their dictionary."""
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}
