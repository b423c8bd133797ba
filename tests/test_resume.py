"""Jobs that are killed, damaged, stopped or extended, and given the same command again."""

from __future__ import annotations

import contextlib
import shutil

import cheap
import pandas as pd
import pytest

from catsdogs import files, job
from catsdogs.errors import UserError
from catsdogs.files import read_json

TUNERS = {
    "random": ("tuner=random", "tuner.max_trials=4"),
    "grid": ("tuner=grid", "tuner.max_trials=4"),
    "bayesian": ("tuner=bayesian", "tuner.max_trials=4", "tuner.arguments.num_initial_points=2"),
    "hyperband": ("tuner=hyperband", "tuner.max_trials=null", "fit.epochs=4"),
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written any more."""


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    return cheap.Job(monkeypatch, tmp_path)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "study" / "a-job"
    return job.Place(folder, folder.parent)


@pytest.fixture
def settings(config, tmp_path):
    return lambda *overrides: config(f"cache={tmp_path / 'cache'}", "fit.epochs=2", *overrides)


@pytest.fixture
def killed(monkeypatch):
    """Run something, killed at one of the moments at which a file is written; give whether it came that far."""
    real = files.replacing

    def run(task, moment):
        passed = 0
        dead = False

        @contextlib.contextmanager
        def replacing(path):
            nonlocal passed, dead
            if dead:
                raise Killed
            with real(path) as temporary:
                yield temporary
                passed += 1
                dead = passed == moment
                if dead:
                    raise Killed
            passed += 1
            dead = passed == moment
            if dead:
                raise Killed

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
    file = folder / "trials.csv"
    return len(pd.read_csv(file)) if file.is_file() else 0


@pytest.fixture(scope="module")
def known():
    return {}


@pytest.fixture
def whole(settings, place, trainer, known):
    """The tables of an uninterrupted run, and how many trainings it took."""

    def run(name):
        if name not in known:
            job.run_job(settings(*TUNERS[name]), place, {})
            known[name] = tables(place.folder), len(trainer.trained)
            assert not (place.folder / "weights").exists()
            shutil.rmtree(place.folder)
            trainer.trained.clear()
        return known[name]

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
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2]),
    "cut short by a character": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "zeros": lambda file: file.write_bytes(bytes(len(file.read_bytes()))),
}


STATE = (
    "result.json",
    "fingerprint.json",
    "trials.csv",
    "history.csv",
    "validation.csv",
    "split.csv",
    "tuner/oracle.json",
)


@pytest.mark.parametrize(
    ("damage", "done"), [*((damage, 2) for damage in DAMAGE), ("truncated", 4), ("empty", 4), ("deleted", 4)]
)
@pytest.mark.parametrize("name", STATE)
def test_a_damaged_file_is_mended_skipped_or_refused_and_nothing_starts_over(
    whole, settings, place, trainer, name, damage, done
):
    expected, trainings = whole("random")
    config = settings(*TUNERS["random"])
    interrupt(trainer, after=done)
    with contextlib.suppress(KeyboardInterrupt):
        job.run_job(config, place, {})
    assert finished(place.folder) == done
    go_on(trainer)
    DAMAGE[damage](place.folder / name)
    kept = {file: file.read_bytes() for file in place.folder.glob("*.*")}
    refusal = refused(config, place)
    if refusal:
        assert name == "trials.csv"
        assert trainer.trained == []
        assert "\n" not in refusal
        assert "trials.csv" in refusal
        assert {file: file.read_bytes() for file in place.folder.glob("*.*")} == kept
        return
    assert name != "trials.csv" or done == 4
    # One more training: that of the best trial, whose predictions were lost.
    assert len(trainer.trained) <= trainings - done + (name == "validation.csv")
    if done == 2:
        found = tables(place.folder)
        assert found[0] == expected[0]
        assert found[2:] == expected[2:]
        assert (found[1] == expected[1]) == (name != "history.csv")
    assert (name == "history.csv" and done == 2 and damage != "deleted") == any(place.folder.glob("history.csv.*"))


def test_what_nothing_tells_the_settings_of_is_refused(settings, place, trainer):
    config = settings(*TUNERS["random"])
    interrupt(trainer, after=1)
    with pytest.raises(KeyboardInterrupt):
        job.run_job(config, place, {})
    go_on(trainer)
    (place.folder / "result.json").unlink()
    (place.folder / "fingerprint.json").write_text("{")
    assert "nothing tells what they were run with" in refused(config, place)
    assert trainer.trained == []


def refused(config, place):
    """The sentence with which a job is refused; empty if it is not."""
    try:
        job.run_job(config, place, {})
    except UserError as error:
        return str(error)
    return ""


def interrupt(trainer, after):
    """Ctrl-C in the training after this many."""

    def before(training):
        if training > after:
            raise KeyboardInterrupt

    trainer.before = before


def go_on(trainer):
    trainer.before = lambda training: None
    trainer.trained.clear()
