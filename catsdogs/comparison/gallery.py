"""Misclassified and uncertain images of a model, with thumbnails.

A study may be untrusted, so it cannot name files of this machine. Images are looked up in the cache and in the folder
that the user passed. For the user's own studies, the folders that the job names are also tried. No folder is listed. A
thumbnail is shown only if the image has the same SHA-256 as in the job.
"""

import base64
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from catsdogs.base.files import read_bytes
from catsdogs.comparison.evaluated import Evaluated
from catsdogs.comparison.study_data import read_split
from catsdogs.config.locations import default_cache
from catsdogs.config.schema import Resize
from catsdogs.data.images import transform
from catsdogs.scoring.scores import MOST_ERRORS, instructive_images
from catsdogs.study.jobs import JobRecord

_PIXELS = 128  # longer side of a thumbnail
_QUALITY = 82  # JPEG quality: about 5 kB per thumbnail
_MOST_BYTES = 64 * 2**20  # larger files are not read
_JPEG = "data:image/jpeg;base64,"
_DARKEST = 90  # gray of a region that does not count: the image remains visible there


# Folder of the images as the user passed it; None: the usual folders; False: the page must not contain images.
ImageFolder = Path | Literal[False] | None


@dataclass(frozen=True)
class Gallery:
    """Misclassified and uncertain images of a model."""

    wrong: pd.DataFrame  # rows of `Evaluated.table` of all misclassified images, those with the highest log loss first
    unsure: pd.DataFrame  # those of `uncertain`
    # The first 24 rows of `wrong`, with class (its name), predicted (the most probable class), probability (of that
    # class), thumbnail (`data:image/jpeg;base64,...` or None) and map, of the same kind (see `_map`).
    errors: list[dict[Any, Any]]
    uncertain: list[dict[Any, Any]]  # at most 12 other images, the lowest probability first, with the same keys
    missing: str | None  # why thumbnails are missing and how to fix it; None if none are
    ignored: list[str]  # ids that the job already excluded with `data.ignore`


def gallery(evaluated: Evaluated, images: ImageFolder = None) -> Gallery:
    """Return the gallery of a model; `images` is the folder of the images, if the user passed one."""
    table, names = evaluated.table, np.array(evaluated.classes.names, dtype=object)
    probabilities = evaluated.probabilities
    named = table.assign(predicted=names[probabilities.argmax(axis=1)], probability=probabilities.max(axis=1))
    named["class"] = names[table["label"]]
    named = named[["id", "class", "predicted", "probability"]]
    errors, unsure = instructive_images(table["label"].to_numpy(), probabilities)
    shown, least_certain = named.loc[errors[:MOST_ERRORS]], named.loc[unsure]
    config = evaluated.config
    thumbnails, missing = dict[str, str](), None
    if images is not False:
        thumbnails, missing = _thumbnails([*shown["id"], *least_certain["id"]], evaluated.job, config, images)
    maps = (
        {}
        if evaluated.activation is None
        else {
            name: _map(thumbnails[name], rows, evaluated.activation.resize)
            for name, rows in evaluated.activation.maps.items()
            if name in thumbnails
        }
    )
    first, uncertain = (
        [{**row, "thumbnail": thumbnails.get(row["id"]), "map": maps.get(row["id"])} for row in part.to_dict("records")]
        for part in (shown, least_certain)
    )
    ignored = [str(name) for name in config.get("data", {}).get("ignore") or []]
    return Gallery(table.loc[errors], table.loc[unsure], first, uncertain, missing, ignored)


def _thumbnails(
    ids: list[str], job: JobRecord, config: dict[str, Any], images: Path | None
) -> tuple[dict[str, str], str | None]:
    """Return thumbnails by id, and why some are missing."""
    table = read_split(job.folder)
    # Versions 0.1 and 0.2 did not record paths.
    rows = [] if table is None or "path" not in table else table[["id", "path", "sha256"]].itertuples(index=False)
    recorded = {name: (path, sha256) for name, path, sha256 in rows}
    folders = _folders(job, config, images)

    def first(path: str, sha256: str) -> str | None:
        return next(filter(None, (thumbnail(folder, path, sha256) for folder in folders)), None)

    thumbnails = {name: jpeg for name in ids if name in recorded and (jpeg := first(*recorded[name]))}
    missing = len(ids) - len(thumbnails)
    if not missing:
        return thumbnails, None
    how_many = "No thumbnails" if missing == len(ids) else f"{missing} of {len(ids)} thumbnails are missing"
    fix = "Restore them, or regenerate the report with --images FOLDER, the folder of the paths in split.csv."
    return thumbnails, f"{how_many}: the images of the job were not found, or differ from its split.csv. {fix}"


def _folders(job: JobRecord, config: dict[str, Any], images: Path | None) -> list[Path]:
    """Return folders that may contain the images of a job: those of the user, and those that the user's study names."""
    data = config.get("data", {})
    digests = [str(job.result["data"].get(key)) for key in ("validation_digest", "images_digest")]
    archives = [f"archives/{digest}" for digest in digests if re.fullmatch("[0-9a-f]{64}", digest)]
    sources = [images, *(f"{default_cache()}/{archive}" for archive in archives)]
    if job.folder.parent.stat().st_uid == os.getuid():
        sources += [data.get("validation"), data.get("train")]
        sources += [f"{config['cache']}/{archive}" for archive in archives] if config.get("cache") else []
    return [Path(os.path.expanduser(str(source))) for source in sources if source]


def thumbnail(folder: Path, path: str, sha256: str) -> str | None:
    """Return a small upright JPEG of an image file as a `data:` URL.

    None if the path is outside the folder or not a regular file with this SHA-256.
    """
    file = folder / path
    try:
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if not inside or hashlib.sha256(data := read_bytes(file, _MOST_BYTES)).hexdigest() != sha256:
            return None
        return transform(data, _shrunk)
    except (OSError, ValueError):
        return None


def _shrunk(image: Image.Image) -> str:
    image.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    return _data_url(image)


def _data_url(image: Image.Image) -> str:
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    return _JPEG + base64.b64encode(jpeg.getvalue()).decode("ascii")


def _map(thumbnail: str, rows: list[list[float]], resize: Resize) -> str:
    """Return a class activation map of a resized image, (H, W) in [0, 1], as a gray image that fits the thumbnail."""
    width, height = Image.open(io.BytesIO(base64.b64decode(thumbnail.removeprefix(_JPEG)))).size
    square = Image.fromarray(np.array(rows, np.float32))
    side = {"squeeze": None, "pad": max(width, height), "crop": min(width, height)}[resize]
    shown = square.resize((side or width, side or height), Image.Resampling.BILINEAR)
    if side:  # what is outside a crop becomes 0
        left, top = (side - width) // 2, (side - height) // 2
        shown = shown.crop((left, top, left + width, top + height))
    return _data_url(Image.fromarray((_DARKEST + (255 - _DARKEST) * np.asarray(shown)).astype(np.uint8)))
