from __future__ import annotations

import logging

import pytest

from catsdogs.base.text import format_duration, sanitize_line
from catsdogs.study.progress import JobProgress


def test_durations_read_well():
    told = {0: "0 s", 89: "89 s", 90: "2 min", 5000: "83 min", 11100: "3 h 05 min"}
    assert {seconds: format_duration(seconds) for seconds in told} == told


@pytest.fixture
def clock(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr("catsdogs.study.progress.time.monotonic", lambda: now[0])
    return now


def test_time_left_is_the_pace_so_far_times_what_is_left(clock, caplog):
    progress = JobProgress("job 1 of 3, x", trials=2, epochs_per_trial=4)
    clock[0] = 10
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.5})
    assert "trial 1 of 2, epoch 1 of 4: val_log_loss 0.5000, best so far 0.5000, 70 s left" in caplog.text
    assert not any(record.message.startswith("study") for record in caplog.records)
    # A trial that stopped early counts as whole: its other epochs will not be trained.
    progress.trial_done()
    clock[0] = 25
    progress.epoch(0, 1.0, 0, 4, {"val_log_loss": 0.7})
    assert "val_log_loss 0.7000, best so far 0.5000, 15 s left" in caplog.text


def test_within_an_epoch_a_line_comes_now_and_then(clock, caplog):
    progress = JobProgress("j", trials=1, epochs_per_trial=2)
    for second in range(1, 100):
        clock[0] = second
        progress.epoch(0, second / 100, 0, 2, None)
    assert caplog.text.count("of the epoch") == 3


def test_without_a_known_number_of_trials_no_time_is_promised(clock, caplog):
    JobProgress("j", trials=None, epochs_per_trial=2).epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert "trial 1 of ?" in caplog.text
    assert "left" not in caplog.text


def test_filling_the_store_before_the_first_batch_does_not_count_as_pace(clock, caplog):
    progress = JobProgress("j", trials=2, epochs_per_trial=2)
    clock[0] = 1000
    progress.epoch(0, 0.01, 0, 2, None)
    assert "left" not in caplog.text
    clock[0] = 1099
    progress.epoch(0, 1.0, 0, 2, {"val_log_loss": 0.5})
    assert caplog.text.count("left") == 1
    assert "5 min left" in caplog.text


def test_the_best_so_far_is_of_whole_trials_and_not_of_one_of_their_folds(clock, caplog):
    progress = JobProgress("j", trials=2, epochs_per_trial=2)
    progress.epoch(0, 1.0, 0, 1, {"val_log_loss": 0.1}, "1 of 2")
    progress.epoch(1, 1.0, 0, 1, {"val_log_loss": 0.5}, "2 of 2")
    progress.trial_done(0.3)
    progress.epoch(0, 1.0, 0, 1, {"val_log_loss": 0.2}, "1 of 2")
    said = [message.partition(": ")[2].rpartition(", ")[0] for message in caplog.messages]
    assert said == [
        "trial 1 of 2, fold 1 of 2, epoch 1 of 1: val_log_loss 0.1000",
        "trial 1 of 2, fold 2 of 2, epoch 1 of 1: val_log_loss 0.5000",
        "trial 2 of 2, fold 1 of 2, epoch 1 of 1: val_log_loss 0.2000, best so far 0.3000",
    ]


def test_after_every_trial_a_line_on_the_study_is_logged_and_no_error_of_it_ends_the_search(clock, caplog):
    lines = iter(["study: 1 of 2 trials", None])
    progress = JobProgress("j", 2, 4, lambda: next(lines))
    for _ in range(3):
        progress.trial_done()
    assert caplog.messages[0] == "study: 1 of 2 trials"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


def test_names_bring_no_control_characters():
    assert sanitize_line("plain-name_1.5 é \u00a0–") == "plain-name_1.5 é \u00a0–"
    assert sanitize_line("a\nb\x1b[31m\u2028\u202e\ud800") == "a?b?[31m???"
