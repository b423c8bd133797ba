"""What is not the fault of hyperparameters: disk or memory that runs out, and mistakes of ours."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from catsdogs.base.errors import UserError
from catsdogs.base.files import binary_size, free_bytes

# What a job writes at the least: tables and logs in the study, unpacked images and pixels in the cache.
LEAST_FREE_BYTES = 200 * 2**20

_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|std::bad_alloc|failed to allocate memory")
# As the threads of TensorFlow tell what happened in Python.
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_LIBRARIES = ("tensorflow", "jax", "jaxlib", "openvino")

# Mistakes of a program: every further trial would only make the same one.
_MISTAKES = (TypeError, AttributeError, NameError, ImportError, LookupError, AssertionError, NotImplementedError)
# As TensorFlow tells one that happened in Python in one of its threads.
_MISTAKES_TOLD = re.compile(
    r"\b(TypeError|AttributeError|NameError|ImportError|ModuleNotFoundError|KeyError|IndexError|AssertionError"
    r"|NotImplementedError): .*\s+Traceback \(most recent call last\)"
)


class OutOfResources(Exception):
    """Disk or memory ran out. No other trial would do better, so the job stops, and can be continued."""


def as_out_of_resources(error: BaseException) -> OutOfResources | None:
    """What an exception says of disk or memory, in one sentence; None if it is about something else."""
    for one in _chain(error):
        if isinstance(one, OutOfResources):
            return one
        library = (type(one).__module__ or "").partition(".")[0]
        told = str(one) if library in _LIBRARIES or type(one) is RuntimeError else ""
        if (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT)) or _DISK.search(told):
            where = f" while writing {one.filename}" if isinstance(one, OSError) and one.filename else ""
            return OutOfResources(
                f"out of disk{where}: what is finished is kept; free some space, and the same command goes on"
            )
        if isinstance(one, MemoryError) or type(one).__name__ == "ResourceExhaustedError" or _MEMORY.search(told):
            return OutOfResources(
                "out of memory: what is finished is kept; end other programs, or choose a smaller fit.batch_size, "
                "backbone or space in another study, and give the command again"
            )
    return None


def raise_if_fatal(error: Exception) -> None:
    """Return where an error is one of these hyperparameters, and another trial may do better.

    Raises:
        Exhausted: disk or memory ran out.
        Exception: the error itself, where a program makes it and no hyperparameters do.
    """
    ran_out = as_out_of_resources(error)
    if ran_out is not None:
        raise ran_out from error
    if isinstance(error, _MISTAKES) or _MISTAKES_TOLD.search(str(error)):
        raise error


def check_free_space(study: Path, cache: Path) -> None:
    """Refuse, by a UserError, to start where the disk is as good as full."""
    for what, folder, remedy in (
        ("study", study, "choose another with studies=FOLDER"),
        ("cache", cache, "set CATSDOGS_CACHE to another, or see `python -m catsdogs.cache`"),
    ):
        free = free_bytes(folder)
        if free < LEAST_FREE_BYTES:
            raise UserError(
                f"{what} folder {folder}: {binary_size(free)} are free on its disk, and a job needs "
                f"{binary_size(LEAST_FREE_BYTES)} to start; free some, or {remedy}"
            )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
