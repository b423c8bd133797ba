"""What many tests need: composed configurations, a small training set, commands run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from catsdogs.compose import checked, register
from catsdogs.locations import conf_dir
from catsdogs.schema import SearchConfig

# A network and images so small that a trial takes about a second.
TINY = (
    "data=sample",
    "backbone=small_cnn",
    "backbone.builder=tiny_backbone.build",
    "~backbone.arguments.filters",
    "backbone.image_size=32",
    "space=small_cnn",
    "model.dense_units=8",
    "schedule.peak_lr=0.002",
)


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """Compose `search` with overrides."""
    register()

    def compose_search(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("search", overrides=list(overrides))

    return compose_search


@pytest.fixture(scope="session")
def config(composed: Callable[..., DictConfig]) -> Callable[..., SearchConfig]:
    """Compose and check a tiny job."""

    def tiny(*overrides: str) -> SearchConfig:
        own_space = any(override.startswith("space=") for override in overrides)
        depths = () if own_space else ("space.unfreeze_depth.values=[2,5]",)
        return checked(composed(*TINY, *depths, *overrides))

    return tiny


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m catsdogs.COMMAND ARGUMENTS` in an empty folder with a cache of its own."""

    def command(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"catsdogs.{name}", *arguments],
            cwd=tmp_path,
            env={**os.environ, "CATSDOGS_CACHE": str(tmp_path / "cache"), **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return command


@pytest.fixture
def training_data():  # type: ignore[no-untyped-def]
    """40 training and 20 validation images of 32 pixels: bright ones are dogs, in noise."""
    from catsdogs.schema import Augmentation
    from catsdogs.tuning import TrainingSet
    from catsdogs.views import LiveViews

    rng = np.random.default_rng(0)
    labels = np.tile([0.0, 1.0], 30).astype(np.float32)
    pixels = rng.integers(0, 200, (60, 32, 32, 3)) + (labels * 30).astype(int)[:, None, None, None]
    pixels[:, :8, :16] = pixels[:, :8, :16] // 2
    augmentation = Augmentation(0.5, 5, 0.05, 0.1, 0, 0.1, 0.0, 0.0, "reflect")
    views = LiveViews(pixels.astype(np.uint8), np.arange(60, dtype=np.uint64), augmentation, seed=1)
    return TrainingSet(views, labels, np.arange(40), np.arange(40, 60))
