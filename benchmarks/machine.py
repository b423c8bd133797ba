"""This machine and its software, for the record of a benchmark. No path and no host name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from catsdogs.base import provenance


def machine() -> dict[str, Any]:
    """`provenance.machine`, and the load before the run."""
    return {**provenance.machine(), "load_average_before": round(os.getloadavg()[0], 2)}


def versions() -> dict[str, str | None]:
    """`provenance.versions`, and the commit; None: no checkout."""
    return {"commit": _commit(), **provenance.versions()}


def _commit() -> str | None:
    """The commit that is checked out, `-dirty` if files differ from it: they must not change while a benchmark runs."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
