"""Files -> those that do not decode, have no clear label, are tiny, or are stored in an odd way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

from catsdogs.errors import UserError
from catsdogs.images import FORMATS, in_threads, silence_pillow

UNDECODABLE, LABEL, TINY, FORMAT = "undecodable", "label", "tiny", "format"

# Pixels of the shorter side. Below, an image is enlarged more than twofold for the smallest usual input (160).
TINY_PIXELS = 64

_ORIENTATION = 0x0112  # EXIF
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "GIF": {".gif"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
}
# What Pillow calls other kinds of the same: JPEGs with a preview behind them, bitmaps without a file header.
_KINDS = {"MPO": "JPEG", "DIB": "BMP"}


def oddities(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """What is odd about each image.

    Args:
        rows: of a catalogue.
        root: the folder of the images.

    Returns:
        A row per oddity, in the order of `rows`: id, kind ("undecodable", "label", "tiny", "format"), detail.

    Raises:
        UserError: an image cannot be read any more.
    """
    decoding = rows[rows["width"] > 0]
    formats = in_threads(lambda path: list(_of_format(root / path)), list(decoding["path"]), "reading formats")
    of_format = dict(zip(decoding["id"], formats, strict=True))
    found = [
        (row["id"], kind, detail)
        for row in rows.to_dict("records")
        for kind, detail in [*_of_row(row), *((FORMAT, detail) for detail in of_format.get(row["id"], []))]
    ]
    return pd.DataFrame(found, columns=["id", "kind", "detail"], dtype=str)


def _of_row(row: dict) -> Iterator[tuple[str, str]]:
    """What the catalogue knows already."""
    if row["width"] == 0:
        yield UNDECODABLE, row["problem"]
        return
    if row["problem"]:
        yield LABEL, row["problem"]
    elif math.isnan(row["label"]):
        yield LABEL, "neither its file name nor a folder tells a label"
    if min(row["width"], row["height"]) < TINY_PIXELS:
        yield TINY, f"{row['width']} x {row['height']} pixels"


def _of_format(file: Path) -> Iterator[str]:
    """What is odd about how an image is stored; only its header is read."""
    silence_pillow()
    try:
        image = Image.open(file, formats=FORMATS)
    except OSError as error:
        raise UserError(f"{file}: cannot be read any more ({error}); run again") from error
    with image:
        kind = _KINDS.get(str(image.format), str(image.format))
        suffix = PurePosixPath(file.name).suffix
        if suffix.lower() not in _SUFFIXES[kind]:
            yield f"{kind}, but named {suffix}"
        if image.mode == "CMYK":
            yield "CMYK, for print"
        elif image.mode == "P":
            yield "palette of 256 colours at most"
        elif image.mode.startswith("I;16"):
            yield "16 bits a channel, of which the high 8 are used"
        if image.has_transparency_data:
            yield "transparency, laid over white"
        frames = _frames(image)
        if frames > 1 and kind != "JPEG":
            yield f"{frames} frames, of which the first is used"
        orientation = _orientation(image)
        if orientation != 1:
            yield f"turned upright by its EXIF orientation {orientation}"


def _frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow has no common exception; the first frame has decoded, and it is the one that counts
        return 1


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright, also where EXIF is broken or says nothing known."""
    try:
        told = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # as in `images.decode`
        return 1
    return told if told in range(1, 9) else 1
