"""This machine and its software, for the record of a benchmark. No path and no host name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("catsdogs", "tensorflow", "keras", "keras-tuner", "numpy", "opencv-python-headless", "openvino")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, load before the run."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": usable,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "architecture": platform.machine(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str | None]:
    """Of Python, the packages that matter here, and the commit; None: not installed, or no checkout."""
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": _commit()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit() -> str | None:
    """The commit that is checked out, `-dirty` if files differ from it: they must not change while a benchmark runs."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
