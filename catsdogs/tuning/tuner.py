"""Oracle + trials: one search.

Keras Tuner's oracle proposes values, and keeps its books under `tuner/`, which nobody reads; training, seeds, records,
errors and the choice of the best trial are ours.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import shutil
import statistics
import time
import traceback
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
import pandas as pd

from catsdogs.base.files import escape_surrogates, write_text
from catsdogs.base.provenance import utc_timestamp
from catsdogs.base.resources import raise_if_fatal
from catsdogs.config.hyperparameters import unfreeze_depths, with_values
from catsdogs.config.schema import SearchConfig
from catsdogs.data.views import ORIGINAL
from catsdogs.network.devices import distributed
from catsdogs.network.trial_model import TrialModel, TrialModels
from catsdogs.study.job_tables import JobTables
from catsdogs.study.progress import JobProgress
from catsdogs.study.resume_state import ResumeState, validation_is_of
from catsdogs.study.trials import COMPLETED, TrialRecord, best_trial, lineage
from catsdogs.training.batches import EvaluationBatches, for_keras
from catsdogs.training.execution import DivergedError, Training, execute
from catsdogs.training.trial_data import TrialData
from catsdogs.tuning.limits import StudyTimeout, check_timeout
from catsdogs.tuning.promotion import ParentWeights
from catsdogs.tuning.replay import replay, searched_values

log = logging.getLogger(__name__)

# By which the oracle knows who asks.
_TUNER = "tuner0"


class Search:
    """Runs the trials of one job and writes its tables after each of them.

    Args:
        folder: of the job; gets `tuner/`, `weights/`, `errors/` and the tables.
        validation: of `JobTables`, a row for each of `data.validation_rows`.
        earlier: the trials that are finished, which the oracle is told of before the search goes on.
        deadline: `time.time()` at which the search is given up; None: never.

    Raises:
        UserError: the search would not have run these earlier trials.
    """

    def __init__(
        self,
        config: SearchConfig,
        oracle: keras_tuner.Oracle,
        data: TrialData,
        models: TrialModels,
        folder: Path,
        validation: pd.DataFrame,
        progress: JobProgress,
        earlier: ResumeState,
        deadline: float | None = None,
    ) -> None:
        self._config = config
        self._data = data
        self._models = models
        self._folder = folder
        self._errors = folder / "errors"
        self._progress = progress
        self._deadline = deadline
        self._batch_sizes = data.batch_sizes(config.fit.batch_size)
        self.oracle = oracle
        self.weights = ParentWeights(folder / "weights")
        self.tables = JobTables(folder, validation, earlier)
        self._validation_ids = list(validation["id"])
        # Its state on disk cannot be trusted (see `replay`).
        shutil.rmtree(folder / "tuner", ignore_errors=True)
        oracle._set_project_dir(str(folder), "tuner")
        oracle.verbose = 0
        replay(oracle, earlier.records, _TUNER, folder.name)
        self.weights.drop_useless(self.oracle, [record.trial for record in self.records])

    @property
    def records(self) -> list[TrialRecord]:
        return self.tables.records

    @property
    def folds(self) -> int:
        return len(self._data.folds)

    @property
    def first_traceback(self) -> str:
        """Of the first trial that failed, or empty."""
        for record in self.records:
            if record.status != COMPLETED and (file := self._errors / f"{record.trial}.txt").is_file():
                return file.read_text(encoding="utf-8")
        return ""

    def try_one_step(self) -> None:
        """Build a model and train one batch of zeros, so that an error of ours is not a series of failed trials."""
        # The deepest unfreezing, which is the one that the backbone may not have.
        config = with_values(self._config, {"unfreeze_depth": unfreeze_depths(self._config)[-1]})
        size = min(config.fit.batch_size, len(self._data.folds[0].train_rows))
        with distributed(self._batch_sizes):
            trial = self._models.new_trial(config, config.seed)
            trial.model.train_on_batch(np.zeros((size, *trial.cut.shape), np.float32), np.zeros((size, 1), np.float32))

    def run(self) -> None:
        """Run what the oracle proposes until it has nothing more."""
        while True:
            check_timeout(self._config.timeout, self._deadline)
            trial = self.oracle.create_trial(_TUNER)
            if trial.status != "RUNNING":
                return
            self._attempt(trial)

    def _attempt(self, trial: Any) -> None:
        """Train what the oracle proposes; tell it how that ended, and write it down."""
        began = time.monotonic()
        begun = self._begun(trial)
        best = best_trial(self.records)
        beat = math.inf if best is None or best.val_log_loss is None else best.val_log_loss
        p_dog = None
        try:
            record, p_dog = self.train(begun, range(self._config.fit.executions_per_trial), self._progress, beat)
            scores = {"val_log_loss": record.val_log_loss, "val_accuracy": record.val_accuracy}
            self.oracle.update_trial(trial.trial_id, scores)
            trial.status = COMPLETED
        except Exception as error:
            self.check_others_may_do(error)
            # A file name that is no UTF-8 may be part of it.
            trial.status, trial.message = "FAILED", escape_surrogates(traceback.format_exc())
            write_text(self._errors / f"{trial.trial_id}.txt", trial.message)
            told = trial.message.strip().splitlines()[-1]
            log.warning("trial %s failed: %s", trial.trial_id, told)
            record = dataclasses.replace(begun, epochs=self.tables.epochs(), error=told)
        self.oracle.end_trial(trial)
        # It has saved itself while the trial was still going on.
        self.oracle.save()
        seconds = round(time.monotonic() - began, 3)
        record = dataclasses.replace(record, status=trial.status, seconds=seconds, ended=utc_timestamp())
        new_best = best_trial([*self.records, record]) is record
        self.tables.commit(record, p_dog if new_best else None)
        self.weights.drop_useless(self.oracle, [record.trial for record in self.records])
        self._progress.trial_done(record.val_log_loss)

    def check_others_may_do(self, error: Exception) -> None:
        """As in `exhaustion`; nor would another trial do better without time, or where inputs cannot be read."""
        if isinstance(error, StudyTimeout) or self._data.features.problem is not None:
            raise error
        raise_if_fatal(error)

    def train(
        self,
        record: TrialRecord,
        executions: Sequence[int],
        progress: JobProgress | None = None,
        beat: float = math.inf,
    ) -> tuple[TrialRecord, np.ndarray]:
        """Train executions of a trial, on every fold.

        Args:
            executions: by number; the search has had those below `fit.executions_per_trial`.
            beat: what a single training must score less than for its predictions to count.

        Returns:
            The trial with its mean scores, and p_dog of the validation rows by the first execution, (N,) float64; NaN
            where it does not count.

        Raises:
            DivergedError: a training does not end well.
        """
        self.tables.forget_epochs()
        rows, folds = self._data.validation_rows, self._data.folds
        p_dog = np.full(len(rows), np.nan)
        runs = list(itertools.product(executions, range(len(folds))))
        trainings: list[Training] = []
        for number, (execution, fold) in enumerate(runs):
            try:
                training, model = self._train_run(record, execution * len(folds) + fold, progress, number)
            except DivergedError as error:
                self.tables.keep_epochs(error.history, record.trial, execution, fold)
                raise
            if execution == executions[0] and (len(runs) > 1 or training.val_log_loss < beat):
                # Now: the next run, or trial, starts in the same model.
                own = folds[fold].validation_rows
                p_dog[np.searchsorted(rows, own)] = self._predictions(model, own)
            self.tables.keep_epochs(training.history, record.trial, execution, fold)
            trainings.append(training)
        by_execution = [trainings[start : start + len(folds)] for start in range(0, len(trainings), len(folds))]
        scored = dataclasses.replace(
            record,
            val_log_loss=statistics.fmean(self._pooled([one.val_log_loss for one in part]) for part in by_execution),
            val_accuracy=statistics.fmean(self._pooled([one.val_accuracy for one in part]) for part in by_execution),
            epochs=round(statistics.fmean(len(training.history) for training in trainings)),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
        )
        return scored, p_dog

    def mend_validation(self, record: TrialRecord, execution: int) -> None:
        """Train an execution again for its predictions, where they are lost or of a trial that never ended."""
        if validation_is_of(self._folder, self._validation_ids, record.trial, execution):
            return
        log.warning(
            "validation.csv does not match the best trial (%s); retraining that trial to recreate it", record.trial
        )
        try:
            _, p_dog = self.train(record, [execution])
        except DivergedError as error:
            log.warning(
                "trial %s did not end well this time, and validation.csv is left as it is: %s", record.trial, error
            )
        else:
            self.tables.write_validation(p_dog, record.trial, execution)

    def _begun(self, trial: Any) -> TrialRecord:
        """The record of a trial of which nothing is known but what the oracle proposes."""
        control = trial.hyperparameters.values
        return TrialRecord(
            trial=trial.trial_id,
            status=trial.status,
            val_log_loss=None,
            val_accuracy=None,
            epochs=0,
            best_epoch=0,
            seconds=0.0,
            hyperparameters=searched_values(control),
            parent=str(control.get("tuner/trial_id") or ""),
            first_epoch=int(control.get("tuner/initial_epoch", 0)),
            epoch_budget=int(control.get("tuner/epochs", self._config.fit.epochs)),
        )

    def _train_run(
        self, record: TrialRecord, run: int, progress: JobProgress | None, number: int
    ) -> tuple[Training, TrialModel]:
        """Train a run of a trial, as in `trial_seed`, the `number`-th of those that are trained now."""
        line, weights = self._to_train(record, run)
        first, epochs = line[0].first_epoch, record.epoch_budget or self._config.fit.epochs
        which = f"{run % self.folds + 1}/{self.folds}" if self.folds > 1 else ""

        def listener(epoch: int, share: float, logs: dict[str, float] | None) -> None:
            check_timeout(self._config.timeout, self._deadline)
            if progress is not None:
                progress.epoch(number * (epochs - first) + epoch - first, share, epoch, epochs, logs, which)

        trainings, model = execute(self._config, line, self._data, self._models, run, listener, weights)
        if self._config.tuner.oracle == "hyperband" and epochs < self._config.fit.epochs:
            self._models.save_weights(model, self.weights.file(record.trial, run))
        return trainings[-1], model

    def _to_train(self, record: TrialRecord, run: int) -> tuple[list[TrialRecord], list[np.ndarray] | None]:
        """The trial after those of its line whose weights are lost, and the weights that all go on from."""
        line = lineage(self.records, record)
        for number in range(len(line) - 1, 0, -1):
            parent = line[number - 1].trial
            try:
                return line[number:], self._models.read_weights(self.weights.file(parent, run))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                if run < self._config.fit.executions_per_trial * self.folds:
                    # With a fresh seed there were none.
                    log.warning("the weights of trial %s are lost (%s): it is trained again for them", parent, error)
        return line, None

    def _pooled(self, values: list[float]) -> float:
        """What the folds say, each by its number of images; of a single one exactly what it says."""
        sizes = [len(fold.validation_rows) for fold in self._data.folds]
        return values[0] if len(values) == 1 else statistics.fmean(values, sizes)

    def _predictions(self, trial: TrialModel, rows: np.ndarray) -> np.ndarray:
        """(N,) float64 of these rows."""
        batches = EvaluationBatches(self._data.features.at_cut(trial.cut), rows, ORIGINAL, self._config.fit.batch_size)
        with distributed(self._batch_sizes):
            return trial.model.predict(for_keras(batches), verbose=0).reshape(-1).astype(np.float64)
