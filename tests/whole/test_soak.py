"""Short runs of tests/soak.py and tests/signals.py."""

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
@pytest.mark.parametrize(
    "command", ["soak.py --kills 2 --tuner random", "signals.py --signals 4 --commands single isolated"]
)
def test_interrupted_commands_resume_and_have_the_same_tables(tmp_path, command):
    script, *words = command.split()
    words = [str(Path(__file__).parents[1] / script), *words, "--output", str(tmp_path / "counts.json")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "counts.json").is_file()
