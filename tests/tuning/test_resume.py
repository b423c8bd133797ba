"""Jobs that are killed, damaged, stopped or extended, and given the same command again."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import shutil
import subprocess
import sys
import time

import cheap
import numpy as np
import pandas as pd
import pytest

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.study.jobs import write_leaderboard, write_plan
from catsdogs.study.locking import is_locked
from catsdogs.study.trials import read_trials
from catsdogs.training.execution import DivergedError
from catsdogs.tuning import job

TUNERS = {
    "random": ("tuner=random", "tuner.max_trials=4"),
    "grid": ("tuner=grid", "tuner.max_trials=4"),
    "bayesian": ("tuner=bayesian", "tuner.max_trials=4", "tuner.arguments.num_initial_points=2"),
    "hyperband": ("tuner=hyperband", "tuner.max_trials=null", "fit.epochs=4"),
}


# What `whole` has found.
_WHOLE: dict[str, tuple] = {}


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written any more."""


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    return cheap.Job(monkeypatch, tmp_path)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "study" / "a-job"
    return job.JobLocation(folder, folder.parent)


@pytest.fixture
def settings(config, tmp_path):
    return lambda *overrides: config(f"cache={tmp_path / 'cache'}", "fit.epochs=2", *overrides)


@pytest.fixture
def killed(monkeypatch):
    """Run something, killed at one of the moments at which a file is written; give whether it came that far."""
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
            try:
                task()
            except Killed:
                return True
        return False

    return run


def tables(folder):
    """What must not depend on interruptions."""
    trials = pd.read_csv(folder / "trials.csv", dtype={"trial": str, "parent": str}).drop(columns=["seconds", "ended"])
    history = pd.read_csv(folder / "history.csv", dtype={"trial": str})
    result = read_json(folder / "result.json")
    kept = {name: result[name] for name in ("status", "best_trial", "objective", "trials")}
    return trials.to_csv(), history.to_csv(), (folder / "validation.csv").read_text(), kept


def finished(folder):
    return len(read_trials(folder / "trials.csv"))


@pytest.fixture
def whole(settings, place, trainer):
    """The tables of an uninterrupted run, and how many trainings it took."""

    def run(name):
        if name not in _WHOLE:
            job.run_job(settings(*TUNERS[name]), place, {})
            _WHOLE[name] = tables(place.folder), len(trainer.trained)
            # No parent was trained twice because its weights had gone.
            assert len(trainer.trained) == finished(place.folder) == _WHOLE[name][0][3]["trials"]["completed"]
            assert not (place.folder / "weights").exists()
            shutil.rmtree(place.folder)
            trainer.trained.clear()
        return _WHOLE[name]

    return run


@pytest.mark.parametrize(("name", "step"), [("random", 3), ("grid", 5), ("bayesian", 9), ("hyperband", 13)])
def test_a_job_killed_at_any_write_goes_on_as_if_nothing_had_happened(
    whole, settings, place, trainer, killed, name, step
):
    expected, trainings = whole(name)
    config = settings(*TUNERS[name])
    moment = 1
    while killed(lambda: job.run_job(config, place, {}), moment):
        before, trained = finished(place.folder), len(trainer.trained)
        job.run_job(config, place, {})
        assert tables(place.folder) == expected, moment
        # What was finished is not run again; of the trial that was given up, at most one training was lost.
        assert len(trainer.trained) - trained == trainings - before
        assert trained <= before + 1
        assert not list(place.folder.glob(".*-*"))
        assert not list(place.study.glob(".failed/*"))
        shutil.rmtree(place.folder)
        trainer.trained.clear()
        moment += step
    assert moment > 3 * trainings


def test_a_job_killed_again_and_again_comes_to_its_end(whole, settings, place, trainer, killed):
    expected, trainings = whole("hyperband")
    config = settings(*TUNERS["hyperband"])
    kills = 0
    while killed(lambda: job.run_job(config, place, {}), 20):
        kills += 1
    assert kills >= trainings // 4
    assert tables(place.folder) == expected


DAMAGE = {
    # Of a table the last number is another one then.
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "gone": lambda file: file.unlink(),
}
STATE = ("result.json", "trials.csv", "history.csv", "validation.csv", "split.csv", "tuner/oracle.json")


@pytest.mark.parametrize("done", [2, 4])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", STATE)
def test_a_damaged_file_is_mended_skipped_or_refused_and_nothing_starts_over(
    whole, settings, place, trainer, caplog, name, damage, done
):
    expected, trainings = whole("random")
    config = settings(*TUNERS["random"])
    failing(trainer, done + 1, KeyboardInterrupt)
    with contextlib.suppress(KeyboardInterrupt):
        job.run_job(config, place, {})
    assert finished(place.folder) == done
    go_on(trainer)
    DAMAGE[damage](place.folder / name)
    kept = {file: file.read_bytes() for file in place.folder.glob("*.*")}
    refusal = refused(config, place)
    told = [record.getMessage() for record in caplog.records if "its trials.csv" in record.getMessage()]
    if name == "result.json" or (name == "trials.csv" and done == 2):
        assert name in refusal
        assert "\n" not in refusal
        assert trainer.trained == []
        assert {file: file.read_bytes() for file in place.folder.glob("*.*")} == kept
        return
    assert not refusal
    # A finished job is left as it is.
    assert len(told) == (name == "trials.csv")
    # One more training: that of the best trial, whose predictions were lost.
    assert len(trainer.trained) == trainings - done + (name == "validation.csv" and done == 2)
    if done == 2:
        found = tables(place.folder)
        assert found[0] == expected[0]
        assert found[2:] == expected[2:]
        assert (found[1] == expected[1]) == (name != "history.csv")
    assert (name == "history.csv" and done == 2 and damage == "cut") == any(place.folder.glob("history.csv.*"))


def refused(config, place):
    """The sentence with which a job is refused; empty if it is not."""
    try:
        job.run_job(config, place, {})
    except UserError as error:
        return str(error)
    return ""


def go_on(trainer):
    trainer.before = lambda training: None
    trainer.trained.clear()


def failing(trainer, training, error):
    """Raise in this training."""

    def before(number):
        if number == training:
            raise error

    trainer.before = before


def test_a_job_of_which_all_trials_failed_begins_anew_and_is_kept(whole, settings, place, trainer, caplog):
    caplog.set_level(logging.INFO)
    expected, trainings = whole("random")
    trainer.before = lambda training: int("no luck")
    job.run_job(settings(*TUNERS["random"]), place, {})
    result = read_json(place.folder / "result.json")
    assert result["status"] == "failed"
    assert "none of 4 trials completed" in result["error"]
    assert "no luck" in result["error"]
    go_on(trainer)
    job.run_job(settings(*TUNERS["random"]), place, {})
    assert tables(place.folder) == expected
    assert len(trainer.trained) == trainings
    kept = place.study / ".failed" / "a-job.1"
    assert f"begins anew; what an earlier try left is kept as {kept}" in caplog.text
    assert finished(kept) == 4
    assert (kept / "errors" / "0.txt").is_file()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "out of disk while writing x.csv"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "out of disk"),
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), "out of memory"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), "out of memory"),
        (TypeError("a mistake"), "TypeError: a mistake"),
        (KeyError("a"), "KeyError"),
        (AssertionError(), "AssertionError"),
        (ModuleNotFoundError("x"), "ModuleNotFoundError"),
    ],
)
def test_what_no_other_trial_would_do_better_stops_the_job_which_goes_on_later(
    whole, settings, place, trainer, error, words
):
    expected, trainings = whole("random")
    config = settings(*TUNERS["random"])
    failing(trainer, 3, error)
    objective = job.run_job(config, place, {})
    assert objective != objective
    result = read_json(place.folder / "result.json")
    assert result["status"] == "failed"
    assert words in result["error"]
    assert "\n" not in result["error"]
    assert result["trials"] == {"planned": 4, "total": 2, "completed": 2, "failed": 0}
    assert result["best_trial"]["trial"]
    go_on(trainer)
    job.run_job(config, place, {})
    assert tables(place.folder) == expected
    assert len(trainer.trained) == trainings - 2


@pytest.mark.parametrize("name", ["history.csv", "trials.csv", "tuner"])
def test_a_disk_that_fills_up_while_tables_are_written_loses_nothing(
    whole, settings, place, trainer, monkeypatch, caplog, name
):
    expected, _ = whole("random")
    config = settings(*TUNERS["random"])
    full = OSError(errno.ENOSPC, "No space left on device")
    real = files.replacing

    def replacing(path):
        if len(trainer.trained) == 2 and path.name == name:
            raise full
        return real(path)

    def save(path, data):
        if len(trainer.trained) == 2:
            raise full

    with monkeypatch.context() as patch:
        patch.setattr(files, "replacing", replacing)
        if name == "tuner":
            patch.setattr("keras_tuner.src.utils.save_json", save)
        job.run_job(config, place, {})
    assert "out of disk" in caplog.text
    # `trials.csv` comes last: no trial is finished of which the epochs are lost.
    assert finished(place.folder) == 1
    job.run_job(config, place, {})
    assert tables(place.folder) == expected


def test_a_disk_that_is_as_good_as_full_is_told_before_the_job_begins(settings, place, trainer, monkeypatch):
    monkeypatch.setattr("catsdogs.base.resources.LEAST_FREE_BYTES", 2**60)
    job.run_job(settings(), place, {})
    assert "B are free on its disk" in read_json(place.folder / "result.json")["error"]
    assert trainer.trained == []


@pytest.mark.parametrize("after", [0, 2])
def test_a_study_whose_time_is_over_ends_well_and_goes_on_later(whole, settings, place, trainer, monkeypatch, after):
    expected, _ = whole("random")
    config = settings(*TUNERS["random"], "timeout.study_seconds=1000")
    write_plan(place.study, [place.folder.name, "later"], [])
    late = [0.0]
    real = time.time
    monkeypatch.setattr("catsdogs.tuning.limits.time.time", lambda: real() + late[0])

    def before(training):
        late[0] = 2000.0 if training > after else 0.0

    trainer.before = before
    objective = job.run_job(config, place, {})
    result = read_json(place.folder / "result.json")
    assert result["status"] == "ok"
    assert result["stopped"] == "timeout.study_seconds=1000 are over"
    assert result["trials"]["total"] == finished(place.folder) == after
    assert (objective == objective) == (after > 0)
    # Later jobs do not begin, and are no failures.
    job.run_job(config, dataclasses.replace(place, folder=place.study / "later"), {})
    assert read_json(place.study / "later" / "result.json")["status"] == "ok"
    assert len(trainer.trained) == after + 1
    board = write_leaderboard(place.study)
    assert list(board["status"]) == ["ok", "ok"]
    study_data = read_study_data([place.study])
    assert summarize(study_data).headline
    assert not study_data.problems
    late[0] = 0.0
    go_on(trainer)
    job.run_job(config, place, {})
    assert tables(place.folder) == expected
    assert "stopped" not in read_json(place.folder / "result.json")


def test_a_trial_that_raises_is_recorded_and_more_are_added_to_a_finished_job(settings, place, trainer):
    failing(trainer, 2, DivergedError("no luck", pd.DataFrame({"epoch": [1], "loss": [np.nan]})))
    job.run_job(settings("tuner=random", "tuner.max_trials=4"), place, {})
    assert read_json(place.folder / "result.json")["status"] == "ok"
    go_on(trainer)
    job.run_job(settings("tuner=random", "tuner.max_trials=12"), place, {})
    assert len(trainer.trained) == 8
    assert "cheap.py" in (place.folder / "errors" / "1.txt").read_text()
    trials = pd.read_csv(place.folder / "trials.csv")
    assert list(trials["trial"]) == list(range(12))
    assert list(trials["status"]) == ["COMPLETED", "FAILED", *["COMPLETED"] * 10]
    assert trials["error"][1].endswith("DivergedError: no luck")
    assert trials["ended"].notna().all()
    assert list(trials["val_log_loss"].isna()) == [False, True, *[False] * 10]
    # What it trained before it diverged is on record.
    history = pd.read_csv(place.folder / "history.csv").set_index("trial")
    assert set(history.index) == set(range(12))
    assert history.loc[[1], "loss"].isna().all()
    assert trials["epochs"][1] == len(history.loc[[1]]) == 1


def test_a_hyperband_job_that_lost_its_weights_trains_them_again(whole, settings, place, trainer):
    expected, trainings = whole("hyperband")
    config = settings(*TUNERS["hyperband"])
    failing(trainer, 6, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        job.run_job(config, place, {})
    files_kept = sorted((place.folder / "weights").glob("*.npz"))
    assert files_kept
    # Those that a trial to come may go on from, and no others.
    assert len(files_kept) <= 3
    for file in files_kept[1:]:
        file.unlink()
    files_kept[0].write_bytes(b"damaged")
    go_on(trainer)
    job.run_job(config, place, {})
    assert tables(place.folder) == expected
    assert trainings - 5 < len(trainer.trained) <= trainings - 5 + len(files_kept)
    assert not (place.folder / "weights").exists()


def test_two_processes_never_work_in_one_job_until_one_of_them_is_killed(settings, place, trainer):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom catsdogs.study.locking import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(place.folder)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert is_locked(place.folder)
        told = refused(settings(), place)
        assert f"process {holder.pid} on host" in told
        assert "wait for it, or end it" in told
        assert trainer.trained == []
        assert not (place.folder / "result.json").exists()
        holder.kill()
        holder.wait()
    assert not is_locked(place.folder)
