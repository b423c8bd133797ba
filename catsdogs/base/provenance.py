"""Provenance of results: package versions, machine, time. Contains no paths and no host names."""

import datetime
import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from catsdogs.base.processes import processors

# Packages whose versions can change the numbers.
VERSIONS_OF = (
    *("catsdogs", "tensorflow", "keras", "keras-tuner", "numpy", "pillow"),
    *("opencv-python-headless", "openvino", "jax", "jaxlib", "scikit-learn", "hydra-core"),
)


def utc_timestamp() -> str:
    """Return the current time: ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def parse_timestamp(text: Any) -> datetime.datetime | None:
    """Return a time written by `utc_timestamp` or an earlier version, with time zone; None if it cannot be parsed."""
    try:
        time = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    # Neither pandas nor Linux can represent every year.
    return time.replace(tzinfo=time.tzinfo or datetime.UTC) if 1980 <= time.year < 2200 else None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages in `VERSIONS_OF`."""
    installed = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def machine(accelerators: list[str] | None = None) -> dict[str, Any]:
    """Describe the machine; `cores` are those available to the process, `memory_bytes` is None if unknown.

    `accelerators`: names from `devices.accelerators`, or None if Keras is not loaded (loading takes seconds).
    """
    memory = None
    with suppress(OSError, ValueError):  # some systems do not define these names
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {"system": platform.system(), "architecture": platform.machine(), "processor": _processor()}
    return facts | {"cores": processors(), "memory_bytes": memory, "accelerators": accelerators}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
