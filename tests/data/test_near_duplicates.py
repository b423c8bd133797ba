from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from synthetic_images import encoded, folder_of, scene

from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.near_duplicates import MOST_BITS, components, group_duplicates, near_pairs, perceptual_hashes, phash


def rows_of(tmp_path: Path, members: dict[str, bytes]) -> pd.DataFrame:
    folder = open_images(folder_of(tmp_path / "given", members), tmp_path / "cache", 0)
    return build_catalog(folder, tmp_path / "cache")


def grouped(tmp_path: Path, members: dict[str, bytes]) -> set[frozenset[str]]:
    rows = rows_of(tmp_path, members)
    found = group_duplicates(rows)
    assert found.name == "group"
    assert list(found.index) == list(rows.index)
    pd.testing.assert_series_equal(group_duplicates(rows.sample(frac=1, random_state=3)).sort_index(), found)
    for name, group in rows.groupby(found)["sha256"]:
        assert name == min(group)
    return {frozenset(ids) for _, ids in rows.groupby(found)["id"]}


def test_copies_share_a_group_and_others_do_not(tmp_path):
    picture, exif = scene(0), Image.Exif()
    exif[0x0112] = 6  # the hash is of what training sees: turned upright
    members = {
        "cat.1.jpg": encoded(picture),
        "cat.2.jpg": encoded(picture),
        "cat.3.jpg": encoded(picture, quality=30),
        "cat.4.png": encoded(picture.resize((70, 90)), "PNG"),
        "cat.5.jpg": encoded(ImageEnhance.Brightness(picture).enhance(1.2)),
        "cat.6.jpg": encoded(picture.rotate(90, expand=True), exif=exif),
        "dog.1.jpg": encoded(picture.convert("L")),
        **{f"dog.{seed}.jpg": encoded(scene(seed)) for seed in range(2, 12)},
    }
    alike = frozenset({"cat.1", "cat.2", "cat.3", "cat.4", "cat.5", "cat.6", "dog.1"})
    assert grouped(tmp_path, members) == {alike, *(frozenset({f"dog.{seed}"}) for seed in range(2, 12))}


def test_hash_is_that_of_imagehash_on_64_pixels(tmp_path):
    picture = scene(3, 150).crop((0, 0, 150, 90))
    rows = rows_of(tmp_path, {"cat.1.png": encoded(picture, "PNG"), "dog.1.png": encoded(scene(4), "PNG")})
    known = imagehash.phash(picture.resize((64, 64), Image.Resampling.BILINEAR), 16)
    assert rows["phash"][0] == phash(np.asarray(picture)) == str(known)
    np.testing.assert_array_equal(bits_of(perceptual_hashes(rows))[0], known.hash.ravel())


def bits_of(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(words.view(np.uint8), axis=1).astype(int)


@pytest.mark.parametrize(("many", "others"), [(150, None), (70, 45), (1, None), (0, None), (0, 3)])
def test_pairs_are_those_of_a_plain_comparison(many, others):
    rng = np.random.default_rng(many)
    seeds = rng.integers(0, 2**64, (7, 4), dtype=np.uint64)

    def drawn(number: int) -> np.ndarray:
        """Copies of few hashes with up to 40 bits turned."""
        bits = bits_of(seeds)[rng.integers(0, 7, number)]
        bits ^= rng.random(bits.shape) < rng.uniform(0, 0.15, (number, 1))
        return np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64).reshape(number, 4)

    one = drawn(many)
    other = None if others is None else drawn(others)
    found = near_pairs(one, other)
    distances = (bits_of(one)[:, None] != bits_of(one if other is None else other)[None]).sum(axis=2)
    near = distances <= MOST_BITS
    expected = np.argwhere(near if other is not None else np.triu(near, 1))
    assert sorted(zip(found["one"], found["other"], strict=True)) == sorted(map(tuple, expected))
    assert list(found["bits"]) == [distances[a, b] for a, b in zip(found["one"], found["other"], strict=True)]
    assert list(found["bits"]) == sorted(found["bits"])


def test_opposite_hashes_are_not_alike():
    """256 differing bits, which 8-bit counts would take for none."""
    one = np.zeros((1, 4), np.uint64)
    assert near_pairs(one, ~one).empty
    assert list(near_pairs(one, one)["bits"]) == [0]


def test_components_follow_chains():
    names = pd.Series(["d", "b", "c", "a", "e", "b"], index=[10, 11, 12, 13, 14, 15])
    joined = pd.DataFrame({"one": [0, 1], "other": [1, 2]})
    # Both rows called b are one thing.
    assert components(names, joined).to_dict() == {10: "b", 11: "b", 12: "b", 13: "a", 14: "e", 15: "b"}
