import logging
import re

import pandas as pd
import pytest
from synthetic_images import cats_and_dogs, encoded, folder_of, jpeg, scene, zip_of
from test_dataset import TEST, data, load_dataset

from catsdogs.base.errors import UserError
from catsdogs.data.parts import part_names, with_validation_ids


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        ("input/train/cat.1.jpg input/test/1.jpg", "train test"),
        ("Training_Set/cats/1.jpg TEST_SET/cats/1.jpg sample/1.jpg", "Training_Set TEST_SET sample"),
        ("d/training_set/training_set/cats/1.jpg d/test_set/test_set/1.jpg", "training_set test_set"),
        ("train/train/1.jpg train/val/1.jpg", "train val"),
        # Below classes.
        ("cats/training/1.jpg dogs/validation/1.jpg dogs/training/2.jpg", "training validation training"),
        # Images outside the folders are in no part.
        ("d/train/1.jpg d/test/1.jpg stray.jpg d/logo.jpg", "train test - -"),
        # No parts: one folder, classes, other folders at that level, and no training part.
        ("train/cats/1.jpg train/dogs/1.jpg", None),
        ("cats/1.jpg dogs/1.jpg", None),
        ("cats/1.jpg dogs/1.jpg test/1.jpg", "unclear"),
        ("train/1.jpg test/1.jpg test1/1.jpg", "unclear"),
        ("cats/train/1.jpg cats/test/1.jpg dogs/1.jpg", "unclear"),
    ],
)
def test_folders_that_are_parts(paths, parts):
    names, unclear = part_names(paths.split())
    if parts in (None, "unclear"):
        assert set(names) == {""}
        assert bool(unclear) == (parts == "unclear")
    else:
        assert (names, unclear) == ([name.strip("-") for name in parts.split()], [])


def kaggle(train="train/", test="test/"):
    """Return members of a dataset with two parts."""
    return cats_and_dogs(12, 12, train) | {test + name.removeprefix("test/"): image for name, image in TEST.items()}


@pytest.mark.parametrize("parts", [("input/train/", "input/test/"), ("d/training_set/x/", "d/test_set/y/")])
@pytest.mark.parametrize("build", [zip_of, folder_of])
def test_each_setting_uses_its_part_of_one_source(tmp_path, cache, parts, build):
    source = build(tmp_path / "given", kaggle(*parts) | {"stray.jpg": jpeg(900)})
    dataset = load_dataset(data(source, source), cache)
    apart = load_dataset(data(folder_of(tmp_path / "1", cats_and_dogs(12, 12)), folder_of(tmp_path / "2", TEST)), cache)
    # As if the parts had been passed.
    assert dataset.digest == apart.digest
    assert list(dataset.test["id"]) == list(apart.test["id"]) == ["1", "2", "10", "100"]
    assert (dataset.root / dataset.rows["path"][0]).read_bytes() == jpeg(0)
    train, test = (part.rstrip("/xy").rpartition("/")[2] for part in parts)
    of_train, of_test = f"part {train} (24 images)", f"part {test} (4 images)"
    rest = "1 outside the parts (stray.jpg)"
    assert dataset.notes[:-1] == (
        f"data.train={source}: using {of_train} for training; not used: {of_test}, {rest}",
        f"data.test={source}: using {of_test} as the test set; not used: {of_train}, {rest}",
    )
    assert len(apart.notes) == 1


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("given/train", "copy", "^data.test=.*: has the images of data.train; "),
        ("given", "alone", "^data.test=.*: has the images of data.train; "),
        ("given", "other", r"^data.test=.*: has parts \(sample, train\), but none named test or test_set; pass"),
        ("two", None, "^data.train=.*: several parts for data.train, train and training; pass the folder of one"),
        ("valid", None, "^data.train=.*: several parts for data.validation, val and valid; pass the folder of one"),
    ],
)
def test_sources_that_are_refused(tmp_path, cache, train, test, message):
    images, others = cats_and_dogs(8, 8, ""), {"cat.1.jpg": jpeg(700), "dog.1.jpg": jpeg(700)}
    sources = "given train test, copy x, alone train, other train sample, two train training, valid train valid val"
    for folder, *parts in map(str.split, sources.split(", ")):
        for part in parts:
            folder_of(tmp_path / folder / part, images if part == parts[0] else others)
    with pytest.raises(UserError) as caught:
        load_dataset(data(tmp_path / train, test and tmp_path / test), cache)
    assert re.search(message, str(caught.value))


def test_folders_that_are_not_parts_are_merged_and_reported(tmp_path, cache):
    source = folder_of(tmp_path / "given", cats_and_dogs(12, 12) | {"more/cat.77.jpg": jpeg(77)})
    dataset = load_dataset(data(source), cache)
    assert len(dataset.rows) == 25
    assert re.search("using all 25 images, because the folders more, train are not", dataset.notes[0])
    folder_of(source, {"more/bird.jpg": jpeg(78)})
    with pytest.raises(UserError, match=r"^data.train=.*: folders more, train may be parts or classes; pass the path"):
        load_dataset(data(source), cache)
    assert load_dataset(data(source, classes=["more", "train"]), cache).classes.names == ("more", "train")


VALID = {
    f"valid/{kind}s/{n}.jpg": jpeg(2000 + 100 * dog + n) for dog, kind in enumerate(("cat", "dog")) for n in range(5)
}


@pytest.fixture
def source(tmp_path):
    return zip_of(tmp_path / "given.zip", kaggle() | VALID)


def test_a_validation_part_is_the_validation_split(source, cache):
    dataset = load_dataset(data(source, validation_fraction=0.5), cache, holdout=0.25)
    rows = dataset.rows
    own = rows[rows["split"] == "validation"]
    assert list(own["id"]) == [f"validation/{kind}s/{n}" for kind in ("cat", "dog") for n in range(5)]
    assert own["fold"].eq(0).all()
    assert rows["split"].value_counts().to_dict() == {"train": 18, "validation": 10, "holdout": 6}
    assert dataset.folds()[0].validation_rows.tolist() == own.index.tolist()
    assert dataset.relative_paths == list(rows["path"])
    assert "using part train (24 images) for training, part valid (10 images) for validation; " in dataset.notes[0]
    assert dataset.notes[0].endswith("; data.validation_fraction is not used")
    # Folds validate on training images.
    folded = load_dataset(data(source), cache, folds=3)
    assert len(folded.rows) == 24
    assert folded.notes[-2].endswith("valid is not used because split.folds=3 validates on training images")


@pytest.mark.parametrize("build", [zip_of, folder_of])
def test_images_of_data_validation_are_the_validation_split(tmp_path, cache, source, build, caplog):
    members = {
        **{f"cat.{n}.jpg": jpeg(3000 + n) for n in range(4)},
        **{f"dog.{n}.jpg": jpeg(3100 + n) for n in range(4)},
        "cat.8.jpg": jpeg(5),  # train/cat.5.jpg
        "dog.8.jpg": jpeg(5),
        "9.jpg": jpeg(3200),
        "dog.9.jpg": b"broken",
    }
    path = build(tmp_path / "own", members)
    dataset = load_dataset(data(source, validation=str(path), ignore=["cat.0", "validation/cat.3"]), cache)
    rows = dataset.rows
    expected = [f"validation/{kind}.{n}" for kind in ("cat", "dog") for n in range(4)]
    assert list(rows["id"][rows["fold"] == 0]) == [name for name in expected if name != "validation/cat.3"]
    assert len(rows) == 23 + 7
    assert all((dataset.root / path).is_file() for path in rows["path"])
    assert not any(path.startswith("/") for path in dataset.relative_paths)
    reasons = dict(zip(dataset.skipped["id"], dataset.skipped["problem"], strict=True))
    assert reasons == {
        "cat.0": "ignored by data.ignore",
        "validation/9": "no label",
        "validation/cat.3": "ignored by data.ignore",
        "validation/cat.8": "identical images have different labels",
        "validation/dog.8": "identical images have different labels",
        "validation/dog.9": "cannot be decoded: not an image of a known format",
    }
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("skipping 4 of 12 validation images: validation/9 (no label), ")
    assert dataset.notes[1] == f"data.validation={path}: using 12 images for validation"


def test_copies_of_training_images_are_not_validated_on(tmp_path, cache, caplog):
    train = folder_of(
        tmp_path / "train", {f"cat.{n}.jpg" if n % 2 else f"dog.{n}.jpg": encoded(scene(n)) for n in range(12)}
    )
    own = {f"{kind}.{n}.jpg": encoded(scene(50 + n)) for kind in ("cat",) for n in range(3)}
    own |= {f"dog.{n}.jpg": encoded(scene(60 + n)) for n in range(3)}
    own |= {"cat.8.jpg": encoded(scene(1)), "dog.8.jpg": encoded(scene(2), quality=60)}
    given = data(train, validation=str(folder_of(tmp_path / "own", own)), limit=4)
    rows = load_dataset(given, cache, group_by="near_duplicates").rows
    assert rows["split"].value_counts().to_dict() == {"train": 4, "validation": 6}
    assert "skipping 2 of 8 validation images: validation/cat.8 (duplicate of a training image), " in caplog.text


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": jpeg(70)}, "^data.validation=.*: usable .* class cat: 0.*; not usable: validation/1 .no label.$"),
        (cats_and_dogs(8, 8), "^data.validation=.*: usable .*: 0.*: validation/cat.0 .duplicate of a training image"),
    ],
)
def test_validation_images_that_are_refused(tmp_path, cache, members, message):
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    with pytest.raises(UserError, match=message):
        load_dataset(data(train, validation=str(folder_of(tmp_path / "own", members))), cache)


def test_validation_ids_differ_from_training_ids():
    tables = [pd.DataFrame({"id": ids}) for ids in (["cat.1", "x/1"], ["cat.1", "validation/cat.1"])]
    assert list(with_validation_ids(*tables)["id"]) == ["validation/validation/cat.1", "validation/validation/x/1"]
