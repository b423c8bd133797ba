"""Decoding and resizing of image files.

Training, validation, test-time augmentation and prediction use `transform` and `to_square`, and see the same pixels.
"""

import hashlib
import io
import logging
import math
import os
import re
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.base.interrupts import check
from catsdogs.base.processes import threads
from catsdogs.base.text import binary_size, time_left
from catsdogs.config.schema import Resize
from catsdogs.data.formats import FORMATS, MAX_PIXELS, image_format

RESIZE = "pillow-bilinear"

_CACHE_VERSION = 1  # part of the key of stored pixels; increment when these change

_PROGRESS_SECONDS = 10.0

# Memory that must be available when an image counts as corrupted, in bytes: at least, and per pixel.
_SPARE_BYTES, _SPARE_BYTES_PER_PIXEL = 2**28, 16

# Most bytes that decoding takes per pixel, measured, by mode or format; 12 for other modes.
_BYTES_PER_PIXEL = {"RGB": 10, "L": 10, "P": 10, "1": 10, "WEBP": 24, "AVIF": 32, "JPEG2000": 80}
_STRIP = 256  # rows
_MAX_SCANS = 100  # of a JPEG; each takes as long as the whole image, and encoders write at most 20
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # marker, length, components
_MAX_SIDE = 65535  # of a JPEG; the decoder of BMP may skip 255 rows at once

# Undecodable files raise an error anyway. `warnings.catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Memory:
    """Memory that all threads share: each reserves the bytes that it needs, and waits until they are free."""

    def __init__(self, limit: int) -> None:
        self.limit = self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


# Together less than 1.5 GiB. A thread that waits for memory for pixels holds the file, but not the other way around.
_FILES, _PIXELS = _Memory(320 * 2**20), _Memory(MAX_PIXELS * 10)


def transform(data: bytes, function: Callable[[Image.Image], Result]) -> Result:
    """Decode an image and return a function of it, in RGB.

    The first frame is decoded completely, turned upright by its EXIF orientation and converted to RGB. This keeps the
    high byte of 16-bit channels and puts transparency over white; Pillow converts CMYK and palettes.

    Raise ValueError, with a short reason, if the image cannot be decoded or is too large, and MemoryError if there is
    too little memory to decode it, or to know that it cannot be decoded.
    """
    if not data:
        raise ValueError("the file is empty")
    spare = _SPARE_BYTES
    with ExitStack() as memory:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.format in ("JPEG", "MPO") and any(islice(_SCAN.finditer(data), _MAX_SCANS, None)):
                    raise ValueError(f"JPEG with more than {_MAX_SCANS} scans")
                memory.enter_context(_PIXELS.reserved(_decoding_bytes(image, len(data))))
                spare = max(spare, _SPARE_BYTES_PER_PIXEL * image.width * image.height)
                image.load()
                # Pillow scales gray values of PPM to 0..65535, whatever their maximum is.
                gray16 = image.mode == "I" and image.format == "PPM"
                rgb = _rgb(_upright(image.convert("I;16") if gray16 else image))
        except MemoryError:
            raise
        except Exception as error:  # Pillow has no common exception: SyntaxError, struct.error, OSError, bombs, ...
            # Without memory, most decoders report corrupted data. This raises a MemoryError then; it uses no memory.
            np.empty(spare, np.uint8)
            if isinstance(error, UnidentifiedImageError):
                known = image_format(data)
                if known and known not in FORMATS:
                    raise ValueError(f"{known} is not supported; convert it to JPEG or PNG") from None
                reason = f"not a valid {known} image" if known else "not an image of a known format"
                raise ValueError(reason) from None
            text = "".join(filter(str.isprintable, " ".join(str(error).split())))
            raise ValueError(text[:200] or type(error).__name__) from error
        return function(rgb)


def read_image(file: Path, function: Callable[[Image.Image], Result]) -> tuple[str, Result | None, str]:
    """Return the SHA-256 of a file, hexadecimal; a function of its pixels (see `transform`), or None and the reason.

    A file that is too large has the SHA-256 of its path. Raise UserError if the file cannot be read, or there is too
    little memory to decode it.
    """
    try:
        with file.open("rb") as stream:
            if (size := os.fstat(stream.fileno()).st_size) > _FILES.limit:
                reason = f"{binary_size(size)}; the limit is {binary_size(_FILES.limit)}"
                return hashlib.sha256(os.fsencode(file)).hexdigest(), None, reason
            with _FILES.reserved(size):
                data = stream.read(size)
                sha256 = hashlib.sha256(data).hexdigest()
                return sha256, transform(data, function), ""
    except ValueError as error:
        return sha256, None, str(error)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); repair or remove the file") from error
    except MemoryError as error:
        raise UserError(f"{file}: out of memory; close other programs, or remove the image if it is huge") from error


def to_square(size: int, resize: Resize = "squeeze") -> Callable[[Image.Image], np.ndarray]:
    """Return the function that resizes an RGB image to (size, size, 3) uint8, 0..255."""
    return lambda rgb: np.array(RESIZERS[resize](rgb, size))


def squeeze(image: Image.Image, size: int) -> Image.Image:
    """Resize to a square of `size` pixels, ignoring the aspect ratio."""
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _pad(image: Image.Image, size: int) -> Image.Image:
    """Resize the longer side to `size` pixels and center the image on middle gray."""
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    square = Image.new("RGB", (size, size), (127, 127, 127))  # about 0 after the preprocessing of most networks
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2))
    return square


RESIZERS: dict[Resize, Callable[[Image.Image, int], Image.Image]] = {
    "squeeze": squeeze,
    "pad": _pad,
    "crop": lambda image, size: ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR),  # largest centered square
}


def pixels(rows: pd.DataFrame, root: Path, size: int, cache: Path, resize: Resize = "squeeze") -> np.ndarray:
    """Return the decoded images of a table, from the cache if possible.

    `rows` has the columns path (relative to `root`) and sha256, of decodable images. The result is (N, S, S, 3) uint8,
    RGB, 0..255, in their order; memory-mapped from `pixels/<key>.npy` in the cache, read-only (`files.seal_npy`).

    Raise UserError if an image is missing, changed or cannot be decoded, or if the cache is too small, and OSError if
    it cannot be written.
    """
    shape = (len(rows), size, size, 3)
    hashes = [str(sha256) for sha256 in rows["sha256"]]
    key = pixels_key(hashes, size, resize)
    path = cache / "pixels" / f"{key}.npy"
    try:
        return files.load_sealed_npy(path, key, shape, "uint8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        _log.warning("%s: corrupted, or of an earlier version (%s); decoding the images again", path, error)
    images, needed = list(zip((root / name for name in rows["path"]), hashes, strict=True)), math.prod(shape)
    if needed > (free := files.free_bytes(path.parent)):
        space = f"need {binary_size(needed)}, but only {binary_size(free)} are free"
        fix = "set cache=FOLDER (or --cache) on a larger disk, or a smaller data.limit"
        raise UserError(f"{path.parent}: {len(rows)} images of {size}x{size} pixels {space}; {fix}")
    _log.info("decoding %d images to %dx%d (%s)", len(rows), size, size, binary_size(needed))
    files.remove(path)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        file.write(files.npy_header(shape, "uint8"))
        for image in in_threads(lambda image: _decode_file(*image, to_square(size, resize)), images, "decoding"):
            file.write(image.data)
        file.flush()
        files.seal_npy(temporary, key)
    return files.load_sealed_npy(path, key, shape, "uint8")


def _decode_file(file: Path, sha256: str, function: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    found, image, problem = read_image(file, function)
    if found != sha256:
        raise UserError(f"{file}: changed since the images were cataloged; run the command again")
    if image is None:
        raise UserError(f"{file}: cannot be decoded ({problem}); add its id to data.ignore")
    return image


def pixels_key(hashes: Sequence[str], size: int, resize: Resize = "squeeze") -> str:
    """Return the cache key of images with these SHA-256, in this order, at this size; hexadecimal."""
    # Keys of squeezed images are those of versions without another kind.
    kind = [] if resize == "squeeze" else [resize]
    return files.json_digest([list(hashes), size, RESIZE, _CACHE_VERSION, PIL.__version__, *kind])


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], doing: str = "", ahead: int | None = None
) -> Iterator[Result]:
    """Yield the results of a function in the order of its items, using one thread per processor.

    Its first exception stops the work. `doing` names the work in a log line every ten seconds; "" logs nothing. `ahead`
    results are computed in advance; None: 8 per processor.
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


def _decoding_bytes(image: ImageFile.ImageFile, file_bytes: int) -> int:
    """Return the most memory that decoding an opened image takes; raise ValueError if that is too much."""
    pixels = image.width * image.height
    needed = pixels * max(_BYTES_PER_PIXEL.get(image.mode, 12), _BYTES_PER_PIXEL.get(str(image.format), 0))
    if image.tile and image.tile[0].codec_name == "libtiff":  # decodes one tile or strip at a time, from a copy
        tags: Any = getattr(image, "tag_v2", {})
        tile = max(tags.get(322, 0) * tags.get(323, 0), image.width * min(tags.get(278, image.height), image.height))
        needed = max(needed, 4 * pixels + 8 * tile + file_bytes)
    elif image.format in ("AVIF", "WEBP"):  # copied by their decoders
        needed += 2 * file_bytes
    if needed > _PIXELS.limit or max(image.size) > _MAX_SIDE:
        raise ValueError(f"{image.format} of {image.width} x {image.height} pixels is too large to decode")
    return needed


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
        rgb = Image.new("RGB", image.size)
        for top in range(0, image.height, _STRIP):  # to save memory
            strip = image.crop((0, top, image.width, min(top + _STRIP, image.height))).convert("RGBA")
            rgb.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), (0, top))
        return rgb
    return image if image.mode == "RGB" else image.convert("RGB")
