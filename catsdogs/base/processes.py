"""Share of the machine of one process among several: threads and GPU. Does not import Keras."""

import os
import subprocess

# Set by joblib and Ray for workers, by Slurm for tasks, by many users, and by the isolated launcher for jobs.
_SET_BY_OTHERS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")

# Read by numerical libraries when they are imported. OpenVINO reads none; `engine` passes it the number.
_READ_BY_LIBRARIES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
)

# By default TensorFlow and JAX reserve all memory of a GPU, even if several processes share it.
_SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def processors() -> int:
    """Return the number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """Return the thread limit set in the environment, or None."""
    for name in _SET_BY_OTHERS:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return None


def threads() -> int:
    """Return the number of threads for computation: the limit if one is set, else one per processor."""
    return thread_limit() or processors()


def share_of_machine(processes: int, slot: int, limit: int | None) -> dict[str, str]:
    """Return the environment variables that give one of several simultaneous processes its share of the machine.

    They must be set before numerical libraries are imported. `slot`: index of the process; `limit`: of its threads.
    """
    share = {} if limit is None else dict.fromkeys(_READ_BY_LIBRARIES, str(max(1, limit)))
    if processes > 1:
        visible = gpus()
        share |= _SHARED_GPU | ({"CUDA_VISIBLE_DEVICES": visible[slot % len(visible)]} if visible else {})
    return share


def gpus() -> list[str]:
    """Return the ids of the NVIDIA GPUs that this process may use, in the form of `CUDA_VISIBLE_DEVICES`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        lines = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in lines.splitlines()))]
