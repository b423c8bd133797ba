"""Near-duplicate images, found by perceptual hash and confirmed by their pixels.

Rescaled, recompressed or brightened duplicates have other bytes, so SHA-256 does not detect them. If they are in both
sides of a split, the validation score is optimistic. Mirrored duplicates are not detected.
"""

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
# 10,000 photographs of pets: 8 pairs of duplicates differ in 0 to 6 bits, the other 50 million pairs in at
# least 70. Nearly all duplicates cropped by 4% or rotated by 2 degrees are detected, none cropped by 10% or mirrored.
# Outlines on a plain background and X-rays of the same body part are closer, so `same_picture` must confirm each pair.
MOST_BITS = 48

_HASH_SIDE = 16  # 16 x 16 bits; with the usual 8 x 8, different photographs are as close as duplicates
_PIXELS = 4 * _HASH_SIDE  # image side for imagehash
_BLOCK = 32  # rows per comparison; fits the processor's cache

# Limits of `same_picture`, set on the pairs in `benchmarks/results/near_duplicates.json`.
_SIDE, _EDGE, _WINDOW = 64, 3, 8  # pixels of the compared images; their edge is not compared, because it may be cropped
# Degrees and scales: rotated, cropped, or with a border.
_MOTIONS = ((0, 1), *((0, 1 + n / 100) for n in (-6, -4, -2, 2, 4, 6)), *((degrees, 1) for degrees in (-2, -1, 1, 2)))
_DETAIL = 0.05  # standard deviation of a window that has details, of that of the image
_CORRELATION = 0.82  # in 9 of 10 windows with details
_PHOTOGRAPH = 0.85  # share of windows with details; fewer are a drawing, which must agree everywhere and in color
# Of drawings: correlation; largest root mean square difference in a window, of the standard deviation of the image; and
# root mean square difference of all pixels. Recompressed lettering only meets the second row.
_DRAWN = ((0.95, 0.1, 255), (0.98, 0.35, 5.5))
_COLOR, _GRAY = 0.9, 3  # correlation of chroma; root mean square of the chroma of a gray image
_CLOSEST = 10  # images that each is compared with


def phash(image: Image.Image) -> str:
    """Return the perceptual hash of an RGB image: 64 hexadecimal digits.

    Each of the 256 bits is set if a coefficient of the cosine transform is above the median.
    """
    return str(imagehash.phash(squeeze(image, _PIXELS), _HASH_SIDE))


def copies_of(rows: pd.DataFrame, root: Path, others: pd.DataFrame, others_root: Path, cache: Path) -> pd.Series:
    """Return which of `rows` are exact or near-duplicates of any of `others`; (N,) bool with the index of `rows`.

    Both are rows of a catalog. Undecodable images have no duplicates, as they are never trained on. Raise UserError as
    `pixels` does.
    """
    decoded = [table[table["width"] > 0] for table in (rows, others)]
    pairs = confirmed_pairs(cache, (decoded[0], root), (decoded[1], others_root))
    return rows["sha256"].isin({*decoded[1]["sha256"], *pairs["one"]})


def confirmed_pairs(cache: Path, *sources: tuple[pd.DataFrame, Path]) -> pd.DataFrame:
    """Return the pairs of different files that `near_pairs` finds and `same_picture` confirms.

    There may be millions of candidates, such as blank images, so each is compared with the `_CLOSEST` ones only.

    `sources` are one or two pairs of a table (columns path, sha256 and phash, of decodable images) and the folder of
    its paths; pairs are between the two, or within the only one. Columns of the result are one and other (sha256) and
    bits, sorted; it does not depend on the order of the rows.
    """
    tables = [(table.drop_duplicates("sha256").sort_values("sha256"), folder) for table, folder in sources]
    pairs = near_pairs(*(perceptual_hashes(table) for table, _ in tables))
    for name, (table, _) in (("one", tables[0]), ("other", tables[-1])):
        pairs[name] = table["sha256"].to_numpy()[pairs[name]]
    pairs = pairs[pairs["one"] != pairs["other"]]
    closest = [pairs.groupby(name).cumcount() < _CLOSEST for name in ("one", "other")]
    pairs = pairs[closest[0] | closest[1]].reset_index(drop=True)
    if pairs.empty:
        return pairs
    images: dict[str, np.ndarray] = {}
    for table, folder in tables:
        some = table[table["sha256"].isin({*pairs["one"], *pairs["other"]})]
        images |= zip(some["sha256"], pixels(some, folder, _SIDE, cache), strict=True)
    ends = list(zip(pairs["one"], pairs["other"], strict=True))
    same = in_threads(lambda pair: same_picture(images[pair[0]], images[pair[1]]), ends, "comparing similar images")
    return pairs[list(same)].reset_index(drop=True)


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two images show the same picture, up to brightness, contrast, compression and a small motion.

    Both are (64, 64, 3) uint8, RGB. `other` is moved by each of `_MOTIONS`, and by the pixels, up to the edge, that
    make it the most similar.
    """
    middle, inside = ((_SIDE - 1) / 2, (_SIDE - 1) / 2), np.ascontiguousarray(one[_EDGE:-_EDGE, _EDGE:-_EDGE])
    for degrees, scale in _MOTIONS:
        matrix = cv2.getRotationMatrix2D(middle, degrees, scale)
        moved = cv2.warpAffine(other, matrix, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
        x, y = cv2.minMaxLoc(cv2.matchTemplate(moved, inside, cv2.TM_CCOEFF_NORMED))[3]
        if _agree(inside, np.ascontiguousarray(moved[y : y + len(inside), x : x + len(inside)])):
            return True
    return False


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two images of the same position have the same details."""
    gray, other_gray = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other))
    # Both ways, because brightening clips one of the images.
    for pair in ((_with_values_of(gray, other_gray), other_gray), (gray, _with_values_of(other_gray, gray))):
        detailed, correlation, difference = _details(*pair)
        if detailed.mean() > _PHOTOGRAPH:
            same = correlation >= _CORRELATION
        else:
            levels = np.sqrt(np.mean((one.astype(float) - other) ** 2))
            same = any(correlation >= c and difference <= d and levels <= most for c, d, most in _DRAWN)
            same = same and _same_colors(one, other, detailed)
        if same:
            return True
    return False


def _with_values_of(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Map the values of a gray image by the increasing function that gives it the histogram of the other; float."""
    middles = []
    for values in (image, other):
        counts = np.bincount(values.ravel(), minlength=256)
        middles.append(np.cumsum(counts) - counts / 2)
    return np.interp(middles[0], middles[1], np.arange(256))[image]


def _details(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Compare gray images in all windows.

    Return which windows have details, as a bool image; the correlation that 9 of 10 of these reach; and the largest
    root mean square difference in a window.
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
    return detailed, lowest, float(np.sqrt(mean((one - other) ** 2).max()))


def _same_colors(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> bool:
    """Return whether the chroma of two images is proportional at these pixels (if any), or one of them is gray."""
    where = where | ~where.any()
    chroma = [
        cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float32) - 128, (0, 0), 1.5)[where]
        for image in (one, other)
    ]
    sizes = [np.sqrt((values**2).mean()) for values in chroma]
    return bool(min(sizes) < _GRAY or (chroma[0] * chroma[1]).mean() >= _COLOR * sizes[0] * sizes[1])


def perceptual_hashes(rows: pd.DataFrame) -> np.ndarray:
    """Return the bits of the column phash, of decodable images; (N, 4) uint64."""
    return np.frombuffer(bytes.fromhex("".join(rows["phash"])), np.uint64).reshape(len(rows), _HASH_SIDE**2 // 64)


def near_pairs(one: np.ndarray, other: np.ndarray | None = None) -> pd.DataFrame:
    """Return the pairs of hashes, (N, 4) and (M, 4) uint64, that differ in at most `MOST_BITS` bits.

    Without `other`, `one` is compared with itself, each pair once. Columns of the result are one and other (row
    numbers) and bits (number of different bits); it is sorted by bits, one and other.
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

    `pairs` has columns one and other, two of the names; equal names are connected. The result is (N,) str with the
    index of `names`, named group.
    """
    codes, distinct = pd.factorize(names, sort=True)
    ends = tuple(distinct.get_indexer(pd.Index(pairs[end])) for end in ("one", "other"))
    edges = coo_array((np.ones(len(pairs), bool), ends), (len(distinct), len(distinct)))
    _, group = connected_components(edges, directed=False)
    # Codes are sorted by name, so the first one of a group is the smallest.
    first = np.unique(group, return_index=True)[1]
    return pd.Series(distinct[first[group[codes]]], index=names.index, name="group", dtype=str)
