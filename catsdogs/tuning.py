"""Oracle + trials: one Keras Tuner search.

Keras Tuner proposes values and keeps its books under `tuner/`, which nobody reads; training, seeds, records, errors and
the choice of the best trial are ours.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import base_tuner

from catsdogs.batches import PlainBatches, for_keras
from catsdogs.dataset import Fold
from catsdogs.devices import batch_sizes, distributed
from catsdogs.earlier import Earlier, validation_fits
from catsdogs.exhaustion import check_others_may_do
from catsdogs.features import Features
from catsdogs.files import unicode, write_text
from catsdogs.hypermodel import depths, hyperparameters
from catsdogs.job_tables import JobTables
from catsdogs.limits import BudgetSpent, check_budget
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
        folds: a model is trained and validated on each.
    """

    features: Features
    labels: np.ndarray
    folds: tuple[Fold, ...]

    @property
    def validation_rows(self) -> np.ndarray:
        """The rows that a model is validated on which has not seen them, ascending; int."""
        return np.sort(np.concatenate([fold.validation_rows for fold in self.folds]))


@dataclasses.dataclass(frozen=True)
class Execution:
    """What one execution of a trial came to, over all folds.

    Attributes:
        p_dog: (N,) float64 of the validation rows.
    """

    val_log_loss: float
    val_accuracy: float
    best_epoch: int
    seconds: float
    p_dog: np.ndarray


def trial_seed(seed: int, trial: str, run: int) -> int:
    """The seed of one run of a trial: of its weights, its dropout and its order of images; in [0, 2^31).

    Args:
        run: execution x folds + fold: a trial runs every fold of every execution.
    """
    return int(np.random.SeedSequence([seed, int(trial), run]).generate_state(1)[0] >> 1)


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
        self._deadline = deadline
        self._began = 0.0
        counts = [len(rows) for fold in data.folds for rows in (fold.train_rows, fold.validation_rows)]
        self._batch_sizes = batch_sizes(config.fit.batch_size, *counts)
        self._p_dog: np.ndarray | None = None
        earlier = earlier or Earlier()
        self.weights = ParentWeights(folder / "weights")
        rows = data.validation_rows
        fold_of_row = None
        if len(data.folds) > 1:
            fold_of_row = np.empty(len(rows), dtype=int)
            for number, fold in enumerate(data.folds):
                fold_of_row[np.searchsorted(rows, fold.validation_rows)] = number
        self._tables = JobTables(folder, validation_ids, data.labels[rows], earlier, fold_of_row)
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
    def folds(self) -> int:
        return len(self._data.folds)

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
        size = min(self._config.fit.batch_size, len(self._data.folds[0].train_rows))
        with distributed(self._batch_sizes):
            trial = self._models.start(hyperparameters(self._config, deepest), self._config.seed)
            trial.model.train_on_batch(np.zeros((size, *trial.cut.shape), np.float32), np.zeros((size, 1), np.float32))

    def pre_create_trial(self) -> None:
        check_budget(self._config.timeout, self._deadline)

    def _try_run_and_update_trial(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        """As Keras Tuner's, which would take a full disk or a mistake of ours for hyperparameters that fail."""
        try:
            self._run_and_update_trial(trial, *args, **kwargs)
            trial.status = COMPLETED
        except (BudgetSpent, keras_tuner.errors.FatalError):
            raise
        except Exception as error:
            check_others_may_do(error)
            trial.status = "FAILED"
            trial.message = traceback.format_exc()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Train every fold of the executions of a trial; give the mean scores of the executions."""
        self._began = time.monotonic()
        self._p_dog = None
        self._tables.forget_epochs()
        control = trial.hyperparameters.values
        first_epoch, epochs = self._epochs(control)
        folds, executions = self.folds, self._config.fit.executions_per_trial
        trainings: list[Training] = []
        for run in range(executions * folds):
            execution, fold = divmod(run, folds)
            epochs_before = run * (epochs - first_epoch)

            def told(epoch: int, share: float, logs: Any, before: int = epochs_before, fold: int = fold) -> None:
                done = before + epoch - first_epoch
                self._progress.epoch(done, share, epoch, epochs, logs, self._which(fold))

            try:
                training, model = self._run(trial.trial_id, run, told)
            except DivergedError as error:
                self._tables.keep_epochs(error.history, trial.trial_id, execution, fold)
                raise
            if execution == 0 and self._may_be_best(training):
                # Now: the next run, or trial, starts in the same model.
                self._predict(model, fold)
            trainings.append(training)
            self._tables.keep_epochs(training.history, trial.trial_id, execution, fold)
        by_execution = [trainings[start : start + folds] for start in range(0, len(trainings), folds)]
        self._record = self._new_record(
            trial,
            val_log_loss=statistics.fmean(self._pooled([one.val_log_loss for one in part]) for part in by_execution),
            val_accuracy=statistics.fmean(self._pooled([one.val_accuracy for one in part]) for part in by_execution),
            epochs=round(statistics.fmean(len(training.history) for training in trainings)),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
        )
        assert self._record.val_log_loss is not None
        assert self._record.val_accuracy is not None
        return {"val_log_loss": self._record.val_log_loss, "val_accuracy": self._record.val_accuracy}

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        found = None
        if trial.status == COMPLETED:
            found = self._record.val_log_loss
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
        self._progress.trial_done(found)

    def train_again(self, trial_id: str, execution: int, told: Any = None) -> Execution:
        """Train one execution of a finished trial, which may be one that the search has not had.

        Args:
            told: as `JobProgress.epoch`.

        Raises:
            DivergedError: it does not end well.
        """
        self._began = time.monotonic()
        self._p_dog = None
        first_epoch, epochs = self._epochs(self.oracle.trials[trial_id].hyperparameters.values)
        trainings = []
        for fold in range(self.folds):

            def listener(epoch: int, share: float, logs: dict[str, float] | None, fold: int = fold) -> None:
                if told is not None:
                    done = fold * (epochs - first_epoch) + epoch - first_epoch
                    told(done, share, epoch, epochs, logs, self._which(fold))

            training, model = self._run(trial_id, execution * self.folds + fold, listener)
            self._predict(model, fold)
            trainings.append(training)
        assert self._p_dog is not None
        return Execution(
            val_log_loss=self._pooled([training.val_log_loss for training in trainings]),
            val_accuracy=self._pooled([training.val_accuracy for training in trainings]),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
            seconds=self._seconds(),
            p_dog=self._p_dog,
        )

    def write_validation(self, p_dog: np.ndarray) -> None:
        self._tables.write_validation(p_dog)

    def mend_validation(self) -> None:
        """Train the best trial again where its predictions are lost, or are of a trial that never ended."""
        best = best_trial(self.records)
        if self._validation_fits or best is None:
            return
        log.warning("validation.csv is not of trial %s, the best one: it is trained again for it", best.trial)
        self.write_validation_again(best.trial, 0)

    def write_validation_again(self, trial_id: str, execution: int) -> None:
        """Train a trial again for its predictions alone."""
        try:
            self.write_validation(self.train_again(trial_id, execution).p_dog)
        except DivergedError as error:
            log.warning("trial %s did not end well this time, and validation.csv is left as it is: %s", trial_id, error)

    def _new_record(self, trial: Any, status: str = COMPLETED, **found: Any) -> TrialRecord:
        control = trial.hyperparameters.values
        first_epoch, epochs = self._epochs(control)
        return TrialRecord(
            trial=trial.trial_id,
            status=status,
            seconds=self._seconds(),
            hyperparameters=searched_values(control),
            parent=str(control.get("tuner/trial_id") or ""),
            first_epoch=first_epoch,
            epoch_budget=epochs,
            ended=now(),
            **{"val_log_loss": None, "val_accuracy": None, "best_epoch": 0, **found},
        )

    def _seconds(self) -> float:
        """Since the trial began."""
        return round(time.monotonic() - self._began, 3)

    def _epochs(self, control: dict[str, Any]) -> tuple[int, int]:
        """The epochs that are behind a trial when it begins, and the number of the last one that it may train."""
        return int(control.get("tuner/initial_epoch", 0)), int(control.get("tuner/epochs", self._config.fit.epochs))

    def _which(self, fold: int) -> str:
        """`2 of 5`; empty where there is one alone."""
        return f"{fold + 1} of {self.folds}" if self.folds > 1 else ""

    def _may_be_best(self, training: Training) -> bool:
        best = best_trial(self.records)
        several = self._config.fit.executions_per_trial * self.folds > 1
        if best is None or best.val_log_loss is None or several:
            return True
        return training.val_log_loss < best.val_log_loss

    def _run(self, trial_id: str, run: int, told: Any = None) -> tuple[Training, TrialModel]:
        """Train one fold of one execution of a trial that the oracle knows.

        Args:
            run: as in `trial_seed`.
            told: as `training.Listener`.
        """
        fold = self._data.folds[run % self.folds]
        steps = steps_per_epoch(len(fold.train_rows), self._config.fit.batch_size)
        control = self.oracle.trials[trial_id].hyperparameters.values
        first_epoch, epochs = self._epochs(control)
        parent = control.get("tuner/trial_id")
        # A promoted Hyperband trial goes on from its parent's weights, and from its parent's learning rate.
        weights = None if parent is None else self._weights_of(parent, run)
        seed = trial_seed(self._config.seed, trial_id, run)

        def listener(epoch: int, share: float, logs: dict[str, float] | None) -> None:
            check_budget(self._config.timeout, self._deadline)
            if told is not None:
                told(epoch, share, logs)

        with distributed(self._batch_sizes):
            started = self._models.start(hyperparameters(self._config, control), seed, first_epoch * steps)
            if weights is not None:
                self._models.set_weights(started, weights)
            try:
                training = train(
                    started.model,
                    self._data.features.at(started.cut),
                    self._data.labels,
                    fold.train_rows,
                    fold.validation_rows,
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
            self._models.save_weights(started, self.weights.file(trial_id, run))
        return training, started

    def _weights_of(self, parent: str, run: int) -> list[np.ndarray]:
        """The weights that a trial ended with; it is trained again where they are lost or damaged."""
        try:
            return self._models.read_weights(self.weights.file(parent, run))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if run < self._config.fit.executions_per_trial * self.folds:
                # With a fresh seed there were none.
                log.warning("the weights of trial %s are lost (%s): it is trained again for them", parent, error)
            self._run(parent, run)
            return self._models.read_weights(self.weights.file(parent, run))

    def _error_file(self, trial_id: str) -> Path:
        return self._folder / "errors" / f"{trial_id}.txt"

    def _pooled(self, values: list[float]) -> float:
        """What the folds say, each by its number of images; of a single one exactly what it says."""
        sizes = [len(fold.validation_rows) for fold in self._data.folds]
        return values[0] if len(values) == 1 else statistics.fmean(values, sizes)

    def _predict(self, trial: TrialModel, fold: int) -> None:
        """Keep what a model says of the validation images of its fold, in the order of all of them."""
        rows, own = self._data.validation_rows, self._data.folds[fold].validation_rows
        if self._p_dog is None:
            self._p_dog = np.full(len(rows), np.nan)
        self._p_dog[np.searchsorted(rows, own)] = self._predictions(trial, own)

    def _predictions(self, trial: TrialModel, rows: np.ndarray) -> np.ndarray:
        """(N,) float64 of these rows."""
        batches = PlainBatches(self._data.features.at(trial.cut), rows, PLAIN, self._config.fit.batch_size)
        with distributed(self._batch_sizes):
            return trial.model.predict(for_keras(batches), verbose=0).reshape(-1).astype(np.float64)
