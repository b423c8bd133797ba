"""Trial, or several -> the final model, its scores, its predictions, and everything else in `best/`."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.provenance import machine, versions
from catsdogs.base.text import format_duration
from catsdogs.config.hyperparameters import hyperparameters, with_values
from catsdogs.config.schema import RetrainConfig
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.final.best_folder import write_best
from catsdogs.final.evaluation import Evaluation, evaluate_members, inference_engine
from catsdogs.final.members import Member, train_members
from catsdogs.final.metrics import gain_of, metrics
from catsdogs.final.pipeline import OUTPUTS, Pipeline
from catsdogs.network.devices import accelerators
from catsdogs.network.merging import merge_models
from catsdogs.study.jobs import JobRecord
from catsdogs.study.trials import TrialRecord
from catsdogs.training.trial_data import live_views

log = logging.getLogger(__name__)

# Where p_dog of an image that does not decode stands in the submission: it costs log 2, whatever the label.
FALLBACK_PROBABILITY = 0.5


def make_final(config: RetrainConfig, jobs: Sequence[JobRecord], trial: TrialRecord, study: Path) -> dict[str, Any]:
    """Train the trial again, or the members of an ensemble, score what comes of it, predict the test images, and write
    `best/`.

    Nothing that is there is lost: an earlier `best/` is renamed.

    Args:
        config: of the first of the jobs.
        jobs: one, or several of an ensemble.
        trial: of the first one.

    Returns:
        What `metrics.json` says.

    Raises:
        UserError: the data cannot be used.
    """
    began = time.monotonic()
    dataset = load_dataset(config.data, Path(config.cache), config.split)
    judges: list[Member] = []
    if config.evaluate_with == "folds":
        log.info("the models of the folds, by which the final one is judged, are trained first")
        judges = train_members(config, jobs, trial, dataset, by_fold=True)
    members = train_members(config, jobs, trial, dataset, by_fold=config.ensemble.kind == "folds")
    trained = time.monotonic()
    epochs = sum(len(member.training.history) for member in [*judges, *members])
    log.info("trained %d epochs in %s", epochs, format_duration(trained - began))

    judged = evaluate_members(config, members, dataset, judges)
    # The one that counts most: where the others add nothing, it alone is left.
    first = members[int(np.argmax(judged.combination.weights))]
    single = judged.combination.method == "single"
    model = first.model if single else merge_models([member.model for member in members], judged.combination)
    forward = inference_engine(model, config.features.engine)
    predictions = [judged.predictions]
    if len(dataset.holdout_rows) and config.fit_on != "all":
        views = live_views(config, dataset.rows, dataset.root)
        said = judged.pipeline(forward, views, dataset.holdout_rows, "hold-out")
        rows = dataset.rows.iloc[dataset.holdout_rows]
        predictions.append(pd.DataFrame({"id": rows["id"], "label": rows["label"], "split": "holdout", **said}))
    if dataset.test is not None:
        predictions.append(_test(config, dataset, forward, judged.pipeline))
    table = pd.concat(predictions, ignore_index=True)
    if "fold" in table:
        table["fold"] = table["fold"].astype("Int64")

    found = _metrics(config, table, judged, members, first, study)
    found["seconds"] = {"training": round(trained - began, 1), "all": round(time.monotonic() - began, 1)}
    recipe = _recipe(members, first, dataset)
    write_best(study / "best", model, found, table, dataset, recipe, members, judged)
    return found


def _test(config: RetrainConfig, dataset: Dataset, forward: Any, pipeline: Pipeline) -> pd.DataFrame:
    """Predictions on the test images; 0.5 for those that do not decode."""
    assert dataset.test is not None
    assert dataset.test_root is not None
    test = dataset.test
    decodes = (test["width"] > 0).to_numpy()
    if not decodes.all():
        names = ", ".join(test["path"][~decodes].head(5))
        log.warning("%d test images do not decode and are submitted as 0.5: %s", (~decodes).sum(), names)
    usable = test[decodes]
    steps = (True, pipeline.averages, pipeline.calibration is not None)
    found = {
        name: np.full(len(test), FALLBACK_PROBABILITY if step else np.nan)
        for name, step in zip(OUTPUTS, steps, strict=True)
    }
    if len(usable):
        views = live_views(config, usable, dataset.test_root)
        for name, said in pipeline(forward, views, np.arange(len(usable)), "test images").items():
            found[name][decodes] = said
    return test[["id", "label"]].assign(split="test", **found)


def _metrics(
    config: RetrainConfig,
    table: pd.DataFrame,
    judged: Evaluation,
    members: Sequence[Member],
    first: Member,
    study: Path,
) -> dict[str, Any]:
    validation = "out-of-fold" if config.split.folds > 1 else "validation"
    found = metrics(table, validation)
    if judged.calibration_result is not None:
        gain = gain_of(judged.calibration_result.gain, validation)
        others = {split: other for split, other in found["calibration_gain"].items() if split != "validation"}
        found["calibration_gain"] = {"validation": gain | {"kept": judged.calibration_result.applied}, **others}
    calibration = judged.pipeline.calibration
    return found | {
        "study": study.name,
        "job": first.job.name,
        "trial": first.trial.trial,
        "fit_on": config.fit_on,
        "validated_by": judged.by,
        "tta": {
            "kind": judged.pipeline.tta.kind,
            "views": len(judged.pipeline.over),
            "average": judged.pipeline.tta.average,
            "chosen": judged.tta_table is not None,
        },
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "ensemble": {
            "kind": config.ensemble.kind,
            "way": judged.combination.method,
            "members": [
                {"job": member.job.name, "trial": member.trial.trial, "fold": member.fold, "weight": weight}
                for member, weight in zip(members, judged.combination.weights, strict=True)
            ],
        },
        "selected_val_log_loss": first.trial.val_log_loss,
        "epochs": len(first.training.history),
        "best_epoch": first.training.best_epoch,
    }


def _recipe(members: Sequence[Member], first: Member, dataset: Dataset) -> dict[str, Any]:
    def own(member: Member) -> dict[str, Any]:
        return {
            "job": member.job.name,
            "trial": member.trial.trial,
            "hyperparameters": hyperparameters(with_values(member.config, member.trial.hyperparameters)),
            "seed": member.seed,
        }

    others = {"members": [own(member) | {"fold": member.fold} for member in members]} if len(members) > 1 else {}
    return {
        **own(first),
        **others,
        "data_digest": dataset.digest,
        "changed_since_job": first.changed,
        "config": dataclasses.asdict(first.config),
        "versions": versions(),
        "machine": machine(accelerators()),
    }
