"""Best trial -> final model, its scores, its predictions, and everything else in `best/`."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from catsdogs.dataset import Dataset, load_dataset
from catsdogs.devices import batch_sizes, distributed
from catsdogs.engine import Forward, fastest_forward
from catsdogs.errors import UserError
from catsdogs.files import free_name, write_csv, write_json, write_text
from catsdogs.hypermodel import hyperparameters
from catsdogs.identity import differences
from catsdogs.inputs import live_views, prepared
from catsdogs.model_card import model_card
from catsdogs.progress import JobProgress, duration
from catsdogs.provenance import machine, versions
from catsdogs.schedules import steps_per_epoch
from catsdogs.schema import RetrainConfig
from catsdogs.scores import Score, scores
from catsdogs.study import Job
from catsdogs.submission import submission, write_submission
from catsdogs.training import DivergedError, Training, train
from catsdogs.trial_model import TrialModels
from catsdogs.trials import TrialRecord, lineage
from catsdogs.tta import predict, tta_views
from catsdogs.tuning import TrainingSet, trial_seed
from catsdogs.views import View, distinct_views

log = logging.getLogger(__name__)

# Where p_dog of an image that does not decode stands in the submission: it costs log 2, whatever the label.
UNKNOWN = 0.5


def make_final(config: RetrainConfig, job: Job, trial: TrialRecord, study: Path) -> dict[str, Any]:
    """Train the trial again, score it, predict the test images, and write `best/`.

    Nothing that is there is lost: an earlier `best/` is renamed.

    Returns:
        What `metrics.json` says.

    Raises:
        UserError: the data cannot be used.
    """
    began = time.monotonic()
    dataset = load_dataset(config.data, Path(config.cache))
    changed = differences(job.result, config, dataset.digest)
    if changed:
        log.warning("this is no longer job %s (%s); scores of both do not compare", job.name, ", ".join(changed[:5]))
    made_by = (job.result.get("versions") or {}).get("catsdogs")
    if made_by != versions()["catsdogs"]:
        log.warning("the study was made by catsdogs %s, so that this training will not repeat it exactly", made_by)
    split = dataset.rows["split"].to_numpy()
    everything = config.fit_on == "all"
    train_rows = np.arange(len(split)) if everything else np.flatnonzero(split == "train")
    validation_rows = np.flatnonzero(split == "validation")
    line = lineage(job.trials(), trial)
    settings = config
    few = max(record.best_epoch for record in line) <= distinct_views(
        config.features, config.augmentation, config.fit.epochs
    )
    if everything and config.features.mode == "auto" and few:
        log.info("every view is read once, so that activations are computed for every batch and not stored")
        settings = dataclasses.replace(config, features=dataclasses.replace(config.features, mode="live"))
    depths = [hyperparameters(config, record.hyperparameters).unfreeze_depth for record in line]
    data, models = prepared(settings, dataset, train_rows, np.arange(0) if everything else validation_rows, depths)
    selected_epochs = ((job.result.get("config") or {}).get("fit") or {}).get("epochs")
    try:
        with data.features.reading():
            data.features.prepare()
            training, model = _train_again(config, line, data, models, config.fit.epochs != selected_epochs)
    except DivergedError as error:
        raise UserError(f"the training diverged: {error}") from error
    trained = time.monotonic()
    log.info("trained %d epochs in %s", len(training.history), duration(trained - began))

    forward = _forward(model, config.features.engine)
    over = tta_views(config.tta, config.augmentation)
    # A view of no augmentation is the plain image; so is the only view of tta=none.
    with_tta = config.tta.kind != "none"
    table = _validation_rows(dataset, validation_rows)
    if everything:
        # The final model has seen the validation images; only what the trial's own model said of them is honest.
        own = None if changed else _kept_predictions(job, trial, list(table["id"]))
        if own is None:
            log.warning("no honest score on the validation split: nothing was kept of this trial on these images")
        predictions = [table.assign(p_dog=np.nan if own is None else own, p_dog_tta=np.nan)]
    else:
        pixels = live_views(config, dataset.rows, dataset.root)
        table["p_dog"] = predict(forward, pixels, validation_rows)
        table["p_dog_tta"] = (
            predict(forward, pixels, validation_rows, over, "validation with TTA") if with_tta else np.nan
        )
        predictions = [table]
    if dataset.test is not None:
        predictions.append(_test(config, dataset, forward, over, with_tta))
    table = pd.concat(predictions, ignore_index=True)
    metrics = _metrics(table, with_tta)
    metrics |= {
        "study": study.name,
        "job": job.name,
        "trial": trial.trial,
        "fit_on": config.fit_on,
        "tta": {"kind": config.tta.kind, "views": len(over)},
        "selected_val_log_loss": trial.val_log_loss,
        "epochs": len(training.history),
        "best_epoch": training.best_epoch,
        "seconds": {"training": round(trained - began, 1), "all": round(time.monotonic() - began, 1)},
    }
    recipe = {
        "job": job.name,
        "trial": trial.trial,
        "hyperparameters": dataclasses.asdict(hyperparameters(config, trial.hyperparameters)),
        "seed": trial_seed(config.seed, trial.trial, 0),
        "data_digest": dataset.digest,
        "changed_since_job": changed,
        "config": dataclasses.asdict(config),
        "versions": versions(),
        "machine": machine(),
    }
    _write(study / "best", model, metrics, table, dataset, recipe, training)
    return metrics


def _train_again(
    config: RetrainConfig, line: list[TrialRecord], data: TrainingSet, models: TrialModels, other_epochs: bool
) -> tuple[Training, keras.Model]:
    """Train as the trial was trained, so that on the same data and machine the same model comes out.

    With the trial's own seed, of its first execution. A promoted Hyperband trial went on from its parent's best
    weights with a new optimizer, so the whole `line` is trained, one after the other.

    Args:
        line: `trials.lineage` of the trial.
        other_epochs: fit.epochs is overridden, and the last of the line is trained to it.
    """
    everything = config.fit_on == "all"
    # The schedule is that of the whole training, also where it is left after the epochs that the trial needed.
    steps = steps_per_epoch(len(data.train_rows), config.fit.batch_size)
    ends = [record.best_epoch if everything else record.epoch_budget or config.fit.epochs for record in line]
    if not everything and other_epochs:
        ends[-1] = config.fit.epochs
    progress = JobProgress("retrain", len(line), max(ends))
    log.info("training on %d images, at most %d epochs", len(data.train_rows), max(ends))
    histories: list[pd.DataFrame] = []
    weights: list[np.ndarray] | None = None
    for record, end in zip(line, ends, strict=True):
        seed = trial_seed(config.seed, record.trial, 0)
        values = hyperparameters(config, record.hyperparameters)
        with distributed(batch_sizes(config.fit.batch_size, len(data.train_rows), len(data.validation_rows))):
            trial = models.start(values, seed, first_step=steps * record.first_epoch)
            if weights is not None:
                models.set_weights(trial, weights)
            training = train(
                trial.model,
                data.features.at(trial.cut),
                data.labels,
                data.train_rows,
                None if everything else data.validation_rows,
                config.fit,
                seed,
                first_epoch=record.first_epoch,
                epochs=max(end, record.first_epoch + 1),
                listener=lambda epoch, share, logs, end=end: progress.epoch(epoch, share, epoch, end, logs),  # type: ignore[misc]
                distinct_views=data.features.views,
            )
        progress.trial_done()
        weights = trial.model.get_weights()
        histories.append(training.history)
    whole = dataclasses.replace(training, history=pd.concat(histories, ignore_index=True))
    return whole, models.whole(trial)


def _forward(model: keras.Model, engine: str) -> Forward:
    """The engine that was asked for, or another: what was trained must not be lost to it."""
    try:
        return fastest_forward(model, engine)
    except UserError as error:
        log.warning("%s; Keras predicts instead", error)
        return fastest_forward(model, "keras")


def _validation_rows(dataset: Dataset, validation_rows: np.ndarray) -> pd.DataFrame:
    rows = dataset.rows.iloc[validation_rows]
    return pd.DataFrame({"id": rows["id"].to_numpy(), "label": rows["label"].to_numpy(), "split": "validation"})


def _kept_predictions(job: Job, trial: TrialRecord, ids: list[str]) -> np.ndarray | None:
    """What the trial's model, trained on the training split alone, said of the validation images.

    It is kept of the best trial of a job only; None for any other.
    """
    file = job.folder / "validation.csv"
    if job.best().get("trial") != trial.trial or not file.is_file():
        return None
    kept = pd.read_csv(file, dtype={"id": str}, keep_default_na=False)
    return kept["p_dog"].to_numpy(dtype=np.float64) if list(kept["id"]) == ids else None


def _test(config: RetrainConfig, dataset: Dataset, forward: Forward, over: list[View], with_tta: bool) -> pd.DataFrame:
    """Predictions on the test images; 0.5 for those that do not decode."""
    assert dataset.test is not None
    assert dataset.test_root is not None
    test = dataset.test
    decodes = (test["width"] > 0).to_numpy()
    if not decodes.all():
        names = ", ".join(test["path"][~decodes].head(5))
        log.warning("%d test images do not decode and are submitted as 0.5: %s", (~decodes).sum(), names)
    usable = test[decodes]
    table = pd.DataFrame({"id": test["id"].to_numpy(), "label": test["label"].to_numpy(), "split": "test"})
    plain, averaged = np.full(len(test), UNKNOWN), np.full(len(test), UNKNOWN if with_tta else np.nan)
    if len(usable):
        views = live_views(config, usable, dataset.test_root)
        rows = np.arange(len(usable))
        plain[decodes] = predict(forward, views, rows, what="" if with_tta else "test images")
        if with_tta:
            averaged[decodes] = predict(forward, views, rows, over, "test images with TTA")
    return table.assign(p_dog=plain, p_dog_tta=averaged)


def _metrics(table: pd.DataFrame, with_tta: bool) -> dict[str, Any]:
    """Flat numbers for scripts, and under `details` where each comes from.

    Scores of the validation split carry their plain names, those of labelled test images begin with `test_`.
    """
    names = ("log_loss", "log_loss_tta", "log_loss_calibrated", "accuracy", "roc_auc", "brier", "ece")
    found: dict[str, Score | None] = dict.fromkeys(names)
    for split, prefix in (("validation", ""), ("test", "test_")):
        part = table[(table["split"] == split) & table["label"].notna() & table["p_dog"].notna()]
        if part.empty:
            continue
        labels = part["label"].to_numpy()
        for name, score in scores(labels, part["p_dog"].to_numpy(), split).items():
            found[prefix + name] = score
        if with_tta and part["p_dog_tta"].notna().all():
            for name, score in scores(labels, part["p_dog_tta"].to_numpy(), split).items():
                found[f"{prefix}{name}_tta"] = score
    numbers = {name: None if score is None else score.value for name, score in found.items()}
    details = {name: dataclasses.asdict(score) for name, score in found.items() if score is not None}
    return {**numbers, "details": details, "interval": "95 % percentile bootstrap over images"}


def _write(
    best: Path,
    model: keras.Model,
    metrics: dict[str, Any],
    table: pd.DataFrame,
    dataset: Dataset,
    recipe: dict[str, Any],
    training: Training,
) -> None:
    """Write everything beside `best/` and move it into place whole."""
    temporary = Path(tempfile.mkdtemp(prefix=".best-", dir=best.parent))
    try:
        temporary.chmod(0o755)
        model.save(temporary / "model.keras")
        write_json(temporary / "metrics.json", metrics)
        write_json(temporary / "recipe.json", recipe)
        write_csv(temporary / "history.csv", training.history)
        write_csv(temporary / "predictions.csv", table)
        test = table[table["split"] == "test"]
        if dataset.test is not None:
            chosen = test["p_dog_tta"].fillna(test["p_dog"])
            write_submission(
                temporary / "submission.csv", submission(list(test["id"]), chosen.to_numpy(), list(dataset.test["id"]))
            )
        write_text(temporary / "MODEL_CARD.md", model_card(metrics, recipe, dataset))
        if best.exists():
            earlier = free_name(best)
            best.rename(earlier)
            log.info("kept the earlier %s as %s", best.name, earlier.name)
        temporary.rename(best)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
