"""One job: from a `SearchConfig` and a folder to a finished job in that folder."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs.base.errors import UserError
from catsdogs.base.files import remove_temporaries, sync_folder, write_csv, write_json
from catsdogs.base.interrupts import stoppable
from catsdogs.base.output import lost_output
from catsdogs.base.provenance import machine, utc_timestamp, versions
from catsdogs.base.records import check_table_size
from catsdogs.base.resources import as_out_of_resources, check_free_space
from catsdogs.base.text import counted, format_duration
from catsdogs.config.hyperparameters import unfreeze_depths
from catsdogs.config.schema import SearchConfig
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.data.fitting import fit_to_data
from catsdogs.network.startup import start_keras
from catsdogs.scoring.classes import STEPS
from catsdogs.study.decision import JobDecision, archive_attempt, earlier_files, inspect_job, with_values_of_job
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.identity import fingerprint
from catsdogs.study.job_tables import HISTORY, SELECT, TRIALS, VALIDATION, JobTables, ResumeState, load_resume_state
from catsdogs.study.jobs import FAILED, INTERRUPTED, OK, RESULT, RUNNING
from catsdogs.study.leaderboard import write_leaderboard
from catsdogs.study.locking import HOLDER, lock_job
from catsdogs.study.plan import StudyTimeout, check_timeout, study_deadline
from catsdogs.study.progress import JobProgress, study_line
from catsdogs.study.trials import RUNGS, best_trial, outcome

if TYPE_CHECKING:
    from catsdogs.training.trial_data import TrialData
    from catsdogs.tuning.tuner import Search

log = logging.getLogger(__name__)

SPLIT = "split.csv"

# Files that Hydra has written for this run before the job starts.
_HYDRA_FILES = (".hydra", "search.log")


@dataclass(frozen=True)
class JobLocation:
    """Folder of a job, and its position in the study."""

    folder: Path  # of the job
    study: Path  # folder of the study
    index: int = 1  # from 1
    total: int | None = 1  # jobs of this run of the study; None if a sweeper decides during the run

    @property
    def label(self) -> str:
        """Start of log lines, such as `job 2/4 NAME`."""
        return f"job {self.index}/{self.total or '?'} {self.folder.name}"


def run_job(config: SearchConfig, location: JobLocation, choices: dict[str, str]) -> float:
    """Start or resume a job, write all results to its folder, and return its best finite `val_log_loss`.

    An error stops only this job: it is recorded in `result.json`, and the objective is NaN. If the folder is corrupted,
    locked, or of another job, a `UserError` is raised, and nothing is changed.

    Args:
        choices: options of the composed groups, and values of all other settings that the study varies.
    """
    with lock_job(location.folder):
        try:
            return _JobRun(config, location, choices).run()
        finally:
            _write_or_log(location, lambda: write_leaderboard(location.study))
            _forget_models()


class _JobRun:
    """One run of a job, by the process that holds its lock."""

    def __init__(self, config: SearchConfig, location: JobLocation, choices: dict[str, str]) -> None:
        self._config = config
        self._location = location
        self._started = time.monotonic()
        self._seconds_before = 0.0
        # Files of an earlier run may be of another job, so nothing is overwritten before that is checked.
        self._may_write = not earlier_files(location.folder)
        self._result: dict[str, Any] = {
            "status": RUNNING,
            "job": location.folder.name,
            "study": location.study.name,
            "choices": choices,
            **dict.fromkeys(("best_trial", "objective", "seconds", "error")),
            "started": utc_timestamp(),
            "seed": config.seed,
            "versions": versions(),
            "machine": machine(),
        }

    def run(self) -> float:
        """Run the job, record how it ended, and return its objective."""
        config, location, result = self._config, self._location, self._result
        try:
            with stoppable():
                config = with_values_of_job(config, location.folder)
                dataset = load_dataset(config.data, Path(config.cache), config.split)
                self._config = config = fit_to_data(config, dataset)[0]
                result["config"] = dataclasses.asdict(config)
                mark = fingerprint(config, dataset.digest)
                decision = inspect_job(config, location.folder, mark)
                if not decision.runs:
                    return _skip(location, decision)
                state = self._prepare_folder(decision)
                self._write_data(dataset, mark)
                self._search_until_timeout(dataset, state)
                result["status"] = OK
        except UserError as error:
            if not self._may_write:
                raise
            log.error("%s: %s", location.label, error)
            result.update(status=FAILED, error=str(error), error_type="UserError")
        except Exception as error:
            self._record_error(error)
        except BaseException:
            # Ctrl-C: finished trials are saved, but the job is not finished.
            result.update(status=FAILED, error="interrupted", error_type=INTERRUPTED)
            raise
        finally:
            if self._may_write and result["status"] != RUNNING:
                result["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 3)
                result["finished"] = utc_timestamp()
                _write_or_log(location, lambda: write_json(location.folder / RESULT, result))
        return math.nan if result["status"] != OK or result["objective"] is None else float(result["objective"])

    def _prepare_folder(self, decision: JobDecision) -> ResumeState:
        """Make the folder ready for this run, and return the finished trials."""
        location = self._location
        if decision.restart and (archive := archive_attempt(location.folder, keep=_HYDRA_FILES)):
            log.info("%s: starting over; files from the previous attempt were moved to %s", location.label, archive)
        earlier = None if decision.job is None or decision.restart else decision.job.result
        state = load_resume_state(location.folder, earlier)
        # A killed run has not recorded its time; count at least that of its trials.
        trial_seconds = sum(record.seconds for record in state.records)
        self._seconds_before = max(trial_seconds, (earlier or {}).get("seconds") or 0.0)
        self._may_write = True
        check_free_space(location.study, Path(self._config.cache))
        remove_temporaries(location.folder, (RESULT, TRIALS, HISTORY, VALIDATION, SELECT, SPLIT, HOLDER), 0.0)
        for name in ("errors", RUNGS):
            remove_temporaries(location.folder / name, older_than_seconds=0.0)
        for folder in (location.study, *location.study.absolute().parents[:2]):
            sync_folder(folder)  # Hydra has created the folders of the job
        if state.records:
            self._result["resumed_after"] = len(state.records)
            log.info("%s: %s", location.label, decision.describe())
        return state

    def _write_data(self, dataset: Dataset, mark: dict[str, Any]) -> None:
        """Write the data of the job to `result.json` and `split.csv`; refuse images of which tables are too large."""
        folds = dataset.folds()
        self._result.update(classes=[*dataset.classes.names], weights=mark["weights"])
        self._result["data"] = {
            "digest": dataset.digest,
            "images_digest": dataset.images_digest,
            **({"validation_digest": dataset.validation.digest} if dataset.validation else {}),
            # With several folds: size of the first training split, and sum of all validation splits.
            "train": len(folds[0].train_rows),
            "validation": sum(len(fold.validation_rows) for fold in folds),
            "holdout": len(dataset.holdout_rows),
            "folds": len(folds),
            "left_out": len(dataset.skipped),
        }
        write_json(self._location.folder / RESULT, self._result)
        rows, limit = len(dataset.rows) + len(() if dataset.test is None else dataset.test), self._config.data.limit
        key, fix = f"data.limit={'null' if limit is None else limit}", "set a lower data.limit, or fewer data.classes"
        check_table_size(rows, dataset.classes.outputs, len(STEPS), key, fix)
        columns = ["id", "label", "sha256", "split", *(["fold"] if len(folds) > 1 else []), "path"]
        write_csv(self._location.folder / SPLIT, dataset.rows.assign(path=dataset.relative_paths)[columns])

    def _search_until_timeout(self, dataset: Dataset, state: ResumeState) -> None:
        """Search; a study that reaches its time limit is finished, with fewer trials."""
        deadline = study_deadline(self._location.study, self._config.timeout.study_seconds)
        try:
            check_timeout(self._config.timeout, deadline)
            self._search(dataset, state, deadline)
        except StudyTimeout as timeout:
            if "trials" not in self._result:
                self._result.update(outcome(state.records, self._config.tuner.max_trials))
            self._result["stopped"] = str(timeout)
            counts = self._result["trials"]
            message = "%s: %s after %d/%s trials; run the same command again to continue"
            log.warning(message, self._location.label, timeout, counts.get("total", 0), counts["planned"] or "?")

    def _search(self, dataset: Dataset, state: ResumeState, deadline: float | None) -> None:
        """Search, and add the outcome to the result, also after an error."""
        start_keras()
        from catsdogs.tuning.selection import select

        config, location, result = self._config, self._location, self._result
        search, data, planned = self._build_search(dataset, state, deadline)
        started = time.monotonic()
        try:
            search.run_test_step()
            with data.features.reading():
                data.features.prepare()
                search.run()
                chosen = select(config, search, location.folder, location.label) if config.select.top_k > 1 else None
                best = best_trial(search.records)
                if best is not None and chosen is None:
                    search.restore_validation(best, 0)
        finally:
            fill_seconds = round(data.features.fills().seconds, 3)
            result.update(outcome(search.records, planned), features=data.features.summary(), fill_seconds=fill_seconds)
        if best is None:
            problem = f"none of {counted(len(search.records), 'trial')} completed with a finite log loss"
            reason = next((record.error for record in search.records if record.error), "no error was recorded")
            raise RuntimeError(f"{problem}; first failure: {reason}\n{search.first_traceback}")
        search.delete_unneeded_weights(finished=True)
        if chosen is not None:
            result.update(best_trial=chosen, objective=chosen["val_log_loss"])
        best_id, trials = result["best_trial"]["trial"], counted(len(search.records), "trial")
        after = f"{trials} in {format_duration(time.monotonic() - started)}"
        log.info("%s: best val_log_loss %.4f (trial=%s) after %s", location.label, result["objective"], best_id, after)

    def _build_search(
        self, dataset: Dataset, state: ResumeState, deadline: float | None
    ) -> tuple[Search, TrialData, int | None]:
        """Build the search, and return it with its data and its largest number of trials."""
        # Importing Keras and TensorFlow takes seconds, and errors in the data are reported before.
        from catsdogs.network.devices import accelerators
        from catsdogs.training.trial_data import build_trial_data
        from catsdogs.tuning.oracles import build_oracle, expected_trials
        from catsdogs.tuning.tuner import Search

        config, location = self._config, self._location
        data, models = build_trial_data(config, dataset, dataset.folds())
        oracle = build_oracle(config)
        planned = expected_trials(oracle, config)
        # Accelerators are known only after Keras is imported.
        self._result.update(trials={"planned": planned}, machine=machine(accelerators()))
        write_json(location.folder / RESULT, self._result)
        epochs = config.fit.epochs * config.fit.executions_per_trial * len(data.folds)
        trained: Any = state.history["trial"].value_counts() if len(state.history) else {}  # fewer if it was stopped
        earlier = [trained.get(one.trial, one.epochs * epochs // config.fit.epochs) for one in state.records]
        estimate = JobEstimate(planned, epochs, unfreeze_depths(config), data.features.fills, earlier)
        of_study = partial(study_line, location.study, (location.folder.name, estimate))
        progress = JobProgress(location.label, planned, estimate, of_study, state.records)
        names = ["id", "label", *(["fold"] if len(data.folds) > 1 else [])]
        validation = dataset.rows.iloc[data.validation_rows][names].astype({"label": int})
        tables = JobTables(location.folder, validation, state, dataset.classes)
        search = Search(config, oracle, data, models, tables, progress, deadline)
        train, validation_images = len(data.folds[0].train_rows), len(data.folds[0].validation_rows)
        folds = f" in each of {len(data.folds)} folds" if len(data.folds) > 1 else ""
        images = f"{train} training images, {validation_images} validation images{folds}"
        log.info("%s: %s; building the model and running a test step", location.label, images)
        return search, data, planned

    def _record_error(self, error: Exception) -> None:
        """Add the current exception to the result."""
        ran_out = as_out_of_resources(error)
        if ran_out is None:
            log.exception("%s failed", self._location.label)
        else:
            log.error("%s: %s", self._location.label, ran_out)
        self._result.update(
            status=FAILED,
            error=f"{type(error).__name__}: {error}" if ran_out is None else str(ran_out),
            error_type=type(ran_out or error).__name__,
            traceback=traceback.format_exc(),
        )


def _skip(location: JobLocation, decision: JobDecision) -> float:
    """Log why a job is skipped, and return its objective."""
    assert decision.job is not None
    objective = decision.job.objective
    score = f", val_log_loss {objective:.4f}" if math.isfinite(objective) else ""
    log.info("%s: %s%s", location.label, decision.describe(), score)
    if decision.damage:
        log.warning("%s", decision.damage)
    return objective if math.isfinite(objective) else math.nan


def _write_or_log(location: JobLocation, write: Callable[[], Any]) -> None:
    """Write at the end of a job. A full disk must not hide how it ended, nor stop the study; the exit status is 1."""
    try:
        write()
    except (OSError, UserError) as error:
        lost_output(1)
        log.error("%s: %s", location.label, as_out_of_resources(error) or error)


def _forget_models() -> None:
    """Free the models of a job in Keras' global state; the next job builds its own."""
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()
        gc.collect()
