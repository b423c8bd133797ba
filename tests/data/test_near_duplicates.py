import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from synthetic_images import encoded, folder_of, leaf, scene

from catsdogs.data import near_duplicates
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog

pytestmark = pytest.mark.lowest


def rows_of(tmp_path, members):
    folder = open_images(folder_of(tmp_path / "given", members), tmp_path / "cache", 0)
    return build_catalog(folder, tmp_path / "cache")


def grouped(tmp_path, members):
    rows = rows_of(tmp_path, members)

    def groups_of(table):
        pairs = near_duplicates.confirmed_pairs(tmp_path / "cache", (table, tmp_path / "given"))
        return near_duplicates.components(table["sha256"], pairs)

    groups, shuffled = groups_of(rows), groups_of(rows.sample(frac=1, random_state=3))
    assert groups.name == "group"
    assert list(groups.index) == list(rows.index)
    pd.testing.assert_series_equal(shuffled.sort_index(), groups)
    for name, hashes in rows.groupby(groups)["sha256"]:
        assert name == min(hashes)
    return {frozenset(ids) for _, ids in rows.groupby(groups)["id"]}


def test_duplicates_share_a_group(tmp_path):
    image, exif = scene(0), Image.Exif()
    exif[0x0112] = 6  # hashes are of upright images
    members = {
        "cat.1.jpg": encoded(image),
        "cat.2.jpg": encoded(image),
        "cat.3.jpg": encoded(image.rotate(90, expand=True), exif=exif),
        **{f"cat.{name}.png": data for name, data in altered(image).items()},
        **{f"dog.{seed}.jpg": encoded(scene(seed)) for seed in range(2, 12)},
    }
    duplicates = frozenset(name.rpartition(".")[0] for name in members if name.startswith("cat"))
    assert grouped(tmp_path, members) == {duplicates, *(frozenset({f"dog.{seed}"}) for seed in range(2, 12))}


def altered(image):
    rotated = image.rotate(2, Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    cut = round(0.02 * image.width)
    return {
        "quality": encoded(image, quality=40),
        "small": encoded(image.resize((70, 70)), "PNG"),
        "bright": encoded(ImageEnhance.Brightness(image).enhance(1.15), "PNG"),
        "gray": encoded(image.convert("L"), "PNG"),
        "cropped": encoded(image.crop((cut, cut, image.width - cut, image.height - cut)), "PNG"),
        "rotated": encoded(rotated, "PNG"),
    }


def test_drawings_with_similar_hashes_are_distinct(tmp_path):
    members = {f"cat.{seed}.png": encoded(leaf(seed), "PNG") for seed in range(60)}
    assert len(near_duplicates.near_pairs(near_duplicates.perceptual_hashes(rows_of(tmp_path, members)))) >= 4
    assert grouped(tmp_path, members) == {frozenset({f"cat.{seed}"}) for seed in range(60)}


@pytest.mark.parametrize("image", [leaf(108), scene(100)])
def test_altered_images_are_copies_of_other_images(tmp_path, image):
    """A damaged file is no copy of an equal one, which is never trained on."""
    others = {"cat.1.png": encoded(image, "PNG"), "cat.2.png": encoded(leaf(200), "PNG"), "cat.3.png": b"broken"}
    members = {f"{name}.png": data for name, data in altered(image).items()}
    members |= {"equal.png": others["cat.1.png"], "damaged.png": b"broken", "no copy.png": encoded(leaf(7), "PNG")}
    tables = rows_of(tmp_path / "test", members), rows_of(tmp_path / "train", others)
    roots = tmp_path / "test" / "given", tmp_path / "train" / "given"
    found = near_duplicates.copies_of(tables[0], roots[0], tables[1], roots[1], tmp_path / "cache")
    distinct = ("damaged.png", "no copy.png")
    assert dict(zip(tables[0]["id"], found, strict=True)) == {name[:-4]: name not in distinct for name in members}


def test_many_blank_images_are_compared_in_seconds(tmp_path):
    """Each pair of them has equal hashes; confirmed pairs connect all, without comparing each."""
    blank = {f"{shade}.png": encoded(Image.new("RGB", (16, 16), (shade, shade, shade)), "PNG") for shade in range(250)}
    rows = rows_of(tmp_path, blank)
    assert len(near_duplicates.near_pairs(near_duplicates.perceptual_hashes(rows))) == 250 * 249 / 2
    pairs = near_duplicates.confirmed_pairs(tmp_path / "cache", (rows, tmp_path / "given"))
    assert len(near_duplicates.components(rows["sha256"], pairs).unique()) == 1
    assert len(pairs) < 250 * 20


def bits_of(words):
    return np.unpackbits(words.view(np.uint8), axis=1).astype(int)


@pytest.mark.parametrize(("n", "m"), [(150, None), (70, 45), (1, None), (0, None), (0, 3)])
def test_near_pairs_equal_a_direct_comparison(n, m):
    rng = np.random.default_rng(n)
    seeds = rng.integers(0, 2**64, (7, 4), dtype=np.uint64)

    def random_hashes(number):
        """Return copies of seven hashes with up to 40 bits flipped."""
        bits = bits_of(seeds)[rng.integers(0, 7, number)]
        bits ^= rng.random(bits.shape) < rng.uniform(0, 0.15, (number, 1))
        return np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64).reshape(number, 4)

    one = np.concatenate([random_hashes(n), seeds[:n], ~seeds[:n]])  # 256 different bits overflow 8-bit counts
    other = None if m is None else random_hashes(m)
    pairs = near_duplicates.near_pairs(one, other)
    distances = (bits_of(one)[:, None] != bits_of(one if other is None else other)[None]).sum(axis=2)
    near = distances <= near_duplicates.MOST_BITS
    expected = np.argwhere(near if other is not None else np.triu(near, 1))
    assert sorted(zip(pairs["one"], pairs["other"], strict=True)) == sorted(map(tuple, expected))
    assert list(pairs["bits"]) == [distances[a, b] for a, b in zip(pairs["one"], pairs["other"], strict=True)]
    assert list(pairs["bits"]) == sorted(pairs["bits"])
