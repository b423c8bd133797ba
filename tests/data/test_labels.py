"""Labels from class folders, file names or a table, and the order of the classes."""

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catsdogs.base.errors import UserError
from catsdogs.data.catalog import ids_of
from catsdogs.data.label_table import read_cells
from catsdogs.data.labels import Labels, cat_or_dog, class_order


def images(paths, problem=""):
    paths = paths.split(", ") if isinstance(paths, str) else list(paths)
    return pd.DataFrame({"id": ids_of(paths), "path": paths, "problem": problem}).astype({"id": str, "path": str})


CATS = "train/cat.1.jpg, Cat 3.jpg, Cat/1.jpg, cats/cat.1.jpg, dogs-vs-cats/cat.1.jpg, dogs/cats/1.jpg"
DOGS = "train/dog.1.jpg, DOG_7.PNG, dog7.jpg, dog.jpg, x/DOGS/deep/er/1.jpg, cats/dogs/1.jpg"
# Files are named cat, folders also cats.
UNLABELED = "test/1.jpg, cats.1.jpg, dogs.1.jpg, category.jpg, dogē.jpg, hotdog.1.jpg, hotdogs/1.jpg, catsup/1.jpg"


@pytest.mark.parametrize(("paths", "name"), [(CATS, "cat"), (DOGS, "dog"), (UNLABELED, None)])
def test_cats_and_dogs_of_0_2(paths, name):
    for path in paths.split(", "):
        assert cat_or_dog(path) == (name, ""), path


@pytest.mark.parametrize(
    ("paths", "source", "names"),
    [
        ("Cats/1.jpg, DOG_1.jpg", "names of files and folders", ["cat", "dog"]),
        ("Cats/1.jpg, Dog/cat_1.jpg, dog_1", "names of files and folders", ["cat", None, "dog"]),
        ("Cats/1.jpg, Dog/1.jpg, horse/1.jpg", "class folders", ["Cats", "Dog", "horse"]),
        ("cats/1.jpg, dogs/1.jpg, note.png", "class folders", ["cats", "dogs", None]),
        ("a/b/ants/x/cat.1.jpg, a/b/bees/1.jpg, a/2.jpg", "class folders", ["ants", "bees", None]),
        ("a/ants/1.jpg, a/Bäume/ant_1.jpg", "class folders", ["ants", "Bäume"]),
        ("x/ant.1.jpg, x/ant.2, x/bee_7.jpg, x/bee_8.png", "file names", ["ant", "ant", "bee", "bee"]),
        ("dogs/beagle/1.jpg, dogs/pug/1.jpg", "class folders", ["beagle", "pug"]),
        ("siamese/cat_1.jpg, persian/cat_1.jpg", "class folders", ["siamese", "persian"]),
        ("dogs/pug_1, dogs/pug_2, dogs/bo_1, dogs/bo_2", "file names", ["pug", "pug", "bo", "bo"]),
        ("a_1_1, a_1_2, b c.1, b c.2, wasp.1, 7.1, 7.2", "file names", ["a_1", "a_1", "b c", "b c", None, None, None]),
        ("cat.1.jpg, cat.2.jpg, dog.1.jpg, dog.2.jpg, x.jpg", "file names", ["cat", "cat", "dog", "dog", None]),
    ],
)
def test_training_images_choose_the_rule(paths, source, names):
    table = images(paths)
    labels, shuffled = Labels.of(table, "data.train=x", {}), table[::-1]
    assert (labels.source, labels.names(table)) == (source, names)
    assert Labels.of(shuffled, "", {}).names(shuffled) == names[::-1]


def test_requested_folders_are_classes_beside_names_of_cameras():
    camera = [
        f"{name}/{model}_{n}.jpg" for name in ("ants", "bees", "wasps") for model in ("IMG", "DSC") for n in (1, 2)
    ]
    labels = Labels.of(images(camera), "", {"classes": ["wasps", "ants"]})
    assert (labels.classes.names, labels.source) == (("wasps", "ants"), "class folders")


FOLDERS = [f"{name}/{n}.jpg" for name in ("ants", "bees", "wasps") for n in (1, 2)]
NUMBERED = [f"{name}.{n}.jpg" for name in ("ant", "bee") for n in (1, 2)]
CATS_AND_DOGS = ["cat.1.jpg", "cat.2.jpg", "dog.1.jpg", "dog.2.jpg"]


@pytest.mark.parametrize(
    ("training", "others", "labels"),
    [
        (FOLDERS, "wasps/7.jpg, bees/1.jpg", [2, 1]),
        (FOLDERS, "x/wasps/7.jpg, x/wasps/8.jpg", [2, 2]),  # a single folder, which is a class
        (FOLDERS, "new/wasps/7.jpg, old/bees/8.jpg", [2, 1]),
        (FOLDERS, "ants/7.jpg, flies/8.jpg", [0, math.nan]),
        (FOLDERS, "ants/7.jpg, 8.jpg", [math.nan, math.nan]),
        (FOLDERS, "ants.7.jpg, bees.8.jpg", [math.nan, math.nan]),  # not by another rule
        (NUMBERED, "bee.7.jpg", [1]),
        (NUMBERED, "IMG_1.jpg, IMG_2.jpg", [math.nan, math.nan]),
        (CATS_AND_DOGS, "dogs/7.jpg, cats/8.jpg", [1, 0]),
        (CATS_AND_DOGS, "dogs/7.jpg, 8.jpg", [math.nan, math.nan]),
    ],
)
def test_test_images_are_labeled_by_the_same_rule(training, others, labels):
    table = Labels.of(images(training), "data.train=x", {}).label_test(images(others, "?"))
    assert table["label"].tolist() == pytest.approx(labels, nan_ok=True)
    assert set(table["problem"]) == {"?"}


def test_images_without_a_label_have_the_reason():
    training = images([*FOLDERS, "ant.jpg"]).assign(problem=["", "broken", *[""] * 5])
    labels = Labels.of(training, "", {"classes": ["wasps", "ants"]})
    table = labels.label(training)
    assert table["label"].tolist() == pytest.approx([1, 1, math.nan, math.nan, 0, 0, math.nan], nan_ok=True)
    assert table["problem"].tolist() == ["", "broken", *["class not in data.classes"] * 2, "", "", "no label"]
    assert labels.counts(table) == "2 classes from class folders: wasps 2, ants 2"
    conflicting = images("cats/dog.1.jpg, cat.1.jpg, dog.1.jpg", "broken")
    problem = Labels.of(conflicting, "", {}).label(conflicting)["problem"][0]
    assert problem == "broken; conflicting labels: dog (file name), cats (folder)"


TRAINING = images("in/x/1.jpg, in/x/2.jpg, in/y/3.png")


def table_of(folder, columns, suffix=".csv", **chosen):
    """Write a table with the rows in another order; return the settings."""
    file, rows = folder / f"labels{suffix}", pd.DataFrame(columns)[::-1]
    rows.to_csv(file, index=False, encoding="utf-8-sig") if suffix == ".csv" else rows.to_parquet(file)
    return {"labels": str(file)} | chosen


CLASSES, GROUPS = ["08", "é", "08"], ["a", "b", "b"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"ids": ["in/x/1.jpg", "in/x/2.jpg", "in/y/3.png"], "classes": ["08", "e\u0301", "08"]}, {}),
        ({"ids": [".\\in\\x\\1", "in\\x\\2", "in\\y\\3"], "Species": CLASSES, "x": GROUPS}, {}),
        ({"g": GROUPS, "c": CLASSES, "ids": ["x/1.jpg", "x/2.jpg", "y/3.png"]}, {"group_column": "g"}),
        ({"g": GROUPS, "c": CLASSES, "ids": ["x/1", "x/2", "y/3"]}, {"class_column": "c", "group_column": "g"}),
        ({"ids": ["1.jpg", "2.jpg", "3.png"], "n": ["x/1", "x/2", "y/3"], "category": CLASSES}, {"id_column": "ids"}),
        ({"ids": [1, 2, 3], "n": [3, 2, 1], "c": CLASSES}, {"id_column": "ids", "class_column": "c"}),
        ({"ids": ["else/1", "else/2", "3"], "c": CLASSES}, {}),
    ],
)
def test_rows_of_a_table_are_found(tmp_path, columns, chosen, suffix):
    labels = Labels.of(TRAINING, "data.train=x", table_of(tmp_path, columns, suffix, **chosen))
    found = labels.label(TRAINING)
    assert (labels.classes.names, found["label"].tolist()) == (("08", "é"), [0, 1, 0])
    assert labels.source.startswith(f"labels{suffix}: ids in column ids, classes in column ")
    assert found.get("group", pd.Series()).tolist() == GROUPS * ("group_column" in chosen)
    labels.table.check_unknown([TRAINING])


def test_test_images_are_labeled_by_rows_of_their_own(tmp_path):
    table = table_of(tmp_path, {"id": ["1", "2", "3", "7", "8"], "class": ["a", "b", "b", "b", "c"]})
    labels, own = Labels.of(TRAINING, "", table), "data.validation=own"
    with pytest.raises(UserError, match=r"labels.csv: 2 of 5 rows belong to no image \(8, 7\); remove these rows"):
        labels.table.check_unknown([TRAINING, images("own/6.jpg")])
    for paths, expected in (
        ("7.jpg", [1]),
        ("t/7, t/8", [1, math.nan]),
        ("7, 9", [math.nan] * 2),
        ("7, 1", [math.nan] * 2),
    ):
        assert labels.label_test(images(paths))["label"].tolist() == pytest.approx(expected, nan_ok=True), paths
    assert labels.label(images("own/7.jpg"), own)["label"].tolist() == [1]
    with pytest.raises(UserError, match=f"^{own}: labels.csv: .* has rows of training images; enter"):
        labels.label(images("own/7.jpg, own/1.jpg"), own)
    with pytest.raises(UserError, match=f"^{own}: unknown class c; the training images have a, b$"):
        labels.label(images("8.jpg"), own)


IDS = {"id": ["1", "2", "3"]}


@pytest.mark.parametrize(
    ("columns", "chosen", "message"),
    [
        ({"id": ["1", "2", "2", "3"]}, {}, r"labels=F: 2 rows for image x/2 in column id \(1 of 3 images"),
        ({"id": ["1"]}, {}, r"labels=F: 0 rows for image x/2 in column id \(2 of 3 images"),
        ({"id": ["7"]}, {}, "labels=F: no column has paths or ids of the images, such as in/x/1.jpg or x/1"),
        ({"id": ["7"]}, {"id_column": "id"}, r"labels=F: 0 rows for image x/1 in column id \(3 of 3 images"),
        (IDS | {"n": ["3", "2", "1"]}, {}, "labels=F: ids may be in column id and n; set data.id_column"),
        (IDS | {"n": ["b"] * 3}, {}, "labels=F: classes may be in column n and c .*data.class_column"),
        (IDS, {"group_column": "c"}, "labels=F: no column of classes .*set data.class_column"),
        ({"id": []}, {}, "labels=F: has no rows; enter one for each image"),
        (
            IDS | {"n": ["x", " ", ""]},
            {"group_column": "n", "class_column": "c"},
            r"labels=F: 2 images without a group in column n \(x/2, y/3\); enter one for each image",
        ),
        (IDS, {"class_column": "k"}, "class_column=k: unknown column; known here: id, c"),
    ],
)
def test_tables_that_are_refused(tmp_path, columns, chosen, message):
    columns = columns | {"c": ["a", "b", "a", "b"][: len(columns["id"])]}
    with pytest.raises(UserError, match="^data." + message.replace("=F", f"={tmp_path}/labels.csv")):
        Labels.of(TRAINING, "data.train=x", table_of(tmp_path, columns, **chosen)).label(TRAINING)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"ids": ["1", "2", "3"], "class": [0, 1, None]}, ["0", "1", None]),
        ({("ids", ""): ["1", "2", "3"], ("c", "x"): ["a", "b", "a"]}, ["a", "b", "a"]),
    ],
)
def test_parquet_with_missing_numbers_or_two_levels_of_columns(tmp_path, columns, names):
    assert Labels.of(TRAINING, "", table_of(tmp_path, columns, ".parquet")).names(TRAINING) == names


@pytest.mark.parametrize(("limit", "most"), [("_MAX_COLUMNS", 1), ("_MAX_CELLS", 5), ("MAX_FILE_BYTES", 100)])
def test_large_parquet_files_are_not_read(tmp_path, monkeypatch, limit, most):
    given = table_of(tmp_path, {"id": ["1", "2", "3"], "class": CLASSES}, ".parquet")
    monkeypatch.setattr(f"catsdogs.base.records.{limit}", most)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    with pytest.raises(
        UserError, match=rf"labels.parquet: cannot be read \(more than {most} \w+\); use a CSV or parquet"
    ):
        Labels.of(TRAINING, "", given)


INDEX, TEXTS = pa.array([0] * 2000, pa.int32()), pa.array(map(str, range(2000)))


@pytest.mark.parametrize(
    ("column", "about", "problem"),
    [
        # Files of less than 1 MiB, with 200 MB of texts.
        (pa.DictionaryArray.from_arrays(INDEX, pa.array(["x" * 100_000])), {}, "more than 67,108,864 bytes"),
        (pa.DictionaryArray.from_arrays(INDEX, pa.array([b"x" * 100_000])), {}, "more than 67,108,864 bytes"),
        (pa.array([b"x" * 100_000] * 2000, pa.binary(100_000)), {}, "more than 67,108,864 bytes"),
        (pa.array([b"\xff"] * 2000).view(pa.string()), {}, "Invalid UTF8"),
        (TEXTS, {"pandas": '{"index_columns": [], "columns": 5}'}, ""),
        (TEXTS, {"pandas": "[]"}, ""),
        (TEXTS, {}, "id: column listed twice"),
    ],
)
def test_hostile_parquet_files_are_not_expanded(tmp_path, column, about, problem):
    names = ["id", "id" if "twice" in problem else "class"]
    table = pa.Table.from_arrays([TEXTS, column], names=names).replace_schema_metadata(about)
    for store_schema in {True, bool(about)}:  # without it, files of other programs
        pq.write_table(table, tmp_path / "a.parquet", store_schema=store_schema)
        with pytest.raises(UserError, match=rf"a.parquet: cannot be read \(.*{problem}"):
            read_cells(tmp_path / "a.parquet", f"data.labels={tmp_path}/a.parquet")


def test_lists_in_a_parquet_file_are_left_out(tmp_path):
    columns = {"ids": ["1", "2", "3"], "boxes": [[1], [2], []], "class": CLASSES}
    assert Labels.of(TRAINING, "", table_of(tmp_path, columns, ".parquet")).names(TRAINING) == CLASSES


def test_a_class_may_have_a_number_of_any_length(tmp_path):
    given = table_of(tmp_path, {"ids": ["1", "2", "3"], "class": ["7" * 5000, "b", "b"]})
    with pytest.raises(UserError, match="needs a printable name of 1 to 100 characters"):
        Labels.of(TRAINING, "", given)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"a,b\n1\n", "line 2 has 1 cells, expected 2"),
        ("a.csv", b"", "No columns"),
        ("a.csv", b"\xff", "'utf-8' codec can't decode"),
        ("a.parquet", b"a,b\n1,2\n", ""),
        ("", b"", "is a folder"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, name, content, problem):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^data.labels=.*: cannot be read \({problem}.*; use a CSV or parquet file"):
        Labels.of(TRAINING, "", {"labels": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("paths", "requested", "message"),
    [
        ("ants/1, ants/2", None, "x: no image has a label; use at least two class folders"),
        ("cat.1, cat.2", None, "x: has only class cat; a classifier needs images of at least two classes"),
        (FOLDERS, ["ants", "flies"], r"data.classes=\[ants,flies\]: unknown class flies; x has ants"),
        (FOLDERS, ["ants"], r"data.classes=\[ants\]: has only class ants; a classifier needs"),
        *(
            (
                [f"{batch}/{path}" for batch in ("one", "two") for path in [*NUMBERED, "x.jpg"]],
                requested,
                r"x: classes may be its folders \(one and two\) or file names \(ant and bee\); set data.classes to the",
            )
            for requested in (None, ["ant", "bee"], ["one", "bee"])
        ),
    ],
)
def test_classes_that_are_refused(paths, requested, message):
    with pytest.raises(UserError, match=f"^{message}"):
        Labels.of(images(paths), "x", {"classes": requested})


def test_classes_are_in_natural_order_unless_requested():
    assert class_order(["b", "a10", None, "a2", "b"], None, "").names == ("a2", "a10", "b")
    assert class_order(["b", "a10", None, "a2", "b"], ["b", "a2"], "").names == ("b", "a2")
