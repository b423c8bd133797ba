from __future__ import annotations

import os
import shlex
import signal
import time

import pytest
from omegaconf import open_dict
from studies import write_job, write_study

from catsdogs import launch
from catsdogs.compose import resume_command
from catsdogs.interrupts import Terminated, exit_status, terminable
from catsdogs.launch import StudyCallback


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "multirun" / "s").relative_to(tmp_path)


@pytest.fixture
def callback():
    callback = StudyCallback()
    callback._names = []
    yield callback
    StudyCallback._at_hand = None


@pytest.fixture
def broken(monkeypatch):
    """A page that cannot be written."""

    def write_report(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("catsdogs.comparison.page.write_report", write_report)


def test_after_the_last_job_answer_page_and_the_next_command_are_told(study, callback, capsys):
    callback._after(study)
    told = capsys.readouterr()
    assert told.err == ""
    assert (study / "report.html").is_file()
    assert (study / "leaderboard.csv").is_file()
    assert "Report: multirun/s/report.html" in told.out
    assert told.out.splitlines()[-1].startswith("Next: python -m catsdogs.retrain study=s")


@pytest.mark.parametrize(
    ("kinds", "status"), [(("UserError",), 2), (("ValueError",), 1), (("UserError", "ValueError"), 1)]
)
def test_a_failed_job_gives_the_exit_status_also_without_a_page(study, callback, capsys, broken, kinds, status):
    from catsdogs.files import read_json, write_json

    for name, kind in zip("bc", kinds, strict=False):
        write_job(study, {"backbone": name}, trials=0, status="failed", error="no luck\nat all")
        result = read_json(study / name / "result.json")
        write_json(study / name / "result.json", {**result, "error_type": kind})
    with pytest.raises(SystemExit) as stop:
        callback._after(study)
    assert stop.value.code == status
    told = capsys.readouterr()
    assert "error: job b: no luck\n" in told.err
    assert "ZeroDivisionError: a bug" in told.err
    assert (study / "leaderboard.csv").is_file()
    assert not (study / "report.html").exists()
    assert "Next: " in told.out


def test_a_study_without_failed_jobs_ends_well_without_a_page(study, callback, capsys, broken):
    callback._after(study)
    assert capsys.readouterr().err.count("\n") == 1


def test_what_an_interrupted_study_found_is_told_once_and_nothing_before_its_first_job(
    study, tmp_path, callback, capsys
):
    StudyCallback._at_hand = study
    StudyCallback.interrupted()
    assert "Report: multirun/s/report.html" in capsys.readouterr().out
    StudyCallback.interrupted()
    StudyCallback._at_hand = tmp_path
    StudyCallback.interrupted()
    told = capsys.readouterr()
    assert told.out + told.err == ""


def test_interrupted_twice_it_ends(study, callback, capsys, monkeypatch):
    def again(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("catsdogs.comparison.page.write_report", again)
    StudyCallback._at_hand = study
    StudyCallback.interrupted()
    assert "not written" in capsys.readouterr().err


def test_ctrl_c_has_status_130_and_tells_the_study(study, callback, capsys, monkeypatch):
    def run(*arguments, **settings):
        def application(task):
            def jobs():
                StudyCallback._at_hand = study
                raise KeyboardInterrupt

            return jobs

        return application

    monkeypatch.setattr(launch.hydra, "main", run)
    monkeypatch.setattr("sys.argv", ["search"])
    assert launch.hydra_application("search", lambda config: None, lambda parsed, arguments: arguments) == 130
    told = capsys.readouterr()
    assert "interrupted" in told.err
    assert "Report: multirun/s/report.html" in told.out
    assert told.out.splitlines()[-1] == "To go on: python -m catsdogs.search study=s"


def test_sigterm_ends_a_command_as_ctrl_c_does():
    with pytest.raises(Terminated) as stop, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert exit_status(stop.value) == 143
    assert exit_status(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("arguments", "overrides", "expected"),
    [
        (["-m", "seed=1,2"], ["seed=1,2"], "-m seed=1,2 study=s"),
        (["seed=1,2", "-m"], ["seed=1,2"], "seed=1,2 study=s -m"),
        (["-m"], [], "-m study=s"),
        (["study=other", "seed=1"], ["study=other", "seed=1"], "study=other seed=1"),
        (["data.train='a b.zip'"], ["data.train='a b.zip'"], """'data.train='"'"'a b.zip'"'"'' study=s"""),
    ],
)
def test_the_command_that_goes_on_names_the_study(arguments, overrides, expected):
    assert resume_command(arguments, overrides, "s") == f"python -m catsdogs.search {expected}"
    assert shlex.split(expected)


def test_a_job_that_ended_without_a_word_is_an_error(study, callback, capsys, broken):
    write_job(study, {"backbone": "b"}, trials=1, status="killed")
    callback._names = ["b"]
    with pytest.raises(SystemExit) as stop:
        callback._after(study)
    assert stop.value.code == 1
    assert "error: job b: it ended without a word of how; the same command goes on" in capsys.readouterr().err


def test_what_kills_left_half_written_in_a_study_is_removed_when_it_is_old(tmp_path, callback, composed):
    study = tmp_path / "multirun" / "s"
    study.mkdir(parents=True)
    old, new, other = (study / name for name in (".study-abc123.json", ".leaderboard-abc123.csv", ".mine-abc123.csv"))
    for file, age in ((old, 3600), (new, 0), (other, 3600)):
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    config = composed(
        "experiment=debug", "data.sample.images_per_class=8", "data.sample.test_images=1", f"cache={tmp_path / 'cache'}"
    )
    with open_dict(config):
        config.hydra = {}
    callback._before([config], study, ["a-job"])
    assert [file.exists() for file in (old, new, other)] == [False, True, True]
