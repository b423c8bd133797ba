"""Jobs that stop because of disk, memory, time or a programming error, and are resumed."""

import errno
import time
from unittest.mock import Mock

import pytest
from bench import TUNERS, Bench

from catsdogs.base import files
from catsdogs.base.files import read_json
from catsdogs.base.output import lost_output
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.study.leaderboard import write_leaderboard
from catsdogs.study.plan import write_plan


@pytest.fixture
def bench(monkeypatch, tmp_path, config):
    return Bench(monkeypatch, tmp_path, config)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "out of disk while writing x.csv"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "out of disk"),
        (MemoryError(), "out of memory"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"), "out of memory"),
        (TypeError("a bug"), "TypeError: a bug"),
    ],
)
def test_an_error_that_would_affect_every_trial_stops_the_job_which_can_be_resumed(bench, error, words):
    expected, trainings = bench.uninterrupted("random")
    config = bench.settings(*TUNERS["random"])
    bench.trainer.fail(3, error)
    objective = bench.run(config)
    assert objective != objective
    result = read_json(bench.folder / "result.json")
    assert result["status"] == "failed"
    assert words in result["error"]
    assert "\n" not in result["error"]
    assert result["trials"] == {"planned": 4, "total": 2, "completed": 2, "failed": 0}
    assert result["best_trial"]["trial"]
    bench.trainer.reset()
    bench.run(config)
    assert bench.tables() == expected
    assert len(bench.trainer.trained) == trainings - 2


@pytest.mark.parametrize("name", ["history.csv", "trials.csv", "tuner"])
def test_no_finished_trial_is_lost_if_the_disk_fills_up_while_tables_are_written(bench, monkeypatch, caplog, name):
    expected, _ = bench.uninterrupted("random")
    config = bench.settings(*TUNERS["random"])
    full = OSError(errno.ENOSPC, "No space left on device")
    real = files.replacing

    def replacing(path):
        if len(bench.trainer.trained) == 2 and path.name == name:
            raise full
        return real(path)

    def save(path, data):
        if len(bench.trainer.trained) == 2:
            raise full

    with monkeypatch.context() as patch:
        patch.setattr(files, "replacing", replacing)
        if name == "tuner":
            patch.setattr("keras_tuner.src.utils.save_json", save)
        bench.run(config)
    assert "out of disk" in caplog.text
    # `trials.csv` is written last, so a finished trial always has its epochs.
    assert bench.finished() == 1
    bench.run(config)
    assert bench.tables() == expected


def test_an_almost_full_disk_is_reported_before_the_search_starts(bench, monkeypatch):
    monkeypatch.setattr("catsdogs.base.resources.LEAST_FREE_BYTES", 2**60)
    bench.run(bench.settings())
    assert "free disk space" in read_json(bench.folder / "result.json")["error"]
    assert bench.trainer.trained == []


def test_a_result_that_cannot_be_replaced_changes_the_exit_status(bench, monkeypatch):
    write = Mock(side_effect=[None, None, IsADirectoryError(errno.EISDIR, "Is a directory", "result.json")])
    monkeypatch.setattr("catsdogs.tuning.job.write_json", write)
    bench.run(bench.settings())
    assert write.call_count == 3
    assert lost_output() == 1


@pytest.mark.parametrize("after", [0, 2])
def test_a_study_that_reaches_its_time_limit_finishes_and_can_be_resumed(bench, monkeypatch, after):
    expected, _ = bench.uninterrupted("random")
    config = bench.settings(*TUNERS["random"], "timeout.study_seconds=1000")
    write_plan(bench.study, ["a-job", "later"], [])
    clock_shift = [0.0]
    real = time.time
    monkeypatch.setattr("catsdogs.study.plan.time.time", lambda: real() + clock_shift[0])

    def before(training):
        clock_shift[0] = 2000.0 if training > after else 0.0

    bench.trainer.before = before
    objective = bench.run(config)
    result = read_json(bench.folder / "result.json")
    assert result["status"] == "ok"
    assert result["stopped"] == "timeout.study_seconds=1000 reached"
    assert result["trials"]["total"] == bench.finished() == after
    assert (objective == objective) == (after > 0)
    # Later jobs run no trials, and do not fail.
    bench.run(config, "later")
    assert read_json(bench.study / "later" / "result.json")["status"] == "ok"
    assert len(bench.trainer.trained) == after + 1
    leaderboard = write_leaderboard(bench.study)
    assert list(leaderboard["status"]) == ["ok", "ok"]
    study_data = read_study_data([bench.study])
    assert summarize(study_data).headline
    assert not study_data.problems
    clock_shift[0] = 0.0
    bench.trainer.reset()
    bench.run(config)
    assert bench.tables() == expected
    assert "stopped" not in read_json(bench.folder / "result.json")
