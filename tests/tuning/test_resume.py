"""Jobs that are killed, corrupted, failed or extended, and resumed."""

import contextlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bench import TUNERS, Bench

from catsdogs.base import files
from catsdogs.base.files import read_json
from catsdogs.study.locking import is_locked
from catsdogs.study.trials import read_trials
from catsdogs.study.weight_files import TrialWeights, read_arrays
from catsdogs.training.execution import DivergedError


class Killed(BaseException):
    """Fake of SIGKILL: nothing more is written."""


@pytest.fixture
def bench(monkeypatch, tmp_path, config):
    return Bench(monkeypatch, tmp_path, config)


@pytest.fixture
def killed(monkeypatch):
    """Run a function, killed when a file is written for the given time; return whether it was killed."""
    real = files.replacing

    def run(task, moment):
        passed = 0

        def step():
            nonlocal passed
            passed += 1
            if passed >= moment:
                raise Killed

        @contextlib.contextmanager
        def replacing(path):
            with real(path) as temporary:
                yield temporary
                step()
            step()

        with monkeypatch.context() as patch:
            patch.setattr(files, "replacing", replacing)
            patch.setattr("catsdogs.study.weight_files.replacing", replacing)
            try:
                task()
            except Killed:
                return True
        return False

    return run


@pytest.mark.parametrize(
    ("name", "step"), [("random", 3), ("race", 7), ("grid", 5), ("bayesian", 9), ("hyperband", 13)]
)
def test_a_job_killed_at_any_write_resumes_with_the_same_results(bench, killed, name, step):
    expected, trainings = bench.uninterrupted(name)
    config = bench.settings(*TUNERS[name])
    moment = 1
    while killed(lambda: bench.run(config), moment):
        before, trained = bench.finished(), len(bench.trainer.trained)
        bench.run(config)
        assert bench.tables() == expected, moment
        # Finished trials are not run again, and at most one training of the killed trial is repeated.
        assert len(bench.trainer.trained) - trained == trainings - before
        assert trained <= before + 1
        assert not list(bench.folder.glob(".*-*"))
        assert not list(bench.study.glob(".failed/*"))
        shutil.rmtree(bench.folder)
        bench.trainer.trained.clear()
        moment += step
    assert moment > 3 * trainings


DAMAGE = {
    # In a table, this changes the last number.
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "missing": lambda file: file.unlink(),
}
STATE = ("result.json", "trials.csv", "history.csv", "validation.csv", "split.csv", "tuner/oracle.json")


@pytest.mark.parametrize("done", [2, 4])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", STATE)
def test_a_corrupted_file_is_restored_skipped_or_refused_and_nothing_starts_over(bench, caplog, name, damage, done):
    expected, trainings = bench.uninterrupted("random")
    config = bench.settings(*TUNERS["random"])
    bench.trainer.fail(done + 1, KeyboardInterrupt)
    with contextlib.suppress(KeyboardInterrupt):
        bench.run(config)
    assert bench.finished() == done
    bench.trainer.reset()
    DAMAGE[damage](bench.folder / name)
    files_before = {file: file.read_bytes() for file in bench.folder.glob("*.*")}
    refusal = bench.refusal(config)
    warnings = [record.getMessage() for record in caplog.records if "its trials.csv" in record.getMessage()]
    if name == "result.json" or (name == "trials.csv" and done == 2):
        assert name in refusal
        assert "\n" not in refusal
        assert bench.trainer.trained == []
        assert {file: file.read_bytes() for file in bench.folder.glob("*.*")} == files_before
        return
    assert not refusal
    # A finished job is not changed.
    assert len(warnings) == (name == "trials.csv")
    # An extra training of the best trial, if its predictions are missing.
    assert len(bench.trainer.trained) == trainings - done + (name == "validation.csv" and done == 2)
    if done == 2:
        tables = bench.tables()
        assert tables[0] == expected[0]
        assert tables[2:] == expected[2:]
        assert (tables[1] == expected[1]) == (name != "history.csv")
    assert (name == "history.csv" and done == 2 and damage == "cut") == any(bench.folder.glob("history.csv.*"))


def test_a_job_with_only_failed_trials_reports_the_first_failure_and_is_archived(bench):
    bench.trainer.before = lambda training: int("no luck")
    bench.run(bench.settings(*TUNERS["random"]))
    result = read_json(bench.folder / "result.json")
    assert result["status"] == "failed"
    problem = "none of 4 trials completed with a finite log loss; first failure: ValueError: invalid literal"
    assert problem in result["error"].splitlines()[0]
    assert "no luck" in result["error"]
    bench.trainer.reset()
    bench.run(bench.settings(*TUNERS["random"]))
    assert bench.finished() == len(bench.trainer.trained) == 4
    archive = bench.study / ".failed" / "a-job.1"
    assert len(read_trials(archive / "trials.csv")) == 4
    assert (archive / "errors" / "0.txt").is_file()


def test_a_failed_trial_is_recorded_and_trials_are_added_to_a_finished_job(bench):
    bench.trainer.fail(2, DivergedError("no luck", pd.DataFrame({"epoch": [1], "loss": [np.nan]})))
    bench.run(bench.settings("tuner=random", "tuner.max_trials=4"))
    assert read_json(bench.folder / "result.json")["status"] == "ok"
    bench.trainer.reset()
    bench.run(bench.settings("tuner=random", "tuner.max_trials=12"))
    assert len(bench.trainer.trained) == 8
    assert "cheap.py" in (bench.folder / "errors" / "1.txt").read_text()
    trials = pd.read_csv(bench.folder / "trials.csv")
    assert list(trials["trial"]) == list(range(12))
    assert list(trials["status"]) == ["COMPLETED", "FAILED", *["COMPLETED"] * 10]
    assert trials["error"][1].endswith("DivergedError: no luck")
    assert trials["ended"].notna().all()
    assert list(trials["val_log_loss"].isna()) == [False, True, *[False] * 10]
    # The epochs before it diverged are recorded.
    history = pd.read_csv(bench.folder / "history.csv").set_index("trial")
    assert set(history.index) == set(range(12))
    assert history.loc[[1], "loss"].isna().all()
    assert trials["epochs"][1] == len(history.loc[[1]]) == 1


def test_a_hyperband_job_retrains_missing_weights(bench):
    expected, trainings = bench.uninterrupted("hyperband")
    config = bench.settings(*TUNERS["hyperband"], "fit.keep_weights_gib=0")
    bench.trainer.fail(6, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(config)
    weights = sorted((bench.folder / "weights").glob("*"))
    assert weights
    # Only those from which a later trial may continue.
    assert len(weights) <= 3
    for file in weights[1:]:
        file.unlink()
    weights[0].write_bytes(b"corrupted")
    bench.trainer.reset()
    bench.run(config)
    assert bench.tables() == expected
    assert trainings - 5 < len(bench.trainer.trained) <= trainings - 5 + len(weights)
    assert not (bench.folder / "weights").exists()


@pytest.mark.parametrize("tuner", ["random", "hyperband"])
@pytest.mark.parametrize("most", [0, 2])
def test_the_best_trials_keep_their_weights_up_to_a_limit(bench, tuner, most):
    expected, _ = bench.uninterrupted(tuner)
    trial_bytes = 8 + 4 * 4  # of the fake model, and of four predictions
    config = bench.settings(*TUNERS[tuner], f"fit.keep_weights_gib={(most + 0.5) * trial_bytes / 2**30}")
    bench.trainer.fail(4, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run(config)
    weights = TrialWeights(bench.folder)
    assert set(bench.kept()) >= set(bench.best(most))
    # An unfinished trial leaves weights, and a killed process a temporary file.
    for file in (weights.file("3", 0), weights.predictions("3"), weights.folder / ".3-0-0123abcd.bin"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"unfinished")
    (weights.folder / "3-copies").mkdir()
    bench.trainer.reset()
    bench.run(config)
    assert bench.tables() == expected
    assert bench.kept() == bench.best(most)
    assert sum(file.stat().st_size - 32 for file in weights.folder.glob("*")) == most * trial_bytes
    for trial in {name.split("-")[0] for name in bench.kept()}:
        assert weights.intact(trial, 1)
        (p_label,) = read_arrays(weights.predictions(trial), [np.zeros((4, 1), np.float32)])
        loss = read_trials(bench.folder / "trials.csv")[int(trial)].val_log_loss or 0
        np.testing.assert_allclose(np.abs(p_label[:, 0] - [1, 0, 1, 0]), np.exp(-loss), rtol=1e-6)
        weights.file(trial, 0).write_bytes(bytes(40))
        assert weights.intact(trial, 1) is False
        weights.file(trial, 0).unlink()
        assert weights.intact(trial, 1) is False
        weights.file(trial, 0).write_bytes(bytes(40))
        weights.predictions(trial).unlink()  # as of an unfinished trial
        assert weights.intact(trial, 1) is None


def test_a_job_is_locked_until_its_process_is_killed(bench):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom catsdogs.study.locking import lock_job\n"
        "with lock_job(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(bench.folder)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "locked\n"
        assert is_locked(bench.folder)
        refusal = bench.refusal(bench.settings())
        assert f"process {holder.pid} on host" in refusal
        assert "wait for it" in refusal
        assert bench.trainer.trained == []
        assert not (bench.folder / "result.json").exists()
        holder.kill()
        holder.wait()
    assert not is_locked(bench.folder)
