"""Images -> perceptual hashes -> pairs that show the same picture -> a group for every image.

Copies that were scaled, compressed or brightened anew have other bytes, so their sha256 does not tell them. Where such
copies stand on both sides of a split, the validation score is flattered.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs import files
from catsdogs.errors import UserError
from catsdogs.images import in_threads, squeezed

# Pairs that differ in at most so many of the 256 bits are near-duplicates. Measured on 10,000 photographs of cats and
# dogs by `benchmarks/near_duplicates.py`: 8 pairs of copies differ in 0 to 6 bits, of the other 50 million pairs the
# nearest in 70. Below 90 the number of pairs halves every 2 bits, so about 0.005 false ones are to be expected among
# 25,000 photographs. Copies that were scaled, compressed, brightened or made grey are found, nearly all with 4 % cut
# off or turned by 2 degrees; not those with 10 % cut off, turned by 5 degrees or mirrored.
MOST_BITS = 48

_HASH_SIDE = 16  # 16 x 16 bits; with the usual 8 x 8 different photographs come as near as copies
_PIXELS = 4 * _HASH_SIDE  # side of what imagehash transforms
_WORDS = _HASH_SIDE**2 // 64
_BLOCK = 32  # rows compared with all others at a time: small enough for the processor's cache

_VERSION = "v1"  # of the rules here; part of the file names of stored hashes, to be counted up when they change

_log = logging.getLogger(__name__)


def groups(rows: pd.DataFrame, root: Path, cache: Path) -> pd.Series:
    """Give every image the name of its group: images that are near-duplicates, or joined by a chain of them.

    Only these rows are compared, so who belongs together may change with the rows; their order does not matter.

    Args:
        rows: columns path (relative to `root`) and sha256; every image must decode.
        root: the folder of the images.
        cache: the cache folder; see `hashes`.

    Returns:
        (N,) str, the smallest sha256 of the group, with the index of `rows`; named group. An image that is like no
        other is a group of its own.

    Raises:
        UserError: an image has vanished, changed or does not decode, or the cache cannot be written.
    """
    return components(rows["sha256"], pairs(hashes(rows, root, cache)))


def hashes(rows: pd.DataFrame, root: Path, cache: Path) -> np.ndarray:
    """Perceptual hash of every image; what was hashed once is kept in `cache/near_duplicates`.

    A file there holds what one run had to hash, so that a subset of known images needs nothing.

    Args:
        rows, root, cache: as for `groups`.

    Returns:
        (N, 4) uint64: 256 bits, each telling whether a coefficient of the cosine transform is above their median.

    Raises:
        UserError: as for `groups`.
    """
    folder = cache / "near_duplicates"
    known = _known(folder)
    images = {str(sha256): str(path) for path, sha256 in zip(rows["path"], rows["sha256"], strict=True)}
    new = [sha256 for sha256 in images if sha256 not in known]

    def hashed(sha256: str) -> str:
        picture = Image.fromarray(squeezed(root, images[sha256], sha256, _PIXELS))
        return str(imagehash.phash(picture, _HASH_SIDE))

    if new:
        found = list(in_threads(hashed, new, "hashing images"))
        known |= dict(zip(new, found, strict=True))
        key = hashlib.sha256("".join(sorted(new)).encode()).hexdigest()
        path = folder / f"{key}-{_VERSION}.csv"
        try:
            files.write_csv(path, pd.DataFrame({"sha256": new, "hash": found}))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); pass cache=FOLDER with room") from error
    data = b"".join(bytes.fromhex(known[str(sha256)]) for sha256 in rows["sha256"])
    return np.frombuffer(data, np.uint64).reshape(len(rows), _WORDS)


def pairs(one: np.ndarray, other: np.ndarray | None = None) -> pd.DataFrame:
    """Pairs of hashes that differ in at most `MOST_BITS` bits.

    Args:
        one: (N, 4) uint64.
        other: (M, 4) uint64; None: all pairs within `one`, each once.

    Returns:
        Columns one and other, the rows of the two, and bits, in which they differ; ordered by these.
    """
    starts = range(0, len(one), _BLOCK)

    def near(start: int) -> np.ndarray:
        """(K, 3): bits, row of one, row of other."""
        rows = one[start : start + _BLOCK]
        after = start if other is None else 0
        columns = one[after:] if other is None else other
        bits = np.zeros((len(rows), len(columns)), np.uint16)  # 256 would not fit into what bitwise_count gives
        for word in range(_WORDS):
            bits += np.bitwise_count(rows[:, word, None] ^ columns[None, :, word])
        # With itself and with what came before, a row is not compared.
        near = (bits <= MOST_BITS) if other is not None else np.triu(bits <= MOST_BITS, 1)
        row, column = np.nonzero(near)
        return np.stack([bits[row, column], row + start, column + after], axis=1).astype(np.int64)

    # Threads share the work, as NumPy lets go of the interpreter's lock.
    found = np.concatenate([np.zeros((0, 3), np.int64), *in_threads(near, starts)])
    found = found[np.lexsort(found.T[::-1])]
    return pd.DataFrame({"one": found[:, 1], "other": found[:, 2], "bits": found[:, 0]})


def components(names: pd.Series, joined: pd.DataFrame) -> pd.Series:
    """The smallest name of all that pairs join, directly or by way of others; equal names are joined, too.

    Args:
        names: (N,) str.
        joined: columns one and other, places among the names.

    Returns:
        (N,) str, with the index of `names`; named group.
    """
    codes, distinct = pd.factorize(names.astype(str), sort=True)
    edges = coo_array(
        (np.ones(len(joined), bool), (codes[joined["one"]], codes[joined["other"]])), (len(distinct), len(distinct))
    )
    _, group = connected_components(edges, directed=False)
    # Codes are in the order of the names, so the first of a group is its smallest.
    first = np.unique(group, return_index=True)[1]
    return pd.Series(np.asarray(distinct)[first[group[codes]]], index=names.index, name="group", dtype=str)


def _known(folder: Path) -> dict[str, str]:
    """Hashes kept by earlier runs, hexadecimal, by sha256."""
    known: dict[str, str] = {}
    for table in _tables(folder):
        known |= dict(zip(table["sha256"], table["hash"], strict=True))
    return known


def _tables(folder: Path) -> Iterator[pd.DataFrame]:
    for path in sorted(folder.glob(f"*-{_VERSION}.csv")):
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
            well = table["hash"].str.fullmatch(f"[0-9a-f]{{{_HASH_SIDE**2 // 4}}}")
        except (OSError, ValueError, KeyError) as error:  # cleared meanwhile, or damaged: it is made again
            _log.debug("%s is not used: %s", path, error)
            continue
        yield table[well]
