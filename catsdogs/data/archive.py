"""Unpacking of zips, and listing and hashing of image folders.

Archives are untrusted: every member name is validated before anything is written, and files are written only below the
cache folder. Only images are unpacked, into a temporary folder that is renamed when it is complete.

An image is a file with the suffix or the first bytes of an image format (`formats`). All other files are listed.
"""

import errno
import hashlib
import logging
import lzma
import os
import re
import shlex
import shutil
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.files import open_regular, open_zip, remove, temporary_path, walk
from catsdogs.base.text import binary_size, listed, natural_key, sanitize_line
from catsdogs.data.formats import HEAD_BYTES, has_image_suffix, image_format

# Written by operating systems; never mentioned.
_LITTER = re.compile(
    r"(.*/)?(__MACOSX|\._[^/]*|\.DS_Store|\.Spotlight-V100|\.Trashes|\.fseventsd|(eh)?thumbs\.db|desktop\.ini)(/.*)?",
    re.IGNORECASE | re.DOTALL,
)

# Treat a member this large with this compression ratio as a zip bomb; real images compress at most tenfold.
_SUSPICIOUS_BYTES = 64 * 2**20
_SUSPICIOUS_RATIO = 200

# Deeper and longer paths are skipped: no collection of images has them, and functions that walk folders fail at them.
_MAX_LEVELS, _MAX_PATH_BYTES, _MAX_NAME_BYTES = 64, 2048, 255

# Control characters, and the surrogates that Python uses for bytes that are not UTF-8.
_INVALID_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_OUTSIDE_OF_ARCHIVE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)")  # absolute path, drive, parent folder

# Raised by zipfile and its decompressors for corrupted data.
_CORRUPTION = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OverflowError)

MOST_NAMES = 5  # in a log line

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFolder:
    """Folder with images at any depth."""

    root: Path  # absolute
    digest: str  # SHA-256 of the unpacked zip or of the folder's listing, hexadecimal
    paths: tuple[str, ...]  # of the images, relative to `root`, with forward slashes, in natural order
    skipped: tuple[str, ...] = ()  # of the other files, hidden or not images; in natural order

    def skipped_message(self, source: Path | str) -> str:
        """Return number and names of the skipped files of a source, and where all are named; "" if there are none."""
        count = len(self.skipped)
        which = f"{count:,} files that are hidden or not images" if count > 1 else "1 file that is hidden or no image"
        names = sanitize_line(listed(self.skipped, MOST_NAMES))
        if count > MOST_NAMES:
            names += f"; for skipped.csv with all names: python -m catsdogs.audit {shlex.quote(str(source))}"
        return f"skipping {which}: {names}" if names else ""


def open_images(source: Path, cache: Path, max_unpacked_bytes: float = 20 * 2**30) -> ImageFolder:
    """Return the folder of images at `source`; unpack a zip first.

    A folder is used directly. The images of a zip are unpacked into `cache/archives/<digest>`, unless they are there
    with the sizes and checksums that the zip states; concurrent processes are safe. `max_unpacked_bytes` limits them.

    Raise UserError if `source` is missing, unreadable, neither zip nor folder, corrupted, encrypted, unsafe, too large
    or without images, and OSError if the cache cannot be written; nothing is left in the cache then.
    """
    source = source.absolute()
    if os.path.isdir(source):
        paths, skipped = _listing(source)
        if not paths:
            raise _no_images(source, skipped)
        return ImageFolder(source, _listing_digest(source, paths), tuple(paths), tuple(skipped))
    digest = _zip_digest(source)
    try:
        archive = open_zip(source)
    except (*_CORRUPTION, OSError, RuntimeError) as error:
        raise _corrupted(source, error) from error
    target = cache.absolute() / "archives" / digest
    with archive:
        members, skipped = _image_members(archive, source)
        if not _is_intact(target, members):
            _unpack(archive, members, source, target, max_unpacked_bytes)
    paths = sorted((info.filename for info in members), key=natural_key)
    return ImageFolder(target, digest, tuple(paths), tuple(skipped))


def is_image(file: Path) -> bool:
    """Return whether a file has the suffix or the first bytes of an image; raise OSError if it is unreadable."""
    if has_image_suffix(file.name):
        return True
    if not file.is_file():  # a pipe would block, a link may lead nowhere
        return False
    with file.open("rb") as stream:
        return image_format(stream.read(HEAD_BYTES)) != ""


def _listing(root: Path) -> tuple[list[str], list[str]]:
    """Return the paths of images and of all other files, except litter.

    Links to folders are followed; each folder is entered once. Raise UserError if a folder or file cannot be read, or
    the name of an image is not UTF-8 or has control characters.
    """
    entered: set[tuple[int, int]] = set()
    paths: dict[bool, list[str]] = {True: [], False: []}
    try:
        for folder, subfolders, names in walk(root, followlinks=True, onerror=_raise):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            here = PurePosixPath(Path(folder).relative_to(root).as_posix())
            for name in names:
                path = str(here / name)
                image = not name.startswith(".") and not _is_too_long(path) and is_image(Path(folder, name))
                paths[image].append(path)
            hidden = [Path(folder, name) for name in subfolders if name.startswith(".")]
            inside = (found for one in hidden if not one.is_symlink() for found in walk(one))
            paths[False] += [Path(one, name).relative_to(root).as_posix() for one, _, names in inside for name in names]
            subfolders[:] = sorted(name for name in subfolders if name[0] != "." and name != "__MACOSX")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
    for path in paths[True]:
        if _INVALID_IN_NAMES.search(path):
            raise UserError(f"{root}: file name {path!a} is not UTF-8 or has control characters; rename the file")
    skipped = [path for path in paths[False] if not _LITTER.fullmatch(path)]
    return sorted(paths[True], key=natural_key), sorted(skipped, key=natural_key)


def _raise(error: OSError) -> None:
    raise error


def _no_images(source: Path, skipped: list[str], first_step: str = "") -> UserError:
    """Suggest an inner zip, if there is one."""
    archives = [path for path in skipped if path.lower().endswith(".zip")]
    if not archives:
        others = f", only {sanitize_line(listed(skipped))}" if skipped else ""
        return UserError(f"{source}: contains no images{others}; pass a zip or a folder of images")
    likely = next((path for path in archives if PurePosixPath(path).stem.lower() == "train"), archives[0])
    return UserError(f"{source}: contains no images, only zips ({listed(archives, 3)}); {first_step}pass {likely}")


def _listing_digest(root: Path, paths: list[str]) -> str:
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
    """Return the SHA-256 of a zip, recomputed every time: a second per GB, and a record may be stale."""
    fix = "pass the path of a zip or a folder of images"
    try:
        with open_regular(source) as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"{source}: not a zip, or truncated; download or copy it again, or {fix}")
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{source}: not found; {fix}") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); {fix}") from error


def _is_intact(target: Path, members: list[zipfile.ZipInfo]) -> bool:
    """Return whether every image is unpacked in `target` with the size and checksum that the zip states."""
    if not os.path.isdir(target):
        return False
    for info in members:
        file = target / info.filename
        try:
            same = stat.S_ISREG(file.lstat().st_mode) and _crc32(file) == info.CRC
        except OSError:
            same = False
        if not same:
            _log.warning("%s: missing or different from the image in the zip; unpacking the zip again", file)
            return False
    return True


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _unpack(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], source: Path, target: Path, max_unpacked_bytes: float
) -> None:
    _check_sizes(members, source, max_unpacked_bytes)
    _log.info("unpacking %d images of %s to %s", len(members), source, target)
    remove(target)
    temporary = temporary_path(target)
    try:  # TemporaryDirectory recurses forever if it may not remove its folder
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        for info in members:
            _extract(archive, info, source, temporary)
        os.rename(temporary, target)
    except OSError:
        if not _is_intact(target, members):  # else another process has unpacked the same images meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _image_members(archive: zipfile.ZipFile, source: Path) -> tuple[list[zipfile.ZipInfo], list[str]]:
    """Validate every member; return the images, with their relative path as `filename`, and the other paths."""
    members, skipped = [], []
    for info in archive.infolist():
        # zipfile cuts `filename` at the first NUL. A backslash counts as a slash, as on Windows.
        name = info.orig_filename.replace("\\", "/")
        link = stat.S_ISLNK(info.external_attr >> 16)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if link or (parts and _OUTSIDE_OF_ARCHIVE.match(name)) or _INVALID_IN_NAMES.search(name):
            problem = "a link, a path outside the archive, or control characters in its name"
            fix = "if you trust the archive, unpack it yourself and pass the folder"
            raise UserError(f"{source}: unsafe member {info.orig_filename[:120]!a}: {problem}; {fix}")
        path = "/".join(parts)
        if _is_too_long(path):
            skipped.append(f"{path[:200]} (too long or too deep)")
            continue
        if not parts and name != "./":
            skipped.append(f"{name!r} (no name)")
        if not parts or name.endswith("/") or _LITTER.fullmatch(path):
            continue
        info.filename = path
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and (has_image_suffix(path) or image_format(_head(archive, info))):
            members.append(info)
        else:
            skipped.append(path)
    skipped.sort(key=natural_key)
    if not members:
        raise _no_images(source, skipped, first_step="unpack it and ")
    return members, skipped


def _is_too_long(path: str) -> bool:
    names = os.fsencode(path).split(b"/")
    return len(names) > _MAX_LEVELS or len(path) > _MAX_PATH_BYTES or max(map(len, names)) > _MAX_NAME_BYTES


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the first bytes of a member; none if it is encrypted, corrupted or a zip bomb."""
    if _expands_too_much(info):
        return b""
    try:
        with archive.open(info) as member:
            return member.read(HEAD_BYTES)
    except (*_CORRUPTION, RuntimeError, OSError) as error:
        if not _is_corruption(error):
            raise
        return b""


def _is_corruption(error: Exception) -> bool:
    # bzip2 reports corruption as OSError without a number, and an offset before the file's start is EINVAL.
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)


def _expands_too_much(info: zipfile.ZipInfo) -> bool:
    # The decoder of LZMA keeps all that it has unpacked.
    ratio = 1 if info.compress_type == zipfile.ZIP_LZMA else _SUSPICIOUS_RATIO
    return info.file_size > max(_SUSPICIOUS_BYTES, ratio * info.compress_size)


def _check_sizes(members: list[zipfile.ZipInfo], source: Path, max_unpacked_bytes: float) -> None:
    # Declared sizes bound what is written, because zipfile cuts members at them.
    total = sum(info.file_size for info in members)
    if total > max_unpacked_bytes:
        limit = f"more than data.max_unpacked_gib={max_unpacked_bytes / 2**30:.3g}"
        fix = "raise data.max_unpacked_gib if you trust the archive"
        raise UserError(f"{source}: unpacked images take {binary_size(total)}, {limit}; {fix}")
    for info in members:
        if _expands_too_much(info):
            sizes = f"{binary_size(info.compress_size)} to {binary_size(info.file_size)}"
            fix = "remove it from the archive, or unpack the archive yourself and pass the folder"
            raise UserError(f"{source}: {info.filename} expands from {sizes}, unlike any image; {fix}")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path, folder: Path) -> None:
    path = info.filename
    try:
        if (folder / path).exists():
            raise FileExistsError
        archive.extract(info, folder)
    except (FileExistsError, NotADirectoryError) as error:
        text = f"{source}: {path} has the same name as another member, perhaps because the file system ignores case; "
        raise UserError(f"{text}rename one of them, or set cache=FOLDER (or --cache) on another file system") from error
    except RuntimeError as error:  # encrypted, or a method that Python does not support, such as Deflate64 of Windows
        text = f"{source}: cannot unpack {path} ({first_line(error)})"
        raise UserError(f"{text}; unpack the archive yourself and pass the folder") from error
    except (*_CORRUPTION, OSError) as error:
        if not _is_corruption(error):
            raise
        raise _corrupted(source, error, f"{path[:200]} is ") from error


def _corrupted(source: Path, error: Exception, subject: str = "") -> UserError:
    return UserError(f"{source}: {subject}corrupted ({first_line(error)[:200]}); download or copy it again")
