"""Unpacking of zips, and listing and hashing of image folders.

Archives are untrusted: every member name is validated before anything is written, and files are written only below the
cache folder. Only images are unpacked, into a temporary folder that is renamed when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.text import listed

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

# Treat a member this large with this compression ratio as a zip bomb; real images compress at most tenfold.
_SUSPICIOUS_BYTES = 64 * 2**20
_SUSPICIOUS_RATIO = 200

# Control characters, and the surrogates that Python uses for bytes that are not UTF-8.
_INVALID_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_OUTSIDE_OF_ARCHIVE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")  # absolute path, drive, parent folder

# Raised by zipfile and its decompressors for corrupted data.
_CORRUPTION = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Folder with images at any depth.

    Attributes:
        root: absolute path.
        digest: SHA-256 of the unpacked zip or of the folder's listing; 64 hexadecimal digits.
    """

    root: Path
    digest: str


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key that compares digits as numbers: 1, 2, 10, 100. Different texts have different keys."""
    parts = re.split(r"(\d+)", text)  # text at even positions, digits at odd ones, so keys are comparable
    return tuple(int(part) if position % 2 else part for position, part in enumerate(parts)), text


def open_images(source: Path, cache: Path, max_unpacked_bytes: float = 20 * 2**30) -> ImageFolder:
    """Return the folder of images at `source`; unpack a zip first.

    A folder is used directly. The images of a zip are unpacked once, into `cache/archives/<digest>`; concurrent
    processes are safe.

    Args:
        source: zip or folder; `~` is expanded.
        cache: cache folder, created if missing.
        max_unpacked_bytes: limit for the unpacked images of a zip; the key data.max_unpacked_gib, in bytes.

    Raises:
        UserError: `source` is missing, unreadable, neither zip nor folder, corrupted, encrypted, unsafe, too large or
            without images, or the cache cannot be written. Nothing is left in the cache.
    """
    source = Path(os.path.expanduser(source)).absolute()
    if os.path.isdir(source):
        return ImageFolder(source, _listing_digest(source))
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise UserError(f"{source}: neither a file nor a folder; pass the path of a zip or a folder of images")
        digest = _zip_digest(source)
    except FileNotFoundError:
        raise UserError(f"{source}: not found; pass the path of a zip or a folder of images") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check its permissions and its disk") from error

    target = cache.absolute() / "archives" / digest
    if not os.path.isdir(target):
        _unpack(source, target, max_unpacked_bytes)
    return ImageFolder(target, digest)


def image_paths(root: Path) -> list[str]:
    """Return the paths of the images below a folder: relative to it, with forward slashes, in natural order.

    Images are recognized by suffix. Links to folders are followed; each folder is entered once. Hidden files and
    folders, and Apple's `__MACOSX`, are skipped.

    Raises:
        UserError: a folder cannot be listed, or a name is not UTF-8 or has control characters.
    """
    entered: set[tuple[int, int]] = set()
    paths = []
    try:
        for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_raise):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
            relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
            paths += [str(relative / name) for name in names if _is_image(name)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error
    for path in paths:
        if _INVALID_IN_NAMES.search(path):
            raise UserError(f"{root}: file name {path!a} is not UTF-8 or has control characters; rename the file")
    return sorted(paths, key=natural_key)


def _raise(error: OSError) -> None:
    raise error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _is_hidden(name)


def _no_images(source: Path, archives: list[str], first_step: str = "") -> UserError:
    """Suggest an inner zip, if there is one."""
    if not archives:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        return UserError(f"{source}: contains no images; pass a zip or a folder with files ending in {suffixes}")
    likely = next((path for path in archives if PurePosixPath(path).stem.lower() == "train"), archives[0])
    return UserError(f"{source}: contains no images, only zips ({listed(archives, 3)}); {first_step}pass {likely}")


def _listing_digest(root: Path) -> str:
    """Return the SHA-256 over (relative path, size, mtime_ns) of every image."""
    paths = image_paths(root)
    if not paths:
        raise _no_images(root, sorted(path.name for path in root.glob("*.zip")))
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = (root / path).stat()
        except OSError as error:
            raise UserError(f"{root / path}: cannot be read ({error.strerror}); repair or remove it") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{root / path}: not a file, although named as an image; rename or remove it")
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _zip_digest(source: Path) -> str:
    """Return the SHA-256 of a zip, recomputed every time: it takes about a second per GB, and a record may be stale."""
    with source.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            if file.read(4) == b"PK\x03\x04":
                raise UserError(f"{source}: truncated zip file; download or copy it again")
            raise UserError(f"{source}: not a zip; pass the path of a zip or a folder of images")
        size = file.seek(0, os.SEEK_END)
        if size > 2**27:
            _log.info("hashing %s (%.2g GiB)", source, size / 2**30)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(source: Path, target: Path, max_unpacked_bytes: float) -> None:
    """Unpack the images of a zip into the folder `target`, atomically."""
    try:
        archive = zipfile.ZipFile(source)
    except (*_CORRUPTION, OSError, RuntimeError) as error:
        raise _corrupted(source, error) from error
    with archive:
        members = _image_members(archive, source, max_unpacked_bytes)
        _log.info("unpacking %d images of %s to %s", len(members), source, target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent)
            try:  # TemporaryDirectory recurses forever if it may not remove its folder
                for info in members:
                    _extract(archive, info, source, Path(temporary))
                os.chmod(temporary, 0o755)  # mkdtemp's folder is private; the cache may be shared
                os.rename(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            if not os.path.isdir(target):  # else another process has unpacked the same images meanwhile
                raise unwritable(target.parent, error) from error


def _image_members(archive: zipfile.ZipFile, source: Path, max_unpacked_bytes: float) -> list[zipfile.ZipInfo]:
    """Validate every member; return the images, with their relative path as `filename`."""
    members, archives = [], []
    for info in archive.infolist():
        # zipfile cuts `filename` at the first NUL. A backslash counts as a slash, as on Windows.
        name = info.orig_filename.replace("\\", "/")
        link = stat.S_ISLNK(info.external_attr >> 16)
        if link or _OUTSIDE_OF_ARCHIVE.match(name) or _INVALID_IN_NAMES.search(name):
            raise UserError(
                f"{source}: unsafe member {info.orig_filename[:120]!a}: a link, a path outside the archive, or control "
                f"characters in its name; if you trust the archive, unpack it yourself and pass the folder"
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or info.is_dir() or any(_is_hidden(part) for part in parts):
            continue
        info.filename = "/".join(parts)
        if info.filename.lower().endswith(".zip"):
            archives.append(info.filename)
        elif _is_image(info.filename):
            members.append(info)
    if not members:
        raise _no_images(source, archives, first_step="unpack it and ")

    # Declared sizes bound what is written, because zipfile cuts members at them.
    total = sum(info.file_size for info in members)
    if total > max_unpacked_bytes:
        raise UserError(
            f"{source}: unpacked images take {total / 2**30:.3g} GiB, more than data.max_unpacked_gib="
            f"{max_unpacked_bytes / 2**30:.3g}; raise data.max_unpacked_gib if you trust the archive"
        )
    for info in members:
        if info.file_size > max(_SUSPICIOUS_BYTES, _SUSPICIOUS_RATIO * info.compress_size):
            raise UserError(
                f"{source}: {info.filename} expands from {info.compress_size / 2**20:.3g} to "
                f"{info.file_size / 2**20:.3g} MiB, unlike any image; remove it from the archive, or unpack the "
                f"archive yourself and pass the folder"
            )
    return members


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path, folder: Path) -> None:
    path = info.filename
    try:
        if (folder / path).exists():
            raise FileExistsError
        archive.extract(info, folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{source}: {path} has the same name as another member, perhaps because the file system ignores case; "
            f"rename one of them, or set cache=FOLDER on another file system"
        ) from error
    except RuntimeError as error:  # encrypted, or a method that Python does not support, such as Deflate64 of Windows
        raise UserError(
            f"{source}: cannot unpack {path} ({first_line(error)}); unpack the archive yourself and pass the folder"
        ) from error
    except (*_CORRUPTION, OSError) as error:
        # bzip2 reports corruption as OSError without a number, and an offset before the file's start is EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise unwritable(folder.parent, error, f" {path[:120]!a} of {source}") from error
        raise _corrupted(source, error, f"{path} is ") from error


def unwritable(folder: Path, error: OSError, member: str = "") -> UserError:
    """Return the error for a folder of the cache that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{folder}: out of disk; free space, or set cache=FOLDER on a larger disk")
    return UserError(f"{folder}: cannot write{member} ({error.strerror}); set cache=FOLDER to a writable folder")


def _corrupted(source: Path, error: Exception, subject: str = "") -> UserError:
    return UserError(f"{source}: {subject}corrupted ({first_line(error)}); download or copy it again")
