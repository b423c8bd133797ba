"""Folder -> DataFrame `id, path, label, sha256, width, height, phash, problem`: what is known of every image.

A corrupt file is found by decoding it in full, by the decoder that training uses, and by nothing less.
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
from catsdogs.data.archive import ImageFolder, image_paths, natural_key
from catsdogs.data.images import decode, in_threads
from catsdogs.data.near_duplicates import phash

CAT, DOG = 0.0, 1.0

LABELS_COME_FROM = "a file name such as cat.1.jpg or dog_2.png, or a folder named cat, cats, dog or dogs"

_CACHE_VERSION = (
    "v2"  # of the rules here; part of the file name of stored catalogues, to be counted up when they change
)

_FOLDER_LABELS = {"cat": CAT, "cats": CAT, "dog": DOG, "dogs": DOG}
_NAMED = re.compile(r"(cat|dog)(?![^\W\d_])", re.IGNORECASE)  # not followed by a letter

_log = logging.getLogger(__name__)


def build_catalog(folder: ImageFolder, cache: Path) -> pd.DataFrame:
    """Look at every image of a folder, once: the table is kept as `cache/catalogues/<digest>-v2.csv`.

    Returns:
        A row per image, sorted naturally by id, with the columns

        - id: str, unique; the path without suffix and without the folders that all images share. Images that differ in
          their suffix only keep it.
        - path: str, relative to `folder.root`, with forward slashes
        - label: float, 0.0 = cat, 1.0 = dog, NaN = unknown; see `label_of`
        - sha256: str, of the file, 64 hexadecimal digits
        - width, height: int, pixels of the upright image; 0 if it does not decode
        - phash: str, the perceptual hash (`near_duplicates.phash`); "" if it does not decode
        - problem: str, why the image does not decode or has no clear label; "" if all is well

    Raises:
        UserError: a file cannot be read, or the cache cannot be written.
    """
    path = cache / "catalogues" / f"{folder.digest}-{_CACHE_VERSION}.csv"
    if not path.exists():
        paths = image_paths(folder.root)
        _log.info("looking at %d images in %s", len(paths), folder.root)
        seen = in_threads(lambda image: _seen(folder.root, image), paths, "looking at images")
        table = pd.DataFrame(seen, columns=["path", "label", "sha256", "width", "height", "phash", "problem"])
        table.insert(0, "id", ids_of(paths))
        table = table.sort_values("id", key=lambda ids: ids.map(natural_key))
        try:
            files.write_csv(path, table)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); pass cache=FOLDER with room") from error
    # Also the table just made is read back, so that the first run and the next ones see the same.
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    table["label"] = table["label"].map({"": math.nan, "0.0": CAT, "1.0": DOG}).astype(float)
    return table.astype({"width": "int64", "height": "int64"})


def ids_of(paths: list[str]) -> list[str]:
    """Ids of images, in the order of their relative paths; unique if the paths are."""
    shared = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    named = [path.removeprefix(f"{shared}/") for path in paths]
    ids = [name[: name.rindex(".")] for name in named]
    # More than once, as 1.jpg.png would be 1.jpg, which is what 1.jpg is called beside 1.png.
    while len(set(ids)) < len(set(named)):
        seen = Counter(ids)
        ids = [name if seen[short] > 1 else short for name, short in zip(named, ids, strict=True)]
    return ids


def label_of(path: str) -> tuple[float, str]:
    """Label of an image by its relative path, and what is wrong with it.

    The file name tells if it begins with cat or dog and then has no letter, and so does the nearest folder that is
    named cat, cats, dog or dogs; upper and lower case are the same.

    Returns:
        0.0 = cat, 1.0 = dog, NaN = untold or told in two ways; the problem of the latter, else "".
    """
    *folders, name = PurePosixPath(path).parts
    named = _NAMED.match(name)
    by_name = _FOLDER_LABELS[named[1].lower()] if named else math.nan
    nearest = next((folder for folder in reversed(folders) if folder.lower() in _FOLDER_LABELS), None)
    by_folder = _FOLDER_LABELS[nearest.lower()] if nearest else math.nan
    if math.isnan(by_name):
        return by_folder, ""
    if math.isnan(by_folder) or by_folder == by_name:
        return by_name, ""
    return math.nan, f"the file name says {'dog' if by_name == DOG else 'cat'}, the folder {nearest} does not"


def _seen(root: Path, path: str) -> tuple[str, float, str, int, int, str, str]:
    """All that is known of one file but its id."""
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        raise UserError(f"{root / path}: cannot be read ({error.strerror}); mend or remove the file") from error
    label, problem = label_of(path)
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data, None)
    except ValueError as error:
        return path, label, sha256, 0, 0, "", "; ".join(filter(None, (f"does not decode: {error}", problem)))
    height, width, _ = image.shape
    return path, label, sha256, width, height, phash(image), problem
