"""Short runs of tests/soak.py."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from soak import different_rows


def test_rows_that_differ_or_are_missing_are_counted():
    table = pd.DataFrame({"trial": ["0", "1"], "val_log_loss": ["0.5", None]})
    assert different_rows({"a": table}, {"a": table.copy()}) == 0
    assert different_rows({"a": table}, {"a": table.assign(val_log_loss="0.6")}) == 2
    assert different_rows({"a": table}, {"a": table.head(1)}) == 1
    assert different_rows({"a": table}, {}) == different_rows({}, {"a": table}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [("kill", "random-isolated"), ("stop", "single", "random-isolated")])
def test_interrupted_commands_resume_and_have_the_same_tables(tmp_path, words):
    command = [sys.executable, str(Path(__file__).parents[1] / "soak.py"), "--count", "2", "--signal", words[0]]
    command += ["--commands", *words[1:], "--output", str(tmp_path / "counts.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "counts.json").is_file()
