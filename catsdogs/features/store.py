"""Activation store: entries by key, each filled once under a lock, and evicted to stay below a size limit.

Files of a store:

    <key>/values.npy               (N, *shape), float32, or float16 standardized per channel
    <key>/channels.npy             (2, C) float32, mean and standard deviation of every channel; float16 only
                                   both are followed by a digest, see `files.seal_npy`
    <key>/about.json               dtype and shape; its modification time is the time of the last use
    .filling-<group>-<random>/     an entry that is being written, renamed to <key> when complete
    .locks/<group>.lock            locked while a group is filled; the system unlocks it when its owner exits
"""

import errno
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field

from catsdogs.base.files import free_bytes, load_sealed_npy, npy_header, remove, seal_npy, sealed_bytes, write_json
from catsdogs.base.records import CorruptedFile, Count, Record
from catsdogs.base.text import binary_size

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: the disk or the limit has no room
RESERVED_DISK_BYTES = 2**30  # free disk space that the store leaves to other programs

_FLOAT16_MAX = float(np.finfo(np.float16).max)
_SMALLEST_STD_SHARE = 1 / 16  # of the standard deviation over all channels
_KEYS = "[0-9a-f]" * 64
_LOG_WAIT_AFTER_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntryInfo:
    """A stored entry."""

    key: str
    bytes: int  # size of the file of its array
    last_used: float  # seconds since 1970
    dtype: str
    shape: tuple[int, ...]  # of its array
    group: str  # name of its lock


@dataclass(frozen=True)
class StoredActivations:
    """An open, memory-mapped entry. It stays readable after the entry is removed (POSIX)."""

    values: np.ndarray
    channels: np.ndarray | None

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return a copy, float32 (B, *shape), of the activations at positions (B,) int; repetitions are allowed."""
        # Indexing with an array copies, so the caller owns the result.
        values = self.values[positions].astype(np.float32, copy=False)
        if self.channels is not None:
            values *= self.channels[1]
            values += self.channels[0]
        return values


class EntryWriter:
    """An entry that is being written."""

    def __init__(self, store: Path, group: str, key: str, shape: tuple[int, ...], dtype: str) -> None:
        self.folder = folder = store / f".filling-{group}-{secrets.token_hex(4)}"
        self.key = key
        self._dtype = dtype
        self._channels: np.ndarray | None = None
        folder.mkdir()
        self._file = (folder / "values.npy").open("wb")
        self._file.write(npy_header(shape, dtype))
        about = {"group": group, "dtype": dtype, "images": shape[0], "shape": list(shape[1:])}
        write_json(folder / "about.json", about)

    def write(self, chunk: np.ndarray) -> None:
        """Append a chunk (b, *shape), float32."""
        if self._dtype == "float16":
            if self._channels is None:
                self._channels = _channels(chunk)
                np.save(self.folder / "channels.npy", self._channels)
            mean, std = self._channels
            chunk = chunk - mean
            chunk /= std
            chunk = np.clip(chunk, -_FLOAT16_MAX, _FLOAT16_MAX, out=chunk).astype(np.float16)
        self._file.write(np.ascontiguousarray(chunk).data)
        self._file.flush()  # a full disk must fail here, not when the file is closed

    def finish(self) -> None:
        """Close and seal the complete arrays."""
        self._file.close()
        for file in self.folder.glob("*.npy"):
            seal_npy(file, self.key)

    def discard(self) -> None:
        """Close the file and remove its temporary folder, which is gone if the entry was published."""
        with suppress(OSError):  # closing fails again on a full disk
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _About(Record):
    group: Annotated[str, Field(pattern=r"^\w+$")]  # part of a file name
    dtype: Literal["float32", "float16"]
    images: Count
    shape: Annotated[list[Count], Field(max_length=8)]


def read_entry(folder: Path) -> EntryInfo | None:
    """Return the entry in a folder, or None if it is missing, incomplete or corrupted."""
    try:
        about = _About.read(folder / "about.json")
        if about is None:
            return None
        last_used = (folder / "about.json").stat().st_mtime
        shape = (about.images, *about.shape)
        size = sealed_bytes(shape, about.dtype)
        if (folder / "values.npy").stat().st_size != size:
            return None
        return EntryInfo(folder.name, size, last_used, about.dtype, shape, about.group)
    except (OSError, CorruptedFile):
        return None


def _channels(chunk: np.ndarray) -> np.ndarray:
    """Return the mean and standard deviation of every channel (last axis) of (b, *shape), float32 (2, C).

    A nearly constant channel may vary in later chunks and would then exceed the range of float16. Its standard
    deviation is therefore at least 1/16 of the one over all channels, which costs no precision in float16.
    """
    flat = chunk.reshape(-1, chunk.shape[-1])
    mean = flat.mean(axis=0, dtype=np.float64)
    # Image by image, because the float64 differences of a chunk need twice its memory.
    squares = sum(((image.reshape(-1, len(mean)) - mean) ** 2).sum(axis=0) for image in chunk)
    variance = np.asarray(squares / len(flat))
    std = np.sqrt(np.maximum(variance, variance.mean() * _SMALLEST_STD_SHARE**2))
    std[std == 0] = 1
    return np.stack([mean, std]).astype(np.float32)


class Store:
    """A folder of entries that is shared by processes; the first `fill` creates it.

    `max_bytes` limits the arrays of all entries; several processes may exceed it until one of them evicts again. Once
    `closed` is set, `fill` no longer waits for other processes.
    """

    def __init__(self, folder: Path, max_bytes: int, closed: threading.Event | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._closed = closed or threading.Event()

    def open(self, key: str, log_corrupted: bool = False) -> StoredActivations | None:
        """Open an entry and mark it as used; return None if it is missing or corrupted."""
        folder = self.folder / key
        try:
            (folder / "values.npy").stat()
            entry = read_entry(folder)
            if entry is None:
                raise ValueError("about.json or the size of values.npy is wrong")
            values = load_sealed_npy(folder / "values.npy", key, entry.shape, entry.dtype)
            shape = (2, entry.shape[-1])
            half = entry.dtype == "float16"
            channels = load_sealed_npy(folder / "channels.npy", key, shape, "float32") if half else None
        except FileNotFoundError:  # or just removed
            return None
        except (OSError, ValueError) as error:
            if log_corrupted:
                _log.warning("%s: corrupted, or of an earlier version (%s); computing them again", folder, error)
            return None
        with suppress(OSError):  # the cache may be read-only
            os.utime(folder / "about.json")
        return StoredActivations(np.asarray(values), channels)

    def fill(
        self,
        group: str,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        produce: Callable[[list[str]], Iterator[Sequence[np.ndarray]]],
        keep: Collection[str] = (),
    ) -> None:
        """Fill all missing entries in one pass: either all of them are stored or none.

        Only one process fills a group at a time. The others wait and then find the entries. OSError is raised if the
        limit or the disk has no room (`FULL`), or the folder cannot be written. Names of groups and keys have 64
        hexadecimal digits; a key is a digest of everything that changes the values.

        `shapes` are (N, *shape), by key. `produce` yields, for the missing keys, chunks of images: a non-empty float32
        (b, *shape) for each key. float16 is standardized per channel (last axis) and rounds each value by at most
        2**-11 of its distance from the channel's mean; infinities become finite. Entries of `keep` are not evicted.
        """
        if not self._missing(shapes):  # a read-only folder is sufficient if it is complete
            return
        with ExitStack() as stack:
            stack.enter_context(self._locked(group, "waiting for another process to store the same activations"))
            missing = self._missing(shapes, log_corrupted=True)
            if not missing:
                return
            writers: list[EntryWriter] = []
            with self._locked("room", "waiting for another process to evict activations"):
                self._sweep(group)
                for key in missing:
                    self._remove(self.folder / key, None)  # corrupted
                needed = sum(sealed_bytes(shapes[key], dtype) for key in missing)
                self._make_room(needed, {*keep, *shapes}, group)
                for key in missing:
                    writers.append(EntryWriter(self.folder, group, key, shapes[key], dtype))
                    stack.callback(writers[-1].discard)
            for chunk in produce(missing):
                for writer, values in zip(writers, chunk, strict=True):
                    writer.write(values)
            for writer in writers:
                writer.finish()
                try:
                    writer.folder.rename(self.folder / writer.key)
                except OSError:
                    if self.open(writer.key) is None:  # otherwise an equal entry was filled under another group
                        raise

    def room(self, keep: Collection[str]) -> int:
        """Return the bytes available if all entries were evicted except those with keys in `keep`."""
        entries = self.entries()
        kept = sum(entry.bytes for entry in entries if entry.key in keep)
        evictable = sum(entry.bytes for entry in entries) - kept
        return max(0, min(self.max_bytes - kept, free_bytes(self.folder) - RESERVED_DISK_BYTES + evictable))

    def entries(self) -> list[EntryInfo]:
        """Return all complete entries, most recently used first."""
        entries = [read_entry(path) for path in self.folder.glob(_KEYS)]
        return sorted((entry for entry in entries if entry is not None), key=lambda entry: -entry.last_used)

    def clear(self, unused_days: float = 0.0, dry_run: bool = False) -> int:
        """Remove entries that were not used for some days, and unfinished ones of killed processes; return bytes freed.

        Entries that are being filled or cannot be removed are skipped. A dry run returns the bytes it would free.
        """
        cutoff = time.time() - unused_days * 86400
        freed = self._sweep(None, dry_run)
        for path in self.folder.glob(_KEYS):
            entry = read_entry(path)
            with suppress(OSError):
                if (path.stat().st_mtime if entry is None else entry.last_used) <= cutoff:
                    freed += self._remove(path, None if entry is None else entry.group, dry_run)
        return freed

    def _missing(self, keys: Iterable[str], log_corrupted: bool = False) -> list[str]:
        return [key for key in keys if self.open(key, log_corrupted) is None]

    def _lock(self, group: str) -> FileLock:
        (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".locks" / f"{group}.lock")

    @contextmanager
    def _locked(self, group: str, message: str) -> Iterator[None]:
        lock, logged = self._lock(group), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_LOG_WAIT_AFTER_SECONDS)
            except Timeout:
                if not logged:
                    _log.info("%s", message)
                logged = True
                if self._closed.is_set():
                    raise InterruptedError(errno.EINTR, "Interrupted: the job has stopped") from None
        try:
            yield
        finally:
            lock.release()

    def _make_room(self, needed: int, keys: set[str], group: str) -> None:
        """Evict the least recently used entries until `needed` bytes fit; evict none if that is impossible."""
        entries = self.entries()
        stored = sum(entry.bytes for entry in entries)
        evictable = [entry for entry in entries if entry.key not in keys]
        while needed > (room := min(self.max_bytes - stored, free_bytes(self.folder) - RESERVED_DISK_BYTES)):
            most = room + sum(entry.bytes for entry in evictable)
            if needed > most:
                available = f"the limit of {binary_size(self.max_bytes)} and the disk leave {binary_size(max(most, 0))}"
                raise OSError(errno.ENOSPC, f"{binary_size(needed)} of activations do not fit; {available}")
            entry = evictable.pop()
            if self._remove(self.folder / entry.key, None if entry.group == group else entry.group):
                stored -= entry.bytes
                _log.info("evicted %s of stored activations", binary_size(entry.bytes))

    def _sweep(self, group: str | None, dry_run: bool = False) -> int:
        """Remove unfinished entries of killed processes and return the bytes freed. The caller has locked `group`."""
        freed = 0
        for path in self.folder.glob(".filling-*"):
            owner = path.name.split("-")[1]
            freed += self._remove(path, None if owner == group else owner, dry_run)
        return freed

    def _remove(self, path: Path, group: str | None, dry_run: bool = False) -> int:
        """Delete an entry and return the bytes freed; 0 if its group is being filled. `group=None` skips the lock."""
        try:
            with ExitStack() as stack:
                if group is not None:
                    stack.enter_context(self._lock(group).acquire(blocking=False))
                size = sum(file.lstat().st_size for file in path.rglob("*"))
                if not dry_run:
                    # Remove the values first: without them the entry is invalid, even if this process is killed here.
                    remove(path / "values.npy")
                    remove(path)
                return size
        except (OSError, Timeout):  # removed by another process, being filled, or permission denied
            return 0
