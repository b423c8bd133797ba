"""The short form of tests/soak.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from soak import different_rows


def test_rows_that_differ_are_counted_on_both_sides():
    table = pd.DataFrame({"trial": ["0", "1"], "val_log_loss": ["0.5", None]})
    assert different_rows({"a": table}, {"a": table.copy()}) == 0
    assert different_rows({"a": table}, {"a": table.assign(val_log_loss="0.6")}) == 2
    assert different_rows({"a": table}, {"a": table.head(1)}) == 1
    assert different_rows({"a": table}, {}) == different_rows({}, {"a": table}) == 2


@pytest.mark.slow
def test_a_study_that_is_killed_and_started_again_is_the_same_study(tmp_path):
    output = tmp_path / "soak.json"
    script = Path(__file__).with_name("soak.py")
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
