"""Near-duplicate images, found by perceptual hash and confirmed by their pixels.

Rescaled, recompressed or brightened duplicates have other bytes, so SHA-256 does not detect them. If they are in both
sides of a split, the validation score is optimistic. Mirrored duplicates are not detected.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from catsdogs.data.images import in_threads, pixels, squeeze

# Hashes of near-duplicates differ in at most this many of 256 bits. Measured by `benchmarks/near_duplicates.py` on
# 10,000 photographs of cats and dogs: 8 pairs of duplicates differ in 0 to 6 bits, the other 50 million pairs in at
# least 70. Rescaled, recompressed, brightened and gray duplicates are detected, and nearly all that are cropped by 4%
# or rotated by 2 degrees; those cropped by 10%, rotated by 5 degrees or mirrored are not. Other images are closer:
# outlines on a plain background, and X-rays of the same body part. So `same_picture` must confirm every pair.
MOST_BITS = 48

_HASH_SIDE = 16  # 16 x 16 bits; with the usual 8 x 8, different photographs are as close as duplicates
_PIXELS = 4 * _HASH_SIDE  # image side for imagehash
_BLOCK = 32  # rows per comparison; fits the processor's cache

# Limits of `same_picture`, set on the pairs in `benchmarks/results/near_duplicates.json`.
_SIDE, _EDGE, _WINDOW = 64, 3, 8  # pixels of the compared images; their edge is not compared, because it may be cropped
_DETAIL = 0.05  # standard deviation of a window that has details, of that of the image
_CORRELATION = 0.82  # in 9 of 10 windows with details
_PHOTOGRAPH = 0.85  # share of windows with details; fewer are a drawing, which must agree everywhere and in color
_DIFFERENCE = 0.35  # root mean square in a window, of the standard deviation of the image
_COLOR, _GRAY = 0.9, 3  # correlation of chroma; root mean square of the chroma of a gray image
_CLOSEST = 10  # images that each is compared with


def phash(image: np.ndarray) -> str:
    """Return the perceptual hash of an image (height, width, 3), uint8, RGB: 64 hexadecimal digits.

    Each of the 256 bits is set if a coefficient of the cosine transform is above the median.
    """
    return str(imagehash.phash(squeeze(Image.fromarray(image), _PIXELS), _HASH_SIDE))


def group_duplicates(rows: pd.DataFrame, root: Path, cache: Path) -> pd.Series:
    """Return the group of each image: near-duplicates, or images connected by a chain of near-duplicates.

    Groups depend on all rows, but not on their order.

    Args:
        rows: columns path (relative to `root`), sha256 and phash, of decodable images.

    Returns:
        (N,) str, the smallest sha256 of the group, with the index of `rows`; named group.

    Raises:
        UserError: see `pixels`.
    """
    return components(rows["sha256"], confirmed_pairs(rows, root, cache))


def copies_of(rows: pd.DataFrame, root: Path, others: pd.DataFrame, others_root: Path, cache: Path) -> pd.Series:
    """Return which of `rows` are exact or near-duplicates of any of `others`; (N,) bool with the index of `rows`.

    Both are rows of a catalog; undecodable ones can only be exact duplicates. Raise UserError as `pixels` does.
    """
    decoded = rows["width"] > 0
    some, candidates = rows[decoded], others[others["width"] > 0]
    pairs = confirmed_pairs(some, root, cache, candidates, others_root)
    return rows["sha256"].isin(others["sha256"]) | rows.index.isin(some.index[pairs["one"]])


def confirmed_pairs(
    rows: pd.DataFrame, root: Path, cache: Path, others: pd.DataFrame | None = None, others_root: Path | None = None
) -> pd.DataFrame:
    """Return the pairs of `near_pairs` that are equal files or that `same_picture` confirms.

    There may be millions of candidates, for example of blank images. So each image is compared only with the
    `_CLOSEST` images whose hash is closest.

    Args:
        rows, others: columns path, sha256 and phash, of decodable images; without `others`, pairs within `rows`.
        root, others_root: folders of the paths.
    """
    pairs = near_pairs(perceptual_hashes(rows), None if others is None else perceptual_hashes(others))
    tables = [(rows, root)] if others is None or others_root is None else [(rows, root), (others, others_root)]
    # Files are numbered and ordered by content, so that the result does not depend on the order of the rows.
    files, numbers = np.unique(np.concatenate([table["sha256"] for table, _ in tables]), return_inverse=True)
    ends = np.stack([numbers[pairs["one"]], numbers[pairs["other"] + len(numbers) - len(tables[-1][0])]], axis=1)
    pairs[["low", "high"]] = np.sort(ends, axis=1)
    distinct = pairs[pairs["low"] < pairs["high"]].drop_duplicates(["low", "high"])
    long = pd.Series(distinct.sort_values(["bits", "low", "high"])[["low", "high"]].stack())
    ranks = long.groupby(long).cumcount().unstack().min(axis=1)
    distinct = distinct.loc[ranks.index[ranks < _CLOSEST], ["low", "high"]]
    compared = files[np.unique(distinct)]
    images: dict[str, np.ndarray] = {}
    for table, folder in tables:
        some = table[table["sha256"].isin(compared)].drop_duplicates("sha256")
        images |= dict(zip(some["sha256"], pixels(some, folder, _SIDE, cache) if len(some) else (), strict=True))

    def confirmed(ends: list[int]) -> bool:
        return same_picture(*(images[files[end]] for end in ends))

    found = list(in_threads(confirmed, distinct.to_numpy().tolist(), "comparing similar images"))
    same = pd.MultiIndex.from_frame(distinct[np.array(found, bool)])
    kept = (pairs["low"] == pairs["high"]) | pd.MultiIndex.from_frame(pairs[["low", "high"]]).isin(same)
    return pairs.loc[kept, ["one", "other", "bits"]].reset_index(drop=True)


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two images show the same picture, up to brightness, contrast, compression and a small motion.

    They are compared in place, and with `other` moved onto `one`: a rotation by 2 degrees or a crop by 4%.

    Args:
        one, other: (64, 64, 3) uint8, RGB.
    """
    if _agree(one, other):
        return True
    try:
        _, motion = cv2.findTransformECC(
            cv2.cvtColor(one, cv2.COLOR_RGB2GRAY),
            cv2.cvtColor(other, cv2.COLOR_RGB2GRAY),
            np.eye(2, 3, dtype=np.float32),
            cv2.MOTION_AFFINE,
            (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3),
            None,
            5,
        )
    except cv2.error:  # no motion makes them similar
        return False
    middle = np.full(2, (_SIDE - 1) / 2)
    shift = motion[:, :2] @ middle + motion[:, 2] - middle
    scales = motion[0, 0], motion[1, 1]
    if abs(motion[:, :2] - np.eye(2)).max() > 0.1 or abs(scales[0] - scales[1]) > 0.03 or abs(shift).max() > 2:
        return False
    # Different scales of width and height would fit different outlines onto each other.
    motion[0, 0] = motion[1, 1] = np.mean(scales)
    motion[:, 2] = shift + middle - motion[:, :2] @ middle
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _agree(one, cv2.warpAffine(other, motion, (_SIDE, _SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two images of the same position have the same details."""
    inside = slice(_EDGE, -_EDGE)
    one, other = (np.ascontiguousarray(image[inside, inside]) for image in (one, other))
    gray, other_gray = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other))
    # Both ways, because brightening clips one of the images.
    found = (_details(_with_values_of(gray, other_gray), other_gray), _details(gray, _with_values_of(other_gray, gray)))
    for share, correlation, difference in found:
        if correlation >= _CORRELATION and (
            share > _PHOTOGRAPH or (difference <= _DIFFERENCE and _same_colors(one, other))
        ):
            return True
    return False


def _with_values_of(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Map the values of a gray image by the increasing function that gives it the histogram of the other; float."""
    middles = []
    for values in (image, other):
        counts = np.bincount(values.ravel(), minlength=256)
        middles.append(np.cumsum(counts) - counts / 2)
    return np.interp(middles[0], middles[1], np.arange(256))[image]


def _details(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Compare gray images in all windows; return three numbers.

    - share of windows with details
    - correlation of the two images that 9 of 10 of these windows reach
    - largest root mean square difference in a window
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT)

    one, other = (cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), 0.8) for image in (one, other))
    one, other = ((image - image.mean()) / max(image.std(), 1) for image in (one, other))
    variances = [mean(image**2) - mean(image) ** 2 for image in (one, other)]
    detailed = np.maximum(*variances) > _DETAIL**2
    scale = np.sqrt(np.prod([np.maximum(variance, _DETAIL**2) for variance in variances], axis=0))
    correlation = ((mean(one * other) - mean(one) * mean(other)) / scale)[detailed]
    lowest = float(np.quantile(correlation, 0.1)) if detailed.any() else 1.0
    return float(detailed.mean()), lowest, float(np.sqrt(mean((one - other) ** 2).max()))


def _same_colors(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether the chroma of two images is proportional, or one of them is gray."""
    chroma = [
        cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float32) - 128, (0, 0), 1.5)
        for image in (one, other)
    ]
    sizes = [np.sqrt((values**2).mean()) for values in chroma]
    return bool(min(sizes) < _GRAY or (chroma[0] * chroma[1]).mean() >= _COLOR * sizes[0] * sizes[1])


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
