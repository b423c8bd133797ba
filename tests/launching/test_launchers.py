"""Studies through Hydra's plugins: one job fails, the others are compared, and the exit status reports the failure."""

import importlib.util

import pandas as pd
import pytest
from conftest import SMALL, commands

from catsdogs.base.files import read_json

pytestmark = pytest.mark.slow

# Two builders; the second one returns no network.
GOOD_AND_BAD = "backbone.builder=catsdogs.network.backbones.small_cnn,builtins.dict"
FOUR_JOBS = ("tuner.max_trials=1", "fit.epochs=1", "augmentation=none,light", GOOD_AND_BAD)


def needs(plugin):
    spec = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not spec, reason=f"{plugin} is not installed")


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """Run `search -m` in a folder of this module; return its process and the leaderboard of its study."""
    folder = tmp_path_factory.mktemp("studies")

    def run(study, *arguments):
        cache = str(folder / f"cache-{study}")
        done = commands(folder)("search", "-m", *SMALL, f"study={study}", *arguments, CATSDOGS_CACHE=cache)
        return done, pd.read_csv(folder / "multirun" / study / "leaderboard.csv")

    return run


@pytest.fixture(scope="module")
def alone(search):
    return search("alone", *FOUR_JOBS, "hydra/launcher=basic")[1]


@pytest.mark.parametrize(
    "launcher",
    [
        ("hydra/launcher=isolated", "hydra.launcher.jobs=2"),
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs("hydra_joblib_launcher")),
        pytest.param(
            ("hydra/launcher=ray", "+hydra.launcher.ray.remote.num_cpus=1"), marks=needs("hydra_ray_launcher")
        ),
    ],
    ids=lambda launcher: launcher[0].partition("=")[2],
)
def test_parallel_jobs_leave_the_same_leaderboard_as_sequential_jobs(search, alone, launcher):
    study = launcher[0].partition("=")[2]
    done, board = search(study, *FOUR_JOBS, *launcher)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: job ") == 2
    assert f"Report: multirun/{study}/report.html" in done.stdout
    assert list(board["status"]) == ["ok", "ok", "failed", "failed"]
    # Rounding depends on the number of threads.
    pd.testing.assert_frame_equal(board.drop(columns="seconds"), alone.drop(columns="seconds"), rtol=1e-3)


@pytest.mark.lowest
def test_optuna_receives_failures_and_repeats_no_job(run, tmp_path):
    pytest.importorskip("optuna", minversion="5")
    command = (
        *("search", "-m", *SMALL, "tuner.max_trials=1", "fit.epochs=1", "sweeps=optuna", "study=s"),
        *("hydra.sweeper.n_trials=3", "schedule=cosine", "label_smoothing=none", "augmentation=choice(none,light)"),
        GOOD_AND_BAD,
    )
    done = run(*command)
    study = tmp_path / "multirun" / "s"
    results = {file: read_json(file) for file in study.glob("*/result.json")}
    failed = [file.parent.name for file, result in results.items() if result["status"] != "ok"]
    assert 1 <= len(results) <= 3
    assert done.returncode == (1 if failed else 0), done.stderr
    assert done.stdout.count(": fail") >= len(failed)
    assert ("optimization_results.yaml" in {file.name for file in study.iterdir()}) == (len(failed) < len(results))
    assert all("builtins.dict" in name for name in failed)
    assert (study / "report.html").is_file()

    # The same seed proposes the same jobs.
    again = run(*command)
    assert again.returncode == done.returncode
    assert "epoch 1/1" not in again.stdout
    assert set(study.glob("*/result.json")) == set(results)
