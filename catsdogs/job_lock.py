"""A job folder is one process's at a time. The kernel lets go of the lock when its holder dies, however it dies."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from catsdogs.errors import UserError
from catsdogs.files import read_json, write_json
from catsdogs.provenance import now

LOCK = ".lock"
HOLDER = ".holder.json"

_PATIENCE_SECONDS = 1.0
_PROBE_SECONDS = 0.1


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the job folder, which is made if need be.

    Raises:
        UserError: another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        # Not at once: who asks with `is_held` holds it for a moment.
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise UserError(in_use(folder)) from None
    try:
        # A full disk or a lost quota must not keep a finished job from being skipped.
        with suppress(OSError):
            write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "started": now()})
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool | None:
    """Whether some process, this one too, works in the job folder at this moment; None: only its owner may ask."""
    if not (folder / LOCK).exists():
        return False
    lock = _lock(folder)
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


def in_use(folder: Path) -> str:
    """The sentence that says who holds the folder."""
    holder: dict[str, Any] = {}
    with suppress(OSError, json.JSONDecodeError, UnicodeDecodeError):
        told = read_json(folder / HOLDER)
        holder = told if isinstance(told, dict) else {}
    who = f"process {holder['pid']} on host {holder['host']}" if {"pid", "host"} <= set(holder) else "another process"
    since = f" since {holder['started']}" if "started" in holder else ""
    return f"job {folder}: {who} works on it{since}; wait for it, or end it"


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / LOCK)
