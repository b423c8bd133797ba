import contextlib
import io
import json
import os
import shlex

import numpy as np
import pandas as pd
import pytest
from documents import Document, assert_fetches_nothing
from studies import CHOICES, write_job
from synthetic_images import encoded, folder_of, scene, zip_of

from catsdogs import audit
from catsdogs.base.errors import UserError
from catsdogs.base.files import check_page, write_csv
from catsdogs.base.text import quoted
from catsdogs.comparison.study_data import read_study_data
from catsdogs.config.compose import to_search_config
from catsdogs.config.schema import SplitConfig
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.dataset import load_dataset
from catsdogs.data.labels import Labels
from catsdogs.data_audit.duplicates import find_duplicates
from catsdogs.data_audit.findings import TINY_PIXELS, find_unusual_files
from catsdogs.data_audit.label_issues import find_label_issues
from catsdogs.scoring.classes import DEFAULT

ODD_NAME = "a 'b' \"c\" $x ${y} [z],{w}<b>/cat.5.jpg"


def distinct(cats, dogs):
    members = {f"cat.{number}.jpg": encoded(scene(number)) for number in range(cats)}
    return members | {f"dog.{number}.jpg": encoded(scene(1000 + number)) for number in range(dogs)}


def catalog_of(folder, members):
    cache = folder.with_name("cache")
    return labeled(build_catalog(open_images(folder_of(folder, members), cache, 0), cache))


def labeled(images):
    return Labels.of(images, "given", {}).label(images)


def test_unusual_files(tmp_path):
    members = {
        "cat.1.jpg": encoded(scene(0, TINY_PIXELS)),
        "cat.2.jpg": encoded(scene(0).resize((100, TINY_PIXELS - 1))),
        "cat.3.jpg": b"nothing",
        "dog.1.png": encoded(scene(1)),  # a JPEG with another suffix
        "dog/cat.4.jpg": encoded(scene(2)),
    }
    table = catalog_of(tmp_path / "given", members)
    bird = catalog_of(tmp_path / "other", {"bird.jpg": encoded(scene(3, 20)), **distinct(2, 2)})
    table = find_unusual_files(pd.concat([table, bird[bird["id"] == "bird"]], ignore_index=True))
    assert list(table.itertuples(index=False, name=None)) == [
        ("cat.2", "tiny", f"100 x {TINY_PIXELS - 1} pixels"),
        ("cat.3", "undecodable", "cannot be decoded: not an image of a known format"),
        ("dog/cat.4", "label", "conflicting labels: cat (file name), dog (folder)"),
        ("bird", "label", "no label"),
        ("bird", "tiny", "20 x 20 pixels"),
    ]


def test_duplicates_keep_the_largest_unless_labels_conflict(tmp_path):
    members = distinct(3, 3) | {
        "cat.10.jpg": encoded(scene(0, 192)),
        "cat.11.jpg": encoded(scene(0, 192)),
        "cat.20.jpg": encoded(scene(1001), quality=50),
    }
    rows = catalog_of(tmp_path / "given", members)
    table = find_duplicates(rows, tmp_path / "given", tmp_path / "cache").set_index("id")
    assert list(table.index) == ["cat.20", "dog.1", "cat.0", "cat.10", "cat.11"]
    assert list(table["group"]) == [1, 1, 2, 2, 2]
    assert list(table["both_labels"]) == [True, True, False, False, False]
    assert list(table["keep"]) == [False, False, False, True, False]
    assert list(table["kind"]) == ["near", "near", "near", "exact", "exact"]
    assert table.loc["cat.11", "bits"] == 0
    assert (table["bits"] <= 48).all()
    distinct_rows = rows[rows["id"].isin(["cat.1", "dog.2"])]
    assert find_duplicates(distinct_rows, tmp_path / "given", tmp_path / "cache").empty


def write_predictions(study, name, rows, p_dog, **more):
    """Write a job that validated on the images of `p_dog`; its ids differ from those of `rows`."""
    write_job(study, {**CHOICES, "schedule": name}, name=name, **more)
    table = pd.DataFrame({"id": list(p_dog), "p_dog": list(p_dog.values())}).merge(rows[["id", "label"]])
    write_csv(study / name / "validation.csv", table.assign(id="train/" + table["id"]).astype({"label": int}))
    split = np.where(rows["id"].isin(p_dog), "validation", "train")
    write_csv(study / name / "split.csv", rows[["id", "sha256"]].assign(id="train/" + rows["id"], split=split))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return catalog_of(tmp_path_factory.mktemp("images") / "given", distinct(4, 4))


def test_label_errors_are_found_by_the_mean_prediction(tmp_path, rows):
    write_predictions(tmp_path, "one", rows, {"cat.0": 0.99, "cat.1": 0.6, "dog.0": 0.3, "dog.1": 0.8})
    write_predictions(tmp_path, "two", rows, {"cat.0": 0.97, "cat.1": 0.3, "dog.0": 0.1, "dog.1": 0.9}, skill=1.0)
    write_predictions(tmp_path, "other", rows, {"cat.2": 0.8, "dog.0": 0.2}, digest="e" * 64)
    issues = find_label_issues(read_study_data([tmp_path]), rows, DEFAULT)
    assert issues.checked.to_dict() == {"cat": 3, "dog": 2}
    assert (sorted(issues.jobs), issues.problems) == (["one", "other", "two"], [])
    assert list(issues.table["id"]) == ["cat.0", "cat.2", "dog.0"]
    np.testing.assert_allclose(issues.table["p_dog"], [0.98, 0.8, 0.2])
    assert list(issues.table["jobs"]) == list(issues.table["against"]) == [2, 1, 3]
    np.testing.assert_allclose(issues.table["log_loss"], -np.log([0.02, 0.2, 0.2]))


def test_label_errors_use_the_best_jobs_with_a_split_table(tmp_path, rows):
    for number in range(7):
        write_predictions(tmp_path, f"j{number}", rows, {"cat.0": 0.1, "dog.0": 0.9}, skill=2 - 0.2 * number)
    assert find_label_issues(read_study_data([tmp_path]), rows, DEFAULT).jobs == ["j0", "j1", "j2", "j3", "j4"]
    (tmp_path / "j1" / "split.csv").unlink()
    issues = find_label_issues(read_study_data([tmp_path]), rows, DEFAULT)
    assert issues.jobs == ["j0", "j2", "j3", "j4"]
    assert any("job j1" in problem for problem in issues.problems)
    # A study of other images is a user error.
    with pytest.raises(UserError, match=f"--study {tmp_path}: .*; pass the images that the study validated"):
        find_label_issues(read_study_data([tmp_path]), rows.assign(sha256="0" * 64), DEFAULT)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Folder with an archive that has all problems, a study and the output of the command; and its printed output."""
    folder = tmp_path_factory.mktemp("audit")
    members = distinct(8, 8) | {
        "cat.20.jpg": encoded(scene(0), quality=40),
        "dog.20.jpg": encoded(scene(1)),
        ODD_NAME: encoded(scene(1003)),
        "bird.30.jpg": encoded(scene(30)),
        "dog.31.jpg": encoded(scene(31, 30)),
        "dog.32.jpg": b"broken <b>",
        "cat.33.jpg": encoded(scene(2), quality=60),
    }
    zip_of(folder / "train.zip", members)
    test = {"1.jpg": encoded(scene(0)), "2.jpg": encoded(scene(900)), "3.jpg": encoded(scene(1000, 60))}
    zip_of(folder / "test.zip", test | {"4.jpg": encoded(scene(3), quality=40), "5.jpg": b"broken"})
    rows = labeled(build_catalog(open_images(folder / "train.zip", folder / "cache", 2**30), folder / "cache"))
    p_dog = {"cat.3": 0.97, "cat.4": 0.1, "dog.5": 0.2, "dog.6": 0.9}
    write_predictions(folder / "night", "one", rows, p_dog, config={"data": {"ignore": ["cat.2", "unknown"]}})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        arguments = ["train.zip", "--study", "night", "--test", "test.zip", "--cache", "cache"]
        assert audit._audit(arguments) == 0
    return folder, printed.getvalue()


EXPECTED = [ODD_NAME.removesuffix(".jpg"), "cat.1", "cat.20", "dog.3", "dog.20"]


def test_terminal_summary_and_tables(audited):
    folder, printed = audited
    assert all(len(line) <= 100 for line in printed.splitlines() if "data.ignore" not in line)
    for text in (
        "11 of 23 images in train.zip need review.",
        "likely label errors 2 contradicted by predictions; 4 labels checked",
        "4 labels were checked, each by models that were not trained on the image; 19 were not",
        "Likely label errors by class: cat 1 of 2, dog 1 of 2.",
        "cat.3: label cat, predicted dog with probability 0.9700, contradicted by 1 of 1 job",
        "Report: audit.html",
    ):
        assert text in " ".join(printed.split())
    tables = {file.stem: pd.read_csv(file, keep_default_na=False) for file in (folder / "audit").iterdir()}
    assert set(tables) == {"suspects", "copies", "oddities", "ignore"}
    assert sorted(tables["ignore"]["id"]) == sorted(EXPECTED)
    assert list(tables["suspects"]["id"]) == ["cat.3", "dog.5"]
    assert list(tables["oddities"]["id"]) == ["bird.30", "dog.31", "dog.32"]
    # No table relates test images to training images.
    assert not any("test" in str(column) for table in tables.values() for column in table)


def test_page_and_override_exclude_all_duplicates(audited, composed):
    folder, printed = audited
    document = Document(folder / "audit.html")
    boxes = [(a["data-id"], "checked" in a) for a, _ in document.all("input")]
    assert {name for name, checked in boxes if checked} == {quoted(EXPECTED[0]), *EXPECTED[1:]}
    assert {"cat.3", "dog.5", "bird.30", "dog.31", "cat.0"} <= {name for name, checked in boxes if not checked}
    assert len(document.all("img")) == len(boxes)
    assert "dog.32.jpg" in document.body
    assert "3 of 4 test images are duplicates of training images, 1 with identical bytes" in document.body
    assert_fetches_nothing(document, folder)

    (argument,) = [line for line in printed.splitlines() if "data.ignore" in line]
    (ready,) = document.text("code", id="ready")
    assert shlex.split(ready) == shlex.split(argument)
    data = to_search_config(composed(f"data.train={folder / 'train.zip'}", *shlex.split(argument))).data
    # cat.33 is a duplicate of cat.2, which the study ignores already.
    assert data.ignore == ["cat.2", *EXPECTED]
    used = load_dataset(data, folder / "cache", SplitConfig(0.0, 1, "copies"))
    assert find_duplicates(used.rows, used.root, folder / "cache").empty
    assert list(used.skipped.query("problem != 'ignored by data.ignore'")["id"]) == ["bird.30", "dog.32"]


def test_second_audit_replaces_the_first(audited, tmp_path, monkeypatch, capsys):
    folder, _ = audited
    monkeypatch.chdir(tmp_path)
    folder_name = os.fsdecode(b"out\xe9")  # not UTF-8
    options = ["--cache", "cache", "--output", f"{folder_name}.html"]
    assert audit._audit([str(folder / "train.zip"), *options]) == 0
    assert (tmp_path / folder_name / "ignore.csv").is_file()
    assert Document(tmp_path / f"{folder_name}.html").all("a", href="out%E9/ignore.csv")
    assert audit._audit([str(zip_of(tmp_path / "clean.zip", distinct(3, 3))), *options]) == 0
    assert "No problems found in 6 images in clean.zip." in capsys.readouterr().out
    assert list((tmp_path / folder_name).iterdir()) == []


def test_labels_of_the_user_replace_those_of_the_study(tmp_path, rows, monkeypatch, caplog):
    folder_of(tmp_path / "given", distinct(4, 4))
    write_predictions(tmp_path / "night", "one", rows, {"cat.0": 0.9}, config={"data": {"labels": "gone.csv"}})
    rows[["id"]].assign(kind=["cat"] * 3 + ["dog"] * 5).to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    assert audit._audit(["given", "--study", "night", "--labels", "mine.csv", "--cache", "cache"]) == 0
    assert "mine.csv: ids in column id, classes in column kind: cat 3, dog 5" in caplog.text


@pytest.mark.parametrize("existing", ["mine.html", "mine/notes.txt", "mine"])
def test_other_files_are_not_overwritten(tmp_path, existing):
    folder_of(tmp_path, {existing: b"mine"})
    if existing.endswith(".txt"):
        folder_of(tmp_path, {"mine/ignore.csv": b"mine, too"})  # named as a table of an audit
    # Detected before reading; the archive does not exist.
    message = "not written by catsdogs-audit" if existing == "mine.html" else "already exists with other files"
    with pytest.raises(UserError, match=message):
        audit._audit(["missing.zip", "--output", str(tmp_path / "mine.html")])
    assert (tmp_path / existing).read_bytes() == b"mine"


def test_number_of_thumbnails_is_limited(tmp_path, monkeypatch):
    names = {seed: f"{'dog' if seed == 1 else 'cat'}.{seed}" for seed in range(41)}
    members = {f"{name}.{copy}.jpg": encoded(scene(seed)) for seed, name in names.items() for copy in range(2)}
    members |= {f"cat.0.{copy}.jpg": encoded(scene(0)) for copy in range(2, 7)}
    monkeypatch.chdir(tmp_path)
    assert audit._audit([str(folder_of(tmp_path / "given", members)), "--cache", "cache"]) == 0
    document = Document(tmp_path / "audit.html")
    assert len(document.all("img")) == 6 + 39 * 2
    assert "Showing 40 of 41 groups." in document.body
    assert "Showing 6 of 7 images." in document.body
    ((listed, _),) = document.all("div", id="ignore")
    assert listed["data-more"] == "2 further duplicates"
    # Images without a box are in the list as well.
    boxes = [a["data-id"] for a, _ in document.all("input") if "checked" in a]
    ignored = pd.read_csv(tmp_path / "audit" / "ignore.csv")["id"]
    assert sorted([*json.loads(listed["data-ignored"]), *boxes]) == sorted(ignored)
    check_page(tmp_path / "audit.html", "audit")


def test_parts_of_a_dataset(tmp_path, monkeypatch, capsys, caplog):
    parts = {"train": distinct(3, 3), "val": {"cat.0.jpg": encoded(scene(70))}, "test": {"1.jpg": encoded(scene(0))}}
    members = {f"{part}/{name}": image for part, images in parts.items() for name, image in images.items()}
    source = folder_of(tmp_path / "input", members)
    validation = catalog_of(tmp_path / "val", parts["val"] | {"dog.0.jpg": encoded(scene(71))})
    write_predictions(tmp_path / "night", "one", validation, {"cat.0": 0.9})
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    assert audit._audit([str(source), "--study", "night", "--test", str(source), "--cache", "cache"]) == 0
    assert f"{source}: using part train (6 images) for training; not used: part test" in caplog.text
    assert "--test: using part test (1 image) as the test set; not used: part train" in caplog.text
    # Labels of the validation part are checked too; duplicates are those of the training images.
    assert list(pd.read_csv(tmp_path / "audit" / "suspects.csv")["id"]) == ["validation/cat.0"]
    assert "1 of 1 test images is a duplicate" in Document(tmp_path / "audit.html").body
