import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import run_python
from synthetic_images import folder_of

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel from a copy of the sources, and unpack it in a folder of its own."""
    source = tmp_path_factory.mktemp("source")
    for name in ("catsdogs", "conf", "sweeps"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    built = run_python(source, "-m", "build", "--wheel", "--no-isolation", str(source))
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next((source / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    shutil.rmtree(source)
    return site


def run(site, folder, name, *arguments):
    code = f"import sys; from catsdogs.{name} import main; sys.exit(main())"
    return run_python(folder, "-c", code, *arguments, PYTHONPATH=str(site))


def test_the_wheel_contains_all_options_declared_studies_and_templates(installed):
    def files(folder, pattern):
        return sorted(str(file.relative_to(folder)) for file in folder.rglob(pattern))

    package = installed / "catsdogs"
    for folder in ("conf", "sweeps"):
        assert files(PROJECT / folder, "*.yaml") == files(package / folder, "*.yaml")
    data = {"template/*": "template/model_card.md.j2", "plotly/*": "plotly/LICENSE", "config/*.yaml": "config/*.yaml"}
    for parts, one in data.items():
        assert files(PROJECT / "catsdogs", parts) == files(package, parts)
        assert list(package.rglob(one))


def test_the_wheel_runs_a_study_with_options_of_the_user_in_an_empty_folder(installed, tmp_path):
    search_path = run(installed, tmp_path, "search", "--info", "searchpath").stdout
    assert str(installed / "catsdogs" / "conf") in search_path
    params = ("--cfg", "hydra", "-p", "hydra.sweeper.params")
    assert "none,mild,strong" in run(installed, tmp_path, "search", "sweeps=label_smoothing", *params).stdout
    declared = b"# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    files = {"sweeps/own.yaml": declared, "space/one.yaml": b"dense_units: {kind: choice, values: [8]}\n"}
    mine = folder_of(tmp_path / "mine", files)
    overrides = ("experiment=debug", "space=one", "sweeps=own", "study=s")
    done = run(installed, tmp_path, "search", "--config-dir", str(mine), *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(file.parent.name for file in (tmp_path / "multirun" / "s").glob("*/result.json"))
    assert names == ["small_cnn-light-cosine-none-seed-1", "small_cnn-light-cosine-none-seed-2"]
    # Settings that a declared study varies are choices.
    assert sorted(pd.read_csv(tmp_path / "multirun" / "s" / "leaderboard.csv")["seed"]) == [1, 2]
