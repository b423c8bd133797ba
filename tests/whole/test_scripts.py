"""Short runs of the scripts that damage inputs, lose writes and interrupt commands."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from soak import different_rows

STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
SLOW = (
    pytest.param("-m tests.hostile --only commands --cases 25"),
    pytest.param("tests/crashes/run.py --sample 6 --scenario activations 'final model'", marks=STRACE),
    pytest.param("tests/soak.py --count 2 --commands random-isolated"),
    pytest.param("tests/soak.py --count 2 --signal stop --commands single random-isolated"),
)


def ends_well(command, folder):
    words = [sys.executable, *shlex.split(command), "--output", str(folder / "counts.json")]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "counts.json").is_file()


def test_damaged_inputs_end_as_declared(tmp_path):
    ends_well("-m tests.hostile --only readers --cases 1000", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_commands_end_as_declared_after_damage_lost_writes_and_interrupts(tmp_path, command):
    ends_well(command, tmp_path)


def test_rows_that_differ_or_are_missing_are_counted():
    table = pd.DataFrame({"trial": ["0", "1"], "val_log_loss": ["0.5", None]})
    assert different_rows({"a": table}, {"a": table.copy()}) == 0
    assert different_rows({"a": table}, {"a": table.assign(val_log_loss="0.6")}) == 2
    assert different_rows({"a": table}, {"a": table.head(1)}) == 1
    assert different_rows({"a": table}, {}) == different_rows({}, {"a": table}) == 2
