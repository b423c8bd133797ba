"""Activation store: entries by key, each filled once under a lock, and evicted to stay below a size limit.

Files of a store:

    <key>/                         an entry, see `entries`
    .filling-<group>-<random>/     an entry that is being written, renamed to <key> when complete
    .locks/<group>.lock            locked while a group is filled; the system unlocks it when its owner exits
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from catsdogs.base.files import free_bytes, load_sealed_npy, remove
from catsdogs.base.text import binary_size
from catsdogs.features.entries import (
    EntryInfo,
    EntrySpec,
    EntryWriter,
    StoredActivations,
    StoreFull,
    bytes_of,
    read_entry,
    writing,
)

RESERVED_DISK_BYTES = 2**30  # free disk space that the store leaves to other programs

_KEYS = "[0-9a-f]" * 64
_LOG_WAIT_AFTER_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Store:
    """A folder of entries that is shared by processes; the first `fill` creates it.

    Args:
        max_bytes: limit on the arrays of all entries; several processes may exceed it until one of them evicts again.
        closed: once set, `fill` no longer waits for other processes.
    """

    def __init__(self, folder: Path, max_bytes: int, closed: threading.Event | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._closed = closed or threading.Event()

    def open(self, key: str, log_corrupted: bool = False) -> StoredActivations | None:
        """Open an entry and mark it as used; return None if it is missing or corrupted."""
        folder, file = self.folder / key, self.folder / key / "values.npy"
        try:
            changed_ns = file.stat().st_mtime_ns
            entry = read_entry(folder)
            if entry is None:
                raise ValueError("about.json or the file size is wrong")
            values = load_sealed_npy(file, key, entry.shape, entry.dtype)
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
        return StoredActivations(np.asarray(values), channels, file, changed_ns)

    def fill(
        self,
        group: str,
        specs: Sequence[EntrySpec],
        images: int,
        dtype: str,
        produce: Callable[[list[int]], Iterator[Sequence[np.ndarray]]],
        keep: Collection[str] = (),
    ) -> None:
        """Fill all missing entries in one pass: either all of them are stored or none.

        Only one process fills a group at a time. The others wait and then find the entries. `StoreFull` is raised if
        the limit or the disk has no room, a `UserError` if the folder cannot be written.

        Args:
            group: name of the lock, 64 hexadecimal digits; entries of the same pass share it.
            specs: the entries.
            images: N, the rows of every entry.
            dtype: "float32" or "float16". float16 is standardized per channel (last axis) and rounds each value by at
                most 2**-11 of its distance from the channel's mean; infinities become finite.
            produce: called with the indices of the missing entries in `specs`; yields chunks of consecutive images. A
                chunk has one non-empty float32 (b, *shape) per index; b may vary between chunks.
            keep: keys that must not be evicted; those of `specs` never are.
        """
        if not self._missing(specs):  # a read-only folder is sufficient if it is complete
            return
        with ExitStack() as stack:
            with writing(self.folder):
                stack.enter_context(self._locked(group, "waiting for another process to store the same activations"))
            missing = self._missing(specs, log_corrupted=True)
            if not missing:
                return
            keys = {*keep, *(spec.key for spec in specs)}
            writers: list[EntryWriter] = []
            with writing(self.folder), self._locked("room", "waiting for another process to evict activations"):
                self._sweep(group)
                for index in missing:
                    self._remove(self.folder / specs[index].key, None)  # corrupted
                self._make_room(sum(bytes_of(specs[index].shape, images, dtype) for index in missing), keys, group)
                for index in missing:
                    writers.append(EntryWriter(self.folder, group, specs[index], images, dtype))
                    stack.callback(writers[-1].discard)
            for chunk in produce(missing):
                with writing(self.folder):
                    for writer, values in zip(writers, chunk, strict=True):
                        writer.write(values)
            with writing(self.folder):
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
        return max(0, min(self.max_bytes - kept, self._free_disk() + evictable))

    def entries(self) -> list[EntryInfo]:
        """Return all complete entries, most recently used first."""
        entries = [read_entry(path) for path in self.folder.glob(_KEYS)]
        return sorted((entry for entry in entries if entry is not None), key=lambda entry: -entry.last_used)

    def discard(self, damaged: StoredActivations) -> None:
        """Remove an open entry, unless another process has replaced it already."""
        if not damaged.changed():
            self._remove(damaged.file.parent, None)

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

    def _missing(self, specs: Sequence[EntrySpec], log_corrupted: bool = False) -> list[int]:
        return [index for index, spec in enumerate(specs) if self.open(spec.key, log_corrupted) is None]

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
        while needed > (room := min(self.max_bytes - stored, self._free_disk())):
            most = room + sum(entry.bytes for entry in evictable)
            if needed > most:
                raise StoreFull(
                    f"{self.folder}: {binary_size(needed)} of activations do not fit; the limit of "
                    f"{binary_size(self.max_bytes)} and the disk leave {binary_size(max(most, 0))}"
                )
            entry = evictable.pop()
            if self._remove(entry.folder, None if entry.group == group else entry.group):
                stored -= entry.bytes
                _log.info("evicted %s of stored activations", binary_size(entry.bytes))

    def _free_disk(self) -> int:
        """Return the free bytes on the disk beyond the reserve; negative if other programs use the reserve."""
        return free_bytes(self.folder) - RESERVED_DISK_BYTES

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
