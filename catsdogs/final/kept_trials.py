"""Ensemble of trials whose weights the search kept: they are chosen and rebuilt, and nothing is trained."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.records import CorruptedFile
from catsdogs.base.text import listed
from catsdogs.config.hyperparameters import with_values
from catsdogs.config.schema import RetrainConfig
from catsdogs.data.dataset import Dataset
from catsdogs.final.members import Member, configs_of_jobs, searched, searched_epochs
from catsdogs.network.backbones import load_network
from catsdogs.network.trial_model import TrialModels
from catsdogs.pages.formats import counted, loss
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.combination import Combination
from catsdogs.scoring.greedy import choose_ensemble
from catsdogs.scoring.scores import check_inputs
from catsdogs.study.jobs import JobRecord, chosen_trial
from catsdogs.study.trials import TrialRecord, ranked
from catsdogs.study.weight_files import TrialWeights, read_arrays
from catsdogs.training.execution import trial_seed

log = logging.getLogger(__name__)

# Of the predictions of all candidates, 1 GiB as float64.
_MOST_PROBABILITIES = 2**27


@dataclass(frozen=True, eq=False)
class _Candidate:
    job: JobRecord
    config: RetrainConfig  # of the job
    trial: TrialRecord
    p: np.ndarray  # probabilities (N, K) of all validation rows

    @property
    def name(self) -> str:
        return f"{self.job.name} trial {self.trial.trial}"


def choose_trials(
    config: RetrainConfig, jobs: Sequence[JobRecord], dataset: Dataset
) -> tuple[list[Member], tuple[Combination, pd.DataFrame]]:
    """Choose among the kept trials of jobs by their out-of-sample predictions, and rebuild the chosen ones.

    Return their members, one for every fold of each trial, best trial first; their combination, and the table of
    `choose_ensemble`. Raise a `UserError` without kept weights, or if settings or images of the first job, that of
    `config`, differ.
    """
    labels = dataset.rows["label"][dataset.rows["fold"] >= 0].to_numpy().astype(int)
    candidates, damaged = [], []
    for job, own in configs_of_jobs(config, jobs, dataset):
        if own.backbone.resize != config.backbone.resize:
            log.warning("job %s is left out: its images have another backbone.resize", job.name)
            continue
        weights = TrialWeights(job.folder)
        for trial in ranked(job.trials()):
            if (intact := weights.intact(trial.trial, len(dataset.folds()))) is None:
                continue
            try:
                p = _predictions(weights.predictions(trial.trial), labels, dataset.classes) if intact else None
            except (CorruptedFile, ValueError):
                p = None
            if p is None:
                damaged.append(f"{job.name} trial {trial.trial}")
            else:
                candidates.append(_Candidate(job, own, trial, p))
    if damaged:
        log.warning("left out, because files of their weights are missing or corrupted: %s", listed(damaged))
    if not candidates:
        problem = "has no kept weights of trials; run a new search with fit.keep_weights_gib above 0"
        raise UserError(f"ensemble=trials: study {config.study} {problem}, or use ensemble=jobs")
    candidates.sort(key=lambda one: (one.trial.val_log_loss, one.name))
    most = max(1, _MOST_PROBABILITIES // candidates[0].p.size)
    if len(candidates) > most:
        log.warning("to save memory, only the best %d of %d trials are compared", most, len(candidates))
        candidates = candidates[:most]
    p = np.stack([one.p for one in candidates])
    combination, table = choose_ensemble(labels, p, [one.name for one in candidates], config.seed)
    chosen = [one for one, weight in zip(candidates, combination.weights, strict=True) if weight]
    kinds = {"single": "the best trial alone", "logit": "the mean of the logits", "probability": "the mean"}
    losses = table.set_index("name")["nested_log_loss"]
    scores = f"nested log loss {loss(losses[combination.method])}, the best trial {loss(losses['single'])}"
    of = "" if combination.method == "single" else f" of {counted(len(chosen), 'trial')}"
    log.info("ensemble: %s%s is chosen among %d trials (%s)", kinds[combination.method], of, len(candidates), scores)
    of_chosen = Combination(combination.method, tuple(weight for weight in combination.weights if weight))
    return _rebuild(chosen, dataset), (of_chosen, table)


def _predictions(file: Path, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Return kept probabilities (N, K) of images with these labels; raise `CorruptedFile` or ValueError."""
    like = np.empty((len(labels), classes.outputs), np.float32)
    return check_inputs(labels, classes.from_output(read_arrays(file, [like])[0]))[1]


def _rebuild(candidates: Sequence[_Candidate], dataset: Dataset) -> list[Member]:
    """Return the members of trials, in this order."""
    folds, members = dataset.folds(), dict[str, list[Member]]()
    for job in {one.job.name: one.job for one in candidates}.values():
        of_job = [one for one in candidates if one.job is job]
        config, settings = of_job[0].config, [with_values(one.config, one.trial.hyperparameters) for one in of_job]
        depths = [one.model.unfreeze_depth for one in settings]
        network = load_network(config.backbone, config.seed)
        # The learning rates, one for each step of a training, are not used.
        models = TrialModels(config, network, dataset.classes, 1, depths)
        for one, own in zip(of_job, settings, strict=True):
            trial = one.trial
            chosen_trial(job, trial.trial)  # a `UserError` if it is corrupted
            epochs = searched_epochs(job, trial)
            for number, fold in enumerate(folds):
                of_fold, seed = number if len(folds) > 1 else None, trial_seed(config.seed, trial.trial, number)
                trained = searched(job, trial, own, number, models, epochs)
                if trained is None:
                    file = TrialWeights(job.folder).file(trial.trial, number)
                    raise UserError(f"{file}: corrupted, so trial={trial.trial} cannot be rebuilt; delete this file")
                member = Member(config, job, trial, of_fold, seed, [], *trained, fold.validation_rows, None)
                members.setdefault(one.name, []).append(member)
    return [member for one in candidates for member in members[one.name]]
