"""Near-duplicate images, found by perceptual hash.

Rescaled, recompressed or brightened duplicates have other bytes, so SHA-256 does not detect them. If they are in both
sides of a split, the validation score is optimistic.
"""

from __future__ import annotations

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs.data.images import in_threads, squeeze

# Near-duplicates differ in at most this many of 256 bits. Measured by `benchmarks/near_duplicates.py` on 10,000
# photographs of cats and dogs: 8 pairs of duplicates differ in 0 to 6 bits, the other 50 million pairs in at least 70.
# Below 90, the number of pairs halves every 2 bits, so about 0.005 false pairs are expected among 25,000 photographs.
# Rescaled, recompressed, brightened and gray duplicates are detected, and nearly all that are cropped by 4% or rotated
# by 2 degrees; those cropped by 10%, rotated by 5 degrees or mirrored are not.
MOST_BITS = 48

_HASH_SIDE = 16  # 16 x 16 bits; with the usual 8 x 8, different photographs are as close as duplicates
_PIXELS = 4 * _HASH_SIDE  # image side for imagehash
_BLOCK = 32  # rows per comparison; fits the processor's cache


def phash(image: np.ndarray) -> str:
    """Return the perceptual hash of an image (height, width, 3), uint8, RGB: 64 hexadecimal digits.

    Each of the 256 bits is set if a coefficient of the cosine transform is above the median.
    """
    return str(imagehash.phash(squeeze(Image.fromarray(image), _PIXELS), _HASH_SIDE))


def group_duplicates(rows: pd.DataFrame) -> pd.Series:
    """Return the group of each image: near-duplicates, or images connected by a chain of near-duplicates.

    Groups depend on all rows, but not on their order.

    Args:
        rows: columns sha256 and phash, of decodable images.

    Returns:
        (N,) str, the smallest sha256 of the group, with the index of `rows`; named group.
    """
    return components(rows["sha256"], near_pairs(perceptual_hashes(rows)))


def perceptual_hashes(rows: pd.DataFrame) -> np.ndarray:
    """Return the bits of the column phash, of decodable images; (N, 4) uint64."""
    return np.frombuffer(bytes.fromhex("".join(rows["phash"])), np.uint64).reshape(len(rows), _HASH_SIDE**2 // 64)


def near_pairs(one: np.ndarray, other: np.ndarray | None = None) -> pd.DataFrame:
    """Return the pairs of hashes that differ in at most `MOST_BITS` bits.

    Args:
        one: (N, 4) uint64.
        other: (M, 4) uint64; None compares `one` with itself, each pair once.

    Returns:
        Columns one and other (row numbers) and bits (number of different bits), sorted by bits, one and other.
    """
    starts = range(0, len(one), _BLOCK)

    def near(start: int) -> np.ndarray:
        """Return (K, 3): bits, row of one, row of other."""
        rows = one[start : start + _BLOCK]
        offset = start if other is None else 0
        columns = one[offset:] if other is None else other
        bits = np.zeros((len(rows), len(columns)), np.uint16)  # bitwise_count returns uint8, too small for 256
        for word in range(one.shape[1]):
            bits += np.bitwise_count(rows[:, word, None] ^ columns[None, :, word])
        # Within `one`, skip the diagonal and mirrored pairs.
        near = (bits <= MOST_BITS) if other is not None else np.triu(bits <= MOST_BITS, 1)
        row, column = np.nonzero(near)
        return np.stack([bits[row, column], row + start, column + offset], axis=1).astype(np.int64)

    # Threads help because NumPy releases the interpreter's lock.
    pairs = np.concatenate([np.zeros((0, 3), np.int64), *in_threads(near, starts)])
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    return pd.DataFrame({"one": pairs[:, 1], "other": pairs[:, 2], "bits": pairs[:, 0]})


def components(names: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """Return the group of each image: the smallest name in its connected component.

    `pairs` has columns one and other, positions in `names`; equal names are connected. The result is (N,) str with the
    index of `names`, named group.
    """
    codes, distinct = pd.factorize(names.astype(str), sort=True)
    edges = coo_array(
        (np.ones(len(pairs), bool), (codes[pairs["one"]], codes[pairs["other"]])), (len(distinct), len(distinct))
    )
    _, group = connected_components(edges, directed=False)
    # Codes are sorted by name, so the first one of a group is the smallest.
    first = np.unique(group, return_index=True)[1]
    return pd.Series(np.asarray(distinct)[first[group[codes]]], index=names.index, name="group", dtype=str)
