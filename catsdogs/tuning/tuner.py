"""Search of a job: a loop over the trials of an oracle.

Keras Tuner proposes hyperparameters. Its state under `tuner/` is never read: training, seeding, trial records, error
handling and model selection are implemented here.
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
from collections.abc import Callable, Sequence
from typing import Any

import keras_tuner
import numpy as np

from catsdogs.base.files import escape_surrogates, write_text
from catsdogs.base.provenance import utc_timestamp
from catsdogs.base.records import CorruptedFile
from catsdogs.base.resources import raise_if_fatal
from catsdogs.config.hyperparameters import with_largest_model, with_values
from catsdogs.config.schema import SearchConfig
from catsdogs.data.views import ORIGINAL
from catsdogs.network.devices import distributed
from catsdogs.network.trial_model import TrialModel, TrialModels
from catsdogs.scoring.scores import score_images
from catsdogs.study.job_tables import JobTables
from catsdogs.study.plan import StudyTimeout, check_timeout
from catsdogs.study.progress import JobProgress
from catsdogs.study.trials import COMPLETED, STOPPED, TrialRecord, lineage, ranked
from catsdogs.study.weight_files import TrialWeights, write_arrays
from catsdogs.training.batches import EvaluationBatches, for_keras
from catsdogs.training.execution import DivergedError, Listener, Training, execute
from catsdogs.training.trial_data import TrialData
from catsdogs.tuning.oracles import may_be_promoted, replay, searched_values
from catsdogs.tuning.race import RacingTrial

log = logging.getLogger(__name__)

# Id with which trials are requested from the oracle.
_TUNER = "tuner0"


class Search:
    """Search of one job; writes the tables of the job after every trial.

    The trials in `tables` are replayed. The search also writes `tuner/`, `weights/` and `errors/` in their folder, and
    stops when `time.time()` reaches the `deadline`.
    """

    def __init__(
        self,
        config: SearchConfig,
        oracle: keras_tuner.Oracle,
        data: TrialData,
        models: TrialModels,
        tables: JobTables,
        progress: JobProgress,
        deadline: float | None = None,
    ) -> None:
        self._config = config
        self._data = data
        self._models = models
        self._folder = tables.folder
        self._errors = tables.folder / "errors"
        self._progress = progress
        self._deadline = deadline
        self.folds = len(data.folds)
        self._batch_sizes = data.batch_sizes(config.fit.batch_size)
        self.oracle = oracle
        self._weights = TrialWeights(tables.folder)
        self._most_kept = 0  # trials with kept weights; known after the test step
        self.tables = tables
        # The oracle's state on disk is unreliable (see `replay`).
        shutil.rmtree(tables.folder / "tuner", ignore_errors=True)
        oracle._set_project_dir(str(tables.folder), "tuner")
        oracle.verbose = 0
        replay(oracle, self.records, _TUNER, tables.folder.name)

    @property
    def records(self) -> list[TrialRecord]:
        """Finished trials."""
        return self.tables.records

    @property
    def first_traceback(self) -> str:
        """Traceback of the first failed trial, or ""."""
        for record in self.records:
            if record.status != COMPLETED and (file := self._errors / f"{record.trial}.txt").is_file():
                return file.read_text(encoding="utf-8")
        return ""

    def run_test_step(self) -> None:
        """Run one training step on zeros, so that a programming error fails before the search starts.

        Its model is the largest one, whose size determines how many trials keep their weights.
        """
        # The largest depth is also the one that the backbone may not support.
        config = with_largest_model(self._config)
        size = min(config.fit.batch_size, len(self._data.folds[0].train_rows))
        with distributed(self._batch_sizes):
            trial = self._models.new_trial(config, config.seed)
            shapes = trial.cut.shape, self._data.targets.shape[1:]
            trial.model.train_on_batch(*(np.zeros((size, *shape), np.float32) for shape in shapes))
        largest = self.folds * sum(weight.nbytes for weight in trial.model.get_weights())
        largest += 4 * self._data.classes.outputs * len(self._data.validation_rows)
        self._most_kept = int(config.fit.keep_weights_gib * 2**30 // largest)
        self.delete_unneeded_weights()

    def run(self) -> None:
        """Run the trials that the oracle proposes until it has none left."""
        while True:
            check_timeout(self._config.timeout, self._deadline)
            trial = self.oracle.create_trial(_TUNER)
            if trial.status != "RUNNING":
                return
            self._attempt(trial)

    def _attempt(self, trial: Any) -> None:
        """Train a proposed trial, report its scores to the oracle, and record it."""
        started = time.monotonic()
        proposed = self._proposed(trial)
        # The first trial after those that need predictions; the best one needs them in any case.
        beaten = ranked(self.records)[max(1, self._most_kept) - 1 :]
        score_to_beat = beaten[0].val_log_loss if beaten and beaten[0].val_log_loss is not None else math.inf
        probabilities = None
        try:
            executions = range(self._config.fit.executions_per_trial)
            race = self._racing(proposed) if self._config.tuner.oracle == "race" else None
            record, probabilities = self.train(proposed, executions, self._progress, score_to_beat, race)
            if race is not None and race.behind is not None:
                # Keras Tuner knows no trials that stop; `replay` reports it in the same way.
                trial.status, trial.message = "FAILED", str(race.behind)
                record = dataclasses.replace(record, status=STOPPED, error=str(race.behind))
                log.info("trial=%s stopped: %s", trial.trial_id, race.behind)
            else:
                scores = {"val_log_loss": record.val_log_loss, "val_accuracy": record.val_accuracy}
                self.oracle.update_trial(trial.trial_id, scores)
                trial.status = COMPLETED
        except Exception as error:
            if isinstance(error, StudyTimeout) or self._data.features.problem is not None:
                raise
            raise_if_fatal(error)
            # The traceback may contain a file name that is not UTF-8.
            trial.status, trial.message = "FAILED", escape_surrogates(traceback.format_exc())
            write_text(self._errors / f"{trial.trial_id}.txt", trial.message)
            message = trial.message.strip().splitlines()[-1]
            log.warning("trial=%s failed: %s", trial.trial_id, message)
            record = dataclasses.replace(proposed, epochs=self.tables.epochs(), error=message)
        self.oracle.end_trial(trial)
        # The oracle has saved itself before it removed the trial from the running ones.
        self.oracle.save()
        seconds = round(time.monotonic() - started, 3)
        status = STOPPED if record.status == STOPPED else trial.status  # the oracle may change that of a failed trial
        record = dataclasses.replace(record, status=status, seconds=seconds, ended=utc_timestamp())
        order = ranked([*self.records, record])
        if probabilities is not None and record in order[: self._most_kept]:
            outputs = self._data.classes.to_output(probabilities).astype(np.float32)
            write_arrays(self._weights.predictions(record.trial), [outputs])
        self.tables.commit(record, probabilities if order[:1] == [record] else None)
        self.delete_unneeded_weights()
        self._progress.trial_done(record.val_log_loss if record.can_win else None)

    def train(
        self,
        record: TrialRecord,
        executions: Sequence[int],
        progress: JobProgress | None = None,
        score_to_beat: float = math.inf,
        race: RacingTrial | None = None,
    ) -> tuple[TrialRecord, np.ndarray]:
        """Train executions of a trial, on every fold unless it stops; raise `DivergedError` if a loss is not finite.

        The search itself uses executions below `fit.executions_per_trial`. Return the trial with its mean scores, and
        float64 (N, K) probabilities of the validation rows by the first execution. They are NaN if the trial has a
        single training with a log loss that is not below `score_to_beat`.
        """
        self.tables.forget_epochs()
        if progress is not None:
            progress.trial_started(with_values(self._config, record.hyperparameters).model.unfreeze_depth)
        rows, folds = self._data.validation_rows, self._data.folds
        probabilities = np.full((len(rows), len(self._data.classes)), np.nan)
        runs = list(itertools.product(executions, range(len(folds))))
        trainings: list[Training] = []
        for number, (execution, fold) in enumerate(runs):
            try:
                training, model = self._train_run(record, execution * len(folds) + fold, progress, number, race)
            except DivergedError as error:
                self.tables.keep_epochs(error.history, record.trial, execution, fold)
                raise
            self.tables.keep_epochs(training.history, record.trial, execution, fold)
            trainings.append(training)
            if race is not None and race.behind is not None:
                break
            needed = len(runs) > 1 or race is not None or training.val_log_loss < score_to_beat
            predicted = execution == executions[0] and needed
            # Predict and save now, because the next run or trial reuses the model.
            if predicted:
                fold_rows = folds[fold].validation_rows
                probabilities[np.searchsorted(rows, fold_rows)] = self._predictions(model, fold_rows)
            if (predicted and execution == 0 and self._most_kept) or self._may_be_parent(record):
                run = execution * len(folds) + fold
                write_arrays(self._weights.file(record.trial, run), model.model.get_weights())
            if race is not None:
                losses = self._losses(probabilities[np.searchsorted(rows, fold_rows)], fold_rows)
                if race.reached(fold, len(training.history), losses, last=True):
                    break
        return self._with_mean_scores(record, trainings), probabilities

    def _racing(self, record: TrialRecord) -> RacingTrial:
        """Return the race of a new trial against the finished ones."""
        leaders = [one.trial for one in ranked(self.records)]
        sizes = [len(fold.validation_rows) for fold in self._data.folds]
        return RacingTrial(self._folder, record.trial, leaders, sizes, self._config.fit.epochs)

    def _losses(self, probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the loss of each image for probabilities (n, K) of these validation rows."""
        labels = self.tables.validation["label"].to_numpy()[np.searchsorted(self._data.validation_rows, rows)]
        return score_images(labels, probabilities).losses

    def restore_validation(self, record: TrialRecord, execution: int) -> None:
        """Train an execution again if `validation.csv` does not have its predictions."""
        if self.tables.has_validation_of(record.trial, execution):
            return
        message = "validation.csv does not match the best trial (trial=%s); retraining that trial to recreate it"
        log.warning(message, record.trial)
        try:
            _, probabilities = self.train(record, [execution])
        except DivergedError as error:
            log.warning("trial=%s diverged when retrained, so validation.csv is unchanged: %s", record.trial, error)
        else:
            self.tables.write_validation(probabilities, record.trial, execution)

    def _proposed(self, trial: Any) -> TrialRecord:
        """Return the record of a trial before its training."""
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
        self, record: TrialRecord, run: int, progress: JobProgress | None, number: int, race: RacingTrial | None
    ) -> tuple[Training, TrialModel]:
        """Train one run of a trial, numbered as in `trial_seed`; `number` is its index in this call of `train`."""
        fold_rows = self._data.folds[run % self.folds].validation_rows
        records, weights = self._records_to_train(record, run)
        first, epochs = records[0].first_epoch, record.epoch_budget or self._config.fit.epochs
        fold = f"{run % self.folds + 1}/{self.folds}" if self.folds > 1 else ""

        def report(epoch: int, share: float, logs: dict[str, float] | None) -> None:
            check_timeout(self._config.timeout, self._deadline)
            if progress is not None:
                progress.epoch(number * (epochs - first) + epoch - first, share, epoch, epochs, logs, fold)

        def at_rung(epochs: int, outputs: Callable[[], np.ndarray]) -> bool:
            assert race is not None
            if not np.isfinite(predicted := outputs()).all():  # diverged
                return False
            return race.reached(run, epochs, self._losses(self._data.classes.from_output(predicted), fold_rows))

        listener = Listener(report, {} if race is None else dict.fromkeys(race.rungs(run), at_rung))
        trainings, model = execute(self._config, records, self._data, self._models, run, listener, weights)
        return trainings[-1], model

    def _may_be_parent(self, record: TrialRecord) -> bool:
        epochs = record.epoch_budget or self._config.fit.epochs
        return self._config.tuner.oracle == "hyperband" and epochs < self._config.fit.epochs

    def delete_unneeded_weights(self, finished: bool = False) -> None:
        """Delete weights, except those of the best trials and, unless the search is finished, of possible parents."""
        recorded = [record.trial for record in self.records]
        kept = [record.trial for record in ranked(self.records)[: self._most_kept]]
        self._weights.delete_except(set() if finished else may_be_promoted(self.oracle, recorded), kept, self.folds)

    def _records_to_train(self, record: TrialRecord, run: int) -> tuple[list[TrialRecord], list[np.ndarray] | None]:
        """Return the trial, preceded by ancestors with missing weights, and the weights to start from."""
        records = lineage(self.records, record)
        for number in range(len(records) - 1, 0, -1):
            parent = records[number - 1].trial
            try:
                config = with_values(self._config, records[number - 1].hyperparameters)
                return records[number:], self._models.read_weights(config, self._weights.file(parent, run))
            except (OSError, CorruptedFile) as error:
                if run < self._config.fit.executions_per_trial * self.folds:
                    # Later executions have new seeds, so no weights exist for them.
                    log.warning("cannot read the weights of trial=%s (%s); retraining that trial", parent, error)
        return records, None

    def _with_mean_scores(self, record: TrialRecord, trainings: list[Training]) -> TrialRecord:
        """Return the record with the means over its trainings, ordered by execution and then by fold.

        Folds are weighted by their number of validation images.
        """
        sizes = [len(fold.validation_rows) for fold in self._data.folds] * math.ceil(len(trainings) / self.folds)
        # Weights would round the score of a single fold.
        weights = sizes[: len(trainings)] if self.folds > 1 else None
        return dataclasses.replace(
            record,
            val_log_loss=statistics.fmean((one.val_log_loss for one in trainings), weights),
            val_accuracy=statistics.fmean((one.val_accuracy for one in trainings), weights),
            epochs=round(statistics.fmean(len(training.history) for training in trainings)),
            best_epoch=round(statistics.fmean(training.best_epoch for training in trainings)),
        )

    def _predictions(self, trial: TrialModel, rows: np.ndarray) -> np.ndarray:
        """Return float64 (N, K) probabilities of these rows."""
        batches = EvaluationBatches(self._data.features.at_cut(trial.cut), rows, ORIGINAL, self._config.fit.batch_size)
        with distributed(self._batch_sizes):
            return self._data.classes.from_output(trial.model.predict(for_keras(batches), verbose=0))
