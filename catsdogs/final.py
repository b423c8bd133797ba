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

from catsdogs.augment import view_keys
from catsdogs.dataset import Dataset, load_dataset
from catsdogs.files import write_csv, write_json, write_text
from catsdogs.hypermodel import build_model, hyperparameters
from catsdogs.images import pixels
from catsdogs.job import identity, training_set, versions
from catsdogs.model_card import model_card
from catsdogs.progress import JobProgress, duration
from catsdogs.schedules import steps_per_epoch
from catsdogs.schema import RetrainConfig
from catsdogs.scores import Score, scores
from catsdogs.study import Job
from catsdogs.submission import submission, write_submission
from catsdogs.training import Training, train
from catsdogs.trials import TrialRecord
from catsdogs.tta import predict, tta_views
from catsdogs.tuning import TrainingSet, trial_seed
from catsdogs.views import LiveViews, View

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
    same_data = dataset.digest == (job.result.get("data") or {}).get("digest")
    if not same_data:
        log.warning(
            "the labelled images or their split are not those of job %s; scores of both do not compare", job.name
        )
    data = training_set(config, dataset)
    training, model = _train_again(config, trial, data)
    trained = time.monotonic()
    log.info("trained %d epochs in %s", len(training.history), duration(trained - began))

    over = tta_views(config.tta, config.augmentation)
    # A view of no augmentation is the plain image; so is the only view of tta=none.
    with_tta = config.tta.kind != "none"
    predictions = [_validation(config, job, data, dataset, model, over, with_tta)]
    if dataset.test is not None:
        predictions.append(_test(config, dataset, model, over, with_tta))
    table = pd.concat(predictions, ignore_index=True)
    metrics = _metrics(table, with_tta)
    metrics |= {
        "study": study.name,
        "job": job.name,
        "trial": trial.trial,
        "fit_on": config.fit_on,
        "tta": {"kind": config.tta.kind, "views": len(over)},
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
        "same_data_as_job": same_data,
        "config": identity(config) | {"tta": dataclasses.asdict(config.tta)},
        "versions": versions(),
    }
    _write(study / "best", model, metrics, table, dataset, recipe, training)
    return metrics


def _train_again(config: RetrainConfig, trial: TrialRecord, data: TrainingSet) -> tuple[Training, keras.Model]:
    """With the trial's own seed, so that on the same data and machine the same model comes out."""
    everything = config.fit_on == "all"
    train_rows = np.arange(len(data.labels)) if everything else data.train_rows
    seed = trial_seed(config.seed, trial.trial, 0)
    values = hyperparameters(config, trial.hyperparameters)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    # The schedule is that of the whole training, also where it is left after the epochs that the trial needed.
    total_steps = steps_per_epoch(len(train_rows), config.fit.batch_size) * config.fit.epochs
    model = build_model(config, values, total_steps)
    epochs = trial.best_epoch if everything else config.fit.epochs
    progress = JobProgress("retrain", 1, epochs)
    log.info("training on %d images, at most %d epochs", len(train_rows), epochs)
    training = train(
        model,
        data.views,
        data.labels,
        train_rows,
        None if everything else data.validation_rows,
        config.fit,
        seed,
        epochs=epochs,
        listener=lambda epoch, share, logs: progress.epoch(epoch, share, epoch, epochs, logs),
    )
    # Without the optimizer: the model is shipped, not trained on.
    return training, keras.Model(model.inputs, model.outputs, name="catsdogs")


def _validation(
    config: RetrainConfig,
    job: Job,
    data: TrainingSet,
    dataset: Dataset,
    model: keras.Model,
    over: list[View],
    with_tta: bool,
) -> pd.DataFrame:
    """Predictions on the validation split by a model that did not train on it."""
    rows = dataset.rows.iloc[data.validation_rows]
    table = pd.DataFrame({"id": rows["id"].to_numpy(), "label": rows["label"].to_numpy(), "split": "validation"})
    if config.fit_on == "all":
        # The final model has seen these images. What the trial's model, trained on the training split, said of them
        # is the honest score; it was kept for the best trial of the job only, and without TTA.
        kept = pd.read_csv(job.folder / "validation.csv", dtype={"id": str})
        best = (job.result.get("best_trial") or {}).get("trial")
        if config.trial not in (None, best) or list(kept["id"]) != list(table["id"]):
            return table.iloc[:0].assign(p_dog=np.nan, p_dog_tta=np.nan)
        return table.assign(p_dog=kept["p_dog"], p_dog_tta=np.nan)
    batch = config.fit.batch_size
    table["p_dog"] = predict(model, data.views, data.validation_rows, batch)
    table["p_dog_tta"] = (
        predict(model, data.views, data.validation_rows, batch, over, "validation with TTA") if with_tta else np.nan
    )
    return table


def _test(
    config: RetrainConfig, dataset: Dataset, model: keras.Model, over: list[View], with_tta: bool
) -> pd.DataFrame:
    """Predictions on the test images; 0.5 for those that do not decode."""
    assert dataset.test is not None
    assert dataset.test_root is not None
    test = dataset.test
    decodes = (test["width"] > 0).to_numpy()
    if not decodes.all():
        names = ", ".join(test["path"][~decodes].head(5))
        log.warning("%d test images do not decode and are submitted as 0.5: %s", (~decodes).sum(), names)
    usable = test[decodes]
    batch = config.fit.batch_size
    table = pd.DataFrame({"id": test["id"].to_numpy(), "label": test["label"].to_numpy(), "split": "test"})
    plain, averaged = np.full(len(test), UNKNOWN), np.full(len(test), UNKNOWN if with_tta else np.nan)
    if len(usable):
        images = pixels(usable, dataset.test_root, config.backbone.image_size, Path(config.cache))
        views = LiveViews(images, view_keys(usable["sha256"]), config.augmentation, config.seed)
        rows = np.arange(len(usable))
        plain[decodes] = predict(model, views, rows, batch, what="" if with_tta else "test images")
        if with_tta:
            averaged[decodes] = predict(model, views, rows, batch, over, "test images with TTA")
    return table.assign(p_dog=plain, p_dog_tta=averaged)


def _metrics(table: pd.DataFrame, with_tta: bool) -> dict[str, Any]:
    """Flat numbers for scripts, and under `details` where each comes from.

    Scores of the validation split carry their plain names, those of labelled test images begin with `test_`.
    """
    found: dict[str, Score | None] = {"log_loss": None, "log_loss_tta": None, "log_loss_calibrated": None}
    for split, prefix in (("validation", ""), ("test", "test_")):
        part = table[(table["split"] == split) & table["label"].notna()]
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
            earlier = _free_name(best)
            best.rename(earlier)
            log.info("kept the earlier %s as %s", best.name, earlier.name)
        temporary.rename(best)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _free_name(best: Path) -> Path:
    number = 1
    while (candidate := best.with_name(f"{best.name}.{number}")).exists():
        number += 1
    return candidate
