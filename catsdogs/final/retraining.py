"""Retraining of the selected trials as the final model, and its folder `best/`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from catsdogs.base.files import free_name, replacing, sync_folder, write_csv, write_json, write_text
from catsdogs.base.provenance import machine, versions
from catsdogs.base.records import check_table_size
from catsdogs.base.text import format_duration, listed
from catsdogs.config.hyperparameters import hyperparameters, with_values
from catsdogs.config.locations import ACTIVATION, MODEL
from catsdogs.config.schema import RetrainConfig
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.data.fitting import fit_to_data
from catsdogs.data.views import ORIGINAL
from catsdogs.features.engine import InferenceEngine
from catsdogs.final.evaluation import Evaluation, combined_model, evaluate_members, inference_engine, with_size
from catsdogs.final.kept_trials import choose_trials
from catsdogs.final.members import Member, has_fold_models, kept_members, train_members
from catsdogs.final.metrics import detail_of, metrics
from catsdogs.final.model_card import model_card
from catsdogs.final.pipeline import CHUNK, Pipeline, columns_of, write_pipeline
from catsdogs.final.submission import SubmissionForm, describe_rows, predicted_classes
from catsdogs.network.class_activation import class_activation
from catsdogs.network.devices import accelerators
from catsdogs.pages.formats import chosen_on_validation, counted
from catsdogs.scoring.classes import STEPS
from catsdogs.scoring.scores import MOST_ERRORS, instructive_images
from catsdogs.study.identity import fingerprint
from catsdogs.study.jobs import JobRecord, read_jobs
from catsdogs.study.trials import TrialRecord
from catsdogs.training.trial_data import live_views

log = logging.getLogger(__name__)

# First columns of `predictions.csv`.
_BEFORE = ["id", "label", "split", "fold"]

# Settings that change no trained model.
_NOT_OF_MEMBERS = ("study", "studies_dir", "cache", "tta", "calibrate", "submission")


def make_final(config: RetrainConfig, jobs: Sequence[JobRecord], trial: TrialRecord, study: Path) -> dict[str, Any]:
    """Train the final model, score it, predict the test images, write `best/`, and return its `metrics.json`.

    An existing `best/` is renamed, not deleted. A repeated call continues after the members that an interrupted one has
    trained. `config` and `trial` are those of the first job; several jobs make an ensemble.
    """
    dataset = load_dataset(config.data, Path(config.cache), config.split)
    config, _ = fit_to_data(config, dataset)
    for note in dataset.notes:
        log.info("%s", note)
    # Refuses a template before any training.
    form = None if dataset.test is None else SubmissionForm.of(config.submission, dataset.classes, dataset.test)
    rows, steps = len(dataset.rows) + len(() if dataset.test is None else dataset.test), 1 + (config.tta.kind != "none")
    fix = "set tta=none, calibrate=false or data.test=null"
    check_table_size(rows, dataset.classes.outputs, steps + config.calibrate, f"study {config.study}", fix)
    with kept_members(study, _members_key(config, jobs, trial, dataset)) as kept:
        return _make(config, jobs, trial, dataset, form, kept)


def _members_key(config: RetrainConfig, jobs: Sequence[JobRecord], trial: TrialRecord, dataset: Dataset) -> str:
    """Return a digest of everything that determines the members."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_MEMBERS}
    parts: list[Any] = [settings, trial.trial, versions(), keras.backend.backend()]
    parts.append(fingerprint(config, dataset.digest))
    parts += [[job.result, [dataclasses.asdict(record) for record in job.trials()]] for job in jobs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _make(
    config: RetrainConfig,
    jobs: Sequence[JobRecord],
    trial: TrialRecord,
    dataset: Dataset,
    form: SubmissionForm | None,
    kept: Path,
) -> dict[str, Any]:
    start = time.monotonic()
    if config.evaluate_with == "auto":
        by_folds = config.ensemble.kind == "none" and has_fold_models(config, jobs[0], trial, dataset)
        config = dataclasses.replace(config, evaluate_with="folds" if by_folds else "search")
    fold_members: list[Member] = []
    if config.evaluate_with == "folds":
        fold_members = train_members(config, jobs, trial, dataset, True, kept)
    chosen = None
    if config.ensemble.kind == "trials":
        members, chosen = choose_trials(config, jobs, dataset)
    else:
        members = train_members(config, jobs, trial, dataset, config.ensemble.kind == "folds", kept)
    training_seconds = time.monotonic() - start
    if epochs := sum(len(member.history) for member in [*fold_members, *members] if member.trained):
        log.info("trained %s in %s", counted(epochs, "epoch"), format_duration(training_seconds))

    evaluation = evaluate_members(config, members, dataset, fold_members, chosen)
    # The member with the highest weight; with the method "single", the only one.
    first = members[int(np.argmax(evaluation.combination.weights))]
    model = combined_model(members, evaluation.combination)
    forward = inference_engine(model, config.features.engine)
    predictions = _predictions(with_size(config, model), forward, evaluation, dataset)
    record = {"study": jobs[0].folder.parent.name, **_metrics(config, predictions, evaluation, members, first)}
    record["image_size"] = model.input_shape[1]
    if chosen is not None:
        # Of one fold, as retrained without an ensemble.
        single = inference_engine(members[0].model, config.features.engine)
        times = {"": _milliseconds(forward, model), "_single": _milliseconds(single, members[0].model)}
        record["ensemble"] |= {f"ms_per_image{end}": value for end, value in times.items()}
    record["seconds"] = {"training": round(training_seconds, 1), "all": round(time.monotonic() - start, 1)}
    recipe = _recipe(members, first, dataset)
    temporary, best = kept.with_name("best"), jobs[0].folder.parent / "best"
    temporary.mkdir(parents=True)
    with replacing(temporary / MODEL) as file:
        model.save(file)
    _write_tables(temporary, members, evaluation, predictions)
    if form is not None:
        write_csv(temporary / "submission.csv", _submission(form, predictions, evaluation, dataset))
    write_json(temporary / "metrics.json", record)
    write_json(temporary / "recipe.json", recipe)
    if (activation := _class_activation(config, first, evaluation, dataset)) is not None:
        write_json(temporary / ACTIVATION, activation)
    write_text(temporary / "MODEL_CARD.md", model_card(record, recipe, dataset))
    if best.exists():
        previous = free_name(best)
        best.rename(previous)
        log.info("renamed the previous %s to %s", best.name, previous.name)
    temporary.rename(best)
    sync_folder(best.parent)
    return record


def _milliseconds(forward: InferenceEngine, model: keras.Model) -> float:
    """Return the time per image of a forward pass, in the fastest of several batches."""
    images, times = np.zeros((CHUNK, *model.input_shape[1:]), np.uint8), []
    for _ in range(4):  # the first one is slower
        start = time.perf_counter()
        forward(images)
        times.append(time.perf_counter() - start)
    return round(1000 * min(times) / CHUNK, 3)


def _ensemble_gain(table: pd.DataFrame, split: str) -> dict[str, Any]:
    """Return the method of the trials, and by how much its nested log loss is lower than that of the best trial."""
    row = table.rename(columns={"gain": "value"})[table["chosen"]].iloc[0]
    ends = {name: float(row[name]) for name in ("value", "low", "high")}  # of at least two images
    counts = {name: int(row[name]) for name in ("size", "errors")}
    gain = {**ends, **counts, "split": split, "trials": int(table["weight"].notna().sum())}
    return {"method": row["name"], "gain": gain}


def _write_tables(folder: Path, members: Sequence[Member], evaluation: Evaluation, predictions: pd.DataFrame) -> None:
    combination = {"way": evaluation.combination.method, "weights": evaluation.combination.weights}
    write_pipeline(folder, dataclasses.replace(evaluation.pipeline, threshold=evaluation.threshold), combination)
    # With several members, the column `member` has their number.
    histories = [member.history.assign(member=number) for number, member in enumerate(members)]
    history = pd.concat(histories, ignore_index=True) if len(histories) > 1 else members[0].history
    tables: dict[str, pd.DataFrame | None] = {"history.csv": history, "predictions.csv": predictions}
    tables |= {"tta.csv": evaluation.tta_table, "ensemble.csv": evaluation.ensemble_table}
    for name, table in tables.items():
        if table is not None:
            write_csv(folder / name, table)


def _class_activation(
    config: RetrainConfig, member: Member, evaluation: Evaluation, dataset: Dataset
) -> dict[str, Any] | None:
    """Return where a member looks in the images of the report's gallery, by image id; None without predictions."""
    table, classes = evaluation.predictions, dataset.classes
    steps = [step for step in STEPS if {*classes.columns(step)} <= {*table}]
    if not steps:
        return None
    probabilities = classes.read(table, steps[-1])
    errors, unsure = instructive_images(table["label"].to_numpy(), probabilities)
    shown = np.concatenate([errors[:MOST_ERRORS], unsure])
    images = live_views(with_size(config, member.model), dataset.rows, dataset.root)
    pixels = images.read(np.flatnonzero(dataset.rows["fold"] >= 0)[shown], ORIGINAL)
    maps = class_activation(member.model, pixels, probabilities.argmax(axis=1)[shown])
    by_id = dict(zip(table["id"].iloc[shown], np.round(maps.astype(float), 3).tolist(), strict=True))
    return {"resize": config.backbone.resize, "maps": by_id}


def _submission(form: SubmissionForm, table: pd.DataFrame, evaluation: Evaluation, dataset: Dataset) -> pd.DataFrame:
    """Return the content of `submission.csv`; an image that cannot be decoded has the most frequent class."""
    assert dataset.test is not None
    classes = dataset.classes
    probabilities = classes.read(table[table["split"] == "test"], evaluation.pipeline.last_step)
    undecodable = (dataset.test["width"] == 0).to_numpy()
    most_frequent = int(dataset.rows["label"].mode()[0])
    predicted = np.where(undecodable, most_frequent, predicted_classes(probabilities, evaluation.threshold))
    fallback = f"{1 / len(classes):.3g}" if form.places else f"class {classes.names[most_frequent]}"
    images = list(dataset.test["id"][undecodable])
    log.info("submission.csv: %s", describe_rows(form.ids, len(dataset.test), images, fallback))
    return form.fill(probabilities, predicted)


def _predictions(
    config: RetrainConfig, forward: InferenceEngine, evaluation: Evaluation, dataset: Dataset
) -> pd.DataFrame:
    """Return the content of `predictions.csv`: validation images, then the holdout and the test images."""
    tables, images = [evaluation.predictions], live_views(config, dataset.rows, dataset.root)
    if len(dataset.holdout_rows) and config.fit_on != "all":
        outputs = evaluation.pipeline(forward, images, dataset.holdout_rows, "holdout images")
        rows = dataset.rows.iloc[dataset.holdout_rows]
        columns = columns_of(outputs, dataset.classes)
        tables.append(pd.DataFrame({"id": rows["id"], "label": rows["label"], "split": "holdout", **columns}))
    if dataset.test is not None:
        tables.append(_predict_test(config, dataset, forward, evaluation.pipeline))
    table = pd.concat(tables, ignore_index=True)
    # With two classes, columns of steps that were not computed are empty.
    steps = [step for step in STEPS if dataset.classes.outputs == 1 or not {*dataset.classes.columns(step)} - {*table}]
    names = [name for step in steps or STEPS[:1] for name in dataset.classes.columns(step)]
    first, last = ([name for name in group if name in table] for group in (_BEFORE, ["in_training"]))
    table = table.reindex(columns=[*first, *names, *last])
    if dataset.test is not None:
        table["in_training"] = table["in_training"].eq(True)  # NaN in the other splits, which have no duplicates in it
    return table.astype({"fold": "Int64"}) if "fold" in table else table


def _predict_test(config: RetrainConfig, dataset: Dataset, forward: Any, pipeline: Pipeline) -> pd.DataFrame:
    """Return predictions of the test images; equal probabilities for those that cannot be decoded.

    `in_training` marks images that are not scored: duplicates of labeled images of the study, and their groups.
    """
    assert dataset.test is not None
    assert dataset.test_root is not None
    test, classes = dataset.test, dataset.classes
    decoded = (test["width"] > 0).to_numpy()
    if not decoded.all():
        paths = listed(list(test["path"][~decoded]))
        log.warning("cannot decode %s test images; predicting equal probabilities: %s", f"{(~decoded).sum():,}", paths)
    equal = np.full((len(test), len(classes)), 1 / len(classes))
    outputs = pipeline.steps(equal, equal.copy() if pipeline.uses_tta else None)
    if decoded.any():
        images = live_views(config, test[decoded], dataset.test_root)
        for step, probabilities in pipeline(forward, images, np.arange(decoded.sum()), "test images").items():
            outputs[step][decoded] = probabilities
    columns = {"label": test["label"], "split": "test", **columns_of(outputs, classes)}
    return pd.DataFrame({"id": test["id"], **columns, "in_training": test["in_training"]})


def _metrics(
    config: RetrainConfig, table: pd.DataFrame, evaluation: Evaluation, members: Sequence[Member], first: Member
) -> dict[str, Any]:
    validation = "out-of-fold" if config.split.folds > 1 else "validation"
    tta, calibration = evaluation.pipeline.tta, evaluation.pipeline.calibration
    views, chosen = len(evaluation.pipeline.views), evaluation.tta_table is not None
    auto = config.submission.threshold == "auto" and evaluation.threshold is not None
    choices: dict[str, Any] = {
        "tta": {"kind": tta.kind, "views": views, "average": tta.average, "chosen": chosen},
        "calibration": None if calibration is None else dataclasses.asdict(calibration),
        "submission": {**vars(config.submission), "threshold": evaluation.threshold, "chosen": auto},
        "ensemble": {
            "kind": config.ensemble.kind,
            "way": evaluation.combination.method,
            "members": [
                {"job": member.job.name, "trial": member.trial.trial, "fold": member.fold, "weight": weight}
                for member, weight in zip(members, evaluation.combination.weights, strict=True)
            ],
        },
    }
    if config.ensemble.kind == "trials" and evaluation.ensemble_table is not None:
        choices["ensemble"] |= _ensemble_gain(evaluation.ensemble_table, validation)
    several_jobs = sum(math.isfinite(job.objective) for job in read_jobs(first.job.folder.parent)) > 1
    record = metrics(table, evaluation.pipeline.classes, validation, chosen_on_validation(several_jobs, choices))
    if evaluation.calibration_result is not None:
        gain = detail_of(evaluation.calibration_result.gain, validation)
        gain["reason"] = evaluation.calibration_result.reason
        others = {split: other for split, other in record["calibration_gain"].items() if split != "validation"}
        record["calibration_gain"] = {"validation": gain | {"kept": evaluation.calibration_result.applied}, **others}
    return {
        **record,
        **choices,
        "job": first.job.name,
        "trial": first.trial.trial,
        "fit_on": config.fit_on,
        "validated_by": evaluation.validated_by,
        "tta_choice": evaluation.tta_choice,
        "selected_val_log_loss": first.trial.val_log_loss,
        "epochs": len(first.history),
        "best_epoch": first.best_epoch,
    }


def _recipe(members: Sequence[Member], first: Member, dataset: Dataset) -> dict[str, Any]:
    def describe(member: Member) -> dict[str, Any]:
        return {
            "job": member.job.name,
            "trial": member.trial.trial,
            "hyperparameters": hyperparameters(with_values(member.config, member.trial.hyperparameters)),
            "seed": member.seed,
        }

    others = {"members": [describe(member) | {"fold": member.fold} for member in members]} if len(members) > 1 else {}
    return {
        **describe(first),
        **others,
        "classes": list(dataset.classes.names),
        "data_digest": dataset.digest,
        "changed_since_job": first.changed,
        "config": dataclasses.asdict(first.config),
        "versions": versions(),
        "machine": machine(accelerators()),
    }
