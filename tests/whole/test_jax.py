"""The whole way on JAX, in an environment that has no TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with JAX and what catsdogs depends on, except TensorFlow."""
    folder = tmp_path_factory.mktemp("jax") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    interpreter = folder / "bin" / "python"
    # Not of the metadata of what is installed here, which an editable install does not renew.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [text for text in project["dependencies"] if Requirement(text).name != "tensorflow"]
    install = [interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "jax>=0.6", "pytest", "hypothesis", *needed], check=True)
    subprocess.run([*install, "--no-deps", "--editable", REPOSITORY], check=True)
    return interpreter


@pytest.mark.slow
def test_a_study_is_searched_retrained_and_predicted_on_jax_without_tensorflow(python, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "CATSDOGS_CACHE": str(tmp_path / "cache")}

    def run(*arguments, folder=tmp_path):
        done = subprocess.run(
            [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "False" in run("-c", "import importlib.util; print(importlib.util.find_spec('tensorflow') is not None)")
    run("-m", "catsdogs.search", "experiment=debug", "study=jax", "tuner.max_trials=2")
    run("-m", "catsdogs.retrain", "study=jax")
    assert (tmp_path / "multirun" / "jax" / "best" / "submission.csv").is_file()

    # What makes a model that is built once right for every trial, and stored training equal to live training.
    run("-m", "pytest", "-q", "tests/network/test_trial_model.py", "tests/features/test_reader.py", folder=REPOSITORY)

    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    told = run("-m", "pytest", "-q", "-rs", "tests/network/test_devices.py", folder=REPOSITORY)
    assert "skipped" not in told
