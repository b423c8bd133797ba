import hashlib
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from synthetic_images import cats_and_dogs, encoded, folder_of, gradient, jpeg, zip_of

from catsdogs.base.errors import UserError
from catsdogs.base.text import natural_key
from catsdogs.data import catalog
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog, ids_of, stray_message

COLUMNS = ["id", "path", "sha256", "width", "height", "phash", "problem"]


def catalog_of(tmp_path, members):
    source = folder_of(tmp_path / "given", members)
    return build_catalog(open_images(source, tmp_path / "cache", 0), tmp_path / "cache")


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["train/cat.12.jpg", "train/dog.3.jpg"], ["cat.12", "dog.3"]),
        (["1.jpg", "sub/2.jpg"], ["1", "sub/2"]),
        (["PetImages/Cat/12.jpg", "PetImages/Dog/3.jpg"], ["Cat/12", "Dog/3"]),
        (["train/cats/1.jpg", "train/catsup/1.jpg"], ["cats/1", "catsup/1"]),  # a common prefix, not a folder
        (["a/1.jpg", "a/1.png", "a/2.jpg"], ["1.jpg", "1.png", "2"]),
        (["1.jpg", "1.JPG"], ["1.jpg", "1.JPG"]),
        (["1.jpg", "1.png", "1.jpg.png"], ["1.jpg", "1.png", "1.jpg.png"]),
        (["a/1", "a/2.jfif", "a/3.JP2", "b.c/cat.4", "v1.2"], ["a/1", "a/2", "a/3", "b.c/cat.4", "v1.2"]),
        ([], []),
    ],
)
def test_ids(paths, ids):
    assert ids_of(paths) == ids


paths = st.from_regex(r"([a1][a1.]{0,2}/){0,2}[a1][a1.]{0,2}\.(jpg|png|JPG)", fullmatch=True)


@given(st.lists(paths, unique=True, max_size=12), st.randoms())
def test_ids_are_unique_and_independent_of_order(names, random):
    ids = dict(zip(names, ids_of(names), strict=True))
    assert len(set(ids.values())) == len(names)
    assert all(path.endswith(name) or path[: path.rindex(".")].endswith(name) for path, name in ids.items())
    random.shuffle(names)
    assert dict(zip(names, ids_of(names), strict=True)) == ids


def test_catalog_has_a_row_per_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    members = {
        "train/cat.10.jpg": jpeg(1),
        "train/cat.2.jpg": jpeg(1)[:-200],
        "train/cat.1.jpg": b"",
        "train/dog.1.png": encoded(gradient(2, 40, 30), "PNG", exif=exif),
        "train/unknown.jpg": b"<html>",
    }
    table = catalog_of(tmp_path, members)
    assert list(table.columns) == COLUMNS
    assert table["id"].tolist() == ["cat.1", "cat.2", "cat.10", "dog.1", "unknown"]
    assert table["path"].tolist() == sorted(members, key=natural_key)
    assert table["sha256"].tolist() == [hashlib.sha256(members[path]).hexdigest() for path in table["path"]]
    assert table["width"].tolist() == [0, 0, 40, 30, 0]
    assert table["height"].tolist() == [0, 0, 30, 40, 0]
    assert table["phash"].map(len).tolist() == [0, 0, 64, 64, 0]
    problems = [problem.removeprefix("cannot be decoded: ")[:23] for problem in table["problem"]]
    assert problems == ["the file is empty", "image file is truncated", "", "", "not an image of a known"]


def test_stored_catalog_equals_the_first_one(tmp_path, monkeypatch, caplog):
    """Some names look like numbers, missing values or CSV. A table of an older version is ignored."""
    names = ["1", "01", "1e5", "NA", "nan", "None", "True", 'a "quoted", one', " spaces ", "猫 é", "-1", "#2", "'"]
    source = zip_of(tmp_path / "test.zip", {f"test/{name}.jpg": jpeg(1) for name in names})
    folder, cache = open_images(source, tmp_path / "cache", 2**30), tmp_path / "cache"
    folder_of(cache / "catalogues", {f"{folder.digest}-v3.csv": b"id,path,label,sha256,width,height,problem\n"})
    first = build_catalog(folder, cache)
    assert first["id"].tolist() == sorted(names, key=natural_key)
    assert not caplog.messages
    monkeypatch.setattr(catalog, "_SAMPLE", 1)
    for path in folder.paths[1:]:  # not read again
        (folder.root / path).unlink()
    pd.testing.assert_frame_equal(build_catalog(folder, cache), first)


def swapped(column):
    return lambda table: table.assign(**{column: table[column][::-1].to_numpy()})


@pytest.mark.parametrize(
    "poison",
    [
        *map(swapped, ["path", "sha256"]),
        lambda table: table.assign(width=0, height=0),
        lambda table: table.assign(width=float("nan")),
        lambda table: table.assign(label=1.0, id="7"),
        lambda table: table.assign(check="0" * 16),
        lambda table: table[1:],
        lambda table: table.drop(columns="phash"),
    ],
)
@pytest.mark.parametrize("consistent", [False, True])
def test_poisoned_stored_catalog_is_rebuilt(tmp_path, poison, consistent, caplog):
    members = cats_and_dogs(3, 3) | {"train/cat.9.jpg": b""}
    source, cache = folder_of(tmp_path / "given", members), tmp_path / "cache"
    folder = open_images(source, cache, 0)
    expected = build_catalog(folder, cache)
    (file,) = (cache / "catalogues").iterdir()
    intact = file.read_bytes()
    table = poison(catalog._STORED.read(file))
    if consistent and set(table.columns) == set(catalog._STORED.columns):
        table["check"] = catalog._checks(table.drop(columns="check"))
    table.to_csv(file, index=False)
    if file.read_bytes() == intact:  # only the checksums were wrong
        return
    pd.testing.assert_frame_equal(build_catalog(folder, cache), expected)
    assert "corrupted (" in caplog.messages[-1]
    assert file.read_bytes() == intact
    file.unlink()
    (file / "x").mkdir(parents=True)
    pd.testing.assert_frame_equal(build_catalog(folder, cache), expected)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["test/1.jpg", "test/2.jpg", "stray.jpg"], "2 of 3 ids carry the folder test (for example test/1).*stray.jpg"),
        ([*(f"a/test/{n}" for n in range(20)), "a/x/1", "a/y"], "20 of 22 ids carry the folder test .*a/x/1, a/y"),
        ([*(f"cats/{n}" for n in range(12)), "dogs/1", "dogs/2"], ""),
        (["test/1.jpg", "test/2.jpg"], ""),
        ([], ""),
    ],
)
def test_stray_images_are_named(paths, message):
    assert re.match(message.replace("(", r"\(").replace(")", r"\)") or r"\Z", stray_message(ids_of(paths), paths))


def test_an_unreadable_file_is_an_error(tmp_path):
    source, cache = folder_of(tmp_path / "given", cats_and_dogs(3, 3)), tmp_path / "cache"
    folder = open_images(source, cache, 0)
    (source / "train/dog.1.jpg").unlink()
    with pytest.raises(UserError, match=r"dog\.1\.jpg: cannot be read"):
        build_catalog(folder, cache)
    assert not cache.exists()
