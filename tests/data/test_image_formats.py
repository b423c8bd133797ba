"""The first bytes of a file decide whether it is an image; a suffix is enough for a damaged one."""

import numpy as np
import pytest
from synthetic_images import HEIC, encoded, gradient

from catsdogs.data.formats import has_image_suffix, image_format
from catsdogs.data.images import transform

pytestmark = pytest.mark.lowest


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_every_format_is_recognized_and_decoded(form):
    data = encoded(gradient(1), form)
    assert image_format(data) == form
    difference = transform(data, np.array).astype(int) - np.asarray(gradient(1))
    assert np.abs(difference).mean() < 16


def test_images_that_cannot_be_decoded_are_images():
    for data in (
        HEIC,
        b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf",
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"x" * 90,
        b"\xff\n" + b"x" * 90,
    ):
        with pytest.raises(ValueError, match=f"{image_format(data)} is not supported; convert it"):
            transform(data, np.array)


VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0isom"


@pytest.mark.parametrize("data", [b"", b"\xff", b"BMW, Opel", b"Python", b"P1 is", b"%PDF-1.7", b"RIFF1234WAVE", VIDEO])
def test_other_files_are_not_images(data):
    assert image_format(data) == ""


def test_suffixes():
    names = "1.jpg 1.JFIF 1.jpe 1.heic 1.HIF 1.avif 1.jp2 1.jxl 1.ppm 1.tiff 1.dib 1.mpo"
    assert all(map(has_image_suffix, names.split()))
    assert not any(map(has_image_suffix, ["1", "1.jpg.txt", "1.mp4", "jpg", "1.svg"]))
