"""Variables and arguments that a command inherits from a shell, a script or a batch system."""

from __future__ import annotations

import os
import sys

# Read by catsdogs or, on its behalf, by libraries. Not CUDA_VISIBLE_DEVICES: blank, it hides all GPUs.
_VARIABLES = (
    *("CATSDOGS_CACHE", "HOME", "HYDRA_FULL_ERROR", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "TF_CPP_MIN_LOG_LEVEL"),
    *("KERAS_BACKEND", "KERAS_HOME", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH", "KERAS_NNX_ENABLED"),
)


def clean_environment() -> None:
    """Unset blank variables, and remove the carriage returns of scripts with Windows line endings.

    Jobs inherit the variables. An argument that consists of a carriage return is removed.
    """
    for name in _VARIABLES:
        if (value := os.environ.pop(name, "").strip()) != "":
            os.environ[name] = value
    if "KERAS_HOME" in os.environ:  # jobs may change their folder
        os.environ["KERAS_HOME"] = os.path.abspath(os.path.expanduser(os.environ["KERAS_HOME"]))
    sys.argv = [word.rstrip("\r") for word in sys.argv if word != "\r"]
