"""Catalog of a folder: id, path, sha256, width, height, phash and problem of every image.

Every file is decoded completely, by the decoder of the training, because only that detects all corrupted files. The
results are stored. Ids follow from the paths and are computed each time.
"""

import logging
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from catsdogs.base import files
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.base.text import listed, natural_key, sanitize_line
from catsdogs.data.archive import ImageFolder
from catsdogs.data.images import in_threads, read_image
from catsdogs.data.near_duplicates import phash

_CACHE_VERSION = "v4"  # part of the file name of stored catalogs; increment when the rules here change
_STORED = Table({"path": str, "sha256": str, "width": int, "height": int, "phash": str, "problem": str, "check": str})
_COLUMNS = ["id", "path", "sha256", "width", "height", "phash", "problem"]
_SAMPLE = 32  # stored rows that are compared with their files

SUFFIX = re.compile(r"(?<=[^/])\.[^\W\d_]\w*\Z")

_log = logging.getLogger(__name__)


def build_catalog(folder: ImageFolder, cache: Path) -> pd.DataFrame:
    """Return the catalog of a folder, from `cache/catalogues/<digest>-v4.csv` if that file is valid.

    It has a row per image in natural order of id. Raise UserError if a file cannot be read, OSError if the cache cannot
    be written. Columns:

    - id: str, unique; see `ids_of`
    - path: str, relative to `folder.root`, with forward slashes
    - sha256: str, of the file, hexadecimal
    - width, height: int, pixels of the upright image; 0 if undecodable
    - phash: str, perceptual hash (`near_duplicates.phash`); "" if undecodable
    - problem: str, why the image is undecodable; "" if it is not
    """
    file = cache / "catalogues" / f"{folder.digest}-{_CACHE_VERSION}.csv"
    if (table := _stored(file, folder)) is None:
        _log.info("checking %d images in %s", len(folder.paths), folder.root)
        table = _facts(folder.root, folder.paths, "checking images")
        files.remove(file)
        files.write_csv(file, table.assign(check=_checks(table)))
    table["id"] = ids_of(list(table["path"]))
    return table.sort_values("id", key=lambda ids: ids.map(natural_key), ignore_index=True)[_COLUMNS]


def _stored(file: Path, folder: ImageFolder) -> pd.DataFrame | None:
    """Return the facts in a stored catalog; None, with a warning, if they may not be those of this folder."""
    try:
        table = _STORED.read(file)
        if table is None:
            return None
        if list(table.columns) != list(_STORED.columns) or sorted(table["path"]) != sorted(folder.paths):
            raise CorruptedFile(file, "other columns or images")
        if not table.pop("check").equals(_checks(table)):
            raise CorruptedFile(file, "rows were changed")
        sample = table.iloc[:: max(1, len(table) // _SAMPLE)].reset_index(drop=True)
        if not sample.equals(_facts(folder.root, list(sample["path"]))):
            raise CorruptedFile(file, "rows differ from their images")
    except CorruptedFile as error:
        _log.warning("%s; checking the images again", error)
        return None
    return table


def _facts(root: Path, paths: Sequence[str], doing: str = "") -> pd.DataFrame:
    """Return what the contents of files determine; columns path, sha256, width, height, phash and problem."""
    rows = in_threads(lambda path: (path, *_fact(root / path)), paths, doing)
    return pd.DataFrame(rows, columns=list(_STORED.columns)[:-1]).astype({"width": "int64", "height": "int64"})


def _fact(file: Path) -> tuple[str, int, int, str, str]:
    sha256, fact, problem = read_image(file, lambda image: (image.width, image.height, phash(image)))
    return (sha256, 0, 0, "", f"cannot be decoded: {problem}") if fact is None else (sha256, *fact, "")


def _checks(table: pd.DataFrame) -> pd.Series:
    """Return a checksum of each row: 16 hexadecimal digits."""
    return pd.util.hash_pandas_object(table.astype(str), index=False).map("{:016x}".format).rename("check")


def ids_of(paths: list[str]) -> list[str]:
    """Return the ids of images in the order of their relative paths; unique if the paths are.

    An id is the path without its suffix and the folders common to all images. A suffix starts with a letter, because
    files without one may be named `ant.12`. Images that differ only in their suffix keep it.
    """
    names = below_common(paths)
    ids = [SUFFIX.sub("", name) for name in names]
    # Repeated, because 1.jpg keeps its suffix next to 1.png and is then equal to the id of 1.jpg.png.
    while len(set(ids)) < len(set(names)):
        counts = Counter(ids)
        ids = [name if counts[short] > 1 else short for name, short in zip(names, ids, strict=True)]
    return ids


def below_common(paths: Sequence[str]) -> list[str]:
    """Return relative paths without the folders common to all of them."""
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
    return [path.removeprefix(f"{common}/") for path in paths]


def nfc(texts: Iterable[str]) -> list[str]:
    """Return texts in Unicode's normal form C; names from macOS may be in another."""
    return [unicodedata.normalize("NFC", text) for text in texts]


def stray_message(ids: Sequence[str], paths: Sequence[str]) -> str:
    """Return a warning if a few images outside the folder of all others make the ids of these carry that folder.

    `paths` are those of the images, in the order of `ids`. The message is "" if there is nothing to warn about.
    """
    folders = [posixpath.dirname(name) for name in ids]
    folder, count = Counter(folders).most_common(1)[0] if folders else ("", 0)
    stray = [path for one, path in zip(folders, paths, strict=True) if one != folder]
    if not folder or not 0 < len(stray) <= max(1, len(ids) // 10):  # more may belong to a class
        return ""
    example = next(name for name in ids if posixpath.dirname(name) == folder)
    return (
        f"{count:,} of {len(ids):,} ids carry the folder {folder} (for example {example}), because images outside of "
        f"it are used as well ({sanitize_line(listed(stray))}); move or remove these, or pass only that folder"
    )
