"""Variables and arguments that a command inherits from a shell, a script or a batch system."""

from __future__ import annotations

import os
import sys

# Not CUDA_VISIBLE_DEVICES: blank, it hides all GPUs.
_VARIABLES = ("CATSDOGS_CACHE", "HOME", "KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")


def clean_environment() -> None:
    """Unset blank variables, and remove the carriage returns of scripts with Windows line endings."""
    for name in _VARIABLES:
        if (value := os.environ.pop(name, "").strip()) != "":
            os.environ[name] = value
    sys.argv = [word.rstrip("\r") for word in sys.argv if word != "\r"]
