"""Detection of near-duplicates: the basis of the limits in `catsdogs/data/near_duplicates.py`.

PYTHONPATH=tests python benchmarks/near_duplicates.py ZIP ... -> benchmarks/results/near_duplicates.json

Counts all pairs of photographs in each source by the number of differing bits of their hashes, and measures which
altered versions of 400 images are detected, by hash alone and confirmed by `same_picture`: of the first source, and of
drawings. Of 300 distinct drawings of each kind, counts the pairs that each test calls near-duplicates.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from synthetic_images import leaf

from catsdogs.base.files import write_json
from catsdogs.data import near_duplicates
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.images import squeeze, transform

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


def clock(rng: np.random.Generator) -> Image.Image:
    """Draw two hands at random angles in the same circle."""
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 120, 120), outline="black", width=4)
    for length, angle in zip((45, 30), rng.uniform(0, 2 * np.pi, 2), strict=True):
        end = (64 + length * np.cos(angle), 64 + length * np.sin(angle))
        draw.line([(64, 64), end], fill="black", width=5)
    return image


def icon(rng: np.random.Generator) -> Image.Image:
    """Draw a polygon of a random color in another one."""
    image = Image.new("RGB", (128, 128), "white")
    for radius, brightest in ((rng.uniform(38, 58), 200), (rng.uniform(10, 25), 256)):
        color = tuple(rng.integers(0, brightest, 3).tolist())
        corners, turn = int(rng.integers(3, 9)), int(rng.integers(360))
        ImageDraw.Draw(image).regular_polygon((64, 64, radius), corners, turn, fill=color)
    return image


DRAWINGS = {"leaves": leaf, "clocks": clock, "icons": icon}


def hash_of(image: Image.Image) -> imagehash.ImageHash:
    return imagehash.hex_to_hash(near_duplicates.phash(image.convert("RGB")))


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(squeeze(image.convert("RGB"), 64))


def detected(images: list[Image.Image]) -> dict[str, dict[str, float]]:
    """Return, by alteration, the median and largest distance, and the detected share by hash and when confirmed."""
    shares = {}
    for name, alter in ALTERATIONS.items():
        pairs = [(image, alter(image)) for image in images]
        bits = np.array([hash_of(one) - hash_of(other) for one, other in pairs])
        near = bits <= near_duplicates.MOST_BITS
        same = [
            one and near_duplicates.same_picture(*map(thumbnail, pair)) for one, pair in zip(near, pairs, strict=True)
        ]
        shares[name] = {
            "median": float(np.median(bits)),
            "most": int(bits.max()),
            "by_hash": float(near.mean()),
            "confirmed": float(np.mean(same)),
        }
        print(f"{name:24} {shares[name]}")
    return shares


def distinct(images: list[Image.Image]) -> dict[str, int]:
    """Return the number of pairs of distinct images that are called near-duplicates."""
    hashes = np.array([hash_of(image).hash.ravel() for image in images])
    pairs = near_duplicates.near_pairs(np.packbits(hashes, axis=1).view(np.uint64))
    same = np.array(
        [
            near_duplicates.same_picture(thumbnail(images[one]), thumbnail(images[other]))
            for one, other in zip(pairs["one"], pairs["other"], strict=True)
        ],
        bool,
    )
    first = (pairs[["one", "other"]] < 60).all(axis=1)
    return {
        "images": len(images),
        "pairs_by_hash": len(pairs),
        "pairs_confirmed": int(same.sum()),
        "pairs_by_hash_of_the_first_60": int(first.sum()),
        "pairs_confirmed_of_the_first_60": int(first[same].sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument(
        "--cache", type=Path, default=Path(os.environ.get("CATSDOGS_CACHE", "~/.cache/catsdogs")).expanduser()
    )
    options = parser.parse_args()
    most_bits = near_duplicates.MOST_BITS
    results: dict[str, Any] = {"most_bits": most_bits, "photographs": {}, "distinct_drawings": {}}
    samples: dict[str, list[Image.Image]] = {}
    for source in options.images:
        folder = open_images(source, options.cache, 20 * 2**30)
        rows = build_catalog(folder, options.cache)
        rows = rows[rows["width"] > 0].reset_index(drop=True)
        near_duplicates.MOST_BITS = FARTHEST
        bits = near_duplicates.near_pairs(near_duplicates.perceptual_hashes(rows))["bits"]
        near_duplicates.MOST_BITS = most_bits
        counts = bits.value_counts().sort_index()
        name = f"{source.parent.name}/{source.name}"
        start = time.monotonic()
        confirmed = near_duplicates.confirmed_pairs(options.cache, (rows, folder.root))
        equal = int(rows.groupby("sha256").cumcount().sum())
        results["photographs"][name] = {
            "images": len(rows),
            "pairs_by_bits": {str(key): int(value) for key, value in counts.items()},
            "pairs_by_hash": int((bits <= most_bits).sum()),
            "pairs_confirmed": equal + len(confirmed),
            "seconds": round(time.monotonic() - start, 1),
        }
        print(name, {key: value for key, value in results["photographs"][name].items() if key != "pairs_by_bits"})
        if not samples:
            paths = rows.sample(min(ALTERED, len(rows)), random_state=0)["path"]
            samples["photographs"] = [
                Image.fromarray(transform((folder.root / path).read_bytes(), np.array)) for path in paths
            ]
    for name, draw in DRAWINGS.items():
        images = [draw(np.random.default_rng(seed)) for seed in range(300)]
        results["distinct_drawings"][name] = distinct(images)
        print(name, results["distinct_drawings"][name])
        samples[name] = images[:100]
    results["altered"] = {name: detected(images) for name, images in samples.items()}
    write_json(Path(__file__).with_name("results") / "near_duplicates.json", results)


if __name__ == "__main__":
    main()
