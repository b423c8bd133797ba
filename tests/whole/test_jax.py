"""Search, retrain and tests of training on JAX, in an environment without TensorFlow."""

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
    """Create an environment with JAX and without TensorFlow, and return its interpreter."""
    folder = tmp_path_factory.mktemp("jax") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    interpreter = folder / "bin" / "python"
    # Installed metadata can be outdated in an editable install.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies = [text for text in project["dependencies"] if Requirement(text).name != "tensorflow"]
    install = [interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "jax>=0.6", "pytest", "hypothesis", *dependencies], check=True)
    subprocess.run([*install, "--no-deps", "--editable", REPOSITORY], check=True)
    return interpreter


@pytest.mark.slow
def test_a_study_is_searched_and_retrained_on_jax_without_tensorflow(python, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "CATSDOGS_CACHE": str(tmp_path / "cache")}

    def run(*arguments, folder=tmp_path):
        command = [python, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "False" in run("-c", "import importlib.util; print(importlib.util.find_spec('tensorflow') is not None)")
    run("-m", "catsdogs.search", "experiment=debug", "study=jax", "tuner.max_trials=2")
    run("-m", "catsdogs.retrain", "study=jax")
    assert (tmp_path / "multirun" / "jax" / "best" / "submission.csv").is_file()

    # A model that is built once equals a new model for every trial, and stored training equals live training.
    run("-m", "pytest", "-q", "tests/network/test_trial_model.py", "tests/features/test_reader.py", folder=REPOSITORY)

    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    assert "skipped" not in run("-m", "pytest", "-q", "-rs", "tests/network/test_devices.py", folder=REPOSITORY)
