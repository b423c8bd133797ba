"""Entries of the activation store: a folder per view and cut, written once and memory-mapped.

values.npy               (N, *shape), float32, or float16 standardized per channel
channels.npy             (2, C) float32, mean and standard deviation of every channel; float16 only
                         both are followed by a digest, see `files.seal_npy`
about.json               description of the entry; its modification time is the time of the last use
"""

from __future__ import annotations

import errno
import math
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from catsdogs.base.errors import UserError
from catsdogs.base.files import npy_header, seal_npy, sealed_bytes, write_json
from catsdogs.base.records import CorruptedFile, Count, Record

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_SMALLEST_STD_SHARE = 1 / 16  # of the standard deviation over all channels


class StoreFull(Exception):
    """The store's limit or the disk has no room; the text contains the sizes."""


@dataclass(frozen=True)
class EntrySpec:
    """An entry to fill."""

    key: str  # 64 hexadecimal digits, a digest of everything that changes the values
    shape: tuple[int, ...]  # of one image's activation
    about: dict[str, Any]  # plain JSON that describes the entry for people


@dataclass(frozen=True)
class EntryInfo:
    """A stored entry."""

    key: str
    folder: Path
    bytes: int  # size of its array
    last_used: float  # seconds since 1970
    dtype: str
    shape: tuple[int, ...]  # of its array
    group: str  # name of its lock


@dataclass(frozen=True)
class StoredActivations:
    """An open, memory-mapped entry. It stays readable after the entry is removed (POSIX)."""

    values: np.ndarray
    channels: np.ndarray | None
    file: Path  # of the values
    changed_ns: int  # modification time of the file when it was opened

    def changed(self) -> bool:
        """Return whether the file was overwritten since it was opened; a removed file stays readable."""
        try:
            return self.file.stat().st_mtime_ns != self.changed_ns
        except OSError:
            return False

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Return a copy, float32 (B, *shape), of the activations at positions (B,) int; repetitions are allowed."""
        # Indexing with an array copies, so the caller owns the result.
        values = self.values[positions].astype(np.float32, copy=False)
        if self.channels is not None:
            values *= self.channels[1]
            values += self.channels[0]
        return values


def bytes_of(shape: Sequence[int], images: int, dtype: str) -> int:
    """Return the size in bytes of an entry's array: (images, *shape) of "float32" or "float16"."""
    return images * math.prod(shape) * np.dtype(dtype).itemsize


class EntryWriter:
    """An entry that is being written."""

    def __init__(self, store: Path, group: str, spec: EntrySpec, images: int, dtype: str) -> None:
        self.folder = folder = store / f".filling-{group}-{secrets.token_hex(4)}"
        self.key = spec.key
        self._dtype = dtype
        self._channels: np.ndarray | None = None
        folder.mkdir()
        self._file = (folder / "values.npy").open("wb")
        shape = (images, *spec.shape)
        self._file.write(npy_header(shape, dtype))
        about = {"group": group, "dtype": dtype, "images": images, "shape": list(spec.shape), "about": spec.about}
        write_json(folder / "about.json", {**about, "file_bytes": sealed_bytes(shape, dtype)})

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
        if (folder / "values.npy").stat().st_size != sealed_bytes(shape, about.dtype):
            return None
        size = bytes_of(about.shape, about.images, about.dtype)
        return EntryInfo(folder.name, folder, size, last_used, about.dtype, shape, about.group)
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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert OS errors raised while writing into `StoreFull` or `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"{folder}: out of disk ({error.strerror})") from error
        fix = f"set cache=FOLDER to a writable folder ({error.strerror})"
        raise UserError(f"{folder}: cannot be written; {fix}") from error
