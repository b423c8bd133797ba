"""Activations of one view at one cut on disk: a folder that is written once, and read as a memory map.

values.npy               (N, *shape), float32, or float16 standardised by channel
channels.npy             (2, C) float32, mean and standard deviation of every channel; beside float16 only
about.json               what the entry is; its modification time is when the entry was last used
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
from typing import Any

import numpy as np

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json, write_npy_header

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_SMALLEST_STD_SHARE = 1 / 16  # of the standard deviation over all channels


class StoreFull(Exception):
    """The store cannot hold what it was asked to hold. Its text is one sentence with the sizes."""


@dataclass(frozen=True)
class EntrySpec:
    """An entry to be filled."""

    key: str  # 64 hexadecimal digits that cover everything that changes the values
    shape: tuple[int, ...]  # of one image's activation
    about: dict[str, Any]  # plain JSON that tells people what it is


@dataclass(frozen=True)
class EntryInfo:
    """A stored entry. `bytes` is the size of its array, `last_used` in seconds since 1970, `group` the lock's name."""

    key: str
    folder: Path
    bytes: int
    last_used: float
    dtype: str
    group: str


@dataclass(frozen=True)
class StoredActivations:
    """An open entry, memory-mapped. It can be read to the end even if the entry is removed meanwhile (POSIX)."""

    values: np.ndarray
    channels: np.ndarray | None

    def read(self, positions: np.ndarray) -> np.ndarray:
        """A copy, float32 (B, *shape), of the activations at positions (B,) int, in any order, repeated or not."""
        # Picking by an index array copies, so the caller owns what it gets.
        values = self.values[positions].astype(np.float32, copy=False)
        if self.channels is not None:
            mean, std = self.channels
            values *= std
            values += mean
        return values


def bytes_of(shape: Sequence[int], images: int, dtype: str) -> int:
    """Bytes of an entry's array: (images, *shape) of "float32" or "float16"."""
    return images * math.prod(shape) * np.dtype(dtype).itemsize


class EntryWriter:
    """An entry while it is written."""

    def __init__(self, store: Path, group: str, wanted: EntrySpec, images: int, dtype: str) -> None:
        self.folder = folder = store / f".filling-{group}-{secrets.token_hex(4)}"
        self.key = wanted.key
        self._dtype = dtype
        self._channels: np.ndarray | None = None
        folder.mkdir()
        self._file = (folder / "values.npy").open("wb")
        write_npy_header(self._file, (images, *wanted.shape), dtype)
        told = {"group": group, "dtype": dtype, "images": images, "shape": list(wanted.shape), "about": wanted.about}
        size = self._file.tell() + bytes_of(wanted.shape, images, dtype)
        write_json(folder / "about.json", {**told, "file_bytes": size})

    def write(self, chunk: np.ndarray) -> None:
        """Append (b, *shape) float32."""
        if self._dtype == "float16":
            if self._channels is None:
                self._channels = _channels(chunk)
                np.save(self.folder / "channels.npy", self._channels)
            mean, std = self._channels
            chunk = chunk - mean
            chunk /= std
            chunk = np.clip(chunk, -_FLOAT16_MAX, _FLOAT16_MAX, out=chunk).astype(np.float16)
        self._file.write(np.ascontiguousarray(chunk).data)
        self._file.flush()  # so that nothing is left to fail at the end

    def discard(self) -> None:
        """Close the file, and remove the folder if it is still there: once published it has another name."""
        with suppress(OSError):  # on a full disk closing fails once more
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_entry(folder: Path) -> EntryInfo | None:
    """The entry that lies in a folder, if it is a whole one."""
    try:
        told = read_json(folder / "about.json")
        used = (folder / "about.json").stat().st_mtime
        if (folder / "values.npy").stat().st_size != told["file_bytes"]:
            return None
        size = bytes_of(told["shape"], told["images"], told["dtype"])
        return EntryInfo(folder.name, folder, size, used, told["dtype"], told["group"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _channels(chunk: np.ndarray) -> np.ndarray:
    """(2, C) float32: mean and standard deviation of every channel (last axis) of (b, *shape).

    A channel that is all but constant in this chunk may not be in the next ones. Divided by next to nothing it would
    leave the range of float16, so its standard deviation counts as a sixteenth of that over all channels. The steps of
    float16 being relative, that costs no precision.
    """
    flat = chunk.reshape(-1, chunk.shape[-1])
    mean = flat.mean(axis=0, dtype=np.float64)
    # Image by image, as a chunk of differences in float64 would take twice the memory of the chunk.
    squares = sum(((image.reshape(-1, len(mean)) - mean) ** 2).sum(axis=0) for image in chunk)
    variance = np.asarray(squares / len(flat))
    std = np.sqrt(np.maximum(variance, variance.mean() * _SMALLEST_STD_SHARE**2))
    std[std == 0] = 1
    return np.stack([mean, std]).astype(np.float32)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell what goes wrong while the store writes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"{folder}: the disk is full ({error.strerror})") from error
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); pass cache=FOLDER with a folder that can"
        ) from error
