import datetime
import logging
import time

import pandas as pd
import pytest
from studies import STARTED, write_job

from catsdogs.base.files import read_json, write_json
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.progress import JobProgress, line, study_line

EARLIER = {"trials": 8, "started": STARTED - datetime.timedelta(days=1), "seconds": 2400}
RUNNING = {"status": "running"}
SECOND = {"trials": 3, "started": STARTED + datetime.timedelta(minutes=25), **RUNNING}
FAILING = {"trials": 4, "failed_trials": 1, **RUNNING}
FULL = {"trials": 8, "seconds": 1380, "fill_seconds": 180}
FAILED = {"trials": 2, "failed_trials": 1, "status": "failed", "error": "no luck"}


def at(minutes):
    return STARTED + datetime.timedelta(minutes=minutes)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """Set the time zone to UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def study(tmp_path):
    """Write a study that started at `STARTED`, with 8 trials per job.

    A job is a dictionary for `write_job`, and keys of `result.json`; `planned` is that of `study.json`.
    """

    def write(run, planned=None, **jobs):
        folder = tmp_path / "study"
        for name, settings in jobs.items():
            result = {key: settings.pop(key) for key in ("seconds", "fill_seconds") if key in settings}
            write_job(folder, {"backbone": name}, **{"planned": 8, "name": name, "started": STARTED, **settings})
            write_json(folder / name / "result.json", {**read_json(folder / name / "result.json"), **result})
        plan = {"study": "study", "jobs": list(run), "run": list(run), "started": STARTED.isoformat(), "command": []}
        write_json(folder / "study.json", plan | {"ended": ["a", "d"], "planned": planned or {}})
        return folder

    return write


@pytest.mark.parametrize(
    ("run", "jobs", "minutes", "planned", "expected"),
    [
        # A job takes 20 minutes and 3 of filling, which only the first one pays; b has 5 of 8 trials left.
        ("abce", {"a": FULL, "b": SECOND}, 33, {}, "11/32 trials, best, about 52 min left"),
        # The next one has other activations.
        ("abce", {"a": FULL, "b": SECOND}, 33, {"c": (8, "x")}, "11/32 trials, best, about 56 min left"),
        # Two parallel jobs are twice as fast.
        ("abce", {name: {"trials": 3, **RUNNING} for name in "ab"}, 9, {}, "6/32 trials, best, about 39 min left"),
        # Jobs of earlier runs are done; how long they took counts.
        ("abc", {"a": EARLIER, "b": {"trials": 2, **RUNNING}}, 10, {}, "10/24 trials, best, about 70 min left"),
        ("ab", {"a": EARLIER}, 10, {}, "8/16 trials, best, about 40 min left"),
        # A job that gets more trials is not done.
        (
            "ab",
            {"a": EARLIER, "b": {"trials": 9, "planned": 16, **RUNNING}},
            9,
            {"a": (16, "")},
            "17/32 trials, best, about 15 min left",
        ),
        # Failed jobs and jobs that stopped early have no trials left.
        ("ab", {"a": FAILED, "b": FAILING}, 6, {}, "6/10 trials, 2 failed, 1 job failed, best, about 6 min left"),
        ("ab", {"a": {"trials": 6, "seconds": 480}, "b": SECOND}, 25, {}, "9/14 trials, best, about 8 min left"),
        (
            "ab",
            {"a": {"trials": 8}, "b": {"trials": 8, "status": "failed"}},
            20,
            {},
            "16/16 trials, 1 job failed, best",
        ),
        # A deleted job has no trials left.
        ("ad", {"a": FAILING}, 4, {}, "4/8 trials, 1 failed, 1 job deleted, best, about 4 min left"),
        # A sweeper that chooses jobs one by one has no total.
        ("", {"a": EARLIER, "b": {"trials": 3, **RUNNING}}, 5, {}, "11 trials, best"),
        ("a", {"a": {"trials": 1}}, 5, {}, "1/1 trial, best"),
    ],
)
def test_progress_of_a_study(study, run, jobs, minutes, planned, expected):
    jobs = {name: dict(settings) for name, settings in jobs.items()}
    parts = line(study(run, planned, **jobs), at(minutes)).removeprefix("study study: ").split(", ")
    parts = ["best" if part.startswith("best ") else part.partition(" (until")[0] for part in parts]
    assert ", ".join(parts) == expected


def test_the_running_job_knows_more_than_its_files(study, clock):
    estimate = JobEstimate(2, 1)
    clock[0] = 60
    estimate.progress(1, first_batch=False)
    estimate.finish()
    folder = study("abc", a={"trials": 1, "planned": 2, **RUNNING})
    # A trial takes 60 s, and starting a job 30 s; the files have only the start of the job and the number of trials.
    assert "about 6 min left" in line(folder, at(1.5), ("a", estimate))
    assert "about 8 min left" in line(folder, at(1.5), ("b", estimate))


@pytest.mark.parametrize(
    ("status", "trials", "expected"),
    [
        ("running", {"planned": None}, "11 trials,"),  # unlimited
        ("running", {}, "11/24 trials,"),  # not recorded yet
        ("failed", None, "11/19 trials, 1 job failed,"),
    ],
)
def test_a_job_without_a_planned_number_of_trials(study, status, trials, expected):
    folder = study("abc", a={"trials": 8}, b={"trials": 3, "status": status})
    write_json(folder / "b" / "result.json", {**read_json(folder / "b" / "result.json"), "trials": trials})
    assert line(folder, at(5)).startswith(f"study study: {expected}")


def test_the_line_names_study_best_job_and_end(study):
    folder = study(
        "abce", a={"trials": 8, "failed_trials": 1, "seconds": 480}, b={"trials": 5, "skill": 2.0, **RUNNING}
    )
    best = pd.read_csv(folder / "b" / "trials.csv")["val_log_loss"].min()
    expected = f"study study: 13/32 trials, 1 failed, best {best:.4f} (b), about 19 min left (until 22:32)"
    assert line(folder, at(13)) == expected
    # At 23:59, the end is on the next day.
    assert line(folder, at(119)).endswith("(until 2026-11-02 00:18)")


def test_only_studies_of_several_jobs_have_a_line_without_control_characters(study):
    assert study_line(study("a", a={"trials": 2})) is None
    text = study_line(study("a\x1b", **{"a": {"trials": 2}, "\x1b": {"trials": 2, "skill": 3.0}}))
    assert text.isprintable()
    assert text.count("(?)") == 1


def test_corrupted_files_count_as_failed_jobs(study):
    folder = study("ab", a={"trials": 3}, b={"trials": 3, **RUNNING})
    (folder / "b" / "result.json").write_text("{")
    assert line(folder, at(5)).startswith("study study: 6/6 trials, 1 job failed")
    (folder / "b" / "trials.csv").write_text("x,y\n1,2\n")
    assert line(folder, at(5)).startswith("study study: 3/3 trials, 1 job failed")
    (folder / "study.json").write_text('{"run": 3, "started": []}')
    assert study_line(folder) is None
    assert line(folder, at(5)).startswith("study study: 3 ")


def test_the_time_left_is_limited(study):
    folder = study(["a"], a={"planned": 10**9, **RUNNING})
    plan = read_json(folder / "study.json")
    write_json(folder / "study.json", plan | {"started": "1990-01-01T00:00:00"})
    assert "left (until 20" in line(folder, at(30))


@pytest.fixture
def clock(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_time_left_is_pace_times_remaining_epochs(clock, caplog):
    progress = JobProgress("job 1/3 x", 2, JobEstimate(2, 4))
    clock[0] = 10
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.5})
    assert "job 1/3 x: trial 1/2, epoch 1/4: val_log_loss 0.5000 (best 0.5000), about 70 s left in this" in caplog.text
    assert not any(record.message.startswith("study") for record in caplog.records)
    # A trial with more epochs than any other may use all of them.
    progress.trial_done()
    clock[0] = 25
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.7})
    assert "val_log_loss 0.7000 (best 0.5000), about 38 s left in" in caplog.text
    progress.epoch(3, 1.0, 3, 4, {"val_log_loss": 0.6})
    assert caplog.messages[-1].endswith("val_log_loss 0.6000 (best 0.5000)")


def test_within_an_epoch_lines_are_30_seconds_apart(clock, caplog):
    progress = JobProgress("j", 1, JobEstimate(1, 2))
    for second in range(1, 100):
        clock[0] = second
        progress.epoch(0, second / 100, 0, 2, None)
    assert caplog.text.count("of the epoch") == 3


def test_an_unknown_number_of_trials_has_no_time_left(clock, caplog):
    JobProgress("j", None, JobEstimate(None, 2)).epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert "trial 1/?" in caplog.text
    assert "left" not in caplog.text


def test_pace_excludes_the_time_before_the_first_batch(clock, caplog):
    progress = JobProgress("j", 2, JobEstimate(2, 2))
    clock[0] = 1000
    progress.epoch(0, 0.01, 0, 2, None)
    assert "left" not in caplog.text
    clock[0] = 1099
    progress.epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert caplog.text.count("left") == 1
    assert "about 5 min left" in caplog.text


def test_best_is_of_trials_and_not_of_single_folds(clock, caplog):
    progress = JobProgress("j", 2, JobEstimate(2, 2))
    progress.epoch(0, 1.0, 0, 1, {"val_log_loss": 0.1}, "1/2")
    progress.epoch(1, 1.0, 0, 1, {"val_log_loss": 0.5}, "2/2")
    progress.trial_done(0.3)
    progress.epoch(0, 1.0, 0, 1, {"val_log_loss": 0.2}, "1/2")
    lines = [message.partition(": ")[2].partition(", about")[0] for message in caplog.messages]
    assert lines == [
        "trial 1/2, fold 1/2, epoch 1/1: val_log_loss 0.1000",
        "trial 1/2, fold 2/2, epoch 1/1: val_log_loss 0.5000",
        "trial 2/2, fold 1/2, epoch 1/1: val_log_loss 0.2000 (best 0.3000)",
    ]


def test_the_study_line_is_logged_after_every_trial_and_its_errors_are_warnings(clock, caplog):
    lines = iter(["study s: 1/2 trials", None])
    progress = JobProgress("j", 2, JobEstimate(2, 4), lambda: next(lines))
    for _ in range(3):
        progress.trial_done()
    assert caplog.messages[0] == "study s: 1/2 trials"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


@pytest.mark.parametrize(("cold", "cost"), [(False, (1, 3)), (True, (1, 3)), (True, (0.5, 2.5))])
def test_one_time_costs_are_not_charged_to_every_trial(clock, cold, cost):
    """Views take 50 s, tracing a depth 20 s, and an epoch `cost` at depths 0 and 10: the estimate is right."""
    filled: set[int] = set()
    traced: set[int] = set()
    moments: list[tuple[float, float | None]] = []
    depths = [0, 10, 0, 10, 0, 10]

    def fills():
        return 50.0 * len(filled) if cold else 0.0, len(filled) if cold else 5, 5

    estimate = JobEstimate(len(depths), 5, [0, 10], fills)
    for depth in depths:
        estimate.start(depth)
        clock[0] += 20 * (depth not in traced)
        traced.add(depth)
        for epoch in range(5):
            if epoch not in filled:
                filled.add(epoch)
                clock[0] += 50 * cold
            if not epoch:
                estimate.progress(0.0, first_batch=True)
            clock[0] += cost[depth > 0]
            estimate.progress(epoch + 1.0, first_batch=False)
            moments.append((clock[0], estimate.left()))
        estimate.finish()
        moments.append((clock[0], estimate.left()))
    errors = [abs(left - (clock[0] - now)) for now, left in moments[:-1]]
    # In the first trial, depth 10 counts as five times as slow as depth 0.
    assert max(errors) <= 35
    # A trial that has not started may have the other depth.
    assert max(errors[8:]) <= 10
