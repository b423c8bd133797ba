from __future__ import annotations

import datetime
import json
import time

import pytest
from studies import STARTED, write_job

from catsdogs.files import read_json, write_json
from catsdogs.study_progress import line, study_line, study_progress

PLANNED = 8


def at(minutes: float) -> datetime.datetime:
    return STARTED + datetime.timedelta(minutes=minutes)


@pytest.fixture
def study(tmp_path):
    """Writes a study of jobs `a`, `b`, ... that began at `STARTED`; a job is a dictionary for `write_job`."""

    def write(run: str, **jobs: dict) -> object:
        folder = tmp_path / "study"
        for name, settings in jobs.items():
            arguments = {"planned": PLANNED, "name": name, "started": STARTED, **settings}
            write_job(folder, {"backbone": name}, **arguments)
        plan = {"study": "study", "jobs": list(run), "run": list(run), "started": STARTED.isoformat(), "command": []}
        write_json(folder / "study.json", plan)
        return folder

    return write


def set_result(folder, **changes):
    write_json(folder / "result.json", {**read_json(folder / "result.json"), **changes})


def test_one_job_after_the_other(study):
    """8 trials are done and 3 of the next 8; two jobs have not begun. 11 trials in 33 minutes, 21 to go."""
    folder = study("abcd", a={"trials": 8}, b={"trials": 3, "status": "running"})
    progress = study_progress(folder, at(33))
    assert (progress.trials, progress.planned) == (11, 32)
    assert progress.seconds_left == pytest.approx(21 * 3 * 60)
    assert (progress.failed_trials, progress.failed_jobs) == (0, 0)


def test_two_jobs_at_once_are_twice_as_fast(study):
    """Both have had 3 trials in 9 minutes: 6 in 9 minutes, and 26 to go, whichever of them tells."""
    running = {"trials": 3, "status": "running"}
    progress = study_progress(study("abcd", a=running, b=running), at(9))
    assert (progress.trials, progress.planned) == (6, 32)
    assert progress.seconds_left == pytest.approx(26 * 1.5 * 60)


def test_what_was_finished_before_the_run_is_done_but_sets_no_pace(study):
    before = {"trials": 8, "started": STARTED - datetime.timedelta(days=1)}
    progress = study_progress(study("abc", a=before, b={"trials": 2, "status": "running"}), at(10))
    assert (progress.trials, progress.planned) == (10, 24)
    assert progress.seconds_left == pytest.approx(14 * 5 * 60)


def test_nothing_done_in_this_run_promises_no_time(study):
    before = {"trials": 8, "started": STARTED - datetime.timedelta(days=1)}
    progress = study_progress(study("ab", a=before), at(10))
    assert (progress.trials, progress.planned, progress.seconds_left) == (8, 16, None)


def test_a_failed_job_has_no_trials_left(study):
    failed = {"trials": 2, "failed_trials": 1, "status": "failed", "error": "no luck"}
    progress = study_progress(study("ab", a=failed, b={"trials": 4, "failed_trials": 1, "status": "running"}), at(6))
    assert (progress.trials, progress.planned) == (6, 10)
    assert (progress.failed_trials, progress.failed_jobs) == (2, 1)
    assert progress.seconds_left == pytest.approx(4 * 60)


def test_a_job_that_failed_at_once_tells_nothing_about_the_others(study):
    folder = study("ab", a={"trials": 0, "status": "failed"})
    set_result(folder / "a", trials=None)
    progress = study_progress(folder, at(1))
    assert (progress.trials, progress.planned, progress.failed_jobs) == (0, None, 1)


def test_an_unknown_number_of_trials_is_not_guessed(study):
    folder = study("ab", a={"trials": 5}, b={"trials": 3, "status": "running"})
    for job in "ab":
        told = read_json(folder / job / "result.json")["trials"]
        set_result(folder / job, trials={**told, "planned": None})
    progress = study_progress(folder, at(5))
    assert (progress.trials, progress.planned, progress.seconds_left) == (8, None, None)
    assert line(progress, at(5)).startswith("study: 8 trials, best ")


def test_one_job_without_an_end_in_sight_leaves_the_whole_unknown(study):
    folder = study("ab", a={"trials": 8}, b={"trials": 3, "status": "running"})
    set_result(folder / "b", trials={"planned": None})
    assert study_progress(folder, at(5)).planned is None


def test_a_job_that_has_begun_and_not_told_its_number_counts_like_the_others(study):
    folder = study("abc", a={"trials": 8}, b={"trials": 0, "status": "running"})
    result = read_json(folder / "b" / "result.json")
    del result["trials"]
    write_json(folder / "b" / "result.json", result)
    assert study_progress(folder, at(5)).planned == 24


def test_a_search_that_ended_early_counts_what_it_had(study):
    assert study_progress(study("ab", a={"trials": 6}, b={"trials": 1, "status": "running"}), at(5)).planned == 14


def test_the_best_so_far_is_that_of_any_job_and_never_of_a_failed_trial(study):
    folder = study("ab", a={"trials": 8, "skill": 1.0}, b={"trials": 3, "skill": 2.0, "status": "running"})
    progress = study_progress(folder, at(5))
    assert progress.best_job == "b"
    lines = (folder / "b" / "trials.csv").read_text().splitlines()
    assert progress.best == min(float(text.split(",")[2]) for text in lines[1:])


def test_where_a_sweeper_decides_the_jobs_of_this_run_are_told_by_their_start(study):
    before = {"trials": 8, "started": STARTED - datetime.timedelta(days=1)}
    folder = study("", a=before, b={"trials": 3, "status": "running"})
    progress = study_progress(folder, at(5))
    assert (progress.trials, progress.planned, progress.seconds_left) == (3, None, None)
    assert study_line(folder).startswith("study: 3 trials")


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"run": 3, "started": []}', '{"run": ["a"]}'])
def test_a_damaged_plan_is_no_crash(study, damage):
    folder = study("ab", a={"trials": 3})
    (folder / "study.json").write_text(damage)
    assert study_progress(folder, at(5)).trials == 3
    assert study_line(folder) is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [("trials.csv", ""), ("trials.csv", "x,y\n1,2\n"), ("result.json", "{"), ("result.json", "[]")],
)
def test_damaged_files_of_a_job_are_no_crash(study, name, damage):
    folder = study("ab", a={"trials": 3}, b={"trials": 3, "status": "running"})
    (folder / "b" / name).write_text(damage)
    assert study_progress(folder, at(5)).trials in (3, 6)
    assert "\n" not in study_line(folder)


def test_odd_values_are_no_crash(study):
    folder = study("ab", a={"trials": 3})
    for trials in (3, [], {"planned": "8", "total": -1, "failed": True}, {"planned": 1e9}):
        set_result(folder / "a", trials=trials, best_trial=7, finished="soon", started=None)
        assert study_progress(folder, at(5)).trials == 3


@pytest.fixture
def utc(monkeypatch):
    """Where the clock shows UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of this system cannot be set")
def test_the_line_reads_as_promised(study, utc):
    folder = study("abcd", a={"trials": 8, "failed_trials": 1}, b={"trials": 5, "status": "running"})
    progress = study_progress(folder, at(13))
    best = f"{progress.best:.4f}"
    assert line(progress, at(13)) == (
        f"study: 13 of 32 trials, 1 failed, best {best} ({progress.best_job}), about 19 min left, ends 22:32"
    )
    # It is 23:59, and it ends on another day.
    assert line(progress, at(119)).endswith("ends 2026-11-02 00:18")


def test_at_the_end_no_time_is_left(study):
    folder = study("ab", a={"trials": 8}, b={"trials": 8, "status": "failed", "error": "x"})
    text = line(study_progress(folder, at(20)), at(20))
    assert text.startswith("study: 16 of 16 trials, 1 job failed, best ")
    assert "left" not in text


def test_names_bring_no_control_characters(study):
    folder = study("ab", a={"trials": 2, "skill": 1.0})
    name = "\x1b[31mred\n"
    write_job(folder, {"backbone": "x"}, name=name, trials=2, skill=3.0, planned=PLANNED)
    write_json(folder / "study.json", {**read_json(folder / "study.json"), "run": ["a", name]})
    text = study_line(folder)
    assert text.isprintable()
    assert "?[31mred?" in text


def test_a_single_job_has_no_line_of_its_study(study):
    assert study_line(study("a", a={"trials": 2})) is None


def test_a_file_that_is_only_half_there_is_read_as_nothing(study):
    """Another process replaces files whole, but a disk may have been full."""
    folder = study("ab", a={"trials": 4, "status": "running"})
    text = (folder / "a" / "result.json").read_text()
    for length in range(0, len(text), 97):
        (folder / "a" / "result.json").write_text(text[:length])
        study_progress(folder, at(5))
    (folder / "a" / "result.json").write_text(json.dumps({"status": "running"}))
    assert study_progress(folder, at(5)).planned is None
