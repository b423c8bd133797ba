"""A `SearchConfig` and a folder -> a finished job in that folder."""

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
from pathlib import Path
from typing import Any

from catsdogs.base.errors import UserError
from catsdogs.base.files import remove_temporaries, write_csv
from catsdogs.base.provenance import machine, utc_timestamp, versions
from catsdogs.base.resources import as_out_of_resources, check_free_space
from catsdogs.config.schema import SearchConfig
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.study.decision import JobDecision, archive_attempt, earlier_files, inspect_job
from catsdogs.study.identity import fingerprint
from catsdogs.study.jobs import FAILED, INTERRUPTED, OK, RESULT, RUNNING, write_result
from catsdogs.study.leaderboard import write_leaderboard
from catsdogs.study.locking import lock_job
from catsdogs.study.plan import study_deadline
from catsdogs.study.resume_state import HISTORY, SELECT, TRIALS, VALIDATION, ResumeState, load_resume_state
from catsdogs.study.trials import best_trial, outcome
from catsdogs.tuning.limits import StudyTimeout, check_timeout

log = logging.getLogger(__name__)

SPLIT = "split.csv"

# What Hydra has written for this run before the job begins.
_OF_THIS_RUN = (".hydra", "search.log")


@dataclass(frozen=True)
class JobLocation:
    """Where a job stands in its study."""

    folder: Path  # of the job
    study: Path  # folder of the study
    index: int = 1  # from 1
    total: int | None = 1  # jobs of this run of the study; None if a sweeper decides as it goes

    @property
    def label(self) -> str:
        return f"job {self.index}/{self.total or '?'} {self.folder.name}"


def run_job(config: SearchConfig, place: JobLocation, choices: dict[str, str]) -> float:
    """Search, or go on with a search, and leave everything that the job found in its folder.

    An error ends this job and no other: it is recorded in `result.json` and the objective is NaN.

    Args:
        choices: the options of the composed groups, and the values of everything else that the study varies.

    Returns:
        The best finite `val_log_loss` of the job.

    Raises:
        UserError: what is in the folder is another job's, is damaged, or is being worked on; nothing is changed.
    """
    with lock_job(place.folder):
        try:
            return _run_held(config, place, choices)
        finally:
            _write_or_tell(place, lambda: write_leaderboard(place.study))
            _forget_models()


def _run_held(config: SearchConfig, place: JobLocation, choices: dict[str, str]) -> float:
    began = time.monotonic()
    result: dict[str, Any] = {
        "status": RUNNING,
        "job": place.folder.name,
        "study": place.study.name,
        "choices": choices,
        "best_trial": None,
        "objective": None,
        "seconds": None,
        "error": None,
        "started": utc_timestamp(),
        "seed": config.seed,
        "config": dataclasses.asdict(config),
        "versions": versions(),
        "machine": machine(),
    }
    # What another run left here is not ours to overwrite before it is known to be this job.
    ours = not earlier_files(place.folder)
    seconds_before = 0.0
    try:
        dataset = load_dataset(config.data, Path(config.cache), config.split)
        mark = fingerprint(config, dataset.digest)
        standing = inspect_job(config, place.folder, mark)
        if not standing.runs:
            return _not_run(place, standing)
        if standing.restart:
            kept = archive_attempt(place.folder, keep=_OF_THIS_RUN)
            if kept is not None:
                log.info("%s: starting over; files from the previous attempt were moved to %s", place.label, kept)
        before = None if standing.job is None or standing.restart else standing.job.result
        earlier = load_resume_state(place.folder, before)
        # Of a run that was killed, at least what its trials took.
        trials_took = sum(record.seconds for record in earlier.records)
        seconds_before = max(trials_took, (before or {}).get("seconds") or 0.0)
        ours = True
        check_free_space(place.study, Path(config.cache))
        remove_temporaries(place.folder, (RESULT, TRIALS, HISTORY, VALIDATION, SELECT, SPLIT))
        if earlier.records:
            result["resumed_after"] = len(earlier.records)
            log.info("%s: %s", place.label, standing.describe())
        folds = dataset.folds()
        result["weights"] = mark["weights"]
        result["data"] = {
            "digest": dataset.digest,
            "images_digest": dataset.images_digest,
            # With several folds: of the first one, and of all.
            "train": len(folds[0].train_rows),
            "validation": sum(len(fold.validation_rows) for fold in folds),
            "holdout": len(dataset.holdout_rows),
            "folds": len(folds),
            "left_out": len(dataset.skipped),
        }
        write_result(place.folder, result)
        write_csv(
            place.folder / SPLIT,
            dataset.rows[["id", "label", "sha256", "split", *(["fold"] if len(folds) > 1 else []), "path"]],
        )
        deadline = study_deadline(place.study, config.timeout.study_seconds)
        try:
            check_timeout(config.timeout, deadline)
            _search(config, place, dataset, earlier, deadline, result)
        except StudyTimeout as spent:
            # A study that its time has run out for is one with fewer trials.
            if "trials" not in result:
                result.update(outcome(earlier.records, config.tuner.max_trials))
            result["stopped"] = str(spent)
            trials = f"{result['trials'].get('total', 0)}/{result['trials']['planned'] or '?'} trials"
            log.warning("%s: %s after %s; run the same command again to continue", place.label, spent, trials)
        result["status"] = OK
    except UserError as error:
        if not ours:
            raise
        log.error("%s: %s", place.label, error)
        result.update(status=FAILED, error=str(error), error_type="UserError")
    except Exception as error:
        ran_out = as_out_of_resources(error)
        if ran_out is None:
            log.exception("%s failed", place.label)
        else:
            log.error("%s: %s", place.label, ran_out)
        result.update(
            status=FAILED,
            error=f"{type(error).__name__}: {error}" if ran_out is None else str(ran_out),
            error_type=type(ran_out or error).__name__,
            traceback=traceback.format_exc(),
        )
    except BaseException:
        # Ctrl-C: what was finished is on disk; say that this job was not.
        result.update(status=FAILED, error="interrupted", error_type=INTERRUPTED)
        raise
    finally:
        if ours and result["status"] != RUNNING:
            result["seconds"] = round(seconds_before + time.monotonic() - began, 3)
            result["finished"] = utc_timestamp()
            _write_or_tell(place, lambda: write_result(place.folder, result))
    return math.nan if result["status"] != OK or result["objective"] is None else float(result["objective"])


def _not_run(place: JobLocation, standing: JobDecision) -> float:
    assert standing.job is not None
    objective = standing.job.objective
    score = f", val_log_loss {objective:.4f}" if math.isfinite(objective) else ""
    log.info("%s: %s%s", place.label, standing.describe(), score)
    if standing.damage:
        log.warning("%s", standing.damage)
    return objective if math.isfinite(objective) else math.nan


def _write_or_tell(place: JobLocation, write: Callable[[], Any]) -> None:
    """At the end of a job: a full disk must not hide how it ended, nor end the study."""
    try:
        write()
    except (OSError, UserError) as error:
        log.error("%s: %s", place.label, as_out_of_resources(error) or error)


def _search(
    config: SearchConfig,
    place: JobLocation,
    dataset: Dataset,
    earlier: ResumeState,
    deadline: float | None,
    result: dict[str, Any],
) -> None:
    """Search, and write into `result` what comes of it, also when it ends with an error."""
    # Keras and TensorFlow take seconds to import, and a mistake in the data should be told before.
    from catsdogs.base.text import format_duration
    from catsdogs.network.devices import accelerators
    from catsdogs.study.progress import JobProgress
    from catsdogs.study.study_progress import study_line
    from catsdogs.training.trial_data import build_trial_data
    from catsdogs.tuning.oracles import build_oracle, expected_trials
    from catsdogs.tuning.selection import select
    from catsdogs.tuning.tuner import Search

    data, models = build_trial_data(config, dataset, dataset.folds())
    oracle = build_oracle(config)
    planned = expected_trials(oracle, config)
    # Keras is loaded by now, and the machine tells its accelerators.
    result.update(trials={"planned": planned}, machine=machine(accelerators()))
    write_result(place.folder, result)
    progress = JobProgress(
        place.label,
        planned,
        config.fit.epochs * config.fit.executions_per_trial * len(data.folds),
        lambda: study_line(place.study),
        earlier.records,
    )
    names = ["id", "label", *(["fold"] if len(data.folds) > 1 else [])]
    validation = dataset.rows.iloc[data.validation_rows][names].astype({"label": int})
    search = Search(config, oracle, data, models, place.folder, validation, progress, earlier, deadline)
    log.info(
        "%s: %d training images, %d validation images%s; building the model and running a test step",
        place.label,
        len(data.folds[0].train_rows),
        len(data.folds[0].validation_rows),
        f" in each of {len(data.folds)} folds" if len(data.folds) > 1 else "",
    )
    began = time.monotonic()
    try:
        search.try_one_step()
        with data.features.reading():
            data.features.prepare()
            search.run()
            chosen = select(config, search, place.folder, place.label) if config.select.top_k > 1 else None
            best = best_trial(search.records)
            if best is not None and chosen is None:
                search.mend_validation(best, 0)
    finally:
        result.update(outcome(search.records, planned), features=data.features.summary())
    if best is None:
        raise RuntimeError(
            f"none of {len(search.records)} trials completed with a finite log loss; first failure:\n"
            f"{search.first_traceback}"
        )
    search.weights.drop_all()
    if chosen is not None:
        result.update(best_trial=chosen, objective=chosen["val_log_loss"])
    log.info(
        "%s: best val_log_loss %.4f (trial %s) of %d trials in %s",
        place.label,
        result["objective"],
        result["best_trial"]["trial"],
        len(search.records),
        format_duration(time.monotonic() - began),
    )


def _forget_models() -> None:
    """Free what the models of a job left in Keras' global state; the next job builds its own."""
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()
        gc.collect()
