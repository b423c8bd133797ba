"""Shared fixtures: composed configurations, a small training set, commands as a user runs them."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import absl.logging
import hypothesis
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from catsdogs.config.compose import to_search_config
from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import AugmentationConfig
from catsdogs.data.views import LiveViews
from catsdogs.launching.registration import register
from catsdogs.scoring.classes import DEFAULT

# The duration of an example depends on the load of the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A background shell ignores SIGINT, and so do the processes that tests start from it; restore the default.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Closes the stream of pytest if a test configures logging as Hydra does after another one has imported Keras.
absl.logging.PythonHandler.close = logging.StreamHandler.close  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _separate(monkeypatch):
    """Undo what a command changes in its process: the log as Hydra configures it, and the status of lost output."""
    monkeypatch.setattr("catsdogs.base.output._Stream.status", 0)
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# Values of the settings that are `auto`.
FITTED = ("split.folds=1", "tuner.max_trials=8", "fit.epochs=10", "fit.batch_size=32")

# Network and images of a size at which a trial takes about a second.
TINY: tuple[str, ...] = ("data=sample", "backbone=small_cnn", "backbone.builder=tiny_backbone.build")
TINY += ("~backbone.arguments.filters", "backbone.image_size=32", "space=small_cnn")
TINY += ("model.dense_units=8", "model.head_batch_norm=true", "schedule.peak_lr=0.002", *FITTED)

# For networks this small, TensorFlow starts faster than an optional engine. `nox -s jax` runs some tests on JAX.
_ON_TENSORFLOW = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
ENGINE: Literal["tensorflow", "keras"] = "tensorflow" if _ON_TENSORFLOW else "keras"

# A study that takes seconds.
SMALL: tuple[str, ...] = ("data=sample", "data.sample.images_per_class=12", "data.sample.test_images=11")
SMALL += ("backbone=small_cnn", "backbone.image_size=32", "backbone.arguments.filters=8", "space=small_cnn")
SMALL += ("model.dense_units=256", "model.head_batch_norm=true")
# One depth, because tracing a depth takes longer than training it.
SMALL += ("space.unfreeze_depth.values=[7]", "tuner.max_trials=2", "fit.epochs=2", "fit.batch_size=8", "split.folds=1")


@pytest.fixture(scope="session")
def composed():
    """Return a function that composes `search`, or the configuration `name`, with overrides."""
    register()

    def compose_search(*overrides, name="search"):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(name, overrides=list(overrides))

    return compose_search


@pytest.fixture(scope="session")
def config(composed):
    """Return a function that composes and checks a tiny job."""

    def tiny(*overrides):
        own_space = any(override.startswith("space=") for override in overrides)
        depths = () if own_space else ("space.unfreeze_depth.values=[2,5]",)
        return to_search_config(composed(*TINY, *depths, f"features.engine={ENGINE}", *overrides))

    return tiny


def run_python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a folder, with its own cache."""
    env = {**os.environ, "CATSDOGS_CACHE": str(folder / "cache"), **environment}
    command = [sys.executable, *arguments]
    # Every file of a command must respect the umask.
    options: Any = {"capture_output": True, "text": True, "umask": 0o027}
    return subprocess.run(command, cwd=folder, env=env, timeout=600, check=False, **options)


# Runs commands in one process, and prints the exit status, stdout and stderr of each.
_ONE_PROCESS = """
import contextlib, importlib, io, json, sys
for sys.argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = importlib.import_module(f"catsdogs.{sys.argv[0]}").main()
        except SystemExit as stop:
            status = stop.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
assert not {"tensorflow", "keras", "keras_tuner"} & set(sys.modules)
"""


def run_together(folder: Path, lines: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Run `search ARGUMENTS` and other commands in one process; return the status, stdout and stderr of each."""
    done = run_python(folder, "-c", _ONE_PROCESS, json.dumps(lines))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def commands(folder: Path):
    """Return a function that runs `python -m catsdogs.COMMAND ARGUMENTS` in a folder, with its own cache."""

    def command(name, *arguments, **environment):
        return run_python(folder, "-m", f"catsdogs.{name}", *arguments, **environment)

    return command


@pytest.fixture
def run(tmp_path):
    return commands(tmp_path)


@pytest.fixture
def training_data():
    """Return 40 training and 20 validation images of 32 pixels: noise, brighter for dogs."""
    rng = np.random.default_rng(0)
    labels = np.tile([0.0, 1.0], 30).astype(np.float32)
    pixels = rng.integers(0, 200, (60, 32, 32, 3)) + (labels * 30).astype(int)[:, None, None, None]
    pixels[:, :8, :16] = pixels[:, :8, :16] // 2
    augmentation = AugmentationConfig(0.5, 5, 0.05, 0.1, 0, 0.1, 0.0, 0.0, "reflect")
    views = LiveViews(pixels.astype(np.uint8), np.arange(60, dtype=np.uint64), augmentation, seed=1)
    rows = {"train_rows": np.arange(40), "validation_rows": np.arange(40, 60)}
    return SimpleNamespace(views=views, labels=labels, classes=DEFAULT, targets=labels[:, None], **rows)


@pytest.fixture
def prepared(training_data, tmp_path):
    """Return a function that builds `TrialData` and `TrialModels` of a job on `training_data`."""
    from catsdogs.data.dataset import Fold
    from catsdogs.features.reader import FeatureReader, JobImages
    from catsdogs.network.backbones import load_network
    from catsdogs.network.schedules import steps_per_epoch
    from catsdogs.network.trial_model import TrialModels
    from catsdogs.training.trial_data import TrialData

    def prepare(job):
        network = load_network(job.backbone, job.seed)
        steps = steps_per_epoch(len(training_data.train_rows), job.fit.batch_size)
        models = TrialModels(job, network, training_data.classes, steps * job.fit.epochs)
        cuts, hashes = list(models.cuts.values()), [f"{row:064x}" for row in range(len(training_data.labels))]
        rows = (training_data.train_rows, training_data.validation_rows)
        images = JobImages(training_data.views, hashes, *rows, job.fit.epochs)
        features = FeatureReader(job.features, network, cuts, images, tmp_path / "cache")
        return TrialData(features, training_data.classes, training_data.targets, (Fold(*rows),)), models

    return prepare
