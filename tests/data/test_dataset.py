from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from synthetic_images import cats_and_dogs, encoded, folder_of, jpeg, scene, zip_of

from catsdogs.base.errors import UserError
from catsdogs.config.schema import DataConfig, SampleConfig, SplitConfig
from catsdogs.data.dataset import Dataset
from catsdogs.data.dataset import load_dataset as load


def data(train: Path | str | None, test: Path | str | None = None, **changed: Any) -> DataConfig:
    paths = {name: None if path is None else str(path) for name, path in (("train", train), ("test", test))}
    values: dict[str, Any] = {**paths, "sample": None, "limit": None, "ignore": []}
    values |= {"validation_fraction": 0.25, "split_seed": 3, "max_unpacked_gib": 1.0}
    return DataConfig(**(values | changed))


def load_dataset(
    given: DataConfig,
    cache: Path,
    holdout: float = 0.0,
    folds: int = 1,
    together: Literal["near_duplicates", "copies"] = "copies",
) -> Dataset:
    return load(given, cache, SplitConfig(holdout, folds, together))


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
        "train/cat.400.jpg": jpeg(401),
        "train/dog.400.jpg": jpeg(401),  # its other label is ignored
    }
    train = zip_of(tmp_path / "train.zip", members)
    test = zip_of(tmp_path / "test.zip", TEST | {"test/20.jpg": b"broken"})
    dataset = load_dataset(data(train, test, ignore=["dog.300", "cat.400"]), cache)

    rows = dataset.rows
    assert rows["id"].tolist() == [f"cat.{number}" for number in [*range(12), 300]] + [
        f"dog.{n}" for n in [*range(12), 400]
    ]
    assert rows["label"].tolist() == [0.0] * 13 + [1.0] * 13
    assert rows["problem"].tolist() == [""] * 26
    assert rows.index.tolist() == list(range(26))
    assert set(rows["split"]) == {"train", "validation"}
    assert rows["split"][0] == rows["split"][12]
    assert (dataset.root / rows["path"][0]).read_bytes() == members["train/cat.0.jpg"]

    reasons = dict(zip(dataset.skipped["id"], dataset.skipped["problem"], strict=True))
    assert list(reasons) == ["bird.1", "cat.100", "cat.200", "cat.400", "dog.100", "dog.200", "dog.300"]
    assert reasons["bird.1"] == "no label"
    assert reasons["cat.100"].startswith("does not decode: image file is truncated")
    assert reasons["dog.100"] == "does not decode: the file is empty"
    assert reasons["cat.200"] == reasons["dog.200"] == "the same image occurs under both labels"
    assert reasons["dog.300"] == reasons["cat.400"] == "ignored by data.ignore"
    assert set(rows["id"]) | set(reasons) == {Path(name).stem for name in members}

    # Those left out on request are not in it.
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("5 of 33 training images are left out: bird.1 (no label), cat.100 (does not decode")

    assert dataset.test is not None
    assert dataset.test_root is not None
    assert dataset.test["id"].tolist() == ["1", "2", "10", "20", "100"]
    assert dataset.test["label"].isna().all()
    assert dataset.test["problem"].tolist() == ["", "", "", "does not decode: not an image of a known format", ""]
    assert (dataset.test_root / "test/10.jpg").read_bytes() == TEST["test/10.jpg"]


def bitmap(number: int) -> bytes:
    """A picture whose bytes do not depend on an encoder; every number gives another one."""
    side, header = 16, 54
    pixels = bytes((7 * number + 3 * place) % 256 for place in range(side * side * 3))
    sizes = [header + len(pixels), 0, header, 40, side, side]
    fields = b"".join(size.to_bytes(4, "little") for size in sizes)
    return b"BM" + fields + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + pixels


BITMAPS = {f"{kind}.{n}.bmp": bitmap(n + start) for kind, start in (("cat", 0), ("dog", 100)) for n in range(20)}
BITMAPS["cat.99.bmp"] = BITMAPS["cat.3.bmp"]


def test_digest_of_the_rows_and_what_it_tells_apart(tmp_path: Path, cache: Path) -> None:
    train = folder_of(tmp_path / "train", BITMAPS)
    dataset = load_dataset(data(train), cache)
    # It is what it always was: finished jobs are known by it.
    assert dataset.digest == "f1403e46dfb550774f3dff2f29ba03c08199f97b30f2faeb226ef6e4f78f3352"
    assert (dataset.test, dataset.test_root, len(dataset.skipped)) == (None, None, 0)
    archive = zip_of(tmp_path / "train.zip", BITMAPS)  # not where the data are
    assert load_dataset(data(archive, train), tmp_path / "other").digest == dataset.digest
    ways = [(0.0, 1), (0.1, 1), (0.2, 1), (0.0, 2), (0.0, 5), (0.2, 5)]
    digests = {load_dataset(data(train), cache, *way).digest for way in ways}
    changes: dict[str, Any] = {"split_seed": 4, "validation_fraction": 0.5, "ignore": ["cat.1"], "limit": 10}
    digests |= {load_dataset(data(train, **{key: value}), cache).digest for key, value in changes.items()}
    digests.add(load_dataset(data(folder_of(tmp_path / "2", BITMAPS | {"cat.1.bmp": bitmap(77)})), cache).digest)
    assert len(digests) == len(ways) + len(changes) + 1
    # With folds nothing is drawn by the fraction.
    assert load_dataset(data(train, validation_fraction=0.5), cache, 0.2, 5).digest in digests


@pytest.mark.parametrize("folds", [1, 4])
def test_near_duplicates_never_stand_on_two_sides(
    tmp_path: Path, cache: Path, folds: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every picture is there twice, once compressed more strongly."""
    caplog.set_level(logging.INFO)
    members = {
        f"{kind}.{number}.jpg": encoded(scene(100 * dog + number // 2), quality=60 + 20 * (number % 2))
        for dog, kind in enumerate(("cat", "dog"))
        for number in range(20)
    }
    train = folder_of(tmp_path / "train", members)

    def torn(together: Literal["near_duplicates", "copies"], seed: int) -> int:
        rows = load_dataset(data(train, split_seed=seed), cache, 0.25, folds, together).rows
        picture = rows["id"].str.replace(r"\d+", lambda number: str(int(number[0]) // 2), regex=True)
        return int((rows.groupby(picture)[["split", "fold"]].nunique().max(axis=1) > 1).sum())

    assert [torn("near_duplicates", seed) for seed in range(5)] == [0] * 5
    assert "20 near-duplicates stay on the side of the image that they resemble" in caplog.text
    assert sum(torn("copies", seed) for seed in range(5)) > 10


@pytest.mark.parametrize(("holdout", "folds"), [(0.0, 1), (0.25, 1), (0.0, 4), (0.25, 4)])
def test_folds_validate_on_every_image_once(tmp_path: Path, cache: Path, holdout: float, folds: int) -> None:
    dataset = load_dataset(data(folder_of(tmp_path / "train", BITMAPS)), cache, holdout, folds)
    rows, held, everything = dataset.rows, dataset.holdout_rows.tolist(), list(range(41))
    assert held == np.flatnonzero(rows["split"] == "holdout").tolist()
    assert len(held) == pytest.approx(41 * holdout, abs=1.5)
    assert len(dataset.folds()) == folds
    for number, fold in enumerate(dataset.folds()):
        train, validation = fold.train_rows.tolist(), fold.validation_rows.tolist()
        assert sorted([*train, *validation, *held]) == everything
        assert (train, validation) == (sorted(train), np.flatnonzero(rows["fold"] == number).tolist())
        assert set(rows["label"].iloc[train]) == set(rows["label"].iloc[validation]) == {0.0, 1.0}
    if folds > 1:
        validated = [row for fold in dataset.folds() for row in fold.validation_rows]
        assert sorted([*held, *validated]) == everything
    one = rows.set_index("id")  # two copies
    assert tuple(one.loc["cat.3", ["split", "fold"]]) == tuple(one.loc["cat.99", ["split", "fold"]])


def test_limit_counts_what_can_be_used(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(25, 30) | {f"train/cat.{number}.jpg": b"" for number in range(10)}
    train = folder_of(tmp_path / "train", members)
    rows, other = (load_dataset(data(train, limit=30, split_seed=seed), cache).rows for seed in (5, 6))
    assert rows["label"].tolist() == [0.0] * 10 + [1.0] * 20
    assert rows.index.tolist() == list(range(30))
    assert (rows["split"] == "validation").sum() == 8
    assert set(other["id"]) != set(rows["id"])


@pytest.mark.parametrize(
    ("members", "labels", "problems"),
    [
        (cats_and_dogs(2, 2, ""), [0.0, 0.0, 1.0, 1.0], [""] * 4),
        (cats_and_dogs(1, 1, "") | {"5.jpg": jpeg(5)}, [math.nan] * 3, [""] * 3),  # only if all are there
        # A doubtful label is no problem: that would mean that there is no picture to predict from.
        ({"cats/dog.1.jpg": jpeg(1), "cats/dog.2.jpg": b""}, [math.nan] * 2, ["", "the file is empty"]),
    ],
)
def test_labels_and_problems_of_test_images(
    tmp_path: Path, cache: Path, members: dict[str, bytes], labels: list[float], problems: list[str]
) -> None:
    train = folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    test = load_dataset(data(train, folder_of(tmp_path / "test", members)), cache).test
    assert test is not None
    np.testing.assert_array_equal(test["label"], labels)
    assert [problem.split(";")[0].removeprefix("does not decode: ") for problem in test["problem"]] == problems


def test_archives_are_drawn_where_no_training_images_are_given(tmp_path: Path, cache: Path) -> None:
    sample = SampleConfig(images_per_class=9, test_images=4, seed=1)
    given, train = folder_of(tmp_path / "given", {"7.jpg": jpeg(7)}), folder_of(tmp_path / "train", cats_and_dogs(8, 8))
    drawn = ((None, None), 18, ["1", "2", "3", "4"])
    for where, images, ids in (drawn, ((None, given), 18, ["7"]), ((train, None), 16, None)):
        dataset = load_dataset(data(*where, sample=sample), cache)
        assert len(dataset.rows) == images
        assert (None if dataset.test is None else dataset.test["id"].tolist()) == ids


def failure(cache: Path, given: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(given, cache)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("members", "changed", "said"),
    [
        ((8, 8), {"train": "gone.zip"}, "^data.train: .*gone.zip: no such file"),
        ((8, 8), {"test": "gone.zip"}, "^data.test: .*gone.zip: no such file"),
        ((8, 8), {"test": ""}, "^data.test=''"),
        ((8, 8), {"train": " "}, "^data.train=' '"),
        ((8, 8), {"train": None}, "^data.train=null"),
        (
            (8, 8),
            {"ignore": ["cat.1", *(f"x{n}" for n in range(7))]},
            "^data.ignore: there is no .* id x0, x1, x2, x3, x4 and 2 more; .*cat.0 for example$",
        ),
        ((5, 0), {}, "^data.train: .* has 5 usable images of cats but none of dogs; add dogs"),
        ((0, 5), {}, "^data.train: .* has 5 usable images of dogs but none of cats; add cats"),
        ((0, 0), {}, "none of the 2 images .* cat.99, because: does not decode: the file is empty$"),
        ((2, 2), {"validation_fraction": 0.1}, "2 distinct cats and 2 distinct dogs are too few"),
    ],
)
def test_mistakes(tmp_path: Path, cache: Path, members: tuple[int, int], changed: dict[str, Any], said: str) -> None:
    empty = {f"train/{kind}.99.jpg": b"" for kind in ("cat", "dog")}
    train = folder_of(tmp_path / "train", cats_and_dogs(*members) | empty)
    assert re.search(said, failure(cache, data(**({"train": train} | changed))))


def test_an_archive_is_limited_in_gib_and_needs_labels(tmp_path: Path, cache: Path) -> None:
    members = cats_and_dogs(8, 8)
    labelled = zip_of(tmp_path / "train.zip", members)
    size = sum(map(len, members.values()))
    assert "data.max_unpacked_gib=" in failure(cache, data(labelled, max_unpacked_gib=(size - 1) / 2**30))
    assert len(load_dataset(data(labelled, max_unpacked_gib=size / 2**30), cache).rows) == 16
    train = folder_of(tmp_path / "train", TEST)
    for test, places in ((None, False), (train, False), (labelled, True)):
        said = failure(cache, data(train, test))
        assert "none of the usable images" in said
        assert ("data.test has labels, so the two may have changed places" in said) == places
