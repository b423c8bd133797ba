import hashlib
import io
import json
import logging
import os
import struct
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile
from synthetic_images import HEIC, encoded, folder_of, gradient, jpeg, scene

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.data import catalog, images
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.formats import image_format
from catsdogs.data.images import in_threads, pixels, to_square, transform

pytestmark = pytest.mark.lowest


def decode(data, size=None, resize="squeeze"):
    """Return the pixels of an image, resized to a square if a size is given."""
    return transform(data, np.array if size is None else to_square(size, resize))


@pytest.mark.parametrize(
    ("resize", "box", "pasted"),
    [
        ("squeeze", (0, 0, 100, 60), (0, 0, 20, 20)),
        ("pad", (0, 0, 100, 60), (0, 4, 20, 16)),
        ("crop", (20, 0, 80, 60), (0, 0, 20, 20)),
    ],
)
def test_an_image_is_squeezed_padded_or_cropped_to_a_square(resize, box, pasted):
    image, (left, top, right, bottom) = gradient(2, 100, 60), pasted
    for upright in (image, image.transpose(Image.Transpose.TRANSPOSE)):
        expected = np.full((20, 20, 3), 127, np.uint8)
        inner = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)
        expected[top:bottom, left:right] = np.asarray(inner)
        expected = expected if upright is image else expected.swapaxes(0, 1)
        # Pillow resizes one axis after the other, and rounds in between.
        np.testing.assert_allclose(decode(encoded(upright, "PNG"), 20, resize), expected.astype(int), atol=1)
    for width, height in [(1, 1), (1, 900), (900, 1), (3, 2)]:
        assert decode(encoded(Image.new("RGB", (width, height), "red"), "PNG"), 17, resize).shape == (17, 17, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_every_format_is_recognized_and_decoded(form):
    data = encoded(gradient(1), form)
    assert image_format(data) == form
    difference = decode(data).astype(int) - np.asarray(gradient(1))
    assert np.abs(difference).mean() < 16


def test_images_that_cannot_be_decoded_are_images():
    for data in (
        HEIC,
        b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf",
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"x" * 90,
        b"\xff\n" + b"x" * 90,
    ):
        with pytest.raises(ValueError, match=f"{image_format(data)} is not supported; convert it"):
            decode(data)


def test_other_files_are_not_images():
    video = b"\0\0\0\x18ftypmp42\0\0\0\0isom"
    assert not any(map(image_format, (b"", b"\xff", b"BMW, Opel", b"P1 is", b"%PDF-1.7", b"RIFF1234WAVE", video)))


# The inverse of each orientation's transform.
STORED_BY = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")


@pytest.mark.parametrize(("orientation", "how"), list(enumerate([None, *STORED_BY], start=1)))
def test_image_is_turned_upright(orientation, how):
    upright, exif = gradient(3), Image.Exif()
    exif[0x0112] = orientation
    data = encoded(upright.transpose(Image.Transpose[how]) if how else upright, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), np.asarray(upright))
    for broken in (b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xee" * 30, b"Exif\0\0nonsense"):
        np.testing.assert_array_equal(decode(encoded(upright, "PNG", exif=broken)), np.asarray(upright))


def row(mode, *values, palette=None):
    image = Image.new(mode, (len(values), 1))
    if palette is not None:
        image.putpalette(palette)
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


GRAY16 = Image.fromarray(np.array([[255, 256, 0x1234, 0xFEFF]], dtype=np.uint16))
RGBA = row("RGBA", (10, 200, 30, 255), (10, 200, 30, 0), (0, 100, 200, 51))  # the last is 20% opaque
OVER_WHITE = [[10, 200, 30], [255, 255, 255], [204, 224, 244]]
PALETTE = row("P", 0, 1, 2, palette=[0, 0, 0, 250, 20, 90, 1, 2, 3])
TRANSPARENT = [[0, 0, 0], [255, 255, 255], [1, 2, 3]]


@pytest.mark.parametrize(
    ("image", "form", "options", "expected"),
    [
        *((GRAY16, form, {}, [0, 1, 0x12, 0xFE]) for form in ("PNG", "TIFF")),
        (Image.frombytes("I;16B", (2, 1), b"\x12\x34\xfe\x01"), "TIFF", {}, [0x12, 0xFE]),
        (row("LA", (7, 255), (7, 0)), "PNG", {}, [7, 255]),
        (RGBA, "PNG", {}, OVER_WHITE),
        (RGBA, "WEBP", {"lossless": True, "exact": True}, OVER_WHITE),
        (PALETTE, "PNG", {}, [[0, 0, 0], [250, 20, 90], [1, 2, 3]]),
        (PALETTE, "GIF", {"transparency": 1}, TRANSPARENT),
        (PALETTE, "PNG", {"transparency": bytes([255, 0, 255])}, TRANSPARENT),
        (row("CMYK", (0, 255, 255, 0)), "TIFF", {}, [[255, 0, 0]]),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", {}, [255] * 8),
        (row("I", 0, 0x12FF, 0xFFFF), "PPM", {}, [0, 0x12, 0xFF]),
    ],
)
def test_every_mode_is_converted_to_rgb(image, form, options, expected):
    rgb = [value if isinstance(value, list) else [value] * 3 for value in expected]
    assert decode(encoded(image, form, **options))[0].tolist() == rgb


@pytest.mark.parametrize("form", ["GIF", "MPO"])  # MPO: stereo images of phones
def test_decode_reads_the_first_frame(form):
    data = encoded(gradient(1), form, save_all=True, append_images=[gradient(2)])
    image = Image.open(io.BytesIO(data))
    assert (image.format, getattr(image, "n_frames", 1)) == (form, 2)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))
    decode(PROGRESSIVE + b"\xff\xda" * 1000)  # no scans: phones append videos


INVALID = bytearray(encoded(gradient(1), "TIFF"))  # Pillow logs an error about it
struct.pack_into("<H", INVALID, INVALID.index(struct.pack("<HHI", 277, 3, 1)) + 8, 45)  # SamplesPerPixel


PROGRESSIVE = encoded(gradient(1), progressive=True)
LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
MANY_SCANS = PROGRESSIVE[:-2] + LAST_SCAN * 100 + PROGRESSIVE[-2:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "known format"),
        (jpeg(1)[:-200], "truncated"),
        (MANY_SCANS, "JPEG with more than 100 scans"),
        (encoded(gradient(1), "TIFF")[:200], "."),
        (encoded(gradient(1), "EPS"), "known format"),
        (bytes(INVALID), "not a valid TIFF"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "mode F"),
    ],
)
def test_undecodable_images_have_a_short_reason(data, reason, caplog):
    with pytest.raises(ValueError, match=reason) as caught:
        decode(data)
    assert 0 < len(str(caught.value)) <= 200
    assert str(caught.value).isprintable()
    assert caplog.messages == []


HUGE = {
    "PNG": lambda: encoded(Image.new("1", (13_377, 13_377)), "PNG"),
    "JPEG2000": lambda: encoded(Image.new("L", (5000, 5000)), "JPEG2000"),
    "WEBP": lambda: encoded(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0, quality=0),
    "side": lambda: encoded(Image.new("1", (70_000, 1)), "BMP"),
}


@pytest.mark.parametrize("form", list(HUGE))
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, form):
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=AssertionError))
    (tmp_path / "cat.1.jpg").write_bytes(HUGE[form]())
    with pytest.raises(ValueError, match=r"too large|exceeds limit"):
        decode((tmp_path / "cat.1.jpg").read_bytes(), 8)
    table = build_catalog(open_images(tmp_path, tmp_path / "cache"), tmp_path / "cache")
    assert table["width"].tolist() == [0]
    assert table["problem"].str.startswith("cannot be decoded: ").all()


def test_a_tile_that_is_larger_than_its_image_counts():
    tiles = {"tag_v2": {322: 60_000, 323: 60_000}, "tile": [Mock(codec_name="libtiff")]}
    with pytest.raises(ValueError, match="too large"):
        images._decoding_bytes(Mock(width=8, height=8, size=(8, 8), mode="RGB", format="TIFF", **tiles), 100)


def test_files_that_are_too_large_are_not_read(tmp_path):
    with (tmp_path / "cat.1.jpg").open("wb") as file:
        file.truncate(2**33)
    assert images.read_image(tmp_path / "cat.1.jpg", np.array)[1:] == (None, "8.0 GiB; the limit is 320.0 MiB")


def test_threads_together_stay_within_the_memory(tmp_path):
    """A photograph of 108 megapixels is decoded; the decoders of four threads do not add up."""
    Image.new("RGB", (12_000, 9_000), "red").save(tmp_path / "1.jpg")
    code = (
        "import resource, sys, pathlib\nfrom catsdogs.data import catalog, images\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start, files = peak(), [pathlib.Path(sys.argv[1])] * 4\n"
        "assert all(fact[1] == 12_000 for fact in images.in_threads(catalog._fact, files))\n"
        "print(peak() - start)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "1.jpg")]
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * 2**20


@pytest.mark.parametrize(
    ("owner", "where"), [(ImageFile.ImageFile, "load"), (images.ImageOps, "exif_transpose"), (catalog, "phash")]
)
def test_out_of_memory_is_not_a_corrupted_image(tmp_path, monkeypatch, owner, where):
    monkeypatch.setattr(owner, where, Mock(side_effect=MemoryError))
    root = folder_of(tmp_path / "pets", {"cat.1.jpg": jpeg(1)})
    with pytest.raises(UserError, match=r"cat\.1\.jpg: out of memory"):
        build_catalog(open_images(root, tmp_path / "cache"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_error_of_a_decoder_without_memory_is_not_a_corrupted_image(tmp_path):
    """Without memory, decoders such as that of progressive JPEG report a broken stream."""
    code = (
        "import resource, sys, pathlib; from catsdogs.data.images import transform\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 40 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used, used))\n"
        "try: transform(data, str)\n"
        "except MemoryError: print('memory')\n"
        "except ValueError as error: print(error)"
    )
    for form, options in (("JPEG", {"progressive": True}), ("WEBP", {}), ("JPEG2000", {})):
        (tmp_path / form).write_bytes(encoded(scene(1).resize((3000, 3000)), form, **options))
        command = [sys.executable, "-c", code, str(tmp_path / form)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "memory\n", form


def test_results_keep_their_order_and_the_first_exception_stops_the_work():
    assert list(in_threads(lambda number: number**2, range(500), "squaring")) == [number**2 for number in range(500)]
    started = []

    def fail(number):
        started.append(number)
        if number == 3:
            raise UserError("three")
        return number

    with pytest.raises(UserError, match="three"):
        list(in_threads(fail, range(100_000), "failing"))
    assert len(started) < 4 + 8 * (os.cpu_count() or 1)


def test_long_work_logs_its_progress(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "catsdogs")
    clock = iter(range(0, 10**9, 4))  # four seconds per call
    monkeypatch.setattr(images.time, "monotonic", lambda: float(next(clock)))
    list(in_threads(str, range(300), "long work"))
    assert caplog.messages[0] == "long work: 1% done, about 20 min left"
    assert len(caplog.messages) == 300 // 3


NAMES = [f"a/cat.{number}.jpg" for number in (3, 0, 29, 1, 1)]


def rows_of(root):
    hashes = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in NAMES]
    return pd.DataFrame({"path": NAMES, "sha256": hashes})


@pytest.fixture
def root(tmp_path):
    return folder_of(tmp_path / "pets", {f"a/cat.{number}.jpg": jpeg(number) for number in range(30)})


def test_pixels_are_decoded_once_per_key(tmp_path, root, monkeypatch):
    cache, rows = tmp_path / "cache", rows_of(root)

    def stored():
        return len(list((cache / "pixels").iterdir()))

    first = pixels(rows, root, 24, cache)
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, np.stack([decode((root / name).read_bytes(), 24) for name in NAMES]))
    with monkeypatch.context() as patch:
        patch.setattr(images, "transform", None)  # other indices and folders share the key
        np.testing.assert_array_equal(pixels(rows.set_index(rows.index + 7), tmp_path / "moved", 24, cache), first)
    assert stored() == 1
    assert pixels(rows, root, 25, cache).shape == (5, 25, 25, 3)
    np.testing.assert_array_equal(pixels(rows[::-1], root, 24, cache), first[::-1])
    assert pixels(rows[:0], root, 24, tmp_path / "none").shape == (0, 24, 24, 3)
    monkeypatch.setattr(images.PIL, "__version__", "0")
    pixels(rows, root, 24, cache)
    padded = pixels(rows, root, 24, cache, "pad")
    np.testing.assert_array_equal(padded[0], decode((root / NAMES[0]).read_bytes(), 24, "pad"))
    assert stored() == 5
    key = json.dumps([["a", "b"], 24, "pillow-bilinear", 1, "0"])  # as in version 0.2
    assert images.pixels_key(["a", "b"], 24) == hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    "corrupted",
    [
        lambda old: old[: len(old) // 2],
        lambda old: old[:128] + old[1856:3584] + old[128:1856] + old[3584:],  # swapped images
        lambda old: old.replace(b"(5, 24", b"(4, 24"),
        lambda old: old[:-32],  # of version 0.2
        None,
    ],
)
def test_corrupted_pixels_are_decoded_again(tmp_path, root, caplog, corrupted):
    rows, cache = rows_of(root), tmp_path / "cache"
    expected = np.array(pixels(rows, root, 24, cache))
    (file,) = (cache / "pixels").iterdir()
    if corrupted:
        file.write_bytes(corrupted(file.read_bytes()))
    else:
        file.rename(tmp_path / "moved")
        file.mkdir()
    np.testing.assert_array_equal(pixels(rows, root, 24, cache), expected)
    assert f"{file}: corrupted" in caplog.text


@pytest.mark.parametrize("row_bytes", [2**10, 2**20])
def test_a_large_file_is_checked_by_a_sample_of_its_rows(tmp_path, row_bytes):
    values, path = np.zeros((2**25 // row_bytes, row_bytes), np.uint8), tmp_path / "a.npy"
    np.save(path, values)
    files.seal_npy(path, "f" * 64)
    assert files.load_sealed_npy(path, "f" * 64, values.shape, "uint8").shape == values.shape
    with path.open("r+b") as file:
        file.seek(128 + 2**24)
        file.write(bytes([1]) * (2**25 - 2**24))
    with pytest.raises(ValueError, match="digest"):
        files.load_sealed_npy(path, "f" * 64, values.shape, "uint8")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (jpeg(100), "changed"), (b"x", "cannot be decoded")]
)
def test_missing_changed_and_undecodable_files(tmp_path, root, content, message):
    rows, file = rows_of(root), root / "a/cat.29.jpg"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    if content == b"x":
        rows = rows_of(root)
    with pytest.raises(UserError, match=rf"cat\.29\.jpg: {message}"):
        pixels(rows, root, 24, tmp_path / "cache")
    assert list((tmp_path / "cache" / "pixels").iterdir()) == []


def test_full_disk(tmp_path, root, monkeypatch):
    rows, cache, free = rows_of(root), tmp_path / "cache", 5 * 24 * 24 * 3
    monkeypatch.setattr(files, "free_bytes", lambda _: free - 1)
    with monkeypatch.context() as patch:
        patch.setattr(images, "transform", None)  # detected before decoding
        with pytest.raises(UserError, match=r"5 images of 24x24.*8\.4 KiB.*cache=FOLDER"):
            pixels(rows, root, 24, cache)
    monkeypatch.setattr(files, "free_bytes", lambda _: free)
    assert len(pixels(rows, root, 24, cache)) == 5
