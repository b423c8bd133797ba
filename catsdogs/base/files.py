"""Atomic files: written under a temporary name and moved into place, so no reader sees a partial file."""

import errno
import hashlib
import io
import itertools
import json
import math
import os
import secrets
import shlex
import shutil
import stat
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError

_MAX_FOLDERS: Final = 64  # nested in a study, a cache or a collection of images, which have fewer than ten


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success move it to `path`, on failure remove it.

    The suffix is kept because Keras and NumPy choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        # Without fsync, a power failure may leave the new name on an empty file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder, so that a power failure does not lose files that were created in it or renamed.

    Some systems and file systems cannot sync a folder; the files are complete without it.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def temporary_path(path: Path) -> Path:
    """Return a random path next to `path`. Files and folders of `tempfile` would ignore the umask."""
    return path.with_name(f".{path.stem[:80]}-{secrets.token_hex(4)}{''.join(path.suffixes[-2:])}")


def remove(path: Path) -> None:
    """Remove a file, link or folder, if it exists."""
    with suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def remove_temporaries(folder: Path, names: Collection[str] = ("*",), older_than_seconds: float = 600.0) -> None:
    """Remove temporary files and folders of these names that killed processes left, and no process writes any more."""
    for path in [path for name in names for path in folder.glob(f".{Path(name).stem}-????????*")]:
        with suppress(OSError):  # another process has removed it, or it belongs to another user
            if time.time() - path.lstat().st_mtime >= older_than_seconds:
                remove(path)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk that holds a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def walk(folder: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield as `os.walk`, which recurses; raise a `UserError` for folders that are nested too deep for it."""
    top = len(folder.parts)
    for parent, folders, names in os.walk(folder, **options):
        if len(Path(parent).parts) - top > _MAX_FOLDERS:
            first = folder / Path(parent).parts[top]
            raise UserError(f"{first}: more than {_MAX_FOLDERS} nested folders; remove it")
        yield parent, folders, names


def check_writable(folder: Path, what: str, fix: str) -> None:
    """Raise a `UserError` if no file can be created in a folder, or in the parent that would contain it."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        raise UserError(f"{what} {folder}: cannot be written ({error.strerror}); {fix}") from error


def check_links(folder: Path, study: Path | None = None) -> None:
    """Raise a `UserError` if a symbolic link at any depth of a folder leads out of it, or out of its study if given.

    With such a link, a study of another user could show or replace files of this user. The study may itself be a link.
    """
    study = study or folder
    root = os.path.join(os.path.realpath(study), "")
    inside = (Path(parent, name) for parent, folders, names in walk(folder) for name in folders + names)
    for path in itertools.chain([folder], inside):
        if path.is_symlink() and not os.path.join(os.path.realpath(path), "").startswith(root):
            fix = "replace it with a copy, or remove it"
            raise UserError(f"{path}: is a symbolic link that leads out of {study}; {fix}")


def free_name(path: Path) -> Path:
    """Return the first of `path.1`, `path.2`, ... that does not exist; earlier runs are kept under these names."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def check_page(output: Path, kind: str) -> None:
    """Raise a `UserError` if this is no HTML file name, or a file other than a page of this kind: report or audit."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {output}: not an HTML file name; use {shlex.quote(f'{output}.html')}")
    check_output(output, kind, lambda head: f": catsdogs {kind}</title>".encode() in head)


def check_output(output: Path, command: str, is_own: Callable[[bytes], bool]) -> None:
    """Raise a `UserError` if a file cannot be written, or would replace one and `is_own` of its first MiB is false."""
    fix = "use another --output=FILE"
    if output.is_symlink():  # as /dev/stdout
        raise UserError(f"--output {output}: is a symbolic link; {fix}")
    try:
        with open_regular(output) as file:
            head = file.read(2**20)
        if not is_own(head):
            raise UserError(f"--output {output}: already exists and was not written by catsdogs-{command}; {fix}")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"--output {output}: cannot be replaced ({error.strerror}); {fix}") from error
    check_writable(output.parent, f"--output {output}:", fix)


def check_tables_folder(output: Path, folder: Path, is_own: Callable[[set[str]], bool]) -> None:
    """Raise a `UserError` if the folder for tables has files, and `is_own` of their names is false."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {""} if folder.exists() else set()
    if folder.is_symlink() or (names and not is_own(names)):
        problem = f"its tables folder {folder} already exists with other files"
        raise UserError(f"--output {output}: {problem}; use another --output=FILE")


MAX_FILE_BYTES: Final = 2**26  # of a table; pandas takes up to 13 times as much. The largest ones have a row per image
_MAX_JSON_BYTES: Final = 2**23  # the longest value is `data.ignore`, with an id per ignored image
_MAX_DEPTH: Final = 32  # nested lists and groups of a JSON file; a configuration has five
_MAX_TEXT: Final = 2**20  # characters of a text in a JSON file; the longest one is a traceback


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file; raise OSError for a folder, device or FIFO, which would block the process forever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with open(handle, "rb") as file:
        yield file


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file (`open_regular`); raise OSError also if it is larger."""
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes / 2**20:.0f} MiB", str(path))
    return content


# Python needs up to 17 times as much memory for the list of members, and 15 seconds per million. An entry takes 46
# bytes in the file, and its name.
_MAX_DIRECTORY_BYTES: Final = 2**25


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip to read it; raise BadZipFile if it lists too many members, or else as `zipfile.ZipFile`."""
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > _MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise zipfile.BadZipFile("lists too many members")
    return zipfile.ZipFile(path)


SEAL_BYTES: Final = hashlib.sha256().digest_size
_SMALL_BYTES: Final = 2**22  # an array of at most this size is checked completely

# File names need not be UTF-8. Python decodes such bytes to surrogates, which are written as escapes.
_ERRORS: Final = "backslashreplace"


def escape_surrogates(text: str) -> str:
    """Replace surrogates by escapes, since neither tables nor pages can contain them."""
    return text.encode("utf-8", _ERRORS).decode("utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=_ERRORS)


def write_json(path: Path, value: Any) -> None:
    """Write standard JSON atomically; NaN and infinity raise ValueError, so pass None for a missing number."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header of an .npy file; the values are written after it in pieces, in C order.

    A memory map would kill the process on a full disk.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def sealed_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the size of an .npy file of `seal_npy`."""
    return len(npy_header(shape, dtype)) + math.prod(shape) * np.dtype(dtype).itemsize + SEAL_BYTES


def seal_npy(path: Path, key: str) -> None:
    """Append the `_digest` of a complete .npy file to it."""
    digest = _digest(np.lib.format.open_memmap(path, mode="r"), key)
    with path.open("ab") as file:
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())  # the digest of a large array covers only a part of it


def load_sealed_npy(path: Path, key: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Memory-map an .npy file of `seal_npy`; raise OSError or ValueError if it is missing, corrupted or another array.

    NumPy does not parse its header, because a corrupted one can end the process.
    """
    header = npy_header(shape, dtype)
    with open_regular(path) as file:
        if (file.read(len(header)), os.fstat(file.fileno()).st_size) != (header, sealed_bytes(shape, dtype)):
            raise ValueError("header or size differs")
        values = np.memmap(file, dtype, "r", len(header), shape)
        file.seek(-SEAL_BYTES, os.SEEK_END)
        if file.read() != _digest(values, key):
            raise ValueError("digest differs")
    return values


def _digest(values: np.ndarray, key: str) -> bytes:
    """Return a SHA-256 of an array's key (hexadecimal), shape, dtype and rows.

    Of a large array, only 8 to 64 rows are read, at positions given by the key; this takes milliseconds.
    """
    rows = np.arange(len(values))
    if values.nbytes > _SMALL_BYTES:
        count = min(len(values), int(np.clip(_SMALL_BYTES * len(values) // values.nbytes, 8, 64)))
        rows = np.sort(np.random.default_rng(int(key, 16)).choice(rows, count, replace=False))
    sha256 = hashlib.sha256(repr((key, values.shape, values.dtype.str)).encode())
    for row in rows:
        sha256.update(np.ascontiguousarray(values[row]).data)
    return sha256.digest()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raise OSError if it cannot be read, see `read_bytes`. Raise ValueError if it is not JSON, repeats a key, is nested
    too deep, or has a text that is too long or a number that is not finite: NaN, Infinity or 1e999.
    """
    content = read_bytes(path, _MAX_JSON_BYTES).decode("utf-8-sig")
    try:
        value = json.loads(content, parse_int=_integer, object_pairs_hook=_unambiguous)
        _check_json("", value, _MAX_DEPTH)
    except RecursionError:
        raise ValueError(f"more than {_MAX_DEPTH} nested lists or groups") from None
    return value


def _integer(digits: str) -> int | float:
    """Return an integer, or the nearest float for one beyond 64 bits, which neither tables nor C code can hold."""
    return int(digits) if len(digits) < 19 else float(digits)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    group = dict(pairs)
    if len(group) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{key}={str(group[key])[:80]}: listed twice")
    return group


def _check_json(key: str, value: Any, levels: int) -> None:
    """Raise an error if a value is nested deeper than `levels`, or has a number or text that is out of range."""
    if isinstance(value, (dict, list)):
        if not levels:
            raise RecursionError
        for name, one in value.items() if isinstance(value, dict) else ((key, one) for one in value):
            _check_json(name, one, levels - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value}: must be finite")
    elif isinstance(value, str) and len(value) > _MAX_TEXT:
        raise ValueError(f"{key}={value[:20]}...: text of more than {_MAX_TEXT:,} characters")


def json_digest(value: Any) -> str:
    """Return the SHA-256 of plain JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically as CSV, without its index."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, encoding="utf-8", errors=_ERRORS, lineterminator="\n")
