"""Commands with a stub in place of training: tables depend on seeds only.

`fake` also replaces the network and its activations. `real` builds the network, stores activations and saves models.
"""

import functools
import gc
import importlib
import math
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cheap
import pandas as pd
import pytest

import catsdogs

FAKE, REAL = "fake", "real"
RETRAIN = "retrain"  # in place of a job

trained: list[tuple[str, str]] = []  # (job, trial) or (retrain, member) of every training in this process
_remembered: dict[Any, bytes] = {}  # pickled results of slow functions without side effects
_PACKAGE = Path(catsdogs.__file__).parent


class _Fake(cheap.Job):
    """The fakes of `cheap`, on the images of the study and with its files."""

    def __init__(self) -> None:
        self.trained, self.before = [], lambda training: None

    def build(self, config: Any, dataset: Any, folds: Any) -> tuple[Any, Any]:
        from catsdogs.training.trial_data import live_views

        live_views(config, dataset.rows, dataset.root)
        self.labels = dataset.rows["label"].to_numpy()
        return super().build(config, dataset, folds)


def _train(model: Any, views: Any, labels: Any, fold: Any, fit: Any, plan: Any, listener: Any = None) -> Any:
    """Return a training with scores of its seed; read all activations, as a training does."""
    from catsdogs.data.views import ORIGINAL, View
    from catsdogs.training.execution import Training

    for view in (ORIGINAL, *(View("train", number) for number in range(plan.distinct_views))):
        views.read(fold.train_rows, view)
    epochs = range(plan.first_epoch + 1, plan.epochs + 1)
    scores = [0.5 + 0.4 * math.sin(97 * plan.seed / 2**31 + epoch) for epoch in epochs]
    history = pd.DataFrame({"epoch": epochs, "loss": scores, "val_log_loss": scores})
    return Training(history.assign(learning_rate=0.1, seconds=0.0), plan.epochs, scores[-1], 0.5)


@functools.cache
def install(kind: str) -> None:
    """Replace training in this process."""
    from catsdogs.final.members import write_kept
    from catsdogs.tuning.tuner import Search

    patches, fake = pytest.MonkeyPatch(), _Fake()
    records_to_train = Search._records_to_train

    def counted(self: Any, record: Any, run: int) -> Any:
        records, weights = records_to_train(self, record, run)
        trained.extend((self._folder.name, one.trial) for one in records)
        return records, weights

    def kept(member: Path, *trained_model: Any) -> None:
        trained.append((RETRAIN, member.name))
        write_kept(member, *trained_model)

    patches.setattr(Search, "_records_to_train", counted)
    patches.setattr("catsdogs.final.members.write_kept", kept)
    patches.setattr("catsdogs.tuning.job._forget_models", lambda: None)
    patches.setattr("catsdogs.training.execution.train", fake.train if kind == FAKE else _train)
    if kind == FAKE:
        patches.setattr("catsdogs.training.trial_data.build_trial_data", fake.build)
        patches.setattr(Search, "_predictions", fake.predictions)


@dataclass(frozen=True)
class Task:
    """Task of a command, which installs the stub in the process of the job."""

    kind: str
    command: str

    def __call__(self, config: Any) -> Any:
        install(self.kind)
        return importlib.import_module(f"catsdogs.{self.command}").task(config)


def run(kind: str, command: str, *arguments: str) -> int:
    """Run a command in this process and return its exit status."""
    from catsdogs.launching.application import hydra_application

    sys.argv = [f"catsdogs-{command}", *arguments]
    try:
        complete = importlib.import_module(f"catsdogs.{command}")._complete
        return hydra_application(command, Task(kind, command), complete)
    except SystemExit as stop:
        return int(stop.code or 0)


def warm_up() -> None:
    """Import all packages, let the launcher run jobs in this process, and skip slow parts that write no state."""
    for file in sorted(_PACKAGE.rglob("*.py")):
        name = file.relative_to(_PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
        if not name.endswith(("__main__", "slurm", "to_mlflow", "to_tensorboard")):
            importlib.import_module(name.removesuffix(".__init__"))
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.utils import run_job

    from catsdogs.base.records import Table
    from catsdogs.launching.isolated import IsolatedLauncher
    from catsdogs.launching.registration import register
    from catsdogs.study import trials

    register()  # Hydra imports its plugins once, before the forks

    def launch(self: Any, job_overrides: Any, initial_job_idx: int) -> Any:
        configs = [self._compose(overrides, initial_job_idx + i) for i, overrides in enumerate(job_overrides)]
        names = "hydra.sweep.dir", "hydra.sweep.subdir"
        return [run_job(self._task, config, *names, hydra_context=self._context) for config in configs]

    def configuration_key(_: Any, config_name: Any, overrides: Any, run_mode: Any, *more: Any, **named: Any) -> Any:
        return str(config_name), str(overrides), str(run_mode)

    compose = _remembering(ConfigLoaderImpl._load_configuration_impl, configuration_key)

    def composed(*arguments: Any, **named: Any) -> Any:
        configuration = compose(*arguments, **named)
        configuration.hydra.runtime.cwd = os.getcwd()
        return configuration

    patches = pytest.MonkeyPatch()
    patches.setattr(IsolatedLauncher, "launch", launch)
    patches.setattr(ConfigLoaderImpl, "_load_configuration_impl", composed)
    patches.setattr(Table, "read", _remembering(Table.read, lambda table, file: (id(table), _content(file))))
    for module in ("study.jobs", "study.job_tables", "comparison.study_data"):
        patches.setattr(f"catsdogs.{module}.read_trials", _remembering(trials.read_trials, _content))
    patches.setattr("hydra.core.utils._save_config", lambda *arguments: None)
    patches.setattr("catsdogs.comparison.page.writing._report", lambda *arguments: "<title>report</title>")
    patches.setattr("os.fsync", lambda handle: None)
    gc.collect()
    gc.freeze()
    gc.disable()


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _remembering(function: Any, key_of: Any) -> Any:
    """Return a function that calls another one only once for every key."""

    def remembering(*arguments: Any, **named: Any) -> Any:
        key = function.__qualname__, key_of(*arguments, **named)
        if key not in _remembered:
            _remembered[key] = pickle.dumps(function(*arguments, **named))
        return pickle.loads(_remembered[key])

    return remembering


def remember(command: tuple[str, ...], folder: Path) -> None:
    """Run a command in a process of its own, and remember the results of its slow functions."""
    if not (process := os.fork()):
        os.chdir(folder)
        status = run(*command)
        Path("remembered").write_bytes(pickle.dumps(_remembered))
        os._exit(status)
    if os.waitpid(process, 0)[1] != 0:
        raise RuntimeError(f"{command} failed in {folder}")
    _remembered.update(pickle.loads((folder / "remembered").read_bytes()))
