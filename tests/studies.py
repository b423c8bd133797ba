"""Study folders like those of `catsdogs.search` and `catsdogs.retrain`, written without training."""

import datetime
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image
from synthetic_images import encoded, folder_of

from catsdogs.base.files import write_csv, write_json
from catsdogs.final.metrics import detail_of
from catsdogs.scoring.classes import DEFAULT, Classes
from catsdogs.scoring.scores import score_images, scores
from catsdogs.study.locking import LOCK
from catsdogs.study.plan import write_plan
from catsdogs.study.trials import COMPLETED, TrialRecord, best_trial, outcome, summary, write_trials

IMAGES = 200
_LOCKS: dict[Path, FileLock] = {}  # of running jobs, by folder
STARTED = datetime.datetime(2026, 11, 1, 22, 0, tzinfo=datetime.UTC)
CHOICES = {"backbone": "mobilenet_v2", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}


def labels(images: int = IMAGES, classes: Classes = DEFAULT) -> np.ndarray:
    return np.arange(images) % len(classes)


def ids(images: int = IMAGES, classes: Classes = DEFAULT) -> list[str]:
    return [f"{classes.names[label]}.{number}" for number, label in enumerate(labels(images, classes))]


def p_dog(skill: float, seed: int = 0, images: int = IMAGES, shared: float = 0.8) -> np.ndarray:
    """Return probabilities that improve with `skill`; `shared` is the part of the noise that all models share."""
    common = np.random.default_rng(12345).normal(size=images)
    own = np.random.default_rng([7, seed]).normal(size=images)
    noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return 1 / (1 + np.exp(-((2 * labels(images) - 1) * skill + noise) * 2))


def probabilities(
    skill: float, seed: int = 0, images: int = IMAGES, classes: Classes = DEFAULT, shared: float = 0.8
) -> np.ndarray:
    """Return probabilities (N, K) that improve with `skill`; of two classes, those of `p_dog`."""
    if len(classes) == 2:
        return classes.from_output(p_dog(skill, seed, images, shared)[:, None])
    common, own = (np.random.default_rng(one).normal(size=(images, len(classes))) for one in (12345, [7, seed]))
    noise = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    powers = np.exp(2 * (2 * np.eye(len(classes))[labels(images, classes)] * skill + noise))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Job:
    """Settings of a job for `write_job`."""

    trials: int = 4
    failed_trials: int = 0
    winner: int = 0  # the best trial; among the others, deeper unfreezing and less dropout score better
    skill: float = 1.5
    seed: int = 0
    status: str = "ok"  # as in `result.json`; this process locks a `running` job, a `killed` one is not locked
    error: str | None = None
    images: int = IMAGES
    epochs: int = 3
    digest: str = "d" * 64
    name: str | None = None
    planned: int | None = None
    started: datetime.datetime = STARTED
    config: dict[str, Any] | None = None
    classes: Classes = DEFAULT


def write_job(study: Path, choices: dict[str, str], **settings: Any) -> str:
    """Write the folder of one job with these settings of `Job`; return its name."""
    job = Job(**settings)
    name = job.name or "-".join(choices.values())
    folder = (study / name).absolute()
    predicted = probabilities(job.skill, job.seed, job.images, job.classes)
    records, history = _trials(job, predicted)
    _lock(folder, job.status == "running")
    if records:
        write_trials(folder / "trials.csv", records)
        write_csv(folder / "history.csv", pd.DataFrame(history))
    if best_trial(records) is not None:
        table = pd.DataFrame({"id": ids(job.images, job.classes), "label": labels(job.images, job.classes)})
        write_csv(folder / "validation.csv", table.assign(**job.classes.to_columns(predicted)))
    write_json(folder / "result.json", {"job": name, "study": study.name, "choices": choices, **_result(job, records)})
    return name


def _trials(job: Job, predicted: np.ndarray) -> tuple[list[TrialRecord], list[dict[str, Any]]]:
    """Return the trials of a job and the rows of its history; the winner scores as `predicted`."""
    losses, wrong = score_images(labels(job.images, job.classes), predicted)
    log_loss, accuracy = float(losses.mean()), float(1 - wrong.mean())
    rng = np.random.default_rng([1, job.seed])
    records: list[TrialRecord] = []
    history: list[dict[str, Any]] = []
    for number in range(job.trials):
        values = {
            "unfreeze_depth": int(rng.choice([0, 10, 30])),
            "dropout": float(rng.choice([0.1, 0.2, 0.3, 0.4, 0.5])),
            "l2": float(10 ** rng.uniform(-6, -3)),
        }
        worse = 0.0 if number == job.winner else 0.02 + values["dropout"] * 0.1 + (30 - values["unfreeze_depth"]) / 300
        loss, trained = log_loss + worse, int(rng.integers(1, job.epochs + 1))
        result: dict[str, Any] = {"status": COMPLETED, "val_log_loss": loss, "val_accuracy": max(0.0, accuracy - worse)}
        if number >= job.trials - job.failed_trials:
            result = {"status": "FAILED", "val_log_loss": None, "val_accuracy": None}
            result["error"] = "DivergedError: <b>the loss</b> is nan"
        result |= {"best_epoch": trained if result["status"] == COMPLETED else 0, "epoch_budget": job.epochs}
        result |= {"seconds": 20.0 + values["unfreeze_depth"], "hyperparameters": values}
        records.append(TrialRecord(trial=str(number), epochs=trained, **result))
        for epoch in range(1, trained + 1):
            behind = 0.15 * (trained - epoch) / job.epochs
            row: dict[str, Any] = {"trial": str(number), "execution": 0, "epoch": epoch}
            row |= {"accuracy": max(0.0, 0.9 - behind), "val_accuracy": max(0.0, accuracy - behind)}
            row |= {"log_loss": 0.8 * loss + behind, "val_log_loss": loss + behind}
            row |= dict.fromkeys(("loss", "val_loss"), loss + behind + 0.01)
            rates = {"learning_rate": 3e-4 * (1 - epoch / job.epochs)}
            rates["max_learning_rate"] = 3e-4 * (1 - (epoch - 1) / job.epochs)
            history.append({**row, **rates, "seconds": 5.0})
    return records, history


def _lock(folder: Path, running: bool) -> None:
    """Lock the folder of a running job; unlock that of any other."""
    if folder in _LOCKS:
        _LOCKS.pop(folder).release()
    if running:
        folder.mkdir(parents=True, exist_ok=True)
        _LOCKS[folder] = FileLock(folder / LOCK)
        _LOCKS[folder].acquire()


def _result(job: Job, records: list[TrialRecord]) -> dict[str, Any]:
    """Return `result.json`, apart from names and choices."""
    status = job.status.replace("killed", "running")
    seconds = sum(record.seconds for record in records) + 15
    # A running job has no result yet.
    best = best_trial(records) if status != "running" else None
    result = {
        "status": status,
        "best_trial": summary(best) if best is not None else None,
        "objective": best.val_log_loss if best is not None else None,
        "seconds": seconds if status != "running" else None,
        "error": job.error,
        "started": job.started.isoformat(timespec="seconds"),
        "seed": 1,
        "config": {"seed": 1, "fit": {"epochs": job.epochs, "batch_size": 32}, **(job.config or {})},
        "versions": {"python": "3.11.7", "catsdogs": "0.2.0", "keras": "3.15.1"},
        "classes": job.classes.names,
        "data": {"digest": job.digest, "train": 4 * job.images, "validation": job.images, "left_out": 0},
        "trials": outcome(records, job.planned or job.trials)["trials"],
    }
    if status != "running":
        result["finished"] = (job.started + datetime.timedelta(seconds=seconds)).isoformat()
    return result


def write_study(folder: Path, *, trials: int = 4, winner: int = 0, **more: Any) -> Path:
    """Write a finished study of 2 augmentations x 2 smoothings; `light` beats `none`, smoothing hardly matters.

    The best trials of its jobs are `winner`, 2 `winner`, 3 `winner` and 4 `winner`.
    """
    names = []
    for number, (augmentation, smoothing) in enumerate(itertools.product(("light", "none"), ("none", "mild"))):
        choices = {**CHOICES, "augmentation": augmentation, "label_smoothing": smoothing}
        light = augmentation == "light"
        config = {"augmentation": {"rotation_degrees": 8.0 if light else 0.0}}
        own: dict[str, Any] = {"skill": 1.8 if light else 1.2, "config": config}
        own |= {"trials": trials, "winner": winner * (number + 1), "seed": number}
        own["started"] = STARTED + number * datetime.timedelta(seconds=20 * trials)
        names.append(write_job(folder, choices, **own, **more))
    write_plan(folder, names, ["-m", f"study={folder.name}", "augmentation=light,none", "label_smoothing=none,mild"])
    return folder


def write_final(study: Path, *, skill=1.8, images=IMAGES, test_images=50, tta=True, classes=DEFAULT) -> Path:
    """Write `best/` of a study, without the model; return the folder."""
    best, true = study / "best", labels(images, classes)
    plain, averaged = (probabilities(one, 0, images, classes) for one in (skill, skill + 0.1))
    validation = pd.DataFrame({"id": ids(images, classes), "label": true.astype(float), "split": "validation"})
    test = pd.DataFrame({"id": [str(i + 1) for i in range(test_images)], "label": np.nan, "split": "test"})
    tests = [probabilities(skill, seed, test_images, classes) for seed in (3, 4)]
    for step, predicted in (("", [plain, tests[0]]), ("_tta", [averaged, tests[1]])):
        columns = [classes.to_columns(one if tta or not step else one * np.nan, step) for one in predicted]
        validation, test = validation.assign(**columns[0]), test.assign(**columns[1])
    write_csv(best / "predictions.csv", pd.concat([validation, test], ignore_index=True))
    write_csv(best / "history.csv", pd.DataFrame({"epoch": [1, 2], "val_log_loss": [0.3, 0.2], "log_loss": [0.3, 0.2]}))
    details = {name: detail_of(score, "validation") for name, score in scores(true, plain).items()}
    gain = {}
    if tta:
        gain = {"validation": {"value": 0.01, "low": 0.002, "high": 0.02, "size": images, "split": "validation"}}
        details |= {f"{k}_tta": detail_of(v, "validation") for k, v in scores(true, averaged).items()}
    source = {"job": "mobilenet_v2-light-cosine-none", "trial": "0"}
    metrics = {name: score["value"] for name, score in details.items()} | source | {"log_loss_calibrated": None}
    metrics |= {"details": details, "study": study.name, "fit_on": "train", "epochs": 2, "best_epoch": 2}
    metrics |= {"tta": {"kind": "views" if tta else "none", "views": 10 if tta else 1}, "classes": classes.names}
    metrics |= {"tta_gain": gain, "selected_val_log_loss": metrics["log_loss"]}
    write_json(best / "metrics.json", metrics)
    write_json(best / "recipe.json", {**source, "seed": 5, "config": {}})
    return best


def color_of(number: int) -> tuple[int, int, int]:
    """Return a color per image, different enough from the next to survive JPEG."""
    return (number * 37 % 256, number * 91 % 256, number * 53 % 256)


def picture(number: int) -> bytes:
    """Return an encoded image of 240 x 120 pixels in one color."""
    return encoded(Image.new("RGB", (240, 120), color_of(number)), quality=95)


def write_split(job, images: dict[str, bytes], **elsewhere: str) -> None:
    """Write `split.csv` of a job; paths are below `train`, except those in `elsewhere`."""
    hashes = [hashlib.sha256(data).hexdigest() for data in images.values()]
    paths = [elsewhere.get(name, f"train/{name}.jpg") for name in images]
    table = pd.DataFrame({"id": list(images), "sha256": hashes, "path": paths, "split": "validation"})
    write_csv(job / "split.csv", table)


def write_images(folder, images: dict[str, bytes]) -> None:
    folder_of(folder, {f"train/{name}.jpg": data for name, data in images.items()})
