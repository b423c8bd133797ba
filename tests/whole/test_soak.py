"""The counters of tests/soak.py, and short runs of tests/soak.py and tests/signals.py."""

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from soak import COUNTS, different_rows, killed_study


def test_rows_that_differ_or_are_missing_are_counted():
    table = pd.DataFrame({"trial": ["0", "1"], "val_log_loss": ["0.5", None]})
    assert different_rows({"a": table}, {"a": table.copy()}) == 0
    assert different_rows({"a": table}, {"a": table.assign(val_log_loss="0.6")}) == 2
    assert different_rows({"a": table}, {"a": table.head(1)}) == 1
    assert different_rows({"a": table}, {}) == different_rows({}, {"a": table}) == 2


class Forgetful:
    """Study that is killed after trials 0 and 1; then it repeats trial 1 and loses trial 0."""

    _runs = 0

    def __init__(self, folder):
        self.log = folder / "log"
        self.log.write_text("")

    def run(self, seconds):
        self._runs += 1
        return None if self._runs == 1 else 0

    def trained(self):
        return Counter(("", "01", "0112")[self._runs])

    def finished(self):
        return set(("", "01", "12")[self._runs])


def test_lost_and_repeated_trials_are_counted(tmp_path):
    outcome = dict.fromkeys(COUNTS, 0)
    study: Any = Forgetful(tmp_path)
    killed_study(study, outcome, 1, 1.0, random.Random(0))
    assert (outcome["kills"], outcome["lost_trials"], outcome["repeated_trials"]) == (1, 1, 1)


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
