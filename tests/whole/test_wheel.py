from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from a copy of the sources and unpacked where nothing else of the project is."""
    source = tmp_path_factory.mktemp("source")
    for name in ("catsdogs", "conf", "sweeps"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next((source / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    shutil.rmtree(source)
    return site


def run(site, folder, name, *arguments):
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from catsdogs.{name} import main; sys.exit(main())", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "CATSDOGS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_every_option_and_declared_study(installed):
    for folder in ("conf", "sweeps"):
        files = {file.relative_to(PROJECT) for file in (PROJECT / folder).rglob("*.yaml")}
        assert files == {
            file.relative_to(installed / "catsdogs") for file in (installed / "catsdogs" / folder).rglob("*.yaml")
        }
    templates = sorted(file.name for file in (PROJECT / "catsdogs").rglob("template/*"))
    assert templates == sorted(file.name for file in (installed / "catsdogs").rglob("template/*"))
    assert "model_card.md.j2" in templates


def test_the_wheel_runs_a_study_in_an_empty_folder(installed, tmp_path):
    where = run(installed, tmp_path, "search", "--info", "searchpath")
    assert str(installed / "catsdogs" / "conf") in where.stdout
    done = run(installed, tmp_path, "search", "-m", "experiment=debug", "study=s", "label_smoothing=none,mild")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "multirun" / "s").glob("*/result.json"))) == 2
    params = ("--cfg", "hydra", "-p", "hydra.sweeper.params")
    declared = run(installed, tmp_path, "search", "sweeps=label_smoothing", *params)
    assert declared.returncode == 0, declared.stderr
    assert "none,mild,strong" in declared.stdout


def test_a_users_own_folder_adds_options_and_studies(installed, tmp_path):
    mine = tmp_path / "mine"
    (mine / "sweeps").mkdir(parents=True)
    (mine / "space").mkdir()
    (mine / "space" / "one.yaml").write_text("dense_units: {kind: choice, values: [8]}\n")
    (mine / "sweeps" / "own.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    )
    overrides = ("experiment=debug", "space=one", "sweeps=own", "study=s")
    done = run(installed, tmp_path, "search", "--config-dir", str(mine), *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(file.parent.name for file in (tmp_path / "multirun" / "s").glob("*/result.json"))
    assert names == ["small_cnn-light-cosine-none-seed-1", "small_cnn-light-cosine-none-seed-2"]
    # What a declared study varies is a choice.
    assert sorted(pd.read_csv(tmp_path / "multirun" / "s" / "leaderboard.csv")["seed"]) == [1, 2]
