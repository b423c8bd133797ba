"""A short run of tests/signals.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_interrupted_commands_end_and_continue():
    command = [sys.executable, str(Path(__file__).parents[1] / "signals.py"), "--signals", "4"]
    command += ["--commands", "single", "isolated"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
