"""Zip or folder -> a folder of image files and a digest.

An archive is a stranger's word: every name in it is judged before a byte of it is written, and nothing is written
anywhere but below the cache. Only images are unpacked, to a temporary folder that is moved into place once it is whole.
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

# A member of this size that shrank by this factor is no picture; real ones of that size shrink tenfold at most.
_SUSPICIOUS_BYTES = 64 * 2**20
_SUSPICIOUS_RATIO = 200

# Control characters, and the halves of characters as which Python reads bytes of a name that are not UTF-8.
_UNFIT_FOR_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LEADS_ELSEWHERE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")  # an absolute path, a drive, or a step up

# What zipfile and its decompressors raise when they meet bytes that are not what they should be.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """A folder that holds images, at any depth.

    Attributes:
        root: absolute path of the folder.
        digest: 64 hexadecimal digits; sha256 of the zip that was unpacked, or of the folder's listing.
    """

    root: Path
    digest: str


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """A sort key in which digits compare as numbers: 1, 2, 10, 100. Different texts have different keys."""
    parts = re.split(r"(\d+)", text)  # text, digits, text, ..., text: a place holds the same kind in every key
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), text


def open_images(source: Path, cache: Path, max_unpacked_bytes: float = 20 * 2**30) -> ImageFolder:
    """Make a zip or a folder of images available as a folder.

    A folder is used where it is. Of a zip the images are unpacked into `cache/archives/<digest>`, once: an archive that
    was unpacked before, or meanwhile by another process, is not unpacked again.

    Args:
        source: a zip or a folder; `~` is expanded.
        cache: the cache folder, made if need be.
        max_unpacked_bytes: what the images of a zip may take up once unpacked; the key data.max_unpacked_gib, in bytes.

    Raises:
        UserError: there is nothing at `source`, it cannot be read, is neither zip nor folder, is damaged, encrypted,
            hostile or too large, has no images, or cannot be unpacked to the cache. Nothing is left in the cache.
    """
    source = Path(os.path.expanduser(source)).absolute()
    if os.path.isdir(source):
        return ImageFolder(source, _listing_digest(source))
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise UserError(f"{source}: neither a file nor a folder; pass the path of a zip or a folder of images")
        digest = _zip_digest(source)
    except FileNotFoundError:
        raise UserError(f"{source}: no such file or folder; pass the path of a zip or a folder of images") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check its permissions and its disk") from error

    target = cache.absolute() / "archives" / digest
    if not os.path.isdir(target):
        _unpack(source, target, max_unpacked_bytes)
    return ImageFolder(target, digest)


def image_paths(root: Path) -> list[str]:
    """Paths of the images below a folder: relative to it, with forward slashes, sorted naturally.

    Whether a file is an image is told by its suffix. Links to folders are followed, each folder being entered once.
    Hidden files and folders, and the `__MACOSX` of Apple's archives, are left out.

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
            subfolders[:] = sorted(name for name in subfolders if not _passed_over(name))
            within = PurePosixPath(Path(folder).relative_to(root).as_posix())
            paths += [str(within / name) for name in names if _is_image(name)]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error
    for path in paths:
        if _UNFIT_FOR_NAMES.search(path):
            raise UserError(f"{root}: the name {path!a} is not UTF-8 or has control characters; rename the file")
    return sorted(paths, key=natural_key)


def _raise(error: OSError) -> None:
    raise error


def _passed_over(part: str) -> bool:
    """Whether a file or folder of this name is the doing of an operating system."""
    return part.startswith(".") or part == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _passed_over(name)


def _no_images(source: Path, archives: list[str], before: str = "") -> UserError:
    """What to do with a zip or a folder in which there is at best another zip."""
    if not archives:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        return UserError(f"{source}: no images in it; pass a zip or a folder with files ending in {suffixes}")
    likely = next((path for path in archives if PurePosixPath(path).stem.lower() == "train"), archives[0])
    return UserError(f"{source}: no images in it, but the zips {listed(archives, 3)}; {before}pass {likely} instead")


def _listing_digest(root: Path) -> str:
    """sha256 over (relative path, size, mtime_ns) of every image."""
    paths = image_paths(root)
    if not paths:
        raise _no_images(root, sorted(path.name for path in root.glob("*.zip")))
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = (root / path).stat()
        except OSError as error:
            raise UserError(f"{root / path}: cannot be read ({error.strerror}); mend or remove it") from error
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{root / path}: has the name of an image but is no file; rename or remove it")
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _zip_digest(source: Path) -> str:
    """sha256 of a zip. It is taken anew every time: at about a second per GB no record of it is worth trusting."""
    with source.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            if file.read(4) == b"PK\x03\x04":
                raise UserError(f"{source}: begins as a zip but its end is missing; copy or download it again")
            raise UserError(f"{source}: not a zip; pass the path of a zip or a folder of images")
        size = file.seek(0, os.SEEK_END)
        if size > 2**27:
            _log.info("hashing %s (%.2g GiB)", source, size / 2**30)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(source: Path, target: Path, max_unpacked_bytes: float) -> None:
    """Unpack the images of a zip into the folder `target`, which appears only when it is whole."""
    try:
        archive = zipfile.ZipFile(source)
    except (*_DAMAGE, OSError, RuntimeError) as error:
        raise _damaged(source, error) from error
    with archive:
        members = _image_members(archive, source, max_unpacked_bytes)
        _log.info("unpacking %d images of %s to %s", len(members), source, target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent)
            try:  # not a TemporaryDirectory, which calls itself for ever where it may not remove its folder
                for info in members:
                    _extract(archive, info, source, Path(temporary))
                os.chmod(temporary, 0o755)  # it is for its owner; the cache is for whoever may read it
                os.rename(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            if not os.path.isdir(target):  # else another process was faster, and what it unpacked is the same
                raise _unwritable(target.parent, error) from error


def _image_members(archive: zipfile.ZipFile, source: Path, max_unpacked_bytes: float) -> list[zipfile.ZipInfo]:
    """The images of an archive, `filename` being their relative path, after every check that needs no unpacking."""
    members, archives = [], []
    for info in archive.infolist():
        # zipfile cuts `filename` at the first NUL. A backslash counts as a slash, as on Windows.
        name = info.orig_filename.replace("\\", "/")
        link = stat.S_ISLNK(info.external_attr >> 16)
        if link or _LEADS_ELSEWHERE.match(name) or _UNFIT_FOR_NAMES.search(name):
            raise UserError(
                f"{source}: the member {info.orig_filename[:120]!a} is a link, leads out of the archive or has control "
                f"characters in its name; unpack the archive yourself if it is trusted, and pass the folder"
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or info.is_dir() or any(_passed_over(part) for part in parts):
            continue
        info.filename = "/".join(parts)
        if info.filename.lower().endswith(".zip"):
            archives.append(info.filename)
        elif _is_image(info.filename):
            members.append(info)
    if not members:
        raise _no_images(source, archives, before="unpack it first and ")

    # A bound of what will be written, too: zipfile cuts a member at its declared size.
    total = sum(info.file_size for info in members)
    if total > max_unpacked_bytes:
        raise UserError(
            f"{source}: its images unpack to {total / 2**30:.3g} GiB, more than data.max_unpacked_gib="
            f"{max_unpacked_bytes / 2**30:.3g} allows; raise data.max_unpacked_gib if the archive is trusted"
        )
    for info in members:
        if info.file_size > max(_SUSPICIOUS_BYTES, _SUSPICIOUS_RATIO * info.compress_size):
            raise UserError(
                f"{source}: {info.filename} would grow from {info.compress_size / 2**20:.3g} to "
                f"{info.file_size / 2**20:.3g} MiB as no picture does; take it out of the archive, or unpack it "
                f"yourself and pass the folder"
            )
    return members


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path, folder: Path) -> None:
    path = info.filename
    try:
        # Two members of one name, or of two that the file system takes for one: upper and lower case, for example.
        if (folder / path).exists():
            raise FileExistsError
        archive.extract(info, folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{source}: {path} has the name of another member as far as the file system of {folder.parent} can tell; "
            f"rename one of them, or pass cache=FOLDER on another file system"
        ) from error
    except RuntimeError as error:  # encrypted, or packed by a method that Python does not know, as Deflate64 of Windows
        raise UserError(
            f"{source}: {path} cannot be unpacked here ({first_line(error)}); unpack the archive yourself and pass the "
            f"folder"
        ) from error
    except (*_DAMAGE, OSError) as error:
        # bzip2 tells of damage by an OSError without number, an offset before the start of the file by EINVAL.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise _unwritable(folder.parent, error, f"{path[:120]!a} of {source} ") from error
        raise _damaged(source, error, f"{path} in it is ") from error


def _unwritable(folder: Path, error: OSError, what: str = "") -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{folder}: the disk is full; make room, or pass cache=FOLDER on a larger disk")
    return UserError(f"{folder}: {what}cannot be written ({error.strerror}); pass cache=FOLDER with a folder that can")


def _damaged(source: Path, error: Exception, what: str = "") -> UserError:
    return UserError(f"{source}: {what}damaged ({first_line(error)}); copy or download it again")
