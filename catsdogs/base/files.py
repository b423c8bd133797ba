"""Values -> files. Everything is written to a temporary name and moved into place, so no reader meets half a file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success move it to `path`, on failure remove it.

    The suffix is kept, because Keras and NumPy choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}-", suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files that only their owner reads; results are for whoever may read the folder.
        temporary.chmod(0o644)
        yield temporary
        # Without it a power cut may leave the new name on an empty file.
        # Open for writing, as Windows asks for.
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Not every system and file system can do that for a folder; the file itself is whole without it.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_temporaries(folder: Path, names: Collection[str], older_than_seconds: float = 0.0) -> None:
    """Remove what killed processes left of files of these names; nobody may be writing them.

    Args:
        older_than_seconds: younger ones stay, where somebody may be writing them at this moment.
    """
    prefixes = tuple(f".{Path(name).stem}-" for name in names)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.name.startswith(prefixes) and time.time() - path.stat().st_mtime >= older_than_seconds:
                path.unlink()


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder is on, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def binary_size(count: float) -> str:
    """`12 bytes`, `1.0 KiB`, `3.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def free_name(path: Path) -> Path:
    """The first of `path.1`, `path.2`, ... that does not exist, for what is kept of earlier runs."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def check_page(output: Path, kind: str) -> None:
    """Before anything long: a page must not replace what is none.

    Args:
        kind: `report`, `audit`: what its title ends with.

    Raises:
        UserError: this cannot be the name of a page, or another file has it.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: the page is HTML; name it {shlex.quote(f'{output}.html')}")
    if output.is_dir():
        raise UserError(f"--output {output}: this is a folder; name a file in it")
    if output.exists() and f": catsdogs {kind}</title>".encode() not in output.read_bytes()[:8192]:
        raise UserError(
            f"--output {output}: this file is not from catsdogs-{kind}, and is kept; choose another --output=FILE"
        )


def check_beside(output: Path, beside: Path, ours: Callable[[set[str]], bool]) -> None:
    """The tables of a page go into the folder `beside` it, which must be empty, or `ours` by the names of its files.

    Raises:
        UserError: it is not.
    """
    there = {file.name for file in beside.iterdir()} if beside.is_dir() else {""} if beside.exists() else set()
    if there and not ours(there):
        raise UserError(
            f"--output {output}: its tables would be written into {beside}, where other files are; choose another "
            "--output=FILE"
        )


# The name of a file need not be UTF-8. Python reads such bytes as halves of characters, which are written as escapes.
_ERRORS: Final = "backslashreplace"


def unicode(text: str) -> str:
    """With escapes for what is not Unicode, which neither tables nor pages can hold."""
    return text.encode("utf-8", _ERRORS).decode("utf-8")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=_ERRORS)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader accepts: NaN and infinity are refused, so give None for a missing number."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
    """Begin an .npy file, the values of which follow piece by piece, in C order.

    By plain writes, not a memory map: a map on a disk that fills up kills the process instead of raising an error.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8", errors=_ERRORS, lineterminator="\n")
