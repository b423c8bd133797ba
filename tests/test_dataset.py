from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import cats_and_dogs, encoded, folder_of, jpeg, scene, zip_of

from catsdogs.dataset import load_dataset
from catsdogs.errors import UserError
from catsdogs.schema import Data, Sample, Split


def data(train: Path | str | None, test: Path | str | None = None, **changed: Any) -> Data:
    values: dict[str, Any] = {
        "train": None if train is None else str(train),
        "test": None if test is None else str(test),
        "sample": None,
        "limit": None,
        "ignore": [],
        "validation_fraction": 0.25,
        "split_seed": 3,
        "max_unpacked_gib": 1.0,
    }
    return Data(**(values | changed))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


TEST = {f"test/{number}.jpg": jpeg(500 + number) for number in (1, 2, 10, 100)}


def test_everything_a_study_shares(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = cats_and_dogs(12, 12) | {
        "train/cat.100.jpg": jpeg(1)[:-100],
        "train/dog.100.jpg": b"",
        "train/bird.1.jpg": jpeg(300),
        "train/cat.200.jpg": jpeg(400),
        "train/dog.200.jpg": jpeg(400),  # the same image under another label
        "train/cat.300.jpg": jpeg(0),  # a copy of cat.0
        "train/dog.300.jpg": jpeg(301),
    }
    train = zip_of(tmp_path / "train.zip", members)
    test = zip_of(tmp_path / "test.zip", TEST | {"test/20.jpg": b"broken"})
    dataset = load_dataset(data(train, test, ignore=["dog.300"]), cache)

    rows = dataset.rows
    assert rows["id"].tolist() == [f"cat.{number}" for number in [*range(12), 300]] + [f"dog.{n}" for n in range(12)]
    assert rows["label"].tolist() == [0.0] * 13 + [1.0] * 12
    assert rows["problem"].tolist() == [""] * 25
    assert rows.index.tolist() == list(range(25))
    assert set(rows["split"]) == {"train", "validation"}
    assert rows["split"][0] == rows["split"][12]
    assert (dataset.root / rows["path"][0]).read_bytes() == members["train/cat.0.jpg"]

    reasons = dict(zip(dataset.left_out["id"], dataset.left_out["problem"], strict=True))
    assert list(reasons) == ["bird.1", "cat.100", "cat.200", "dog.100", "dog.200", "dog.300"]
    assert reasons["bird.1"] == "no label"
    assert reasons["cat.100"].startswith("does not decode: image file is truncated")
    assert reasons["dog.100"] == "does not decode: the file is empty"
    assert reasons["cat.200"] == reasons["dog.200"] == "the same image occurs under both labels"
    assert reasons["dog.300"] == "ignored by data.ignore"
    assert set(rows["id"]) | set(reasons) == {Path(name).stem for name in members}

    # Those left out on request are not in it.
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("5 of 31 training images are left out: bird.1 (no label), cat.100 (does not decode")

    assert dataset.test is not None
    assert dataset.test["id"].tolist() == ["1", "2", "10", "20", "100"]
    assert dataset.test["label"].isna().all()
    assert dataset.test["problem"].tolist() == ["", "", "", "does not decode: not an image of a known format", ""]
    assert dataset.test_root is not None
    assert (dataset.test_root / "test/10.jpg").read_bytes() == TEST["test/10.jpg"]


def test_digest_is_that_of_the_rows(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(8, 8)
    dataset = load_dataset(data(zip_of(tmp_path / "train.zip", members)), cache)
    lines = [
        json.dumps([row.id, row.label, hashlib.sha256(members[row.path]).hexdigest(), row.split]) + "\n"
        for row in dataset.rows.itertuples()
    ]
    assert dataset.digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (dataset.test, dataset.test_root, len(dataset.left_out)) == (None, None, 0)


def bitmap(number: int) -> bytes:
    """A picture whose bytes do not depend on an encoder; every number gives another one."""
    side, header = 16, 54
    pixels = bytes((7 * number + 3 * place) % 256 for place in range(side * side * 3))
    sizes = [header + len(pixels), 0, header, 40, side, side]
    fields = b"".join(size.to_bytes(4, "little") for size in sizes)
    return b"BM" + fields + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + pixels


BITMAPS = {f"{kind}.{n}.bmp": bitmap(n + start) for kind, start in (("cat", 0), ("dog", 100)) for n in range(20)}
BITMAPS["cat.99.bmp"] = BITMAPS["cat.3.bmp"]


def test_digest_without_holdout_and_folds_is_what_it_always_was(tmp_path: Path, cache: Path) -> None:
    """Finished jobs are known by it."""
    train = folder_of(tmp_path / "train", BITMAPS)
    golden = "f1403e46dfb550774f3dff2f29ba03c08199f97b30f2faeb226ef6e4f78f3352"
    assert load_dataset(data(train), cache).digest == golden
    assert load_dataset(data(train), cache, Split(0.0, 1, "copies")).digest == golden


def test_digest_tells_holdouts_and_folds_apart(tmp_path: Path, cache: Path) -> None:
    train = folder_of(tmp_path / "train", BITMAPS)
    ways = [(0.0, 1), (0.1, 1), (0.2, 1), (0.0, 2), (0.0, 5), (0.2, 5)]
    digests = {load_dataset(data(train), cache, Split(*way, "copies")).digest for way in ways}
    assert len(digests) == len(ways)
    one, other = (
        load_dataset(data(train, validation_fraction=f), cache, Split(0.2, 5, "copies")).digest for f in (0.2, 0.5)
    )
    assert one == other


PICTURES = {
    f"{kind}.{number}.jpg": encoded(scene(100 * dog + number // 2), quality=60 + 20 * (number % 2))
    for dog, kind in enumerate(("cat", "dog"))
    for number in range(20)
}


@pytest.mark.parametrize("folds", [1, 4])
def test_near_duplicates_never_stand_on_two_sides(
    tmp_path: Path, cache: Path, folds: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every picture is there twice, once compressed more strongly."""
    caplog.set_level(logging.INFO)
    train = folder_of(tmp_path / "train", PICTURES)

    def torn(together: str, seed: int) -> int:
        rows = load_dataset(data(train, split_seed=seed), cache, Split(0.25, folds, together)).rows
        picture = rows["id"].str.replace(r"\d+", lambda number: str(int(number[0]) // 2), regex=True)
        return int((rows.groupby(picture)[["split", "fold"]].nunique().max(axis=1) > 1).sum())

    assert [torn("near_duplicates", seed) for seed in range(5)] == [0] * 5
    assert "20 near-duplicates stay on the side of the image that they resemble" in caplog.text
    assert sum(torn("copies", seed) for seed in range(5)) > 10


def test_without_near_duplicates_the_split_is_that_of_copies(tmp_path: Path, cache: Path) -> None:
    apart = {name: data for name, data in PICTURES.items() if int(name.split(".")[1]) % 2 == 0}
    train = folder_of(tmp_path / "train", apart | {"cat.99.jpg": apart["cat.0.jpg"]})
    one, other = (load_dataset(data(train), cache, Split(0.25, 3, way)) for way in ("near_duplicates", "copies"))
    assert one.digest == other.digest


def test_one_fold_is_training_and_validation(tmp_path: Path, cache: Path) -> None:
    dataset = load_dataset(data(folder_of(tmp_path / "train", BITMAPS)), cache)
    (fold,) = dataset.folds()
    sides = [np.flatnonzero(dataset.rows["split"] == side).tolist() for side in ("train", "validation", "holdout")]
    assert [fold.train_rows.tolist(), fold.validation_rows.tolist(), dataset.holdout_rows.tolist()] == sides


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_folds_validate_on_every_image_outside_the_holdout_once(tmp_path: Path, cache: Path, holdout: float) -> None:
    dataset = load_dataset(data(folder_of(tmp_path / "train", BITMAPS)), cache, Split(holdout, 4, "copies"))
    folds, held = dataset.folds(), set(dataset.holdout_rows.tolist())
    assert len(folds) == 4
    assert len(held) == pytest.approx(41 * holdout, abs=1.5)
    assert sorted([*held, *(row for fold in folds for row in fold.validation_rows)]) == list(range(41))
    for number, fold in enumerate(folds):
        train, validation = set(fold.train_rows.tolist()), set(fold.validation_rows.tolist())
        assert train | validation | held == set(range(41))
        assert len(train) + len(validation) + len(held) == 41
        assert (dataset.rows["fold"].iloc[fold.validation_rows] == number).all()
        for rows in (fold.train_rows, fold.validation_rows):
            assert set(dataset.rows["label"].iloc[rows]) == {0.0, 1.0}
    one = dataset.rows.set_index("id")
    assert tuple(one.loc["cat.3", ["split", "fold"]]) == tuple(one.loc["cat.99", ["split", "fold"]])


def test_digest_tells_data_apart_and_not_where_they_are(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(8, 8)
    archive = zip_of(tmp_path / "train.zip", members)
    first = load_dataset(data(archive), cache)
    again = load_dataset(data(folder_of(tmp_path / "unpacked", members), archive), tmp_path / "other")
    assert again.digest == first.digest
    others = [
        load_dataset(data(archive, split_seed=4), cache),
        load_dataset(data(archive, validation_fraction=0.5), cache),
        load_dataset(data(archive, ignore=["cat.1"]), cache),
        load_dataset(data(archive, limit=10), cache),
        load_dataset(data(zip_of(tmp_path / "2.zip", members | {"train/cat.1.jpg": jpeg(77)})), cache),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 6


def test_limit_counts_what_can_be_used(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(25, 30) | {f"train/cat.{number}.jpg": b"" for number in range(10)}
    rows = load_dataset(data(folder_of(tmp_path / "train", members), limit=30, split_seed=5), cache).rows
    assert rows["label"].tolist() == [0.0] * 10 + [1.0] * 20
    assert rows.index.tolist() == list(range(30))
    other = load_dataset(data(tmp_path / "train", limit=30, split_seed=6), cache).rows
    assert set(other["id"]) != set(rows["id"])
    rows = load_dataset(data(tmp_path / "train", limit=12), cache).rows
    assert rows["label"].tolist() == [0.0] * 4 + [1.0] * 8
    assert (rows["split"] == "validation").sum() == 3


def test_ignoring_one_of_two_contradicting_copies_keeps_the_other(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = cats_and_dogs(8, 8) | {"train/cat.100.jpg": jpeg(400), "train/dog.100.jpg": jpeg(400)}
    dataset = load_dataset(data(folder_of(tmp_path / "train", members), ignore=["cat.100"]), cache)
    assert dataset.left_out["id"].tolist() == ["cat.100"]
    assert "dog.100" in set(dataset.rows["id"])
    assert caplog.messages == []  # what is left out on request is no warning


@pytest.mark.parametrize(
    ("members", "labels", "problems"),
    [
        (cats_and_dogs(2, 2, ""), [0.0, 0.0, 1.0, 1.0], [""] * 4),
        (cats_and_dogs(1, 1, "") | {"5.jpg": jpeg(5)}, [math.nan] * 3, [""] * 3),  # only if all are there
        # A doubtful label is no problem: that would mean that there is no picture to predict from.
        (
            {"cats/dog.1.jpg": jpeg(1), "cats/dog.2.jpg": b""},
            [math.nan] * 2,
            ["", "does not decode: the file is empty"],
        ),
    ],
)
def test_labels_and_problems_of_test_images(
    tmp_path: Path, cache: Path, members: dict[str, bytes], labels: list[float], problems: list[str]
) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    test = load_dataset(data(train, folder_of(tmp_path / "test", members)), cache).test
    assert test is not None
    np.testing.assert_array_equal(test["label"], labels)
    assert [problem.split(";")[0] for problem in test["problem"]] == problems


def test_archives_are_drawn_where_no_training_images_are_given(tmp_path: Path, cache: Path) -> None:
    sample = Sample(images_per_class=9, test_images=4, seed=1)
    dataset = load_dataset(data(None, sample=sample), cache)
    assert len(dataset.rows) == 18
    assert dataset.test is not None
    assert dataset.test["id"].tolist() == ["1", "2", "3", "4"]
    given = folder_of(tmp_path / "given", {"7.jpg": jpeg(7)})
    test = load_dataset(data(None, given, sample=sample), cache).test
    assert test is not None
    assert test["id"].tolist() == ["7"]
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    dataset = load_dataset(data(train, sample=sample), cache)
    assert len(dataset.rows) == 16
    assert dataset.test is None


# Mistakes


def failure(cache: Path, given: Data) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(given, cache)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_source_is_named_by_its_key(tmp_path: Path, cache: Path) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    assert failure(cache, data("gone.zip")).startswith(f"data.train: {Path('gone.zip').absolute()}: no such file")
    assert failure(cache, data(train, tmp_path / "gone.zip")).startswith("data.test: ")
    assert "data.test=''" in failure(cache, data(train, ""))
    assert "data.train=' '" in failure(cache, data(" "))
    assert "data.train=null" in failure(cache, data(None))


def test_limit_of_an_archive_is_in_gib(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(8, 8)
    train = zip_of(tmp_path / "train.zip", members)
    size = sum(map(len, members.values()))
    assert "data.max_unpacked_gib=" in failure(cache, data(train, max_unpacked_gib=(size - 1) / 2**30))
    assert len(load_dataset(data(train, max_unpacked_gib=size / 2**30), cache).rows) == 16


def test_unknown_ids_to_ignore(tmp_path: Path, cache: Path) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    said = failure(cache, data(train, ignore=["cat.1", *(f"x{number}" for number in range(7))]))
    assert "data.ignore: there is no training image with the id x0, x1, x2, x3, x4 and 2 more; " in said
    assert said.endswith("cat.0 for example")


def test_no_labels_at_all(tmp_path: Path, cache: Path) -> None:
    train, labelled = folder_of(tmp_path / "train", TEST), folder_of(tmp_path / "b", cats_and_dogs(2, 2))
    for test, places in ((None, False), (train, False), (labelled, True)):
        said = failure(cache, data(train, test))
        assert "none of the usable images" in said
        assert ("data.test has labels, so the two may have changed places" in said) == places


@pytest.mark.parametrize(("there", "missing", "cats", "dogs"), [("cats", "dogs", 5, 0), ("dogs", "cats", 0, 5)])
def test_one_class(tmp_path: Path, cache: Path, there: str, missing: str, cats: int, dogs: int) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(cats, dogs) | {f"train/{missing[:-1]}.99.jpg": b""})
    assert f"has 5 usable images of {there} but none of {missing}; add {missing}" in failure(cache, data(train))


def test_no_image_decodes(tmp_path: Path, cache: Path) -> None:
    said = failure(cache, data(folder_of(tmp_path / "train", {"cat.1.jpg": b"", "dog.1.jpg": b""})))
    assert "none of the 2 images" in said
    assert "cat.1, because: does not decode: the file is empty" in said


def test_too_few_images(tmp_path: Path, cache: Path) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(2, 2))
    assert "2 distinct cats and 2 distinct dogs are too few" in failure(cache, data(train, validation_fraction=0.1))
