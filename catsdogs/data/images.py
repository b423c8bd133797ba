"""Decoding and resizing of image files.

Training, validation, test-time augmentation, prediction and export all use `decode`, so they see the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.base.interrupts import check
from catsdogs.base.processes import threads
from catsdogs.base.text import binary_size, time_left
from catsdogs.data.archive import unwritable
from catsdogs.data.formats import FORMATS, image_format

RESIZE = "pillow-bilinear"

_CACHE_VERSION = 1  # part of the key of stored pixels; increment when `decode` changes

_PROGRESS_SECONDS = 10.0
_FROM_PILLOW = r"PIL\."

# Memory that must be available when an image counts as corrupted, in bytes: at least, and per pixel.
_SPARE_BYTES, _SPARE_BYTES_PER_PIXEL = 2**28, 16

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(data: bytes, size: int | None) -> np.ndarray:
    """Decode an image and resize it to a square.

    The first frame is decoded completely, turned upright by its EXIF orientation, converted to RGB and resized by
    Pillow's bilinear filter, ignoring the aspect ratio. Conversion to RGB keeps the high byte of 16-bit channels and
    puts transparency over white; Pillow converts CMYK and palettes.

    Args:
        data: content of the file.
        size: side S of the square in pixels; None keeps (height, width, 3).

    Returns:
        (S, S, 3) uint8, RGB, 0..255.

    Raises:
        ValueError: the image cannot be decoded; the text is a short reason.
        MemoryError: there is too little memory to decode it, or to know that it cannot be decoded.
    """
    if not data:
        raise ValueError("the file is empty")
    _silence_pillow()
    spare = _SPARE_BYTES
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            spare = max(spare, _SPARE_BYTES_PER_PIXEL * image.width * image.height)
            image.load()
            rgb = _rgb(_upright(image))
            return np.array(rgb if size is None else squeeze(rgb, size))
    except MemoryError:
        raise
    except Exception as error:  # Pillow has no common exception: SyntaxError, struct.error, OSError, bombs, ...
        # Without memory, most decoders report corrupted data. This raises a MemoryError then; it uses no memory.
        np.empty(spare, np.uint8)
        if isinstance(error, UnidentifiedImageError):
            known = image_format(data)
            if known and known not in FORMATS:
                raise ValueError(f"{known} is not supported; convert it to JPEG or PNG") from None
            raise ValueError(f"not a valid {known} image" if known else "not an image of a known format") from None
        text = "".join(filter(str.isprintable, " ".join(str(error).split())))
        raise ValueError(text[:200] or type(error).__name__) from error


def read_image(file: Path, size: int | None) -> tuple[str, np.ndarray | None, str]:
    """Return the SHA-256 of a file, hexadecimal; its pixels (see `decode`), or None and the reason.

    Raise UserError if the file cannot be read, or there is too little memory to decode it.
    """
    try:
        with enough_memory(file):
            data = file.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            return sha256, decode(data, size), ""
    except ValueError as error:
        return sha256, None, str(error)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); repair or remove the file") from error


@contextmanager
def enough_memory(file: Path) -> Iterator[None]:
    """Convert a MemoryError raised for an image into a `UserError`."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{file}: out of memory; close other programs, or remove the image if it is huge") from error


def squeeze(image: Image.Image, size: int) -> Image.Image:
    """Resize to a square of `size` pixels, ignoring the aspect ratio."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def pixels(rows: pd.DataFrame, root: Path, size: int, cache: Path) -> np.ndarray:
    """Return the decoded images of a table, from the cache if possible.

    Raise UserError if an image is missing, changed or cannot be decoded, or if the cache is full.

    Args:
        rows: columns path (relative to `root`) and sha256, of decodable images.
        size: side S of the squares in pixels.
        cache: cache folder; the array is stored in `pixels/<key>.npy`, see `pixels_key` and `files.seal_npy`.

    Returns:
        (N, S, S, 3) uint8, RGB, 0..255, in the order of `rows`; memory-mapped, read-only.
    """
    shape = (len(rows), size, size, 3)
    hashes = [str(sha256) for sha256 in rows["sha256"]]
    key = pixels_key(hashes, size)
    path = cache / "pixels" / f"{key}.npy"
    try:
        return files.load_sealed_npy(path, key, shape, "uint8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        _log.warning("%s: corrupted, or of an earlier version (%s); decoding the images again", path, error)
    images, needed = list(zip((root / name for name in rows["path"]), hashes, strict=True)), math.prod(shape)
    try:
        if needed > (free := files.free_bytes(path.parent)):
            raise UserError(
                f"{path.parent}: {len(rows)} images of {size}x{size} pixels need {binary_size(needed)}, but only "
                f"{binary_size(free)} are free; set cache=FOLDER on a larger disk, or a smaller data.limit"
            )
        _log.info("decoding %d images to %dx%d (%s)", len(rows), size, size, binary_size(needed))
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            file.write(files.npy_header(shape, "uint8"))
            for image in in_threads(lambda image: _decode_file(*image, size), images, "decoding"):
                file.write(image.data)
            file.flush()
            files.seal_npy(temporary, key)
    except OSError as error:
        raise unwritable(path.parent, error, f" {binary_size(needed)} of pixels") from error
    return files.load_sealed_npy(path, key, shape, "uint8")


def _decode_file(file: Path, sha256: str, size: int) -> np.ndarray:
    found, image, problem = read_image(file, size)
    if found != sha256:
        raise UserError(f"{file}: changed since the images were cataloged; run the command again")
    if image is None:
        raise UserError(f"{file}: cannot be decoded ({problem}); add its id to data.ignore")
    return image


def pixels_key(hashes: Sequence[str], size: int) -> str:
    """Return the cache key of images with these SHA-256, in this order, at this size; hexadecimal."""
    key = json.dumps([list(hashes), size, RESIZE, _CACHE_VERSION, PIL.__version__])
    return hashlib.sha256(key.encode()).hexdigest()


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], doing: str = "", ahead: int | None = None
) -> Iterator[Result]:
    """Yield the results of a function in the order of its items, using one thread per processor.

    Args:
        function: its first exception stops the work.
        doing: name of the work, for a log line every ten seconds; "" logs nothing.
        ahead: number of results computed in advance; None means 8 per processor.
    """
    workers = threads()
    ahead = 8 * workers if ahead is None else ahead
    start = logged = time.monotonic()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(function, item) for item in items[:ahead])
        for done in range(1, len(items) + 1):
            check()
            result = waiting.popleft().result()
            if done - 1 + ahead < len(items):
                waiting.append(pool.submit(function, items[done - 1 + ahead]))
            yield result
            now = time.monotonic()
            if doing and now - logged >= _PROGRESS_SECONDS:
                logged = now
                left = (now - start) / done * (len(items) - done)
                _log.info("%s: %.0f%% done%s", doing, 100 * done / len(items), time_left(left))
    finally:
        pool.shutdown(cancel_futures=True)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # corrupted EXIF, which viewers ignore as well
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} (32 bits per channel) has no defined white")
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255; of 16-bit color it keeps the high byte as well.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _silence_pillow() -> None:
    """Turn off Pillow's warnings and log; undecodable files raise an error anyway.

    `warnings.catch_warnings` is not thread-safe, so the filters stay. They are added again if reset, as by pytest.
    """
    for category in (UserWarning, RuntimeWarning):
        if ("ignore", None, category, re.compile(_FROM_PILLOW), 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=_FROM_PILLOW)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
