from __future__ import annotations

import io
import os
import re
import shutil
import sys
import time
from unittest.mock import DEFAULT, Mock

import pandas as pd
import pytest
from rich.console import Console
from studies import write_job, write_study

from catsdogs import report
from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.comparison import reporting, watch
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.terminal import print_summary
from catsdogs.study.jobs import write_leaderboard, write_plan

CHOICES = {"backbone": "mobilenet_v2", "augmentation": "strong", "schedule": "cosine", "label_smoothing": "none"}
HOSTILE = "<script>alert(1)</script>[red]\x1b[31m\"'\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four jobs in `multirun/s`, from whose parent commands run."""
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "multirun" / "s").relative_to(tmp_path)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["catsdogs-report", *map(str, arguments)])
        status = report.main()
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def quick(monkeypatch):
    """Pages are told and not drawn; gives what was asked for."""
    asked = []

    def write_report(folders, output, watching, images):
        asked.append(watching)
        study_data = read_study_data(folders)
        output.write_text("a page")
        return study_data

    monkeypatch.setattr("catsdogs.comparison.page.writing.write_report", write_report)
    monkeypatch.setattr(watch, "write_report", write_report)
    return asked


def printed(folders, width):
    output = io.StringIO()
    print_summary(read_study_data(folders), Console(width=width, file=output))
    return output.getvalue()


def test_a_study_gets_its_answer_its_page_and_its_tables(study, command):
    status, out, err = command(study)
    assert (status, err) == (0, "")
    assert "mobilenet_v2-light-cosine-mild" in (study / "report.html").read_text(encoding="utf-8")
    assert len(pd.read_csv(study / "report" / "jobs.csv")) == len(pd.read_csv(study / "leaderboard.csv")) == 4
    lines = out.splitlines()
    assert lines[-4:-1] == [
        "Report: multirun/s/report.html",
        f"Tables: multirun/s/report{os.sep}",
        "Leaderboard: multirun/s/leaderboard.csv",
    ]
    assert lines[-1].startswith("Next: python -m catsdogs.retrain study=s")
    # The answer is the first thing that is said.
    assert "light" in next(line for line in lines if line)


def test_several_studies_lie_beside_the_first_one(study, command, monkeypatch):
    shutil.copytree(study, study.with_name("t"))
    status, out, err = command(study, study.with_name("t"))
    assert (status, err) == (0, "")
    assert "Report: multirun/report.html" in out
    for file in ("report.html", "report/jobs.csv", "t/leaderboard.csv"):
        assert (study.parent / file).is_file()
    assert not (study / "report.html").exists()
    # Also beside the current folder.
    monkeypatch.chdir(study)
    assert "Report: ../report.html" in command(".", "../t")[1]


def test_a_folder_of_the_users_where_the_tables_would_lie_is_kept(study, command):
    shutil.copytree(study, study.with_name("t"))
    mine = study.parent / "report" / "trials.csv"
    mine.parent.mkdir()
    mine.write_text("mine")
    status, _, err = command(study, study.with_name("t"))
    assert status == 2
    assert "already exists with other files" in err
    assert [path.name for path in mine.parent.iterdir()] == ["trials.csv"]
    assert mine.read_text() == "mine"


def test_a_failed_a_running_and_a_waiting_job_are_told(study, command, quick):
    write_job(study, CHOICES, trials=0, status="failed", error="ValueError: no luck\nand more", name="broken")
    write_job(study, {**CHOICES, "augmentation": "flip"}, trials=2, planned=6, status="running", name="busy")
    write_plan(study, ["broken", "busy", "later"], ["-m"])
    status, out, _ = command(study)
    assert status == 0
    assert "and more" not in out
    for word in ("broken failed: ValueError: no luck", "2/6", "failed", "running", "waiting", "later"):
        assert word in out


@pytest.mark.parametrize("width", [100, 40])
def test_everything_fits_whatever_the_names_and_errors_are(tmp_path, width):
    study = tmp_path / ("s" * 150)
    for number, name in enumerate(("j" * 200, HOSTILE.replace("/", ""))):
        choices = {"backbone": "b" * 300, "augmentation": HOSTILE * (number + 1), "schedule": f"x{number}" * 50}
        write_job(study, choices, trials=2, seed=number, name=name)
    write_job(study, {"backbone": "c"}, trials=0, status="failed", error="e" * 500, name="long-error")
    write_job(study, {"backbone": "c"}, trials=0, status="failed", error="", name="no-error")
    shutil.copytree(study, tmp_path / "t")
    for folders in ([study], [study, tmp_path / "t"]):
        text = printed(folders, width)
        assert max(map(len, text.splitlines())) <= width
        # Nothing is cut, and nothing is sent to the terminal.
        squeezed = "".join(text.split())
        assert "e" * 500 in squeezed
        assert "[red]" in squeezed
        assert not {"\x1b", "…"} & set(text)


@pytest.mark.parametrize("width", [100, 79])
def test_numbers_are_whole_at_every_width(study, width):
    text = printed([study], width)
    lines = text[text.index("Jobs, best") :].splitlines()
    for loss in write_leaderboard(study)["val_log_loss"]:
        assert any(f" {loss:.4f} " in line and "4/4" in line for line in lines)
    assert "All jobs: backbone mobilenet_v2, schedule cosine" in " ".join(text.split())


def test_a_damaged_result_and_no_result_are_no_crash(tmp_path, study, command, quick):
    file = next(study.glob("*/result.json"))
    write_json(file, {**read_json(file), "seconds": "long"})
    status, out, _ = command(study)
    assert status == 0
    assert f"{file.parent.name} failed: result.json is damaged" in out
    write_job(tmp_path / "s", {"backbone": "b"}, trials=0, status="failed", error="no luck")
    status, out, _ = command(tmp_path / "s")
    assert status == 0
    assert "b failed: no luck" in out
    assert "Next:" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["no study"]),
        (("multirun/nothing",), ["nothing", "s"]),
        ((".",), ["result.json"]),
        (("multirun/s", "multirun/s"), ["given twice"]),
        (("multirun/s", "--output", "x.csv"), ["x.csv", "HTML"]),
        (("multirun/s", "--output", "multirun/s.html"), ["multirun/s.html", "tables", "--output"]),
        (("multirun/s", "--output", "file.txt/x.html"), ["file.txt", "--output"]),
        (("multirun/s", "--output", "file.txt/x.html", "--watch"), ["file.txt", "--output"]),
        (("multirun/s", "--output", "mine.html"), ["mine.html", "was not written by catsdogs-report"]),
        (("--watch", "multirun/s"), ["--watch multirun/s", "seconds"]),
        (("multirun/s", "--watch", "0"), ["--watch 0", "at least 1"]),
        (("--tensorboard", "multirun/s"), ["no study"]),
        (("multirun/t", "--tensorboard", "multirun/s"), ["--tensorboard multirun/s", "first"]),
        (("multirun/t", "--mlflow", "multirun/s"), ["--mlflow multirun/s", "first"]),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_status_2(study, command, monkeypatch, arguments, words):
    monkeypatch.delattr(time, "sleep")  # nothing is to be watched
    for name in ("file.txt", "mine.html"):
        (study.parent.parent / name).write_text("mine")
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch("error: .*\n", err)
    assert all(word in err for word in words)
    assert (study.parent.parent / "mine.html").read_text() == "mine"


def test_a_study_of_somebody_else_is_reported_elsewhere(study, command, quick, monkeypatch):
    monkeypatch.setattr(
        "catsdogs.comparison.watch.write_leaderboard", Mock(side_effect=PermissionError(13, "Permission denied"))
    )
    os.mkdir("new")
    status, out, err = command(study, "--output", "new/mine.html")
    assert (status, err) == (0, "warning: multirun/s/leaderboard.csv is not written (Permission denied)\n")
    assert "Report: new/mine.html" in out
    assert os.path.isfile("new/mine.html")
    assert not (study / "report.html").exists()


def test_exports_are_asked_with_what_was_given_and_their_mistakes_are_told_last(study, command, quick, monkeypatch):
    write_mlflow = Mock(side_effect=[1, 1, UserError("mlflow: no server there")])
    monkeypatch.setattr("catsdogs.comparison.exports.to_mlflow.write_mlflow", write_mlflow)
    _, out, _ = command(study, "--tensorboard", "--mlflow")
    assert write_mlflow.call_args.args[1] == f"sqlite:///{study.absolute()}/mlflow.db"
    assert (study / "tensorboard").is_dir()
    assert "16 trials; tensorboard --logdir multirun/s/tensorboard" in out
    assert "1 run; mlflow ui" in out
    _, out, _ = command(study, "--tensorboard", "runs", "--mlflow", "https://me:secret@server")
    assert write_mlflow.call_args.args[1] == "https://me:secret@server"
    assert os.path.isdir("runs")
    assert "secret" not in out
    status, out, err = command(study, "--mlflow", "nowhere")
    assert (status, err) == (2, "error: mlflow: no server there\n")
    assert "Report: multirun/s/report.html" in out


@pytest.fixture
def clock(monkeypatch):
    """In place of waiting, the next of these is done; gives how long it would have waited."""

    def set_clock(*steps):
        left, slept, real = list(steps), [], time.sleep

        def sleep(seconds):
            if seconds < 1:  # for a lock
                real(seconds)
            else:
                slept.append(seconds)
                left.pop(0)()

        monkeypatch.setattr(time, "sleep", sleep)
        return slept

    return set_clock


@pytest.fixture
def job(study):
    """Writes a job of a study of which one is done, `busy` has begun and `later` waits."""
    done, *others = (file.parent for file in study.glob("*/result.json"))
    for other in others:
        shutil.rmtree(other)

    def write(name, trials, status="running"):
        write_job(study, CHOICES, name=name, trials=trials, planned=4, status=status)

    write("busy", 1)
    write_plan(study, [done.name, "busy", "later"], ["-m"])
    return write


def test_watching_follows_a_study_until_its_last_job_has_ended(study, command, quick, clock, job):
    slept = clock(
        lambda: job("busy", 2),
        lambda: job("busy", 4, "ok"),
        lambda: job("later", 1),
        lambda: job("later", 4, "killed"),
    )
    status, out, err = command(study, "--watch", "3")
    assert (status, err) == (0, "")
    assert slept == [3.0] * 4
    # The last page does not load itself again.
    assert quick == [True] * 5 + [False]
    assert re.findall(r" s: (\d+) of 12 trials", out) == ["5", "6", "8", "9", "12"]
    assert "Next:" in out
    assert len(pd.read_csv(study / "leaderboard.csv")) == 3


def test_ctrl_c_ends_watching_with_a_page_that_stays_as_it_is(study, command, quick, clock, job):
    clock(Mock(side_effect=KeyboardInterrupt))
    status, out, _ = command(study, "--watch")
    assert status == 0
    assert quick == [True, False]
    assert "Report: multirun/s/report.html" in out


def test_watching_waits_for_the_first_job_and_goes_on_where_one_is_moved_away(study, command, clock, monkeypatch):
    whole = study.rename(study.with_name("whole"))
    study.mkdir()
    shutil.copy(whole / "study.json", study)
    gone = [FileNotFoundError(2, "No such file", "result.json"), DEFAULT, DEFAULT]
    monkeypatch.setattr(watch, "write_report", Mock(wraps=watch.write_report, side_effect=gone))
    slept = clock(lambda: shutil.copytree(whole, study, dirs_exist_ok=True), lambda: None)
    status, out, _ = command(study, "--watch")
    assert (status, len(slept)) == (0, 2)
    assert out.count("no job has begun yet") == 1


def test_the_end_of_a_study_is_told_whatever_becomes_of_the_page(study, capsys, monkeypatch):
    broken = Mock(side_effect=ZeroDivisionError("a bug"))
    monkeypatch.setattr("catsdogs.comparison.page.writing.write_report", broken)
    reporting.report_study(study)
    told = capsys.readouterr()
    for line in ("log loss", "Leaderboard: ", "Next: python -m catsdogs.retrain study=s"):
        assert line in told.out
    assert "Report: " not in told.out
    assert re.fullmatch("warning: .*ZeroDivisionError: a bug.*python -m catsdogs.report multirun/s.*\n", told.err)

    monkeypatch.setattr("catsdogs.comparison.terminal.summarize", broken)
    reporting.report_study(study)
    told = capsys.readouterr()
    assert told.err.count("\n") == 2
    assert "Next: python -m catsdogs.retrain study=s" in told.out

    reporting.write_page(study)
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
