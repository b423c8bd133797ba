"""Damaged and hostile inputs end as declared; `python -m tests.hostile` tries 100,000 of them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("kind", "cases"), [("readers", 1000), pytest.param("commands", 25, marks=pytest.mark.slow)])
def test_damaged_inputs_end_as_declared(kind, cases):
    command = [sys.executable, "-m", "tests.hostile", "--cases", str(cases), "--only", kind]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{cases:,} cases, 0 failed" in done.stdout
