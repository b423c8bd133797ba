import io
import os
import re
import shutil
import sys
import time
from functools import partial
from itertools import chain, repeat
from unittest.mock import DEFAULT, Mock, call

import pandas as pd
import pytest
from rich.console import Console
from studies import CHOICES, write_job, write_study

from catsdogs import report
from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.comparison import reporting, watch
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.terminal import print_summary
from catsdogs.study.plan import write_plan

pytestmark = pytest.mark.lowest

HOSTILE = "<script>alert(1)</script>[red]\x1b[31m\"'\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Write four jobs to `multirun/s`; commands run in the parent of `multirun`."""
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "multirun" / "s").relative_to(tmp_path)


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["catsdogs-report", *map(str, arguments)])
        return report.main(), *capsys.readouterr()

    return run


@pytest.fixture
def quick(monkeypatch):
    """Replace the page with a stub; return the value of `watching` of every call."""
    calls = []

    def write_report(folders, output, watching, images):
        calls.append(watching)
        output.write_text("a page")
        return read_study_data(folders)

    monkeypatch.setattr("catsdogs.comparison.page.writing.write_report", write_report)
    monkeypatch.setattr(watch, "write_report", write_report)
    return calls


def printed(folders, width):
    output = io.StringIO()
    print_summary(read_study_data(folders), Console(width=width, file=output))
    return output.getvalue()


def test_summary_page_and_tables_of_a_study(study, command):
    status, out, err = command(study)
    assert (status, err) == (0, "")
    assert "mobilenet_v2-light-cosine-mild" in (study / "report.html").read_text(encoding="utf-8")
    assert len(pd.read_csv(study / "report" / "jobs.csv")) == len(pd.read_csv(study / "leaderboard.csv")) == 4
    headline, *_, page, tables, leaderboard, following = out.strip().splitlines()
    assert "light" in headline
    assert (page, tables) == ("Report: multirun/s/report.html", f"Tables: multirun/s/report{os.sep}")
    assert leaderboard == "Leaderboard: multirun/s/leaderboard.csv"
    assert following.startswith("Next: python -m catsdogs.retrain study=s")


def test_the_report_of_several_studies_is_next_to_the_first(study, command, monkeypatch):
    shutil.copytree(study, study.with_name("t"))
    status, out, err = command(study, study.with_name("t"))
    assert (status, err) == (0, "")
    assert "Report: multirun/report.html" in out
    for file in ("report.html", "report/jobs.csv", "t/leaderboard.csv"):
        assert (study.parent / file).is_file()
    assert not (study / "report.html").exists()
    # The same if the first study is the current folder.
    monkeypatch.chdir(study)
    assert "Report: ../report.html" in command(".", "../t")[1]


def test_a_folder_of_the_user_is_not_overwritten_by_tables(study, command):
    shutil.copytree(study, study.with_name("t"))
    mine = study.parent / "report" / "trials.csv"
    mine.parent.mkdir()
    mine.write_text("mine")
    status, _, err = command(study, study.with_name("t"))
    assert status == 2
    assert "already exists with other files" in err
    assert {path.name: path.read_text() for path in mine.parent.iterdir()} == {"trials.csv": "mine"}


@pytest.mark.parametrize("width", [100, 40])
def test_long_and_hostile_names_fit_the_terminal(tmp_path, width):
    study = tmp_path / ("s" * 150)
    for number, name in enumerate(("j" * 200, HOSTILE.replace("/", ""))):
        choices = {"backbone": "b" * 300, "augmentation": HOSTILE * (number + 1), "schedule": f"x{number}" * 50}
        write_job(study, choices, trials=2, seed=number, name=name)
    for name, error in (("long-error", "e" * 500), ("no-error", "")):
        write_job(study, {"backbone": "c"}, trials=0, status="failed", error=error, name=name)
    shutil.copytree(study, tmp_path / "t")
    for folders in ([study], [study, tmp_path / "t"]):
        text = printed(folders, width)
        assert max(map(len, text.splitlines())) <= width
        # Nothing is cut off, and no control character is printed.
        for part in ("e" * 500, "[red]", "no-errorfailed:noerrormessagewasrecorded"):
            assert part in "".join(text.split())
        assert not {"\x1b", "…"} & set(text)


def test_trials_are_counted_out_of_those_planned_also_of_a_job_that_stopped(tmp_path):
    write_job(tmp_path / "s", {"backbone": "b"}, trials=6, planned=8)
    assert "6/8" in printed([tmp_path / "s"], 100)


def test_corrupted_and_missing_results_are_not_an_error(tmp_path, study, command, quick):
    file = next(study.glob("*/result.json"))
    write_json(file, {**read_json(file), "seconds": "long"})
    status, out, _ = command(study)
    assert status == 0
    assert f"{file.parent.name} failed: result.json is corrupted" in out
    write_job(tmp_path / "s", {"backbone": "b"}, trials=0, status="failed", error="no luck")
    status, out, _ = command(tmp_path / "s")
    assert status == 0
    assert "b failed: no luck" in out
    assert "Next:" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["study: not set"]),
        (("multirun/nothing",), ["nothing", "s"]),
        (("multirun/s", "multirun/s"), ["multirun/s: study listed twice"]),
        (("multirun/s", "--output", "multirun/s.html"), ["multirun/s.html", "tables", "--output"]),
        (("multirun/s", "--output", "file.txt/x.html"), ["file.txt", "--output"]),
        (("multirun/s", "--output", "mine.html"), ["mine.html", "was not written by catsdogs-report"]),
        (("--tensorboard", "multirun/s"), ["study: not set"]),
        (("multirun/t", "--mlflow", "multirun/s"), ["--mlflow multirun/s", "before --mlflow"]),
    ],
)
def test_user_errors_are_one_line_with_status_2(study, command, monkeypatch, arguments, words):
    monkeypatch.delattr(time, "sleep")  # must not start watching
    for name in ("file.txt", "mine.html"):
        (study.parent.parent / name).write_text("mine")
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch("error: .*\n", err)
    assert all(word in err for word in words)
    assert (study.parent.parent / "mine.html").read_text() == "mine"


def test_a_read_only_study_is_reported_elsewhere(study, command, quick, monkeypatch):
    monkeypatch.setattr(watch, "write_leaderboard", Mock(side_effect=PermissionError(13, "Permission denied")))
    os.mkdir("new")
    status, out, err = command(study, "--output", "new/mine.html")
    assert (status, err) == (0, "warning: cannot write multirun/s/leaderboard.csv (Permission denied)\n")
    assert "Report: new/mine.html" in out
    assert os.path.isfile("new/mine.html")
    assert not (study / "report.html").exists()


def test_exports_get_the_options_and_their_errors_are_printed_last(study, command, quick, monkeypatch):
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


def test_watching_waits_for_the_first_job_and_ends_with_the_last_or_ctrl_c(study, command, quick, monkeypatch):
    done, *others = (file.parent for file in study.glob("*/result.json"))
    for other in others:
        shutil.rmtree(other)
    write_plan(study, [done.name, "busy", "later"], ["-m"])
    done.rename("hidden")

    def job(name, trials, status="running"):
        write_job(study, CHOICES, name=name, trials=trials, planned=4, status=status)

    changes = (("busy", 1), ("busy", 2), ("busy", 4, "ok"), ("later", 1), ("later", 4, "killed"))
    steps = [partial(shutil.move, "hidden", done), *(partial(job, *change) for change in changes)]
    clock = Mock(sleep=Mock(side_effect=lambda seconds: steps.pop(0)()))
    monkeypatch.setattr(watch, "time", clock)
    gone = chain([FileNotFoundError(2, "No such file", "a moved job")], repeat(DEFAULT))
    monkeypatch.setattr(watch, "write_report", Mock(wraps=watch.write_report, side_effect=gone))
    status, out, err = command(study, "--watch")
    assert (status, err, clock.sleep.mock_calls) == (0, "", [call(10)] * 6)
    assert out.count("no job has started yet") == 1
    # The last page does not refresh itself.
    assert quick == [True] * 5 + [False]
    assert re.findall(r" s: (\d+)/12 trials", out) == ["5", "6", "8", "9", "12"]
    assert all(text in out for text in ("killed", "4/4", "Next:"))
    assert len(pd.read_csv(study / "leaderboard.csv")) == 3

    quick.clear()
    job("later", 1)
    clock.sleep.side_effect = KeyboardInterrupt
    status, out, _ = command(study, "--watch")
    assert (status, quick) == (0, [True, False])
    assert "Report: multirun/s/report.html" in out


def test_a_study_is_summarized_even_if_the_page_fails(study, capsys, monkeypatch):
    broken = Mock(side_effect=ZeroDivisionError("a bug"))
    monkeypatch.setattr("catsdogs.comparison.page.writing.write_report", broken)
    reporting.report_study(study)
    out, err = capsys.readouterr()
    for line in ("log loss", "Leaderboard: ", "Next: python -m catsdogs.retrain study=s"):
        assert line in out
    assert "Report: " not in out
    assert re.fullmatch("warning: cannot write .*ZeroDivisionError: a bug.*report multirun/s\n", err)

    monkeypatch.setattr("catsdogs.comparison.terminal.summarize", broken)
    reporting.report_study(study)
    out, err = capsys.readouterr()
    assert err.count("\n") == 2
    assert "Next: python -m catsdogs.retrain study=s" in out

    reporting.write_page(study)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
