"""User errors, and the exit status of a command."""

import os
import sys
from collections.abc import Callable

from catsdogs.base.interrupts import exit_status, stoppable
from catsdogs.base.output import continue_without_output, lost_output
from catsdogs.base.text import one_line

# Not CUDA_VISIBLE_DEVICES: blank, it hides all GPUs.
_VARIABLES = ("CATSDOGS_CACHE", "HOME", "KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")


class UserError(Exception):
    """Error caused by user input: configuration, files or command line.

    The text is one line, `KEY=VALUE: problem; fix`. Commands print it and exit with status 2.
    """


def first_line(message: object) -> str:
    """Return the first line of a message, or the type of an exception without text."""
    return str(message).strip().split("\n", 1)[0].strip() or type(message).__name__


def print_error(message: str) -> int:
    """Print a user error to stderr in one line, and return its exit status, 2."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def clean_environment() -> None:
    """Unset blank variables, and remove the carriage returns of scripts with Windows line endings."""
    for name in _VARIABLES:
        if (value := os.environ.pop(name, "").strip()) != "":
            os.environ[name] = value
    sys.argv = [word.rstrip("\r") for word in sys.argv if word != "\r"]


def exit_status_of(command: Callable[[], int], in_job: bool = False) -> int:
    """Run a command and return its exit status: 2 for a `UserError`, or for a system that refuses memory or files.

    The status is 130 after Ctrl-C and 143 after SIGTERM. If the output could not be written, a status of 0 becomes that
    of `lost_output`.
    """
    clean_environment()
    continue_without_output()
    try:
        if "--version" in sys.argv[1:] and not in_job:  # Hydra would print its own
            from catsdogs import __version__

            print(f"catsdogs {__version__}", flush=True)
            return lost_output()
        with stoppable(in_job):
            status = command()
    except KeyboardInterrupt as stop:
        if not in_job:
            print("\nInterrupted", file=sys.stderr)
        status = exit_status(stop)
    except UserError as error:
        status = print_error(str(error))
    except SystemExit as stop:  # of argparse, or of a hook of Hydra
        status = int(stop.code or 0)
    except Exception as error:
        # Imported here because pandas takes a second, which `--help` need not wait for.
        from catsdogs.base.resources import as_out_of_resources

        if (ran_out := as_out_of_resources(error)) is None:
            raise
        status = print_error(str(ran_out))
    print(end="", flush=True)
    return status or lost_output()
