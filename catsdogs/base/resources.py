"""Detect errors that do not depend on hyperparameters: out of disk, out of memory, programming errors."""

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from catsdogs.base.errors import UserError
from catsdogs.base.files import free_bytes
from catsdogs.base.interrupts import check
from catsdogs.base.text import binary_size

# Minimum that a job writes: tables and logs in the study, unpacked images and pixels in the cache.
LEAST_FREE_BYTES = 200 * 2**20

_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|std::bad_alloc|failed to allocate memory")
# Text of Python errors raised in threads of TensorFlow.
_DISK = re.compile(r"No space left on device|Disk quota exceeded")
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG)  # without the name of a file, if it is open
_IN_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)  # something else in place of a file or folder
_LIBRARIES = ("tensorflow", "jax", "jaxlib", "openvino")

# Programming errors: every other trial would fail in the same way.
_BUGS = (TypeError, AttributeError, NameError, ImportError, LookupError, AssertionError, NotImplementedError)
# Text of a programming error raised in a thread of TensorFlow.
_BUG_NAMES = "|".join(bug.__name__ for bug in (*_BUGS, ModuleNotFoundError, KeyError, IndexError))
_BUG_TEXT = re.compile(rf"\b({_BUG_NAMES}): .*\s+Traceback \(most recent call last\)")


class OutOfResources(Exception):
    """Disk or memory ran out. Every other trial would fail too, so the job stops; it can be resumed."""


def as_out_of_resources(error: BaseException) -> OutOfResources | None:
    """Return the out-of-disk or out-of-memory error behind an exception, or None."""
    for one in _chain(error):
        if isinstance(one, OutOfResources):
            return one
        library = (type(one).__module__ or "").partition(".")[0]
        text = str(one) if library in _LIBRARIES or type(one) is RuntimeError else ""
        number, file, reason = (one.errno, one.filename, one.strerror) if isinstance(one, OSError) else (None,) * 3
        again = "finished work is saved; {}, then run the same command again"
        if number in (errno.ENOSPC, errno.EDQUOT) or _DISK.search(text):
            where = f" while writing {file}" if file else ""
            return OutOfResources(f"out of disk{where}: {again.format('free disk space')}")
        if number in _REFUSED or (file and one is error):
            fix = "remove it" if number in _IN_PLACE else "check its permissions"
            return OutOfResources(f"{file or 'disk'}: {reason}; {again.format(fix)}")
        if "can't start new thread" in text:
            return OutOfResources(f"the system starts no more threads; {again.format('raise `ulimit -u`')}")
        if isinstance(one, MemoryError) or type(one).__name__ == "ResourceExhaustedError" or _MEMORY.search(text):
            fix = "close other programs, or start a new study with a smaller fit.batch_size, backbone or space"
            return OutOfResources(f"out of memory: finished work is saved; {fix}")
    return None


def raise_if_fatal(error: Exception) -> None:
    """Raise `OutOfResources`, or a programming error itself: unlike other errors, they would affect every trial.

    Raise an interrupt that a library replaced by this error.
    """
    check()
    if ran_out := as_out_of_resources(error):
        raise ran_out from error
    if isinstance(error, _BUGS) or _BUG_TEXT.search(str(error)):
        raise error


def check_free_space(study: Path, cache: Path) -> None:
    """Raise a `UserError` if the disk of the study or of the cache is almost full."""
    for what, folder, setting in (("study", study, "studies_dir"), ("cache", cache, "cache")):
        if (free := free_bytes(folder)) < LEAST_FREE_BYTES:
            needed = f"{binary_size(free)} free, but a job needs at least {binary_size(LEAST_FREE_BYTES)}"
            fix = f"free disk space, or set {setting}=FOLDER on another disk"
            raise UserError(f"{what} folder {folder}: {needed}; {fix}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
