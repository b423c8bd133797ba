"""Image formats, recognized by the first bytes of a file or by its suffix."""

import re

from PIL import AvifImagePlugin, Image

# Pillow supports more, but some run other programs (EPS), and others have no signature.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")

# Number of bytes that `image_format` needs.
HEAD_BYTES = 64

# Of an image. Pillow refuses twice its own limit, before it decodes an image or a frame or tile of it.
MAX_PIXELS = 120_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# The C library returns blocks of more than 32 MiB to the system; of smaller ones, each thread would keep some.
Image.core.set_block_size(2**26)

# Here, because Pillow otherwise loads its plugins with the first image, and ignores those that fail to load.
Image.init()
# catsdogs decodes several images at a time.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

_SIGNATURES = {
    # Images in these formats cannot be decoded, but a user expects a row for them in a submission.
    "HEIC": re.compile(rb".{4}ftyp(he[iv][cxms]|(mif1|msf1).{4,40}he[iv][cxms])", re.DOTALL),
    "JPEG XL": re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\n"),
    # Size and maximum follow. Pillow's test of two bytes would match text.
    "PPM": re.compile(rb"P[1-6]\s+(#|\d+\s+\d+\s)"),
}
_OF_PILLOW = {suffix for suffix, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}
_SUFFIXES = (".heic", ".heif", ".hif", ".jxl", *_OF_PILLOW)


def has_image_suffix(name: str) -> bool:
    """Return whether a file name ends like that of an image, in any case."""
    return name.lower().endswith(_SUFFIXES)


def image_format(head: bytes) -> str:
    """Return the format of a file by its first `HEAD_BYTES` bytes (fewer if it is shorter); "" if it is not an image.

    Formats without a reliable signature, such as DIB, are recognized by suffix only.
    """
    head = head[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")
    for name, signature in _SIGNATURES.items():
        if signature.match(head):
            return name
    # "BM" alone would match text, so the size of the next header, which is that of a DIB, must be valid as well.
    if _accepts("BMP", head):
        return "BMP" if _accepts("DIB", head[14:]) else ""
    return next((name for name in FORMATS if name not in ("BMP", "DIB", "PPM") and _accepts(name, head)), "")


def _accepts(name: str, head: bytes) -> bool:
    """Apply Pillow's own test of the first bytes; it returns a text if this Pillow was built without the format."""
    accept = Image.OPEN[name][1]
    return accept is not None and bool(accept(head))
