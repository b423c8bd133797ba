"""How much of the machine a process may use where several work on it: threads, and which GPU. No Keras."""

from __future__ import annotations

import os
import subprocess

# Set by joblib and Ray for their workers, by Slurm for its tasks, and by many users; by us for the isolated launcher.
_SET_BY_OTHERS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")

# Read by the libraries that compute, when they are imported. OpenVINO has none and is told in `engine`.
_READ_BY_LIBRARIES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)

# TensorFlow and JAX would each take all memory of a GPU that several processes share.
_SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """How many threads this process may compute with; None: nobody has said, and all processors are its own."""
    for name in _SET_BY_OTHERS:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return None


def threads() -> int:
    """How many threads this process should compute with."""
    return thread_limit() or processors()


def share_of_machine(processes: int, slot: int, limit: int | None) -> dict[str, str]:
    """What the environment of one of several processes must say before it imports what computes.

    Args:
        processes: that work at the same time on this machine, as far as is known.
        slot: a number that differs among them.
        limit: how many threads this one may compute with; None: all.
    """
    share = {} if limit is None else dict.fromkeys(_READ_BY_LIBRARIES, str(max(1, limit)))
    if processes > 1:
        found = gpus()
        share |= _SHARED_GPU | ({"CUDA_VISIBLE_DEVICES": found[slot % len(found)]} if found else {})
    return share


def gpus() -> list[str]:
    """Numbers or names of the NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in told.splitlines()))]
