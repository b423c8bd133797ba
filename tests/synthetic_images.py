"""Small synthetic images, and folders and zips of them."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"  # start of a photo of an iPhone


def gradient(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Return an asymmetric image: a gradient in every channel and four different corners."""
    y, x = np.mgrid[0:height, 0:width] / (max(width, height) - 1)
    phase = np.random.default_rng(seed).uniform(0, 1, 3)
    channels = [(200 * x + 30 * y + 255 * phase[0]), (60 * x + 180 * y + 255 * phase[1]), (90 * x * y + 255 * phase[2])]
    return Image.fromarray((np.stack(channels, axis=-1) % 256).astype(np.uint8))


def scene(seed: int, side: int = 96) -> Image.Image:
    """Return soft blobs; two seeds differ as much as two photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def jpeg(seed: int) -> bytes:
    return encoded(gradient(seed))


def zip_of(path: Path, members: Mapping[Any, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive of members by name or `ZipInfo`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def folder_of(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def cats_and_dogs(cats: int, dogs: int, folder: str = "train/") -> dict[str, bytes]:
    """Return distinct images named as by Kaggle: cat.0.jpg, ..., dog.0.jpg, ..."""
    members = {f"{folder}cat.{number}.jpg": jpeg(number) for number in range(cats)}
    return members | {f"{folder}dog.{number}.jpg": jpeg(1000 + number) for number in range(dogs)}


def leaf(seed: int | np.random.Generator) -> Image.Image:
    """Draw an outline with veins on a plain background; its hash is close to those of other leaves."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), "white")
    draw, green = ImageDraw.Draw(image), tuple(rng.integers((20, 100, 10), (120, 200, 90)).tolist())
    width, height, power, veins = rng.uniform(20, 45), rng.uniform(40, 56), rng.uniform(0.6, 1.6), rng.integers(3, 9)
    t = np.linspace(0, 1, 60)
    x, y = width * np.sin(np.pi * t**power), 64 + height * (2 * t - 1)
    draw.polygon([*zip(64 + x, y, strict=True), *zip(64 - x[::-1], y[::-1], strict=True)], fill=green)
    for part in (np.arange(veins) + 0.7) / (veins + 0.5):
        end, middle = 0.9 * width * np.sin(np.pi * part**power), 64 + height * (2 * part - 1)
        draw.line([(64 - end, middle - 6), (64, middle), (64 + end, middle - 6)], fill="darkgreen", width=2)
    return image
