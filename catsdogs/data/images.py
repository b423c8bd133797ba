"""Files -> uint8 (N, S, S, 3), RGB, 0..255: the only decode and the only resize.

Training, validation, test-time augmentation, prediction and export all come through `decode`, so that no two of them
see different pixels.
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
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.base.files import binary_size
from catsdogs.base.processes import threads
from catsdogs.base.text import format_duration

RESIZE = "pillow-bilinear"

# The formats of the suffixes that `archive` takes. Pillow knows more, but some of these run other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF")
_CACHE_VERSION = 1  # of `_rgb`; part of the key of stored pixels, to be counted up when they change

_PROGRESS_SECONDS = 10.0
_FROM_PILLOW = r"PIL\."

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode(data: bytes, size: int | None) -> np.ndarray:
    """Decode one image, and squeeze it to a square.

    In this order: the first frame is decoded in full, turned upright by its EXIF orientation, made RGB, and resized
    without regard to its aspect ratio by Pillow's bilinear filter, which averages when it shrinks. Making it RGB means:
    of 16-bit channels the high byte is kept, transparency is laid over white, CMYK and palettes are converted by
    Pillow.

    Args:
        data: the content of the file.
        size: side S of the square in pixels; None leaves the image (height, width, 3).

    Returns:
        (S, S, 3) uint8, RGB, 0..255.

    Raises:
        ValueError: it does not decode; its text is the reason in a few words.
    """
    if not data:
        raise ValueError("the file is empty")
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            rgb = _rgb(_upright(image))
            return np.array(rgb if size is None else squeeze(rgb, size))
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    except Exception as error:  # Pillow has no common exception: SyntaxError, struct.error, OSError, bombs, ...
        text = "".join(filter(str.isprintable, " ".join(str(error).split())))
        raise ValueError(text[:200] or type(error).__name__) from error


def squeeze(image: Image.Image, size: int) -> Image.Image:
    """Resize to a square of `size` pixels, whatever the aspect ratio."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def pixels(rows: pd.DataFrame, root: Path, size: int, cache: Path) -> np.ndarray:
    """Decoded images of a table, stored once under a key that covers everything that changes them.

    Args:
        rows: columns path (relative to `root`) and sha256; every image must decode.
        size: side S of the squares in pixels.
        cache: the cache folder; the array is `pixels/<key>.npy` in it.

    Returns:
        (N, S, S, 3) uint8, RGB, 0..255, in the order of `rows`; memory-mapped, read-only.

    Raises:
        UserError: an image has vanished, changed, or does not decode, or the cache has no room for the array.
    """
    shape = (len(rows), size, size, 3)
    hashes = [str(sha256) for sha256 in rows["sha256"]]
    path = cache / "pixels" / f"{pixels_key(hashes, size)}.npy"
    if not path.exists():
        images, needed = list(zip(rows["path"], hashes, strict=True)), math.prod(shape)
        try:
            if needed > (free := files.free_bytes(path.parent)):
                raise UserError(
                    f"{path.parent}: {len(rows)} images of {size}x{size} pixels take {binary_size(needed)} and "
                    f"{binary_size(free)} are free; pass cache=FOLDER on a larger disk, or a smaller data.limit"
                )
            _log.info("decoding %d images to %dx%d (%s)", len(rows), size, size, binary_size(needed))
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                files.write_npy_header(file, shape, "uint8")
                for image in in_threads(lambda image: _squeezed(root, *image, size), images, "decoding"):
                    file.write(image.data)
        except OSError as error:
            raise UserError(
                f"{path.parent}: cannot hold {binary_size(needed)} of pixels ({error.strerror}); "
                f"pass cache=FOLDER with a folder that can"
            ) from error
    return np.load(path, mmap_mode="r")


def _squeezed(root: Path, path: str, sha256: str, size: int) -> np.ndarray:
    """Decode one file, if it still is what the catalogue saw."""
    try:
        data = (root / path).read_bytes()
        fault = "" if hashlib.sha256(data).hexdigest() == sha256 else "has changed since it was catalogued"
    except OSError as error:
        fault = f"cannot be read any more ({error.strerror})"
    if fault:
        raise UserError(f"{root / path}: {fault}; run again, and if {root} is in the cache remove that folder first")
    try:
        return decode(data, size)
    except ValueError as error:
        raise UserError(f"{root / path}: does not decode ({error}); add its id to data.ignore") from error


def pixels_key(hashes: Sequence[str], size: int) -> str:
    """Hexadecimal digest of all that decides the pixels of images with these sha256 at this size, in their order."""
    return hashlib.sha256(
        json.dumps([list(hashes), size, RESIZE, _CACHE_VERSION, PIL.__version__]).encode()
    ).hexdigest()


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], doing: str = "", ahead: int | None = None
) -> Iterator[Result]:
    """Results of a function in the order of its items, worked out by as many threads as there are processors.

    Only a few results wait in memory at a time. Of long work a line is logged every ten seconds.

    Args:
        function: its first exception ends the work.
        doing: the work in a word or two, for the log; empty logs nothing.
        ahead: results that may wait; 8 for every processor if None.
    """
    workers = threads()
    ahead = 8 * workers if ahead is None else ahead
    start = logged = time.monotonic()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(function, item) for item in items[:ahead])
        for place in range(len(items)):
            result = waiting.popleft().result()
            if place + ahead < len(items):
                waiting.append(pool.submit(function, items[place + ahead]))
            yield result
            now = time.monotonic()
            if doing and now - logged >= _PROGRESS_SECONDS:
                logged = now
                left = (now - start) / (place + 1) * (len(items) - place - 1)
                _log.info("%s: %.0f %% done, %s left", doing, 100 * (place + 1) / len(items), format_duration(left))
    finally:
        pool.shutdown(cancel_futures=True)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF: the picture itself has decoded, and viewers show it as it is stored
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} (32 bits a channel) have no fixed white")
    if image.mode.startswith("I;16"):
        # Pillow would clip these at 255. The high byte is what it keeps of 16-bit colour, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _silence_pillow() -> None:
    """Turn off Pillow's warnings and log about odd files: what does not decode is told by an error, the rest is noise.

    `warnings.catch_warnings` is no help, as threads that leave it in another order than they entered restore the wrong
    filters. So these stay, and are put back if someone (pytest) has reset them meanwhile.
    """
    for category in (UserWarning, RuntimeWarning):
        if ("ignore", None, category, re.compile(_FROM_PILLOW), 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=_FROM_PILLOW)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
