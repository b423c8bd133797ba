"""What numbers were made with: versions of packages, the machine, the time. No path and no host name."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from catsdogs.base.processes import processors

# Packages whose versions can change the numbers.
VERSIONS_OF = (
    "catsdogs",
    "tensorflow",
    "keras",
    "keras-tuner",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "openvino",
    "jax",
    "jaxlib",
    "scikit-learn",
    "hydra-core",
)


def utc_timestamp() -> str:
    """ISO 8601 in UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def parse_timestamp(text: Any) -> datetime.datetime | None:
    """The time that `now`, or an earlier version, wrote; with a time zone. None if it tells none."""
    try:
        told = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return told if told.tzinfo else told.replace(tzinfo=datetime.UTC)


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change the numbers; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(accelerators: list[str] | None = None) -> dict[str, Any]:
    """What this process runs on.

    Keys: `system`, `architecture`, `processor`; `cores` that the process may use; `memory_bytes` of the whole machine
    (None: the system does not tell); `accelerators`, as they are given.

    Args:
        accelerators: as `devices.accelerators` names them; None: Keras is not loaded, and loading it takes seconds.
    """
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": processors(),
        "memory_bytes": _memory_bytes(),
        "accelerators": accelerators,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        # Not every system knows these names.
        return None
