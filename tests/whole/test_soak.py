"""The short form of tests/soak.py."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from soak import Outcome, different_rows, killed_study


def test_rows_that_differ_are_counted_on_both_sides():
    table = pd.DataFrame({"trial": ["0", "1"], "val_log_loss": ["0.5", None]})
    assert different_rows({"a": table}, {"a": table.copy()}) == 0
    assert different_rows({"a": table}, {"a": table.assign(val_log_loss="0.6")}) == 2
    assert different_rows({"a": table}, {"a": table.head(1)}) == 1
    assert different_rows({"a": table}, {}) == different_rows({}, {"a": table}) == 2


class Forgetful:
    """A study that is killed when trials 0 and 1 are finished; then trains 1 again, and 0 is gone."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.write_text("")
        self._runs = 0

    def run(self, aim, seconds):
        self._runs += 1
        return None if self._runs == 1 else 0

    def trained(self):
        trials = {0: (), 1: "01", 2: "0112"}[self._runs]
        return Counter(("job", trial) for trial in trials)

    def finished(self):
        return {("job", trial) for trial in {0: "", 1: "01", 2: "12"}[self._runs]}


def test_trials_that_are_lost_or_repeated_are_counted(tmp_path):
    outcome = Outcome("random", "basic")
    study: Any = Forgetful(tmp_path)
    killed_study(study, outcome, 1, [], 1.0, random.Random(0))
    assert (outcome.kills, outcome.lost_trials, outcome.repeated_trials) == (1, 1, 1)


@pytest.mark.slow
def test_a_study_that_is_killed_and_started_again_is_the_same_study(tmp_path):
    output = tmp_path / "soak.json"
    script = Path(__file__).parents[1] / "soak.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "4", "--tuner", "random", "--output", output, "--folder", tmp_path],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["kills"] >= 4
    wrong = ("lost_trials", "repeated_trials", "different_rows", "refusals", "tracebacks")
    assert [found[name] for name in wrong] == [0] * len(wrong)
