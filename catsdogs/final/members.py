"""Training of the members of the final model, each like its trial in the search.

An unfinished `retrain` keeps its trained members in the study's `.retrain/kept/`, so the same command continues.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pandas as pd
from pydantic import Field

from catsdogs.base.errors import UserError
from catsdogs.base.files import remove, write_json
from catsdogs.base.provenance import versions
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.config.checks import validated
from catsdogs.config.hyperparameters import with_values
from catsdogs.config.saved_config import saved_config
from catsdogs.config.schema import RetrainConfig, SearchConfig
from catsdogs.data.dataset import Dataset, Fold
from catsdogs.data.views import distinct_views
from catsdogs.network.trial_model import TrialModels
from catsdogs.pages.formats import counted
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.identity import changes, fingerprint
from catsdogs.study.job_tables import HISTORY, HISTORY_TABLE, VALIDATION, validation_table
from catsdogs.study.jobs import JobRecord, chosen_trial
from catsdogs.study.locking import lock_job
from catsdogs.study.progress import JobProgress
from catsdogs.study.trials import TrialRecord, lineage
from catsdogs.study.weight_files import TrialWeights, read_arrays, write_arrays
from catsdogs.training.execution import DivergedError, Listener, execute, trial_seed
from catsdogs.training.trial_data import build_trial_data

log = logging.getLogger(__name__)

# Settings that a member of another job takes from that job; all others are those of the command.
_JOB_SETTINGS = ("seed", "backbone", "augmentation", "schedule", "label_smoothing", "model", "space", "tuner", "fit")

_NO_ROWS = np.arange(0)

# A model, its history and its best epoch, as in `Member`.
Trained = tuple[keras.Model, pd.DataFrame, int]


@dataclass(frozen=True, eq=False)
class Member:
    """Trained model of one trial, for one fold or for all of them."""

    config: RetrainConfig  # of its job
    job: JobRecord
    trial: TrialRecord
    fold: int | None  # that it was not trained on; None: it does not belong to a fold
    seed: int  # of its training
    changed: list[str]  # settings and images that differ from those of the job
    model: keras.Model  # pixels -> probabilities of the outputs, as `classifier.full_model`
    history: pd.DataFrame  # as in `Training`, of all trials of the lineage
    best_epoch: int
    out_of_fold_rows: np.ndarray  # int; rows outside the holdout that it was not trained on
    # Probabilities (N, K) of the search's models for all N validation rows; each row was predicted by a model that was
    # not trained on it. None if `out_of_fold_rows` is not empty, or if the search saved none.
    search_predictions: np.ndarray | None
    trained: bool = False  # by this command, not taken from the search or an interrupted command


def train_members(
    config: RetrainConfig,
    jobs: Sequence[JobRecord],
    trial: TrialRecord,
    dataset: Dataset,
    by_fold: bool,
    kept: Path,
) -> list[Member]:
    """Train a model per job, or with `by_fold` one for every fold; a `UserError` if one diverges or jobs do not fit.

    `config` and `trial` are those of the first job; the best trial of each other job is used. Members in `kept` are not
    trained again, and others are added to it.
    """
    settings = [own for _, own in configs_of_jobs(config, jobs, dataset)] if len(jobs) > 1 else [config]
    if len(kinds := {one.backbone.resize: job.name for job, one in zip(jobs, settings, strict=True)}) > 1:
        shown = ", ".join(f"{resize} ({name})" for resize, name in sorted(kinds.items()))
        problem = f"not supported with several values of backbone.resize: {shown}; use a smaller ensemble.num_jobs"
        raise UserError(f"ensemble={config.ensemble.kind}: {problem}")
    # Read all trials before any training, because one may be corrupted.
    trials = [trial, *(chosen_trial(job, None) for job in jobs[1:])]
    members: list[Member] = []
    for number, (own, job, record) in enumerate(zip(settings, jobs, trials, strict=True), start=1):
        label = f"retrain, job {number}/{len(jobs)} {job.name}" if len(jobs) > 1 else "retrain"
        members += _train_job(own, job, record, dataset, by_fold, label, kept)
    return members


def configs_of_jobs(
    config: RetrainConfig, jobs: Sequence[JobRecord], dataset: Dataset
) -> list[tuple[JobRecord, RetrainConfig]]:
    """Return jobs and their configurations, of which `config` is the first.

    Raise a `UserError` if settings or images of a job differ. With ensemble=trials, only the first job must not.
    """
    kind, found = config.ensemble.kind, []
    for job in jobs:
        try:
            own = config if job is jobs[0] else _config_of(config, job)
            if changed := changes(job.result, fingerprint(own, dataset.digest), unfinished=False):
                raise UserError(
                    f"ensemble={kind}: not supported with changes to job {job.name} ({changed[0]}); restore the former "
                    "settings and images, or use ensemble=none"
                )
            found.append((job, own))
        except UserError as error:
            if kind != "trials" or job is jobs[0]:
                raise
            log.warning("job %s is left out: %s", job.name, error)
    return found


def _config_of(config: RetrainConfig, job: JobRecord) -> RetrainConfig:
    """Return the configuration for another job: its `_JOB_SETTINGS`, and the command's other settings."""
    saved = saved_config(job.result["config"])
    own = {name: saved[name] for name in _JOB_SETTINGS}
    features = {key: getattr(config.features, key) for key in ("mode", "engine", "max_gib")}
    values = {**dataclasses.asdict(config), **own, "features": {**saved["features"], **features}, "job": job.name}
    return validated(values, RetrainConfig)


def _train_job(
    config: RetrainConfig,
    job: JobRecord,
    trial: TrialRecord,
    dataset: Dataset,
    by_fold: bool,
    label: str,
    kept: Path,
) -> list[Member]:
    if changed := changes(job.result, fingerprint(config, dataset.digest), unfinished=False):
        message = "settings differ from job %s (%s); its search score is not comparable with this model's"
        log.warning(message, job.name, ", ".join(changed[:5]))
    version = job.result["versions"].get("catsdogs")
    if version != versions()["catsdogs"]:
        log.warning("the study was run with catsdogs %s; results will not be reproduced exactly", version)
    search_folds = dataset.folds()
    folds = search_folds if by_fold else [_single_fold(config, dataset)]
    records = lineage(job.trials(), trial)
    depths = [with_values(config, record.hyperparameters).model.unfreeze_depth for record in records]
    data, models = build_trial_data(_with_feature_mode(config, records, by_fold), dataset, folds, depths)
    has_validation = len(data.validation_rows) > 0
    search_predictions = None if has_validation else _search_predictions(config, job, trial, dataset, changed)
    epochs_changed = config.fit.epochs != job.result["config"]["fit"].get("epochs")
    records = _with_epochs(config, records, has_validation, epochs_changed)
    members = []
    # The search trained on the same images, unless no validation images remain; it keeps no weights of new seeds.
    of_search = has_validation and not changed and not job.execution(trial.trial)
    epochs = searched_epochs(job, trial) if of_search else None
    epochs = None if epochs is None or epochs.empty else epochs  # without its history, the model is trained again
    prepare = cache(data.features.prepare)  # only if a model is trained

    def train(run: int, listener: Listener) -> Trained:
        prepare()
        try:
            trainings, model = execute(config, records, data, models, run, listener)
        except DivergedError as error:
            raise UserError(
                f"trial={trial.trial}: training of job {job.name} diverged ({error}); use another trial or job"
            ) from error
        history = pd.concat([training.history for training in trainings], ignore_index=True)
        return models.full_model(model), history, trainings[-1].best_epoch

    with data.features.reading():
        for number, fold in enumerate(folds):
            run = job.execution(trial.trial) * len(search_folds) + number
            own_label = f"{label}, fold {number + 1}/{len(folds)}" if by_fold else label
            name = f"{job.name}-{number if by_fold else 'all'}"
            own = with_values(config, trial.hyperparameters)
            trained, is_new = searched(job, trial, own, run, models, epochs), False
            if trained is not None:
                log.info("%s: weights of trial=%s from the search, nothing trained", own_label, trial.trial)
            elif (trained := read_kept(kept / name, partial(models.untrained_model, own))) is not None:
                log.info("%s: already trained, continuing from there", own_label)
            else:
                trained, is_new = train(run, _log_progress(own_label, records, fold)), True
                write_kept(kept / name, *trained)
            seed, of_fold = trial_seed(config.seed, trial.trial, run), number if by_fold else None
            about = (config, job, trial, of_fold, seed, changed)
            members.append(Member(*about, *trained, fold.validation_rows, search_predictions, is_new))
    return members


def searched_epochs(job: JobRecord, trial: TrialRecord) -> pd.DataFrame | None:
    """Return the epochs of a trial and its ancestors in the search's first execution; None if the table is corrupted.

    They are empty if the table is missing.
    """
    try:
        history = HISTORY_TABLE.read(job.folder / HISTORY)
    except CorruptedFile:
        return None
    ancestors = [int(record.trial) for record in lineage(job.trials(), trial)]
    epochs = pd.DataFrame({"trial": [], "execution": [], "epoch": []}) if history is None else history
    return epochs[epochs["trial"].isin(ancestors) & (epochs["execution"] == 0)].drop(columns=["trial", "execution"])


def searched(
    job: JobRecord, trial: TrialRecord, config: SearchConfig, run: int, models: TrialModels, epochs: pd.DataFrame | None
) -> Trained | None:
    """Return the model of a run of a trial with the weights that the search kept; None if it kept none, or damaged.

    `epochs` are those of `searched_epochs`.
    """
    if epochs is None:
        return None
    try:
        weights = models.read_weights(config, TrialWeights(job.folder).file(trial.trial, run))
    except FileNotFoundError:
        return None
    except (CorruptedFile, OSError) as error:
        log.warning("%s", error)
        return None
    model = models.new_trial(config, config.seed)
    models.set_weights(model, weights)
    history = epochs[epochs["fold"] == run].drop(columns="fold") if "fold" in epochs else epochs
    # Of this run; that of the trial is the mean of its runs.
    own = history[history["epoch"] > trial.first_epoch].dropna(subset="val_log_loss") if len(history) else history
    best_epoch = int(own["epoch"].iloc[own["val_log_loss"].argmin()]) if len(own) else trial.best_epoch
    return models.full_model(model), history, best_epoch


def has_fold_models(config: RetrainConfig, job: JobRecord, trial: TrialRecord, dataset: Dataset) -> bool:
    """Return whether the search kept the models of all folds of a trial, and they are those of this configuration."""
    folds = len(dataset.folds())
    if (
        folds == 1
        or job.execution(trial.trial)
        or changes(job.result, fingerprint(config, dataset.digest), unfinished=False)
    ):
        return False
    return bool(TrialWeights(job.folder).intact(trial.trial, folds))


def _search_predictions(
    config: RetrainConfig, job: JobRecord, trial: TrialRecord, dataset: Dataset, changed: list[str]
) -> np.ndarray | None:
    """Return `Member.search_predictions`; raise a `UserError`, before any training, if a threshold needs them."""
    if not changed and job.best().get("trial") == trial.trial:
        table = validation_table(dataset.classes).read(job.folder / VALIDATION)
        # The file may be of other images.
        if table is not None and list(table["id"]) == list(dataset.rows["id"][dataset.rows["fold"] >= 0]):
            return dataset.classes.read(table)
    written = dataset.test is not None and config.submission.kind == "class" and config.evaluate_with == "search"
    if written and config.submission.threshold == "auto":
        reason = "the search saved no predictions of this trial with these settings; set a number"
        raise UserError(f"submission.threshold=auto: cannot be chosen, because {reason}")
    return None


def _with_feature_mode(config: RetrainConfig, records: list[TrialRecord], by_fold: bool) -> RetrainConfig:
    """Return the configuration with `features.mode=live` if stored activations would be read only once."""
    views = distinct_views(config.features, config.augmentation, config.fit.epochs)
    read_once = max(record.best_epoch for record in records) <= views
    if config.fit_on != "all" or by_fold or config.features.mode != "auto" or not read_once:
        return config
    log.info("every view is read only once; computing activations for every batch instead of storing them")
    return dataclasses.replace(config, features=dataclasses.replace(config.features, mode="live"))


def _single_fold(config: RetrainConfig, dataset: Dataset) -> Fold:
    """Return the rows of a single model; without validation rows, there is no early stopping."""
    if config.fit_on == "all":
        return Fold(np.arange(len(dataset.rows)), _NO_ROWS)
    if config.split.folds > 1:
        return Fold(np.flatnonzero(dataset.rows["split"] != "holdout"), _NO_ROWS)
    return dataset.folds()[0]


def _with_epochs(
    config: RetrainConfig, records: list[TrialRecord], has_validation: bool, epochs_changed: bool
) -> list[TrialRecord]:
    """Return the trials with the epoch at which each training ends, as `epoch_budget`.

    Without validation rows, that is the best epoch of the search. With them and an override of fit.epochs
    (`epochs_changed`), the last trial is trained to fit.epochs.
    """
    ends = [record.epoch_budget or config.fit.epochs if has_validation else record.best_epoch for record in records]
    if has_validation and epochs_changed:
        ends[-1] = config.fit.epochs
    budgets = [max(end, record.first_epoch + 1) for record, end in zip(records, ends, strict=True)]
    return [dataclasses.replace(record, epoch_budget=end) for record, end in zip(records, budgets, strict=True)]


def _log_progress(label: str, records: list[TrialRecord], fold: Fold) -> Listener:
    """Log the start of a training, and return a listener that logs its progress."""
    epochs = max(record.epoch_budget or 0 for record in records)
    progress = JobProgress(label, 1, JobEstimate(1, epochs))
    images = counted(len(fold.train_rows), "image")
    log.info("%s: training on %s for up to %s", label, images, counted(epochs, "epoch"))
    return Listener(lambda epoch, share, logs: progress.epoch(epoch, share, epoch, epochs, logs))


class _Kept(Record):
    best_epoch: Annotated[int, Field(ge=1)]
    history: dict[str, list[float]]  # columns of `Training.history`


def write_kept(member: Path, model: keras.Model, history: pd.DataFrame, best_epoch: int) -> None:
    """Keep a trained model in two files, MEMBER.bin and MEMBER.json."""
    write_arrays(Path(f"{member}.bin"), [keras.ops.convert_to_numpy(variable) for variable in model.variables])
    write_json(Path(f"{member}.json"), {"best_epoch": best_epoch, "history": history.to_dict("list")})


def read_kept(member: Path, build: Callable[[], keras.Model]) -> tuple[keras.Model, pd.DataFrame, int] | None:
    """Return what `write_kept` was given, in the model that `build` returns; None if it is missing or corrupted."""
    try:
        if (kept := _Kept.read(Path(f"{member}.json"))) is None:
            return None
        history = pd.DataFrame(kept.history).astype({"epoch": int})
        model = build()
        like = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
        for variable, value in zip(model.variables, read_arrays(Path(f"{member}.bin"), like), strict=True):
            variable.assign(value)
    except (CorruptedFile, OSError, ValueError, KeyError) as error:
        log.warning("%s; training this model again", error)
        return None
    return model, history, kept.best_epoch


@contextmanager
def kept_members(study: Path, key: str) -> Iterator[Path]:
    """Yield the folder of the members of this key, for one `retrain` at a time; remove it on success.

    `key`: digest of everything that determines the members. Members of other keys are removed.
    """
    folder = study / ".retrain" / "kept"
    with lock_job(folder):
        for other in folder.iterdir():
            if other.is_dir() and not other.is_symlink() and other.name != key:
                shutil.rmtree(other)
        try:
            yield folder / key
            remove(folder / key)  # missing if nothing was trained
        finally:
            shutil.rmtree(folder / "best", ignore_errors=True)
            if not (folder / key).exists():
                shutil.rmtree(folder)
