"""Jobs that fail, are killed or are interrupted in their own process; no job loads Keras."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import isolated_study
import pandas as pd
import pytest
from hydra.core.utils import JobStatus
from isolated_study import (
    BE_INTERRUPTED,
    BE_KILLED,
    BE_STOPPED,
    EXIT,
    GROW,
    KILLED_IDLE,
    RAISE,
    SLOW,
    SUCCEED,
    WAIT,
    WAIT_FOREVER,
    launched,
)

from catsdogs.base.files import read_json
from catsdogs.study.jobs import INTERRUPTED


@pytest.fixture
def start_study(tmp_path):
    """Start a study in a new session; return its process once the first job waits."""
    started = []

    def start(*seeds):
        command = [sys.executable, isolated_study.__file__, str(tmp_path / "s"), *map(str, seeds)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        _wait_until((tmp_path / "s" / str(seeds[0]) / "waits").exists)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_failed_killed_and_interrupted_jobs_are_recorded_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    seeds = [BE_KILLED, RAISE, EXIT, BE_INTERRUPTED, SUCCEED]
    returns = launched(tmp_path / "s", seeds, 2)
    assert [returned.status for returned in returns] == [JobStatus.COMPLETED] * 5
    assert returns[4].return_value == 0.5
    assert all(math.isnan(returned.return_value) for returned in returns[:4])
    results = [read_json(tmp_path / "s" / str(seed) / "result.json") for seed in seeds]
    assert [result["status"] for result in results] == ["failed"] * 4 + ["ok"]
    killed, raised, ended, interrupted, good = results
    assert killed["error"] == "killed by signal 9 (SIGKILL); out of memory?"
    assert killed["choices"]["backbone"] == "mobilenet_v2"
    assert raised["error_type"] == "ZeroDivisionError"
    assert "in task" in raised["traceback"]
    assert ended["error"] == "its process exited with status 3"
    assert interrupted["error_type"] == INTERRUPTED
    # Values that the job had recorded are kept; each of two jobs gets half of the threads.
    assert killed["pid"] != os.getpid()
    assert (killed["threads"], good["threads"]) == ("3", "3")
    assert {RAISE, BE_KILLED, EXIT} <= set(pd.read_csv(tmp_path / "s" / "leaderboard.csv")["job"])
    assert (tmp_path / "s" / str(RAISE) / "search.log").read_text().count("ZeroDivisionError: no such number") == 1


def test_a_process_runs_the_next_job_only_after_one_that_ended_well_without_much_more_memory(tmp_path):
    seeds = [SUCCEED, 100, GROW, 101, RAISE, 102, BE_STOPPED, 103, BE_INTERRUPTED, 104, 105]
    launched(tmp_path / "s", seeds)
    processes = [[SUCCEED, 100, GROW], [101], [102, BE_STOPPED], [103], [104, 105]]
    pids = [{read_json(tmp_path / "s" / str(seed) / "result.json")["pid"] for seed in seeds} for seeds in processes]
    assert [len(pid) for pid in pids] == [1] * 5
    assert len(set.union(*pids)) == 5


def test_a_process_that_is_killed_between_jobs_fails_none(tmp_path):
    # The second process is idle until the first job ends, because the third job has the folder of the first.
    returns = launched(tmp_path / "s", [SLOW, KILLED_IDLE, SLOW], 2)
    assert [returned.return_value for returned in returns] == [0.5] * 3


def test_ctrl_c_lets_the_job_stop_and_starts_no_other(start_study, tmp_path):
    # Ctrl-C reaches both processes (here one after the other), or only the parent: the job is interrupted once.
    for study in ("both", "parent"):
        process = start_study(WAIT, SUCCEED)
        job = tmp_path / "s" / str(WAIT)
        if study == "both":
            os.kill(read_json(job / "result.json")["pid"], signal.SIGINT)
            _wait_until((job / "interrupted").exists)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in stderr
        assert (job / "ended").exists()
        assert not (tmp_path / "s" / str(SUCCEED)).exists()
        (tmp_path / "s").rename(tmp_path / study)


def test_a_second_ctrl_c_kills(start_study, tmp_path):
    process = start_study(WAIT_FOREVER)
    job = tmp_path / "s" / str(WAIT_FOREVER)
    os.killpg(process.pid, signal.SIGINT)
    # Printed after the first Ctrl-C has arrived.
    assert any("Ctrl-C again" in line for line in process.stderr)
    assert (job / "interrupted").exists()
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert "Stopped at once" in process.communicate(timeout=30)[1]
    assert not _is_alive(read_json(job / "result.json")["pid"])


def test_a_job_does_not_outlive_its_study(start_study, tmp_path):
    process = start_study(WAIT_FOREVER)
    child = read_json(tmp_path / "s" / str(WAIT_FOREVER) / "result.json")["pid"]
    assert _is_alive(child)
    process.kill()
    _wait_until(lambda: not _is_alive(child), seconds=10)
