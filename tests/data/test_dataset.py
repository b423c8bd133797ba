import dataclasses
import logging
import math
import re
from typing import Any

import numpy as np
import pytest
from synthetic_images import cats_and_dogs, encoded, folder_of, jpeg, scene, zip_of

from catsdogs.base.errors import UserError
from catsdogs.config.schema import DataConfig, SampleConfig, SplitConfig
from catsdogs.data.dataset import load_dataset as load


def data(train, test=None, **changed):
    paths = {name: None if path is None else str(path) for name, path in (("train", train), ("test", test))}
    values: dict[str, Any] = {**paths, "sample": None, "limit": None, "ignore": [], "validation": None}
    values |= {"validation_fraction": 0.25, "split_seed": 3, "max_unpacked_gib": 1.0}
    values |= dict.fromkeys(("labels", "id_column", "class_column", "group_column", "classes"))
    return DataConfig(**(values | changed))


def load_dataset(given, cache, holdout=0.0, folds=1, group_by="copies"):
    return load(given, cache, SplitConfig(holdout, folds, group_by))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


TEST = {f"test/{number}.jpg": jpeg(500 + number) for number in (1, 2, 10, 100)}


def test_rows_skipped_and_test_images(tmp_path, cache, caplog):
    members = cats_and_dogs(12, 12) | {
        "train/cat.100.jpg": jpeg(1)[:-100],
        "train/dog.100.jpg": b"",
        "train/bird.1.jpg": jpeg(300),
        "train/cat.200.jpg": jpeg(400),
        "train/dog.200.jpg": jpeg(400),  # identical, with another label
        "train/cat.300.jpg": jpeg(0),  # a duplicate of cat.0
        "train/dog.300.jpg": jpeg(301),
        "train/cat.400.jpg": jpeg(401),
        "train/dog.400.jpg": jpeg(401),  # cat.400 is ignored
    }
    train = zip_of(tmp_path / "train.zip", members)
    test = zip_of(tmp_path / "test.zip", TEST | {"test/20.jpg": b"broken"})
    dataset = load_dataset(data(train, test, ignore=["dog.300", "cat.400"]), cache)

    rows = dataset.rows
    cats, dogs = [f"cat.{n}" for n in [*range(12), 300]], [f"dog.{n}" for n in [*range(12), 400]]
    assert rows["id"].tolist() == cats + dogs
    assert rows["label"].tolist() == [0.0] * 13 + [1.0] * 13
    assert rows.index.tolist() == list(range(26))
    assert rows["split"][0] == rows["split"][12]
    assert (dataset.root / rows["path"][0]).read_bytes() == members["train/cat.0.jpg"]

    reasons = {row.id: re.split("[,(]", row.problem)[0] for row in dataset.skipped.itertuples()}
    assert reasons == {
        "bird.1": "no label",
        "cat.100": "cannot be decoded: image file is truncated ",
        "dog.100": "cannot be decoded: the file is empty",
        **dict.fromkeys(("cat.200", "dog.200"), "identical images have different labels"),
        **dict.fromkeys(("dog.300", "cat.400"), "ignored by data.ignore"),
    }

    # Images of data.ignore are not in it.
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("skipping 5 of 33 training images: bird.1 (no label), cat.100 (cannot be decoded")

    assert dataset.test["id"].tolist() == ["1", "2", "10", "20", "100"]
    assert dataset.test["label"].isna().all()
    assert dataset.test["problem"].tolist() == ["", "", "", "cannot be decoded: not an image of a known format", ""]
    assert (dataset.test_root / "test/10.jpg").read_bytes() == TEST["test/10.jpg"]


def bitmap(number):
    """Return an image with bytes that do not depend on an encoder; numbers give different images."""
    side, header = 16, 54
    pixels = bytes((7 * number + 3 * i) % 256 for i in range(side * side * 3))
    sizes = [header + len(pixels), 0, header, 40, side, side]
    fields = b"".join(size.to_bytes(4, "little") for size in sizes)
    return b"BM" + fields + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + pixels


BITMAPS = {f"{kind}.{n}.bmp": bitmap(n + start) for kind, start in (("cat", 0), ("dog", 100)) for n in range(20)}
BITMAPS["cat.99.bmp"] = BITMAPS["cat.3.bmp"]


def test_digest_of_the_rows(tmp_path, cache):
    train = folder_of(tmp_path / "train", BITMAPS)
    dataset = load_dataset(data(train), cache)
    # Pinned: finished jobs are identified by it.
    assert dataset.digest == "f1403e46dfb550774f3dff2f29ba03c08199f97b30f2faeb226ef6e4f78f3352"
    assert (dataset.test, dataset.test_root, len(dataset.skipped)) == (None, None, 0)
    archive = zip_of(tmp_path / "train.zip", BITMAPS)  # paths do not matter
    test = folder_of(tmp_path / "test", {"1.bmp": bitmap(1)})
    assert load_dataset(data(archive, test), tmp_path / "other").digest == dataset.digest
    splits = [(0.0, 1), (0.2, 1), (0.0, 5), (0.2, 5)]
    digests = {load_dataset(data(train), cache, *split).digest for split in splits}
    changes: dict[str, Any] = {"split_seed": 4, "validation_fraction": 0.5, "ignore": ["cat.1"], "limit": 10}
    digests |= {load_dataset(data(train, **{key: value}), cache).digest for key, value in changes.items()}
    digests.add(load_dataset(data(folder_of(tmp_path / "2", BITMAPS | {"cat.1.bmp": bitmap(77)})), cache).digest)
    assert len(digests) == len(splits) + len(changes) + 1


@pytest.mark.parametrize("folds", [1, 4])
def test_near_duplicates_share_a_split_or_are_counted(tmp_path, cache, folds, caplog):
    """Every image occurs in two qualities."""
    caplog.set_level(logging.INFO)
    members = {
        f"{kind}.{number}.jpg": encoded(scene(100 * dog + number // 2), quality=60 + 20 * (number % 2))
        for dog, kind in enumerate(("cat", "dog"))
        for number in range(20)
    }
    train = folder_of(tmp_path / "train", members)

    def separated(group_by, seed, **changed):
        caplog.clear()
        rows = load_dataset(data(train, split_seed=seed, **changed), cache, 0.25, folds, group_by).rows
        image = rows["id"].str.replace(r"\d+", lambda number: str(int(number[0]) // 2), regex=True)
        count = int((rows.groupby(image)[["split", "fold"]].nunique().max(axis=1) > 1).sum())
        warning = f"split.group_by=copies: {2 * count} images have a near-duplicate in another split"
        assert (warning in caplog.text) == (count > 0)
        return count

    assert [separated("near_duplicates", seed) for seed in range(5)] == [0] * 5
    assert "keeping 20 near-duplicates in the same split" in caplog.text
    assert sum(separated("copies", seed) for seed in range(5)) > 10
    copies = {"ignore": [f"{kind}.{number}" for kind in ("cat", "dog") for number in range(2, 20)]}
    with pytest.raises(UserError, match=r"class dog has 1 distinct images .* set split.group_by=copies, bec"):
        separated("near_duplicates", 0, **copies)


def leaking(labels=True):
    """Return training and test images: an exact and a near-duplicate, one with another label, and two new ones."""
    train = {f"cat.{seed}.jpg": encoded(scene(seed)) for seed in range(8)}
    train |= {f"dog.{seed}.jpg": encoded(scene(seed)) for seed in range(50, 58)}
    near = encoded(scene(53).resize((60, 60)), quality=50)
    test = {"cat.20.jpg": train["cat.0.jpg"], "cat.21.jpg": train["dog.51.jpg"], "dog.22.jpg": near}
    test |= {"cat.23.jpg": encoded(scene(200)), "dog.24.jpg": encoded(scene(201))}
    return train, test if labels else {name.split(".", 1)[1]: data for name, data in test.items()}


@pytest.mark.parametrize("labels", [True, False])
def test_test_images_that_duplicate_training_images_are_marked(tmp_path, cache, caplog, labels):
    caplog.set_level(logging.INFO)
    train, test = (folder_of(tmp_path / str(number), members) for number, members in enumerate(leaking(labels)))
    rows = load_dataset(data(train, test), cache).test
    ignored = load_dataset(data(train, test, ignore=["cat.0"], limit=8), cache).test
    assert ignored["in_training"].equals(rows["in_training"])
    caplog.clear()
    load_dataset(data(train, test), cache)
    assert rows["in_training"].tolist() == ([True, True, False, True, False] if labels else [True] * 3 + [False] * 2)
    (line,) = [record for record in caplog.records if "of 5 test images are" in record.getMessage()]
    assert (line.levelno == logging.WARNING) == labels
    message = "3 of 5 test images are exact or near-duplicates of training, validation or holdout images"
    if labels:
        message += ", so they are not scored: cat.20, cat.21, dog.22"
    assert line.getMessage() == message


@pytest.mark.parametrize(("holdout", "folds"), [(0.25, 1), (0.25, 4)])
def test_folds_validate_on_every_image_once(tmp_path, cache, holdout, folds):
    dataset = load_dataset(data(folder_of(tmp_path / "train", BITMAPS)), cache, holdout, folds)
    assert len(dataset.holdout_rows) == pytest.approx(41 * holdout, abs=1.5)
    assert len(dataset.folds()) == folds
    for fold in dataset.folds():
        assert sorted([*fold.train_rows, *fold.validation_rows, *dataset.holdout_rows]) == list(range(41))
    if folds > 1:
        validated = [row for fold in dataset.folds() for row in fold.validation_rows]
        assert sorted([*dataset.holdout_rows, *validated]) == list(range(41))


def test_limit_counts_usable_images(tmp_path, cache):
    members = cats_and_dogs(25, 30) | {f"train/cat.{number}.jpg": b"" for number in range(10)}
    rows = load_dataset(data(folder_of(tmp_path / "train", members), limit=30), cache).rows
    assert rows["label"].tolist() == [0.0] * 10 + [1.0] * 20
    assert (rows["split"] == "validation").sum() == 8


@pytest.mark.parametrize(
    ("members", "labels", "problems", "unlabeled"),
    [
        (cats_and_dogs(1, 0, "") | {"x.jpg": jpeg(5), "y.jpg": jpeg(6)}, [math.nan] * 3, [""] * 3, "2 of 3"),
        # Images with a conflicting label can be predicted.
        ({"cats/dog.1.jpg": jpeg(1), "cats/dog.2.jpg": b""}, [math.nan] * 2, ["", "the file is empty"], None),
    ],
)
def test_labels_and_problems_of_test_images(tmp_path, cache, members, labels, problems, unlabeled, caplog):
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    test = load_dataset(data(train, folder_of(tmp_path / "test", members)), cache).test
    np.testing.assert_array_equal(test["label"], labels)
    assert [problem.split(";")[0].removeprefix("cannot be decoded: ") for problem in test["problem"]] == problems
    message = f"{unlabeled} test images have no unique label, so no test image is scored: x, y"
    assert (message in caplog.text) == (unlabeled is not None)


KINDS = ("ants", "bees", "wasps")
INSECTS = {f"{kind}/{k}{n}.jpg": jpeg(20 * k + n) for k, kind in enumerate(KINDS) for n in range(12)}


def test_classes_are_chosen_and_ordered(tmp_path, cache, caplog):
    caplog.set_level(logging.INFO)
    source = folder_of(tmp_path / "train", INSECTS)
    dataset = load_dataset(data(source), cache)
    assert dataset.classes.names == ("ants", "bees", "wasps")
    assert dataset.rows["label"].tolist() == [0.0] * 12 + [1.0] * 12 + [2.0] * 12
    assert dataset.notes[-1] == f"data.train={source}: 3 classes from class folders: ants 12, bees 12, wasps 12"
    other = load_dataset(data(source, classes=["wasps", "ants", "bees"]), cache)
    assert other.rows["label"].tolist() == [1.0] * 12 + [2.0] * 12 + [0.0] * 12
    assert other.rows["split"].tolist() == dataset.rows["split"].tolist()  # the order of the classes changes no split
    some = load_dataset(data(source, classes=["ants", "bees"]), cache)
    assert (len(some.rows), set(some.skipped["problem"])) == (24, {"class not in data.classes"})
    assert "data.classes excludes 12 of 36 training images" in caplog.messages
    assert len({dataset.digest, other.digest, some.digest}) == 3
    copies = folder_of(tmp_path / "copies", INSECTS | {"wasps/0.jpg": INSECTS["ants/00.jpg"]})
    for ignore, skipped in (([], ["ants/00"]), (["wasps/0"], [])):
        some = load_dataset(data(copies, classes=["ants", "bees"], ignore=ignore), cache).skipped
        assert some.query("problem == 'identical images have different labels'")["id"].tolist() == skipped
    limited = load_dataset(data(source, limit=9), cache).rows
    assert limited["label"].value_counts().to_dict() == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize("folds", [1, 3])
def test_groups_of_a_table_stay_together(tmp_path, cache, caplog, folds):
    source, own = folder_of(tmp_path / "train", INSECTS), {f"own/{n}.jpg": jpeg(500 + n) for n in range(8)}
    names = [path.partition("/")[2] for path in INSECTS]
    table = tmp_path / "labels.csv"
    rows = [f"{name},{'ab'[n % 2]},site {n % 7}" for n, name in enumerate(names)]
    table.write_text("\n".join(["file,class,site", *rows]))
    given = data(source, labels=str(table), group_column="site")
    dataset = load_dataset(given, cache, 0.2, folds)
    assert dataset.classes.names == ("a", "b")
    assert dataset.rows["group"].nunique() == 7
    assert (dataset.rows.groupby("group")[["split", "fold"]].nunique() == 1).all(axis=None)
    assert set(dataset.rows["split"]) == {"train", "validation", "holdout"}
    # Validation images are not of the same groups.
    rows += [f"{n}.jpg,{'ab'[n % 2]},{f'new {n}' if n < 4 else 'site 1'}" for n in range(8)]
    table.write_text("\n".join(["file,class,site", *rows]))
    given = dataclasses.replace(given, validation=str(folder_of(tmp_path / "own", own)))
    dataset = load_dataset(given, cache)
    assert dataset.skipped["problem"].tolist() == ["in a group of training images"] * 4
    assert (dataset.rows["split"] == "validation").sum() == 4
    test = dataclasses.replace(given, validation=None, test=given.validation)
    dataset = load_dataset(test, cache)
    assert dataset.test["in_training"].tolist() == [False] * 4 + [True] * 4
    assert "4 of 8 test images are in groups of training images, so they are not scored: 4, 5, 6, 7" in caplog.text
    # Test images need no group.
    table.write_text("\n".join(["file,class,site", *rows]).replace(",new 3", ","))
    assert load_dataset(test, cache).test["in_training"].tolist() == [False] * 4 + [True] * 4
    with pytest.raises(UserError, match=r"8 of 44 rows belong to no image \(0.jpg, 1.jpg, "):
        load_dataset(dataclasses.replace(given, validation=None), cache)


def test_synthetic_archives_without_training_images(tmp_path, cache):
    sample = SampleConfig(images_per_class=9, test_images=4, seed=1, classes=2)
    given, train = folder_of(tmp_path / "given", {"7.jpg": jpeg(7)}), folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    synthetic = ((None, None), 18, ["1", "2", "3", "4"])
    for sources, images, ids in (synthetic, ((None, given), 18, ["7"]), ((train, None), 16, None)):
        dataset = load_dataset(data(*sources, sample=sample), cache)
        assert len(dataset.rows) == images
        assert (None if dataset.test is None else dataset.test["id"].tolist()) == ids


@pytest.mark.parametrize(
    ("members", "changed", "message"),
    [
        ((8, 8), {"train": "gone.zip"}, "^data.train=.*gone.zip: not found; pass"),
        ((8, 8), {"train": " "}, "^data.train=' '"),
        (
            (8, 8),
            {"ignore": ["cat.1", *(f"x{n}" for n in range(7))]},
            "^data.ignore: .* x0, x1, x2, x3, x4 and 2 more; .*for example cat.0$",
        ),
        ((5, 0), {}, "^data.train=.*: usable images of class dog: 0, at least 2 needed; add .*; not usable: dog.99 "),
        ((0, 0), {}, r"^data.train=.*: usable images of class cat: 0.*; not usable: cat.99 .cannot be decoded"),
        ((1, 2), {}, "^data.train=.*: usable images of class cat: 1, at least 2 needed; add"),
    ],
)
def test_errors(tmp_path, cache, members, changed, message):
    empty = {f"train/{kind}.99.jpg": b"" for kind in ("cat", "dog")}
    train = folder_of(tmp_path / "train", cats_and_dogs(*members) | empty)
    with pytest.raises(UserError, match=message):
        load_dataset(data(**({"train": train} | changed)), cache)


def test_an_archive_is_limited_in_gib(tmp_path, cache):
    members = cats_and_dogs(8, 8)
    source, size = zip_of(tmp_path / "train.zip", members), sum(map(len, members.values()))
    with pytest.raises(UserError, match=r"data.max_unpacked_gib="):
        load_dataset(data(source, max_unpacked_gib=(size - 1) / 2**30), cache)
    assert len(load_dataset(data(source, max_unpacked_gib=size / 2**30), cache).rows) == 16
