"""Files that git tracks, for checks of the whole repository."""

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def tracked(*patterns: str) -> dict[str, str]:
    """Return the texts of tracked files by path; skip the test in a source distribution, which is no checkout."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--", *patterns]
    git = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert git.returncode == 0, git.stderr
    paths = [path for path in git.stdout.split("\0") if path and (PROJECT / path).is_file()]
    assert paths, f"git tracks none of {patterns}"
    return {path: (PROJECT / path).read_text(encoding="utf-8") for path in sorted(paths)}
