"""A job folder is one process's at a time. The kernel lets go of the lock when its holder dies, however it dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.provenance import utc_timestamp
from catsdogs.base.records import Record

LOCK = ".lock"
HOLDER = ".holder.json"

_PATIENCE_SECONDS = 1.0
_PROBE_SECONDS = 0.1


class _Holder(Record):
    pid: int
    host: str
    started: str


@contextmanager
def lock_job(folder: Path) -> Iterator[None]:
    """Hold the job folder, which is made if need be.

    Raises:
        UserError: another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        # Not at once: who asks with `is_held` holds it for a moment.
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise UserError(lock_message(folder)) from None
    try:
        # A full disk or a lost quota must not keep a finished job from being skipped.
        with suppress(OSError):
            write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "started": utc_timestamp()})
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool | None:
    """Whether some process, this one too, works in the job folder at this moment; None: only its owner may ask."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        # Not at once: another one who asks holds it for a moment.
        lock.acquire(timeout=_PROBE_SECONDS)
    except Timeout:
        return True
    except OSError:
        # A study of somebody else's, which may only be read.
        return None
    lock.release()
    return False


def lock_message(folder: Path) -> str:
    """The sentence that says who holds the folder."""
    who = "another process works on it"
    with suppress(OSError, UserError):
        if holder := _Holder.read(folder / HOLDER):
            who = f"process {holder.pid} on host {holder.host} works on it since {holder.started}"
    return f"job {folder}: {who}; wait for it, or end it"
