"""Exclusive lock on a job folder. The kernel releases it when the owning process exits, even after SIGKILL."""

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
    """Hold the lock of a job folder, which is created if missing; raise a `UserError` that names another holder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        # `is_locked` of another process holds the lock for a moment.
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except OSError as error:
        raise UserError(lock_message(folder, isinstance(error, Timeout) or None)) from None
    try:
        # A full disk must not keep a finished job from being skipped.
        with suppress(OSError):
            write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "started": utc_timestamp()})
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool | None:
    """Return whether any process, including this one, holds the lock; None without permission to check."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        # Another check of the lock holds it for a moment.
        lock.acquire(timeout=_PROBE_SECONDS)
    except Timeout:
        return True
    except OSError:  # the study of another user may be read-only
        return None
    lock.release()
    return False


def lock_message(folder: Path, locked: bool | None = True) -> str:
    """Return the error message for what `is_locked` returns of a job folder; callers may append `, then ...`."""
    kind = "retrain" if folder.parent.name == ".retrain" else "job"
    if locked is None:
        return f"{kind} {folder}: its {LOCK} cannot be opened; check its permissions, or remove it if it is no file"
    holder = "another process"
    with suppress(OSError, UserError):
        if record := _Holder.read(folder / HOLDER):
            holder = f"process {record.pid} on host {record.host[:80]} since {record.started[:40]}"
    return f"{kind} {folder}: locked by {holder}; wait for it to finish, or stop it"
