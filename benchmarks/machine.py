"""Machine and software versions for benchmark results, without paths or host names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from catsdogs.base import provenance


def machine() -> dict[str, Any]:
    """Return `provenance.machine` and the load before the run."""
    return {**provenance.machine(), "load_average_before": round(os.getloadavg()[0], 2)}


def versions() -> dict[str, str | None]:
    """Return `provenance.versions` and the commit; None outside a checkout."""
    return {"commit": _commit(), **provenance.versions()}


def _commit() -> str | None:
    """Return the current commit, with `-dirty` if files differ; files must not change during a benchmark."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return process.stdout.strip() or None
