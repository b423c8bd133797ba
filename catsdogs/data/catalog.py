"""Catalog of a folder: id, path, label, sha256, width, height, phash and problem of every image.

Every file is decoded completely, by the decoder of the training, because only that detects all corrupted files.
"""

from __future__ import annotations

import hashlib
import logging
import math
import posixpath
import re
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.data.archive import ImageFolder, image_paths, natural_key, unwritable
from catsdogs.data.images import decode, in_threads
from catsdogs.data.near_duplicates import phash

CAT, DOG = 0.0, 1.0

LABEL_SOURCES = "file names such as cat.1.jpg or dog_2.png, or folders named cat, cats, dog or dogs"

_CACHE_VERSION = "v2"  # part of the file name of stored catalogs; increment when the rules here change

_FOLDER_LABELS = {"cat": CAT, "cats": CAT, "dog": DOG, "dogs": DOG}
_NAMED = re.compile(r"(cat|dog)(?![^\W\d_])", re.IGNORECASE)  # not followed by a letter

_log = logging.getLogger(__name__)


def build_catalog(folder: ImageFolder, cache: Path) -> pd.DataFrame:
    """Return the catalog of a folder, from `cache/catalogues/<digest>-v2.csv` if it exists.

    Returns:
        A row per image in natural order of id, with the columns

        - id: str, unique; the path without its suffix and the folders common to all images. Images that differ only in
          their suffix keep it.
        - path: str, relative to `folder.root`, with forward slashes
        - label: float, 0.0 = cat, 1.0 = dog, NaN = unknown; see `label_of`
        - sha256: str, of the file, 64 hexadecimal digits
        - width, height: int, pixels of the upright image; 0 if undecodable
        - phash: str, perceptual hash (`near_duplicates.phash`); "" if undecodable
        - problem: str, why the image is undecodable or its label ambiguous; "" if neither

    Raises:
        UserError: a file cannot be read, or the cache cannot be written.
    """
    path = cache / "catalogues" / f"{folder.digest}-{_CACHE_VERSION}.csv"
    if not path.exists():
        paths = image_paths(folder.root)
        _log.info("checking %d images in %s", len(paths), folder.root)
        entries = in_threads(lambda image: _entry(folder.root, image), paths, "checking images")
        table = pd.DataFrame(entries, columns=["path", "label", "sha256", "width", "height", "phash", "problem"])
        table.insert(0, "id", ids_of(paths))
        table = table.sort_values("id", key=lambda ids: ids.map(natural_key))
        try:
            files.write_csv(path, table)
        except OSError as error:
            raise unwritable(path.parent, error) from error
    # Read back even a new table, so that the first run sees the same values as later ones.
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    table["label"] = table["label"].map({"": math.nan, "0.0": CAT, "1.0": DOG}).astype(float)
    return table.astype({"width": "int64", "height": "int64"})


def ids_of(paths: list[str]) -> list[str]:
    """Return the ids of images in the order of their relative paths; unique if the paths are."""
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    names = [path.removeprefix(f"{common}/") for path in paths]
    ids = [name[: name.rindex(".")] for name in names]
    # Repeated, because 1.jpg keeps its suffix next to 1.png and is then equal to the id of 1.jpg.png.
    while len(set(ids)) < len(set(names)):
        counts = Counter(ids)
        ids = [name if counts[short] > 1 else short for name, short in zip(names, ids, strict=True)]
    return ids


def label_of(path: str) -> tuple[float, str]:
    """Return the label of an image by its relative path, and the problem with the label.

    A file name is labeled if it starts with cat or dog, not followed by a letter. So is the nearest folder named cat,
    cats, dog or dogs. Case is ignored.

    Returns:
        0.0 = cat, 1.0 = dog, NaN = unknown or conflicting; a description of the conflict, or "".
    """
    *folders, name = PurePosixPath(path).parts
    match = _NAMED.match(name)
    by_name = _FOLDER_LABELS[match[1].lower()] if match else math.nan
    nearest = next((folder for folder in reversed(folders) if folder.lower() in _FOLDER_LABELS), None)
    by_folder = _FOLDER_LABELS[nearest.lower()] if nearest else math.nan
    if math.isnan(by_name):
        return by_folder, ""
    if math.isnan(by_folder) or by_folder == by_name:
        return by_name, ""
    return math.nan, f"conflicting labels: {'dog' if by_name == DOG else 'cat'} (file name), {nearest} (folder)"


def _entry(root: Path, path: str) -> tuple[str, float, str, int, int, str, str]:
    """Return the columns of one file, except for its id."""
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        raise UserError(f"{root / path}: cannot be read ({error.strerror}); repair or remove the file") from error
    label, problem = label_of(path)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, None)
    except ValueError as error:
        return path, label, sha256, 0, 0, "", "; ".join(filter(None, (f"cannot be decoded: {error}", problem)))
    height, width, _ = image.shape
    return path, label, sha256, width, height, phash(image), problem
