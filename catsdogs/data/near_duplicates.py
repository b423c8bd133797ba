"""Images -> perceptual hashes -> pairs that show the same picture -> a group for every image.

Copies that were scaled, compressed or brightened anew have other bytes, so their sha256 does not tell them. Where such
copies stand on both sides of a split, the validation score is flattered.
"""

from __future__ import annotations

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs.data.images import in_threads, squeeze

# Pairs that differ in at most so many of the 256 bits are near-duplicates. Measured on 10,000 photographs of cats and
# dogs by `benchmarks/near_duplicates.py`: 8 pairs of copies differ in 0 to 6 bits, of the other 50 million pairs the
# nearest in 70. Below 90 the number of pairs halves every 2 bits, so about 0.005 false ones are to be expected among
# 25,000 photographs. Copies that were scaled, compressed, brightened or made grey are found, nearly all with 4 % cut
# off or turned by 2 degrees; not those with 10 % cut off, turned by 5 degrees or mirrored.
MOST_BITS = 48

_HASH_SIDE = 16  # 16 x 16 bits; with the usual 8 x 8 different photographs come as near as copies
_PIXELS = 4 * _HASH_SIDE  # side of what imagehash transforms
_BLOCK = 32  # rows compared with all others at a time: small enough for the processor's cache


def phash(image: np.ndarray) -> str:
    """Perceptual hash of an image (height, width, 3), uint8, RGB: 64 hexadecimal digits.

    Each of the 256 bits tells whether a coefficient of the cosine transform is above their median.
    """
    return str(imagehash.phash(squeeze(Image.fromarray(image), _PIXELS), _HASH_SIDE))


def group_duplicates(rows: pd.DataFrame) -> pd.Series:
    """Give every image the name of its group: images that are near-duplicates, or joined by a chain of them.

    Only these rows are compared, so who belongs together may change with the rows; their order does not matter.

    Args:
        rows: columns sha256 and phash; every image must decode.

    Returns:
        (N,) str, the smallest sha256 of the group, with the index of `rows`; named group. An image that is like no
        other is a group of its own.
    """
    return components(rows["sha256"], near_pairs(perceptual_hashes(rows)))


def perceptual_hashes(rows: pd.DataFrame) -> np.ndarray:
    """(N, 4) uint64: the bits of the column phash; every image must decode."""
    return np.frombuffer(bytes.fromhex("".join(rows["phash"])), np.uint64).reshape(len(rows), _HASH_SIDE**2 // 64)


def near_pairs(one: np.ndarray, other: np.ndarray | None = None) -> pd.DataFrame:
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
        for word in range(one.shape[1]):
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
    """The smallest name of all that pairs join, directly or by way of others; equal names are joined, too: (N,) str.

    It is named group, with the index of `names`, (N,) str; `joined` has columns one and other, places among the names.
    """
    codes, distinct = pd.factorize(names.astype(str), sort=True)
    edges = coo_array(
        (np.ones(len(joined), bool), (codes[joined["one"]], codes[joined["other"]])), (len(distinct), len(distinct))
    )
    _, group = connected_components(edges, directed=False)
    # Codes are in the order of the names, so the first of a group is its smallest.
    first = np.unique(group, return_index=True)[1]
    return pd.Series(np.asarray(distinct)[first[group[codes]]], index=names.index, name="group", dtype=str)
