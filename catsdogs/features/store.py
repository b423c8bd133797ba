"""Keys -> stored activations: filled once, locked, bounded, evicted.

What is in the folder of a store:

    <key>/                         an entry, as `activations` writes it
    .filling-<group>-<random>/     an entry that is being written, renamed to <key> when it is whole
    .locks/<group>.lock            held while a group is filled; the system lets go of it when its holder dies
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from catsdogs.base.files import binary_size, free_bytes
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

RESERVED_DISK_BYTES = 2**30  # what the store leaves free on the disk for everybody else

_KEYS = "[0-9a-f]" * 64
_TELL_AFTER_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Store:
    """A folder of entries that processes share.

    Args:
        folder: made when it is first filled.
        max_bytes: what the arrays of all entries may take up together. What processes are filling at the same time does
            not know of each other, so it may be exceeded until the next of them makes room.
        closed: once set, nobody waits for another process any more.
    """

    def __init__(self, folder: Path, max_bytes: int, closed: threading.Event | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._closed = closed or threading.Event()

    def open(self, key: str) -> StoredActivations | None:
        """Open an entry and mark it as used; None if there is none that is whole."""
        entry = read_entry(self.folder / key)
        if entry is None:
            return None
        try:
            values = np.load(entry.folder / "values.npy", mmap_mode="r")
            channels = np.load(entry.folder / "channels.npy") if entry.dtype == "float16" else None
        except (OSError, ValueError, EOFError):  # removed a moment ago, or damaged
            return None
        with suppress(OSError):  # a cache that others own and that may only be read is fine
            os.utime(entry.folder / "about.json")
        return StoredActivations(np.asarray(values), channels)

    def fill(
        self,
        group: str,
        wanted: Sequence[EntrySpec],
        images: int,
        dtype: str,
        produce: Callable[[list[int]], Iterator[Sequence[np.ndarray]]],
        keep: Collection[str] = (),
    ) -> None:
        """Fill the entries that are absent, all in one pass. Either all of them appear or none.

        Who fills a group keeps others from filling it; they wait, and then find there what they wanted.

        Args:
            group: name of the lock, 64 hexadecimal digits; entries made from the same pass share it.
            wanted: the entries.
            images: N, rows of every entry.
            dtype: "float32": as it is. "float16": standardised by channel (last axis), with half a unit in the last
                place, 2**-11 of its distance from the channel's mean, lost; infinities become finite.
            produce: from the positions in `wanted` that are absent to chunks of consecutive images. A chunk has one
                float32 (b, *shape), not empty, for every such position; b may differ from chunk to chunk.
            keep: keys that must not make room; those of `wanted` never do.

        Raises:
            StoreFull: the bound or the disk leaves no room. Nothing is stored.
            UserError: the folder cannot be written. Nothing is stored.
        """
        if not self._missing(wanted):  # so a folder that may only be read serves as long as it has everything
            return
        with ExitStack() as stack:
            with writing(self.folder):
                stack.enter_context(self._locked(group, "waiting for another process to store the same activations"))
            missing = self._missing(wanted)
            if not missing:
                return
            keys = {*keep, *(one.key for one in wanted)}
            fillings: list[EntryWriter] = []
            with writing(self.folder), self._locked("room", "waiting for another process to make room in the store"):
                self._sweep(group)
                self._make_room(sum(bytes_of(wanted[place].shape, images, dtype) for place in missing), keys, group)
                for place in missing:
                    fillings.append(EntryWriter(self.folder, group, wanted[place], images, dtype))
                    stack.callback(fillings[-1].discard)
            for chunk in produce(missing):
                with writing(self.folder):
                    for filling, values in zip(fillings, chunk, strict=True):
                        filling.write(values)
            with writing(self.folder):
                for filling in fillings:
                    self._publish(filling)

    def room(self, keep: Collection[str]) -> int:
        """Bytes that could be stored at most, if everything but the keys of `keep` were evicted."""
        entries = self.entries()
        kept = sum(entry.bytes for entry in entries if entry.key in keep)
        evictable = sum(entry.bytes for entry in entries) - kept
        return max(0, min(self.max_bytes - kept, self._free_disk() + evictable))

    def entries(self) -> list[EntryInfo]:
        """All whole entries, most recently used first."""
        found = [read_entry(path) for path in self.folder.glob(_KEYS)]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.last_used)

    def clear(self, unused_days: float = 0.0, dry_run: bool = False) -> int:
        """Remove what has not been used for some days, and what killed processes left behind.

        Groups that are being filled right now are left alone, and so is what cannot be removed.

        Returns:
            Bytes on disk that were freed, or would be if this were no dry run.
        """
        before = time.time() - unused_days * 86400
        freed = self._sweep(None, dry_run)
        for path in self.folder.glob(_KEYS):
            entry = read_entry(path)
            with suppress(OSError):
                if (path.stat().st_mtime if entry is None else entry.last_used) <= before:
                    freed += self._remove(path, None if entry is None else entry.group, dry_run)
        return freed

    def _missing(self, wanted: Sequence[EntrySpec]) -> list[int]:
        return [place for place, one in enumerate(wanted) if self.open(one.key) is None]

    def _lock(self, group: str) -> FileLock:
        (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".locks" / f"{group}.lock")

    @contextmanager
    def _locked(self, group: str, waiting: str) -> Iterator[None]:
        lock, told = self._lock(group), False
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_TELL_AFTER_SECONDS)
            except Timeout:
                if not told:
                    _log.info("%s", waiting)
                told = True
                if self._closed.is_set():
                    raise InterruptedError(errno.EINTR, "Interrupted: the job has ended") from None
        try:
            yield
        finally:
            lock.release()

    def _make_room(self, needed: int, keys: set[str], group: str) -> None:
        """Evict the least recently used until `needed` bytes fit; evict nothing if they will not."""
        entries = self.entries()
        held = sum(entry.bytes for entry in entries)
        evictable = [entry for entry in entries if entry.key not in keys]
        while needed > (fits := min(self.max_bytes - held, self._free_disk())):
            most = fits + sum(entry.bytes for entry in evictable)
            if needed > most:
                raise StoreFull(
                    f"{self.folder}: activations of {binary_size(needed)} do not fit: its bound of "
                    f"{binary_size(self.max_bytes)} and its disk leave {binary_size(max(most, 0))} for them"
                )
            entry = evictable.pop()
            if self._remove(entry.folder, None if entry.group == group else entry.group):
                held -= entry.bytes
                _log.info("removed stored activations of %s to make room", binary_size(entry.bytes))

    def _free_disk(self) -> int:
        """Bytes free on the disk beyond the reserve; negative if others have filled it."""
        return free_bytes(self.folder) - RESERVED_DISK_BYTES

    def _sweep(self, group: str | None, dry_run: bool = False) -> int:
        """Remove what killed processes left behind, `group` being locked by the caller; bytes freed."""
        freed = 0
        for path in self.folder.glob(".filling-*"):
            owner = path.name.split("-")[1]
            freed += self._remove(path, None if owner == group else owner, dry_run)
        return freed

    def _remove(self, path: Path, group: str | None, dry_run: bool = False) -> int:
        """Remove a folder unless its group is being filled; bytes freed. None: there is no lock to be asked for."""
        try:
            with ExitStack() as stack:
                if group is not None:
                    stack.enter_context(self._lock(group).acquire(blocking=False))
                size = sum(file.stat().st_size for file in path.iterdir())
                if not dry_run:
                    # The values first, at one stroke: without them it is no entry, whoever looks or is killed.
                    with suppress(FileNotFoundError):
                        (path / "values.npy").unlink()
                    shutil.rmtree(path)
                return size
        except (OSError, Timeout):  # removed by another process, being filled, or not ours to remove
            return 0

    def _publish(self, filling: EntryWriter) -> None:
        folder = self.folder / filling.key
        if self.open(filling.key) is None:
            self._remove(folder, None)  # there is nothing, or something damaged
        try:
            filling.folder.rename(folder)
        except OSError:
            if self.open(filling.key) is None:  # else it was filled under another group, and is the same
                raise
