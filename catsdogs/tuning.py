"""Oracle + trials: one Keras Tuner search.

Keras Tuner proposes values and keeps its books under `tuner/`, which nobody reads; training, seeds, records, errors and
the choice of the best trial are ours.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import traceback
import zipfile
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import base_tuner

from catsdogs.batches import PlainBatches, for_keras
from catsdogs.devices import batch_sizes, distributed
from catsdogs.earlier import Earlier, validation_fits
from catsdogs.exhaustion import exhausted, is_mistake_of_ours
from catsdogs.features import Features
from catsdogs.files import unicode, write_text
from catsdogs.hypermodel import depths, hyperparameters
from catsdogs.job_tables import JobTables
from catsdogs.limits import BudgetSpent, Limits, TrialTimeoutError
from catsdogs.progress import JobProgress
from catsdogs.promotion import ParentWeights
from catsdogs.provenance import now
from catsdogs.replay import replay, searched_values
from catsdogs.schedules import steps_per_epoch
from catsdogs.schema import SearchConfig
from catsdogs.training import DivergedError, Training, train
from catsdogs.trial_model import TrialModel, TrialModels
from catsdogs.trials import COMPLETED, TrialRecord, best_trial
from catsdogs.views import PLAIN

log = logging.getLogger(__name__)


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


class SearchTuner(base_tuner.BaseTuner):
    """Runs the trials of one job and writes its tables after each of them.

    Args:
        models: of the trials of this job.
        folder: of the job; gets `tuner/`, `weights/`, `errors/` and the tables.
        validation_ids: id of every row in `data.validation_rows`.
        progress: told how far training is.
        earlier: the trials that are finished, which the oracle is told of before the search goes on.
        deadline: `time.time()` at which the search is given up; None: never.

    Raises:
        UserError: the search would not have run these earlier trials.
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
        earlier: Earlier | None = None,
        deadline: float | None = None,
    ) -> None:
        self._config = config
        self._data = data
        self._models = models
        self._folder = folder
        self._progress = progress
        self._limits = Limits(config, deadline)
        counts = len(data.train_rows), len(data.validation_rows)
        self._batch_sizes = batch_sizes(config.fit.batch_size, *counts)
        self._steps = steps_per_epoch(len(data.train_rows), config.fit.batch_size)
        self._p_dog: np.ndarray | None = None
        earlier = earlier or Earlier()
        self.weights = ParentWeights(folder / "weights")
        self._tables = JobTables(folder, validation_ids, data.labels[data.validation_rows], earlier)
        self._validation_fits = validation_fits(folder, earlier, validation_ids)
        # No hypermodel: Keras Tuner would build from it, where our models are built once for many trials. Overwritten,
        # as its state cannot be trusted (see `replay`).
        super().__init__(oracle, None, directory=str(folder), project_name="tuner", overwrite=True)
        oracle.verbose = 0
        self._take_up(earlier.records)

    def _take_up(self, earlier: list[TrialRecord]) -> None:
        known = replay(self.oracle, earlier, self.tuner_id, self._folder.name)
        if known != earlier:
            for before, after in zip(earlier, known, strict=True):
                if before.trial != after.trial and self._error_file(before.trial).is_file():
                    self._error_file(before.trial).rename(self._error_file(after.trial))
            self._tables.rename(known)
        self.weights.drop_useless(self.oracle, [record.trial for record in self.records])

    def _populate_initial_space(self) -> None:
        """Nothing to do: the space is declared whole, and Keras Tuner would build a model only to find it."""

    @property
    def records(self) -> list[TrialRecord]:
        return self._tables.records

    @property
    def first_traceback(self) -> str:
        """Of the first trial that failed, or empty."""
        for record in self.records:
            file = self._error_file(record.trial)
            if record.status != COMPLETED and file.is_file():
                return file.read_text(encoding="utf-8")
        return ""

    def try_one_step(self) -> None:
        """Build a model and train one batch of zeros, so that an error of ours is not a series of failed trials."""
        # The deepest unfreezing, which is the one that the backbone may not have.
        deepest = {"unfreeze_depth": depths(self._config)[-1]}
        size = min(self._config.fit.batch_size, len(self._data.train_rows))
        with distributed(self._batch_sizes):
            trial = self._models.start(hyperparameters(self._config, deepest), self._config.seed)
            trial.model.train_on_batch(np.zeros((size, *trial.cut.shape), np.float32), np.zeros((size, 1), np.float32))

    def pre_create_trial(self) -> None:
        self._limits.check_budget()

    def _try_run_and_update_trial(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras Tuner's, which would take a full disk or a mistake of ours for hyperparameters that fail."""
        try:
            self._run_and_update_trial(trial, *args, **kwargs)
            trial.status = COMPLETED
        except (BudgetSpent, keras_tuner.errors.FatalError):
            raise
        except Exception as error:
            ran_out = exhausted(error)
            if ran_out is not None:
                raise ran_out from error
            if is_mistake_of_ours(error):
                raise
            trial.status = "FAILED"
            trial.message = traceback.format_exc()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train the executions of a trial; give their mean scores."""
        self._limits.begin_trial()
        self._p_dog = None
        self._tables.forget_epochs()
        control = trial.hyperparameters.values
        self._limits.check_size(self._models.parameters(hyperparameters(self._config, control)))
        first_epoch, epochs = self._epochs(control)
        trainings: list[Training] = []
        for execution in range(self._config.fit.executions_per_trial):
            epochs_before = execution * (epochs - first_epoch)

            def told(epoch: int, share: float, logs: dict[str, float] | None, before: int = epochs_before) -> None:
                self._progress.epoch(before + epoch - first_epoch, share, epoch, epochs, logs)

            try:
                training, model = self._run_execution(trial.trial_id, execution, told)
            except DivergedError as error:
                self._tables.keep_epochs(error.history, trial.trial_id, execution)
                raise
            if execution == 0 and self._may_be_best(training):
                # Now: the next execution, or trial, starts in the same model.
                self._p_dog = self._predictions(model)
            trainings.append(training)
            self._tables.keep_epochs(training.history, trial.trial_id, execution)
        self._record = self._new_record(
            trial,
            val_log_loss=statistics.fmean(training.val_log_loss for training in trainings),
            val_accuracy=statistics.fmean(training.val_accuracy for training in trainings),
            epochs=round(statistics.fmean(len(training.history) for training in trainings)),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
        )
        assert self._record.val_log_loss is not None
        assert self._record.val_accuracy is not None
        return {"val_log_loss": self._record.val_log_loss, "val_accuracy": self._record.val_accuracy}

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        if trial.status == COMPLETED:
            record = self._record
            new_best = best_trial([*self.records, record]) is record
            self._tables.commit(record, self._p_dog if new_best else None)
            self._validation_fits |= new_best
        else:
            # A file name that is no UTF-8 may be part of it.
            message = unicode(trial.message or str(trial.status))
            error = message.strip().splitlines()[-1]
            log.warning("trial %s failed: %s", trial.trial_id, error)
            write_text(self._error_file(trial.trial_id), message)
            self._tables.commit(
                self._new_record(trial, status=str(trial.status), epochs=self._tables.epochs(), error=error)
            )
        self.weights.drop_useless(self.oracle, [record.trial for record in self.records])
        self._progress.trial_done()

    def mend_validation(self) -> None:
        """Train the best trial again where its predictions are lost, or are of a trial that never ended."""
        best = best_trial(self.records)
        if self._validation_fits or best is None:
            return
        log.warning("validation.csv is not of trial %s, the best one: it is trained again for it", best.trial)
        self._limits.begin_trial()
        try:
            self._tables.write_validation(self._predictions(self._run_execution(best.trial, 0)[1]))
        except (DivergedError, TrialTimeoutError) as error:
            log.warning(
                "trial %s did not end well this time, and validation.csv is left as it is: %s", best.trial, error
            )

    def _new_record(self, trial: Any, status: str = COMPLETED, **found: Any) -> TrialRecord:
        control = trial.hyperparameters.values
        first_epoch, epochs = self._epochs(control)
        return TrialRecord(
            trial=trial.trial_id,
            status=status,
            seconds=self._limits.trial_seconds(),
            hyperparameters=searched_values(control),
            parent=str(control.get("tuner/trial_id") or ""),
            first_epoch=first_epoch,
            epoch_budget=epochs,
            ended=now(),
            **{"val_log_loss": None, "val_accuracy": None, "best_epoch": 0, **found},
        )

    def _epochs(self, control: dict[str, Any]) -> tuple[int, int]:
        """The epochs that are behind a trial when it begins, and the number of the last one that it may train."""
        return int(control.get("tuner/initial_epoch", 0)), int(control.get("tuner/epochs", self._config.fit.epochs))

    def _may_be_best(self, training: Training) -> bool:
        best = best_trial(self.records)
        if best is None or best.val_log_loss is None or self._config.fit.executions_per_trial > 1:
            return True
        return training.val_log_loss < best.val_log_loss

    def _run_execution(self, trial_id: str, execution: int, told: Any = None) -> tuple[Training, TrialModel]:
        """Train one execution of a trial that the oracle knows.

        Args:
            told: as `training.Listener`.
        """
        control = self.oracle.trials[trial_id].hyperparameters.values
        first_epoch, epochs = self._epochs(control)
        parent = control.get("tuner/trial_id")
        # A promoted Hyperband trial goes on from its parent's weights, and from its parent's learning rate.
        weights = None if parent is None else self._weights_of(parent, execution)
        seed = trial_seed(self._config.seed, trial_id, execution)

        def listener(epoch: int, share: float, logs: dict[str, float] | None) -> None:
            self._limits.check_time()
            if told is not None:
                told(epoch, share, logs)

        with distributed(self._batch_sizes):
            started = self._models.start(hyperparameters(self._config, control), seed, first_epoch * self._steps)
            if weights is not None:
                self._models.set_weights(started, weights)
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
        if self._config.tuner.oracle == "hyperband" and epochs < self._config.fit.epochs:
            self._models.save_weights(started, self.weights.file(trial_id, execution))
        return training, started

    def _weights_of(self, parent: str, execution: int) -> list[np.ndarray]:
        """The weights that a trial ended with; it is trained again where they are lost or damaged."""
        try:
            return self._models.read_weights(self.weights.file(parent, execution))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("the weights of trial %s are lost (%s): it is trained again for them", parent, error)
            self._run_execution(parent, execution)
            return self._models.read_weights(self.weights.file(parent, execution))

    def _error_file(self, trial_id: str) -> Path:
        return self._folder / "errors" / f"{trial_id}.txt"

    def _predictions(self, trial: TrialModel) -> np.ndarray:
        """(N,) float64 of the validation rows."""
        views = self._data.features.at(trial.cut)
        batches = PlainBatches(views, self._data.validation_rows, PLAIN, self._config.fit.batch_size)
        with distributed(self._batch_sizes):
            return trial.model.predict(for_keras(batches), verbose=0).reshape(-1).astype(np.float64)
