"""Trial of a job + images -> a model trained as the search trained it, and the images that can judge it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.provenance import versions
from catsdogs.config.checks import validated
from catsdogs.config.hyperparameters import with_values
from catsdogs.config.saved_config import saved_config
from catsdogs.config.schema import RetrainConfig
from catsdogs.data.dataset import Dataset, Fold
from catsdogs.data.views import distinct_views
from catsdogs.study.identity import differences
from catsdogs.study.jobs import JobRecord, chosen_trial
from catsdogs.study.progress import JobProgress
from catsdogs.study.resume_state import VALIDATION, VALIDATION_TABLE
from catsdogs.study.trials import TrialRecord, lineage
from catsdogs.training.execution import DivergedError, Listener, Training, execute, trial_seed
from catsdogs.training.trial_data import build_trial_data

log = logging.getLogger(__name__)

# What a member of another job has of that job; all else is as the command says.
_OF_THE_JOB = ("seed", "backbone", "augmentation", "schedule", "label_smoothing", "model", "space", "tuner", "fit")

_NO_ROWS = np.arange(0)


@dataclass(frozen=True, eq=False)
class Member:
    """One trained model of the final one.

    Attributes:
        config: of its job.
        job, trial: what it repeats.
        fold: that it leaves out; None: it does not belong to a fold.
        seed: of its training.
        changed: how the job was run otherwise; empty where it was run as it is trained here.
        model: pixels -> p_dog, as `classifier.full_model`.
        out_of_fold_rows: rows outside the hold-out that it was not trained on; int, empty where there are none.
        search_predictions: (N,) predictions of the search's own models for all N rows that it validated on. They were
            trained like this model but without the row. None if `out_of_fold_rows` serves or the trial kept none.
    """

    config: RetrainConfig
    job: JobRecord
    trial: TrialRecord
    fold: int | None
    seed: int
    changed: list[str]
    model: keras.Model
    training: Training
    out_of_fold_rows: np.ndarray
    search_predictions: np.ndarray | None


def train_members(
    config: RetrainConfig, jobs: Sequence[JobRecord], trial: TrialRecord, dataset: Dataset, by_fold: bool
) -> list[Member]:
    """Train the models of which the final one is made, or by which it is judged.

    Args:
        config: of the first of the jobs.
        jobs: one, or several of an ensemble.
        trial: of the first one; of the others the best one is taken.
        by_fold: whether a model is trained for every fold, or one on all of them.

    Raises:
        UserError: a training diverges, or jobs cannot be combined.
    """
    settings = [config, *(_config_of(config, job) for job in jobs[1:])]
    if len(jobs) > 1:
        _check_jobs(jobs, settings, dataset)
    # All are asked for before any is trained, as one may be damaged.
    records = [trial, *(chosen_trial(job, None) for job in jobs[1:])]
    members: list[Member] = []
    for number, (own, job, record) in enumerate(zip(settings, jobs, records, strict=True), start=1):
        of = f" {number} of {len(jobs)}" if len(jobs) > 1 else ""
        members += _members_of(own, job, record, dataset, by_fold, f"retrain{of}")
    return members


def _config_of(config: RetrainConfig, job: JobRecord) -> RetrainConfig:
    """The configuration of another job of the same study, with all that does not belong to a job as here."""
    saved = saved_config(job.result["config"])
    own = {name: saved[name] for name in _OF_THE_JOB}
    here = {key: getattr(config.features, key) for key in ("mode", "engine", "max_gib")}
    values = {**dataclasses.asdict(config), **own, "features": {**saved["features"], **here}, "job": job.name}
    return validated(values, RetrainConfig)


def _check_jobs(jobs: Sequence[JobRecord], settings: Sequence[RetrainConfig], dataset: Dataset) -> None:
    for job, config in zip(jobs, settings, strict=True):
        changed = differences(job.result, config, dataset.digest)
        if changed:
            raise UserError(
                f"ensemble={config.ensemble.kind}: members are trained as their jobs were, and of {job.name} "
                f"{changed[0]}; leave that out"
            )
    sizes = {config.backbone.image_size: job.name for job, config in zip(jobs, settings, strict=True)}
    if len(sizes) > 1:
        told = ", ".join(f"{size} pixels ({name})" for size, name in sorted(sizes.items()))
        raise UserError(
            f"ensemble={settings[0].ensemble.kind}: one model takes images of one size, and its members would take "
            f"{told}; choose a study whose jobs share backbone.image_size, or a smaller ensemble.num_jobs"
        )


def _members_of(
    config: RetrainConfig, job: JobRecord, trial: TrialRecord, dataset: Dataset, by_fold: bool, label: str
) -> list[Member]:
    """The models of one trial: one, or one for every fold."""
    changed = differences(job.result, config, dataset.digest)
    if changed:
        log.warning("this is no longer job %s (%s); scores of both do not compare", job.name, ", ".join(changed[:5]))
    made_by = job.result["versions"].get("catsdogs")
    if made_by != versions()["catsdogs"]:
        log.warning("the study was made by catsdogs %s, so that this training will not repeat it exactly", made_by)
    searched = dataset.folds()
    folds = searched if by_fold else [_alone(config, dataset)]
    line = lineage(job.trials(), trial)
    read_once = max(record.best_epoch for record in line) <= distinct_views(
        config.features, config.augmentation, config.fit.epochs
    )
    settings = config
    if config.fit_on == "all" and not by_fold and config.features.mode == "auto" and read_once:
        log.info("every view is read once, so that activations are computed for every batch and not stored")
        settings = dataclasses.replace(config, features=dataclasses.replace(config.features, mode="live"))
    depths = [with_values(config, record.hyperparameters).model.unfreeze_depth for record in line]
    data, models = build_trial_data(settings, dataset, folds, depths)
    kept = None
    if not len(data.validation_rows) and not changed:
        kept = _kept(job, trial, list(dataset.rows["id"][dataset.rows["fold"] >= 0]))
    selected_epochs = job.result["config"]["fit"].get("epochs")
    line = _to_train(config, line, len(data.validation_rows) > 0, config.fit.epochs != selected_epochs)
    members = []
    with data.features.reading():
        data.features.prepare()
        for number, fold in enumerate(folds):
            run = job.execution(trial.trial) * len(searched) + number
            of = f", fold {number + 1} of {len(folds)}" if by_fold else ""
            try:
                trainings, trained = execute(config, line, data, models, run, _told(f"{label}{of}", line, fold))
            except DivergedError as error:
                raise UserError(f"the training diverged: {error}") from error
            history = pd.concat([one.history for one in trainings], ignore_index=True)
            members.append(
                Member(
                    config,
                    job,
                    trial,
                    fold=number if by_fold else None,
                    seed=trial_seed(config.seed, trial.trial, run),
                    changed=changed,
                    model=models.full_model(trained),
                    training=dataclasses.replace(trainings[-1], history=history),
                    out_of_fold_rows=fold.validation_rows,
                    search_predictions=kept,
                )
            )
    return members


def _alone(config: RetrainConfig, dataset: Dataset) -> Fold:
    """What a single model is trained on: where it has no validation images there is no early stopping."""
    if config.fit_on == "all":
        return Fold(np.arange(len(dataset.rows)), _NO_ROWS)
    if config.split.folds > 1:
        return Fold(np.flatnonzero(dataset.rows["split"] != "holdout"), _NO_ROWS)
    return dataset.folds()[0]


def _to_train(config: RetrainConfig, line: list[TrialRecord], scored: bool, other_epochs: bool) -> list[TrialRecord]:
    """The line with the epochs that it is trained to: where nothing is `scored`, those that its trials needed then.

    Where fit.epochs is overridden (`other_epochs`), the last of the line is trained to it.
    """
    ends = [record.epoch_budget or config.fit.epochs if scored else record.best_epoch for record in line]
    if scored and other_epochs:
        ends[-1] = config.fit.epochs
    return [
        dataclasses.replace(record, epoch_budget=max(end, record.first_epoch + 1))
        for record, end in zip(line, ends, strict=True)
    ]


def _told(label: str, line: list[TrialRecord], fold: Fold) -> Listener:
    """Tells how far the training of a line is."""
    epochs = max(record.epoch_budget or 0 for record in line)
    progress = JobProgress(label, 1, epochs)
    log.info("%s: training on %d images, at most %d epochs", label, len(fold.train_rows), epochs)
    return lambda epoch, share, logs: progress.epoch(epoch, share, epoch, epochs, logs)


def _kept(job: JobRecord, trial: TrialRecord, ids: list[str]) -> np.ndarray | None:
    """What the search's models said of the images that they had not seen; kept of the best trial of a job only."""
    if job.best().get("trial") != trial.trial:
        return None
    table = VALIDATION_TABLE.read(job.folder / VALIDATION)
    return None if table is None or list(table["id"]) != ids else table["p_dog"].to_numpy(dtype=np.float64)
