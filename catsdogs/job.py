"""A `SearchConfig` and a folder -> a finished job in that folder."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catsdogs.dataset import Dataset, load_dataset
from catsdogs.errors import UserError
from catsdogs.files import write_csv
from catsdogs.provenance import machine, now, versions
from catsdogs.schema import MOST_VIEWS, SearchConfig
from catsdogs.study import FAILED, OK, RUNNING, read_job, write_leaderboard, write_result
from catsdogs.trials import best_trial, summary

if TYPE_CHECKING:
    import pandas as pd

    from catsdogs.trial_model import TrialModels
    from catsdogs.tuning import TrainingSet
    from catsdogs.views import LiveViews

log = logging.getLogger(__name__)

# Keys that change no number of a job: where things are, and what is done after it. Where the images are does not count
# either, as their digest does.
_NOT_IN_IDENTITY = {"study", "studies", "cache", "varied", "tta", "job", "trial", "fit_on"}
_NOT_IN_IDENTITY_OF_DATA = {"train", "test", "max_unpacked_gib"}
# Where activations are kept, and who computes them, does not change them by more than rounding.
_NOT_IN_IDENTITY_OF_FEATURES = {"mode", "engine", "max_gib"}


@dataclass(frozen=True)
class Place:
    """Where a job stands in its study.

    Attributes:
        folder: of the job.
        study: folder of the study.
        index: from 1.
        total: jobs of this run of the study; None if a sweeper decides as it goes.
    """

    folder: Path
    study: Path
    index: int = 1
    total: int | None = 1

    @property
    def label(self) -> str:
        return f"job {self.index} of {self.total or '?'}, {self.folder.name}"


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration, as plain values, that decides a job's numbers."""
    plain = {key: value for key, value in settings.items() if key not in _NOT_IN_IDENTITY}
    for group, left_out in (("data", _NOT_IN_IDENTITY_OF_DATA), ("features", _NOT_IN_IDENTITY_OF_FEATURES)):
        plain[group] = {k: v for k, v in (settings.get(group) or {}).items() if k not in left_out}
    if "epochs" in plain.get("fit", {}):
        # How many views there are counts, not how it was said.
        plain["features"]["views"] = min(plain["fit"]["epochs"], plain["features"].get("views") or MOST_VIEWS)
    return plain


def differences(result: dict[str, Any], config: SearchConfig, digest: str) -> list[str]:
    """`key was A, now B` for everything that makes the job of this `result.json` another than the one at hand.

    Args:
        digest: `Dataset.digest` now; a job that did not come far enough to write its own matches any.
    """
    then = (result.get("data") or {}).get("digest")
    changed = ["the images, their labels or their split have changed"] if then not in (None, digest) else []
    return changed + _differences(identity(result.get("config") or {}), identity(dataclasses.asdict(config)))


def finished_before(config: SearchConfig, folder: Path, digest: str) -> bool:
    """Whether this very job is in the folder already, finished. A failed one is not, and may be tried again.

    Raises:
        UserError: another job is in the way, or one that may still be running.
    """
    job = read_job(folder)
    if job is None or job.status == FAILED:
        return False
    remedy = "choose another study=NAME, or move that folder away"
    if job.status != OK:
        raise UserError(
            f"job {folder}: it is still running, or was killed; if no process works on it any more, {remedy}"
        )
    changed = differences(job.result, config, digest)
    if changed:
        raise UserError(f"job {folder}: it was run with another configuration ({', '.join(changed[:5])}); {remedy}")
    return True


def run_job(config: SearchConfig, place: Place, choices: dict[str, str]) -> float:
    """Search, and leave everything that the job found in its folder.

    An error ends this job and no other: it is recorded in `result.json` and the objective is NaN.

    Args:
        choices: the options of the composed groups, and the values of everything else that the study varies.

    Returns:
        The best finite `val_log_loss` of the job.
    """
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
        "started": now(),
        "seed": config.seed,
        "config": dataclasses.asdict(config),
        "versions": versions(),
        "machine": machine(),
    }
    earlier = read_job(place.folder)
    # What another run left here is not ours to overwrite, whatever happens to this one.
    ours = earlier is None or earlier.status == FAILED
    try:
        dataset = load_dataset(config.data, Path(config.cache))
        if earlier is not None and finished_before(config, place.folder, dataset.digest):
            log.info("%s: finished before, val_log_loss %.4f", place.label, earlier.objective)
            return earlier.objective
        split = dataset.rows["split"]
        result["data"] = {
            "digest": dataset.digest,
            "train": int((split == "train").sum()),
            "validation": int((split == "validation").sum()),
            "left_out": len(dataset.left_out),
        }
        write_result(place.folder, result)
        write_csv(place.folder / "split.csv", dataset.rows[["id", "label", "sha256", "split"]])

        def tell(known: dict[str, Any]) -> None:
            result.update(known)
            write_result(place.folder, result)

        result.update(_search(config, place, dataset, tell))
        result["status"] = OK
    except UserError as error:
        log.error("%s: %s", place.label, error)
        result.update(status=FAILED, error=str(error), error_type="UserError")
    except Exception as error:
        log.exception("%s failed", place.label)
        result.update(
            status=FAILED,
            error=f"{type(error).__name__}: {error}",
            error_type=type(error).__name__,
            traceback=traceback.format_exc(),
        )
    except BaseException:
        # Ctrl-C: what was finished is on disk; say that this job was not.
        result.update(status=FAILED, error="interrupted", error_type="KeyboardInterrupt")
        raise
    finally:
        if ours and result["status"] != RUNNING:
            result["seconds"] = round(time.monotonic() - began, 3)
            result["finished"] = now()
            write_result(place.folder, result)
        write_leaderboard(place.study)
        _forget_models()
    return float(result["objective"]) if result["objective"] is not None else math.nan


def _search(
    config: SearchConfig, place: Place, dataset: Dataset, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Search, and give what `result.json` says of it.

    Args:
        tell: gets what `result.json` should say before the first trial.
    """
    # Keras and TensorFlow take seconds to import, and a mistake in the data should be told before.
    from catsdogs import tuning
    from catsdogs.progress import JobProgress, duration
    from catsdogs.study_progress import study_line

    split = dataset.rows["split"].to_numpy()
    data, models = prepared(config, dataset, np.flatnonzero(split == "train"), np.flatnonzero(split == "validation"))
    oracle = tuning.build_oracle(config)
    planned = tuning.expected_trials(oracle, config)
    # Keras is loaded by now, and the machine tells its accelerators.
    tell({"trials": {"planned": planned}, "machine": machine()})
    progress = JobProgress(
        place.label,
        planned,
        config.fit.epochs * config.fit.executions_per_trial,
        lambda: study_line(place.study),
    )
    validation_ids = list(dataset.rows["id"].iloc[data.validation_rows])
    tuner = tuning.SearchTuner(config, oracle, data, models, place.folder, validation_ids, progress)
    log.info(
        "%s: %d images to train on, %d to validate on; building the model and trying one step",
        place.label,
        len(data.train_rows),
        len(data.validation_rows),
    )
    tuner.try_one_step()
    began = time.monotonic()
    with data.features.reading():
        data.features.prepare()
        tuner.search(verbose=0)
    best = best_trial(tuner.records)
    if best is None:
        raise RuntimeError(
            f"none of {len(tuner.records)} trials completed with a finite log loss; the first one ended with\n"
            f"{tuner.first_traceback}"
        )
    log.info(
        "%s: best val_log_loss %.4f (trial %s) of %d trials in %s",
        place.label,
        best.val_log_loss,
        best.trial,
        len(tuner.records),
        duration(time.monotonic() - began),
    )
    return {
        "best_trial": summary(best),
        "objective": best.val_log_loss,
        "trials": {
            "planned": planned,
            "total": len(tuner.records),
            "completed": sum(record.can_win for record in tuner.records),
            "failed": sum(not record.can_win for record in tuner.records),
        },
        "features": data.features.told(),
    }


def prepared(
    config: SearchConfig,
    dataset: Dataset,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    depths: Sequence[int] | None = None,
) -> tuple[TrainingSet, TrialModels]:
    """What trials read, and the models that they train.

    Args:
        depths: unfreeze depths of the trials; those of the space if None.
    """
    # Keras and TensorFlow take seconds to import, and a mistake in the data should be told before.
    from catsdogs.backbones import load_network
    from catsdogs.features import Features
    from catsdogs.schedules import steps_per_epoch
    from catsdogs.trial_model import TrialModels
    from catsdogs.tuning import TrainingSet
    from catsdogs.views import distinct_views

    network = load_network(config.backbone, config.seed)
    steps = steps_per_epoch(len(train_rows), config.fit.batch_size) * config.fit.epochs
    models = TrialModels(config, network, steps, depths)
    rows = dataset.rows
    features = Features(
        config.features,
        network,
        list(models.cuts.values()),
        live_views(config, rows, dataset.root),
        list(rows["sha256"]),
        train_rows,
        validation_rows,
        distinct_views(config.features, config.augmentation, config.fit.epochs),
        Path(config.cache),
    )
    labels = rows["label"].to_numpy(dtype=np.float32)
    return TrainingSet(features, labels, train_rows, validation_rows), models


def live_views(config: SearchConfig, rows: pd.DataFrame, root: Path) -> LiveViews:
    """Pixels of these images, augmented as the job asks."""
    from catsdogs.augment import view_keys
    from catsdogs.images import pixels
    from catsdogs.views import LiveViews

    images = pixels(rows, root, config.backbone.image_size, Path(config.cache))
    return LiveViews(images, view_keys(rows["sha256"]), config.augmentation, config.seed)


def _forget_models() -> None:
    """Free what the models of a job left in Keras' global state; the next job builds its own."""
    if "keras" in sys.modules:
        import keras

        keras.backend.clear_session()
        gc.collect()


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`key was A, now B` for every leaf that differs."""
    found = []
    for key in sorted(set(then) | set(now)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {a}, now {b}")
    return found
