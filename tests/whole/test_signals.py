"""The checks of tests/signals.py, and a short run of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from signals import problems_of


@pytest.mark.parametrize(
    ("status", "printed", "seconds", "problems"),
    [
        (130, "Interrupted", 1.0, []),
        (0, "finished before the signal", 1.0, []),
        (143, "", 1.0, ["status 143"]),
        (130, "Exception ignored in: ...", 31.0, ["Exception ignored", "ended after 31 s"]),
    ],
)
def test_problems_of_an_interrupted_command(status, printed, seconds, problems):
    assert problems_of(status, printed, seconds, 2) == problems


@pytest.mark.slow
def test_interrupted_commands_end_and_continue():
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "signals.py"),
        "--signals",
        "3",
        "--commands",
        "isolated",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
