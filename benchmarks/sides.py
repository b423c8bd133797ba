"""Both sides of the comparison as separate processes, measured from start to exit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from catsdogs.config.schema import SearchConfig
    from catsdogs.data.dataset import Dataset

_BENCHMARKS = Path(__file__).resolve().parent
_MIB_FROM_MAXRSS = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there, KiB elsewhere


@dataclass(frozen=True)
class Run:
    """Measurements of one process.

    Attributes:
        seconds: wall time from start to exit.
        cpu_seconds: CPU time of all threads; other load on the machine hardly changes it.
        peak_rss_mib: largest resident set, including touched pages of mapped files.
        trials: trials by job, in the order of their proposal: job (only catsdogs), trial, hyperparameters, trained.
            Trained ones also have val_log_loss and epoch_seconds, a value per epoch.
    """

    seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    trials: list[dict[str, Any]]


class Sides:
    """Runner of both sides on the same images.

    Args:
        work: folder for all files.
        overrides: overrides of catsdogs, without study, sizes and features.
    """

    def __init__(self, work: Path, overrides: list[str]) -> None:
        self._work = work
        self._cache = work / "cache"
        self._overrides = overrides
        self._plain: dict[str, Any] = {}
        self._prepared: set[Path] = set()

    def prepare(self) -> dict[str, Any]:
        """Unpack, catalog and decode into the cache (not measured), and write the input files of the plain side.

        Returns:
            The settings of both sides.
        """
        from catsdogs.data.augment import view_keys

        config, dataset, array = self.decode([])
        if config.schedule.kind != "cosine" or config.schedule.warmup_fraction or config.model.l2_scope != "head":
            raise SystemExit("the plain side requires schedule=cosine without warm-up, and model.l2_scope=head")
        if not config.model.head_batch_norm or config.backbone.train_batch_norm:
            raise SystemExit("the plain side requires model.head_batch_norm=true and backbone.train_batch_norm=false")
        rows, size = dataset.rows, config.backbone.image_size
        split, keys = rows["split"].to_numpy(), view_keys(rows["sha256"])
        np.savez(
            self._work / "arrays.npz",
            labels=rows["label"].to_numpy(dtype=np.float32),
            keys=keys,
            train_rows=np.flatnonzero(split == "train"),
            validation_rows=np.flatnonzero(split == "validation"),
        )
        self._plain = {
            # The plain side maps the same file.
            "pixels": str(array.filename),
            "arrays": str(self._work / "arrays.npz"),
            "weights": config.backbone.weights,
            "image_size": size,
            "seed": config.seed,
            "batch_size": config.fit.batch_size,
            "peak_lr": config.schedule.peak_lr,
            "final_fraction": config.schedule.final_fraction,
            "label_smoothing": config.label_smoothing.epsilon,
            "dense_units": config.model.dense_units,
            "head_batch_norm_momentum": config.model.head_batch_norm_momentum,
            "augmentation": dict(vars(config.augmentation)),
            "autotune": True,
        }
        private = {"pixels", "arrays", "weights", "autotune"}
        return {
            "train_images": int((split == "train").sum()),
            "validation_images": int((split == "validation").sum()),
            "data_digest": dataset.digest,
            **{key: value for key, value in self._plain.items() if key not in private},
        }

    def decode(self, overrides: list[str]) -> tuple[SearchConfig, Dataset, np.memmap]:
        """Unpack, catalog and decode into the cache (not measured) the images of a search with these overrides.

        Returns:
            The configuration, its images, and their memory-mapped pixels. `empty_store` keeps them in the cache.
        """
        from hydra import compose, initialize_config_dir

        from catsdogs.config.compose import to_search_config
        from catsdogs.config.locations import conf_dir
        from catsdogs.data.dataset import load_dataset
        from catsdogs.data.fitting import fit_to_data
        from catsdogs.data.images import pixels
        from catsdogs.launching.registration import register

        register()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = to_search_config(compose("search", overrides=[*self._overrides, "study=benchmark", *overrides]))
        dataset = load_dataset(config.data, self._cache, config.split)
        config, _ = fit_to_data(config, dataset)
        array = pixels(dataset.rows, dataset.root, config.backbone.image_size, self._cache, config.backbone.resize)
        assert isinstance(array, np.memmap)
        self._prepared = set(self._cache.rglob("*"))
        return config, dataset, array

    def faster_input(self) -> dict[str, Any]:
        """Measure tf.data with and without autotune, and use the faster one from here on."""
        results, _ = self._run_plain("input", task="input", trials=1, epochs=2)
        self._plain["autotune"] = results["autotune"]
        return results

    def plain(self, name: str, trials: int, epochs: int, **settings: Any) -> Run:
        """Run the plain search; `settings` are more fields of `plain_input.Settings`."""
        results, usage = self._run_plain(name, task="search", trials=trials, epochs=epochs, **settings)
        return Run(*usage, results["trials"])

    def catsdogs(self, name: str, trials: int, epochs: int, overrides: list[str]) -> Run:
        """Run `catsdogs.search` with the current store; the last override may be `-m`."""
        studies = self._work / "studies"
        command = [sys.executable, "-m", "catsdogs.search", f"study={name}", f"studies_dir={studies}"]
        command += [f"cache={self._cache}", *self._overrides, f"tuner.max_trials={trials}"]
        command += [f"fit.epochs={epochs}", f"fit.patience={epochs}", *overrides]
        usage = self._measure(command, name)
        return Run(*usage, read_trials(studies / name))

    def empty_store(self) -> None:
        """Remove all files from the cache except those of `prepare` and `decode`."""
        for path in sorted(set(self._cache.rglob("*")) - self._prepared, reverse=True):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def store_bytes(self) -> int:
        """Return the size on disk of the files that `empty_store` removes."""
        return sum(path.stat().st_size for path in set(self._cache.rglob("*")) - self._prepared if path.is_file())

    def _run_plain(
        self, name: str, trials: int, epochs: int, **settings: Any
    ) -> tuple[dict[str, Any], tuple[float, float, float]]:
        output = self._work / f"{name}.json"
        complete = {
            "epochs_run": epochs,
            "patience": epochs,
            "views": epochs,
            "all_trials": True,
            "augmentation_source": "views",
            **self._plain,
            "output": str(output),
            "folder": str(self._work / f"{name}.tuner"),
            "trials": trials,
            "epochs": epochs,
            **settings,
        }
        path = self._work / f"{name}.settings.json"
        path.write_text(json.dumps(complete, indent=2), encoding="utf-8")
        usage = self._measure([sys.executable, str(_BENCHMARKS / "plain_search.py"), str(path)], name)
        return json.loads(output.read_text(encoding="utf-8")), usage

    def _measure(self, command: list[str], name: str) -> tuple[float, float, float]:
        """Run a process and return its wall seconds, CPU seconds and peak MiB; write its output to a log."""
        log = self._work / f"{name}.log"
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with log.open("wb") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=_BENCHMARKS.parent
            )
            # process.wait() does not return the memory of this child; wait4 does.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise SystemExit(f"{name}: failed with status {process.returncode}; end of its log:\n{tail}")
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _MIB_FROM_MAXRSS / 2**20


def read_trials(study: Path) -> list[dict[str, Any]]:
    """Read the trials of all jobs of a study from trials.csv and history.csv, in the order of the jobs."""
    results = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in study.glob("*/result.json")}
    trials = []
    for job in sorted(results, key=lambda job: (results[job]["started"], job.name)):
        if results[job]["status"] != "ok":
            raise SystemExit(f"job {job.name}: status {results[job]['status']}, expected ok")
        trials += sorted(_trials_of(job), key=lambda trial: int(trial["trial"]))
    return trials


def _trials_of(job: Path) -> list[dict[str, Any]]:
    epochs = _rows(job / "history.csv")
    trials = []
    for row in _rows(job / "trials.csv"):
        own = [epoch for epoch in epochs if int(epoch["trial"]) == int(row["trial"])]
        trials.append(
            {
                "job": job.name,
                "trial": row["trial"],
                "hyperparameters": {
                    name: float(row[name]) for name in ("unfreeze_depth", "dropout", "l2") if name in row
                },
                "trained": row["status"] == "COMPLETED",
                "seconds": float(row["seconds"]),
                "epoch_seconds": [float(epoch["seconds"]) for epoch in own],
                "val_log_loss": [float(epoch["val_log_loss"]) for epoch in own],
            }
        )
    return trials


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
