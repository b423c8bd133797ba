"""Distances of perceptual hashes between duplicates and between photographs: the basis of `near_duplicates.MOST_BITS`.

python benchmarks/near_duplicates.py train.zip     -> benchmarks/results/near_duplicates.json

Counts all pairs of photographs by the number of differing bits, and measures the same distance between 400 photographs
and altered versions of them.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from catsdogs.base.files import write_json
from catsdogs.data import near_duplicates
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.images import decode

ALTERED = 400  # photographs
FARTHEST = 90  # bits; pairs up to this distance are counted. Random hashes differ in 128


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def crop(image: Image.Image, fraction: float) -> Image.Image:
    """Remove this fraction of width and height, half of it on each side."""
    x, y = image.width * fraction / 2, image.height * fraction / 2
    return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))


def add_label(image: Image.Image) -> Image.Image:
    """Cover 4% of the image with a white label."""
    image = image.copy()
    ImageDraw.Draw(image).rectangle((0, 0.91 * image.height, 0.45 * image.width, image.height), fill="white")
    return image


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 20": lambda image: jpeg(image, 20),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squeezed to 64 x 64": lambda image: image.resize((64, 64)),
    "brightness 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 1.5": lambda image: ImageEnhance.Contrast(image).enhance(1.5),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped by 4 %": lambda image: crop(image, 0.04),
    "cropped by 10 %": lambda image: crop(image, 0.1),
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BILINEAR),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BILINEAR),
    "a white label": add_label,
    "a white border of 3 %": lambda image: ImageOps.expand(image, round(0.03 * image.width), "white"),
    "mirrored": ImageOps.mirror,
}


def hash_of(image: Image.Image) -> imagehash.ImageHash:
    return imagehash.hex_to_hash(near_duplicates.phash(np.asarray(image.convert("RGB"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--cache", type=Path, default=Path(os.environ.get("CATSDOGS_CACHE", "~/.cache/catsdogs")).expanduser()
    )
    options = parser.parse_args()
    folder = open_images(options.images, options.cache, 20 * 2**30)
    rows = build_catalog(folder, options.cache)
    rows = rows[rows["width"] > 0]

    near_duplicates.MOST_BITS, chosen = FARTHEST, near_duplicates.MOST_BITS
    bits = near_duplicates.near_pairs(near_duplicates.perceptual_hashes(rows))["bits"]

    altered = {}
    sample = rows.sample(min(ALTERED, len(rows)), random_state=0)
    images = [Image.fromarray(decode((folder.root / path).read_bytes(), None)) for path in sample["path"]]
    originals = [hash_of(image) for image in images]
    for name, alter in ALTERATIONS.items():
        bits_apart = np.array([one - hash_of(alter(image)) for one, image in zip(originals, images, strict=True)])
        altered[name] = {
            "median": float(np.median(bits_apart)),
            "found": float((bits_apart <= chosen).mean()),
            "most": int(bits_apart.max()),
        }
        print(f"{name:24} median {np.median(bits_apart):5.0f} bits, detected {(bits_apart <= chosen).mean():7.1%}")
    counts = bits.value_counts().sort_index()
    print("pairs by number of differing bits:", counts.to_dict())
    write_json(
        Path(__file__).with_name("results") / "near_duplicates.json",
        {
            "images": len(rows),
            "most_bits": chosen,
            "pairs_by_bits": {str(key): int(value) for key, value in counts.items()},
            "altered": altered,
        },
    )


if __name__ == "__main__":
    main()
