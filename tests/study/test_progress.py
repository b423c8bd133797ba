import logging

import pytest

from catsdogs.base.text import format_duration, sanitize_line
from catsdogs.study.progress import JobProgress


def test_durations_have_a_readable_unit():
    expected = {0: "0 s", 89: "89 s", 90: "2 min", 5000: "83 min", 11100: "3 h 05 min"}
    assert {seconds: format_duration(seconds) for seconds in expected} == expected


@pytest.fixture
def clock(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr("catsdogs.study.progress.time.monotonic", lambda: now[0])
    return now


def test_time_left_is_pace_times_remaining_epochs(clock, caplog):
    progress = JobProgress("job 1/3 x", trials=2, epochs_per_trial=4)
    clock[0] = 10
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.5})
    assert "job 1/3 x: trial 1/2, epoch 1/4: val_log_loss 0.5000 (best 0.5000), about 70 s left in this" in caplog.text
    assert not any(record.message.startswith("study") for record in caplog.records)
    # A trial that stopped early counts with all epochs.
    progress.trial_done()
    clock[0] = 25
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.7})
    assert "val_log_loss 0.7000 (best 0.5000), about 15 s left in" in caplog.text
    progress.epoch(3, 1.0, 3, 4, {"val_log_loss": 0.6})
    assert caplog.messages[-1].endswith("val_log_loss 0.6000 (best 0.5000)")


def test_within_an_epoch_lines_are_30_seconds_apart(clock, caplog):
    progress = JobProgress("j", trials=1, epochs_per_trial=2)
    for second in range(1, 100):
        clock[0] = second
        progress.epoch(0, second / 100, 0, 2, None)
    assert caplog.text.count("of the epoch") == 3


def test_an_unknown_number_of_trials_has_no_time_left(clock, caplog):
    JobProgress("j", trials=None, epochs_per_trial=2).epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert "trial 1/?" in caplog.text
    assert "left" not in caplog.text


def test_pace_excludes_the_time_before_the_first_batch(clock, caplog):
    progress = JobProgress("j", trials=2, epochs_per_trial=2)
    clock[0] = 1000
    progress.epoch(0, 0.01, 0, 2, None)
    assert "left" not in caplog.text
    clock[0] = 1099
    progress.epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert caplog.text.count("left") == 1
    assert "about 5 min left" in caplog.text


def test_best_is_of_trials_and_not_of_single_folds(clock, caplog):
    progress = JobProgress("j", trials=2, epochs_per_trial=2)
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
    progress = JobProgress("j", 2, 4, lambda: next(lines))
    for _ in range(3):
        progress.trial_done()
    assert caplog.messages[0] == "study s: 1/2 trials"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_lines_contain_no_control_characters():
    assert sanitize_line("plain-name_1.5 é \u00a0–") == "plain-name_1.5 é \u00a0–"
    assert sanitize_line("a\nb\x1b[31m\u2028\u202e\ud800") == "a?b?[31m???"
