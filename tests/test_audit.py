from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

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
from catsdogs.config.compose import to_search_config
from catsdogs.config.schema import SplitConfig
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.dataset import load_dataset
from catsdogs.data.near_duplicates import group_duplicates
from catsdogs.data_audit.duplicates import count_test_duplicates, find_duplicates
from catsdogs.data_audit.label_issues import find_label_issues
from catsdogs.data_audit.unusual_files import TINY_PIXELS, find_unusual_files

ODD_NAME = "a 'b' \"c\" $x ${y} [z],{w}<b>/cat.5.jpg"


def plain(cats: int, dogs: int) -> dict[str, bytes]:
    members = {f"cat.{number}.jpg": encoded(scene(number)) for number in range(cats)}
    return members | {f"dog.{number}.jpg": encoded(scene(1000 + number)) for number in range(dogs)}


def catalogued(folder: Path, members: dict[str, bytes]) -> pd.DataFrame:
    cache = folder.with_name("cache")
    return build_catalog(open_images(folder_of(folder, members), cache, 0), cache)


def test_oddities(tmp_path):
    members = {
        "cat.1.jpg": encoded(scene(0, TINY_PIXELS)),
        "cat.2.jpg": encoded(scene(0).resize((100, TINY_PIXELS - 1))),
        "cat.3.jpg": b"nothing",
        "dog.1.png": encoded(scene(1)),  # a JPEG, which decodes all the same
        "dog/cat.4.jpg": encoded(scene(2)),
        "tiny/bird.jpg": encoded(scene(3, 20)),
    }
    found = find_unusual_files(catalogued(tmp_path / "given", members))
    assert list(found.itertuples(index=False, name=None)) == [
        ("cat.2", "tiny", f"100 x {TINY_PIXELS - 1} pixels"),
        ("cat.3", "undecodable", "does not decode: not an image of a known format"),
        ("dog/cat.4", "label", "the file name says cat, the folder dog does not"),
        ("tiny/bird", "label", "neither its file name nor a folder tells a label"),
        ("tiny/bird", "tiny", "20 x 20 pixels"),
    ]


def test_the_largest_copy_stays_and_none_under_both_labels(tmp_path):
    members = plain(3, 3) | {
        "cat.10.jpg": encoded(scene(0, 192)),
        "cat.11.jpg": encoded(scene(0, 192)),
        "cat.20.jpg": encoded(scene(1001), quality=50),
    }
    rows = catalogued(tmp_path / "given", members)
    found = find_duplicates(rows).set_index("id")
    assert list(found.index) == ["cat.20", "dog.1", "cat.0", "cat.10", "cat.11"]
    assert list(found["group"]) == [1, 1, 2, 2, 2]
    assert list(found["both_labels"]) == [True, True, False, False, False]
    assert list(found["keep"]) == [False, False, False, True, False]
    assert list(found["kind"]) == ["near", "near", "near", "exact", "exact"]
    assert found.loc["cat.11", "bits"] == 0
    assert (found["bits"] <= 48).all()
    assert find_duplicates(rows[rows["id"].isin(["cat.1", "dog.2"])]).empty


def test_copies_in_the_test_set_are_counted(tmp_path):
    rows = catalogued(tmp_path / "given", plain(4, 4))
    test = {"1.jpg": encoded(scene(0)), "2.jpg": encoded(scene(0), quality=40), "3.jpg": encoded(scene(1000, 60))}
    test |= {f"{number}.jpg": encoded(scene(5000 + number)) for number in range(4, 8)} | {"8.jpg": b"broken"}
    found = count_test_duplicates(rows, catalogued(tmp_path / "test", test))
    assert (found.test_images, found.of_test_images, found.exact, found.train_images) == (3, 7, 1, 2)


def write_opinions(study: Path, name: str, rows: pd.DataFrame, p_dog: dict[str, float], **more) -> None:
    """A job that validated on the images of `p_dog`, which it may call otherwise."""
    write_job(study, {**CHOICES, "schedule": name}, name=name, **more)
    known = rows.set_index("id")
    labels = [0 if label != label else int(label) for label in known.loc[list(p_dog), "label"]]
    write_csv(
        study / name / "validation.csv",
        pd.DataFrame({"id": [f"train/{image}" for image in p_dog], "label": labels, "p_dog": list(p_dog.values())}),
    )
    split = pd.DataFrame({"id": [f"train/{image}" for image in known.index], "sha256": known["sha256"]})
    write_csv(study / name / "split.csv", split)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    return catalogued(tmp_path_factory.mktemp("images") / "given", plain(4, 4))


def test_labels_that_the_mean_of_the_jobs_contradicts(tmp_path, rows):
    write_opinions(tmp_path, "one", rows, {"cat.0": 0.99, "cat.1": 0.6, "dog.0": 0.3, "dog.1": 0.8})
    write_opinions(tmp_path, "two", rows, {"cat.0": 0.97, "cat.1": 0.3, "dog.0": 0.1, "dog.1": 0.9}, skill=1.0)
    write_opinions(tmp_path, "other", rows, {"cat.2": 0.8, "dog.0": 0.2}, digest="e" * 64)
    found = find_label_issues([tmp_path], rows)
    assert found.judged == 5
    assert sorted(found.jobs) == ["one", "other", "two"]
    assert found.problems == []
    assert list(found.table["id"]) == ["cat.0", "cat.2", "dog.0"]
    np.testing.assert_allclose(found.table["p_dog"], [0.98, 0.8, 0.2])
    assert list(found.table["jobs"]) == [2, 1, 3]
    assert list(found.table["against"]) == [2, 1, 3]
    np.testing.assert_allclose(found.table["log_loss"], -np.log([0.02, 0.2, 0.2]))


def test_only_the_best_jobs_of_a_split_are_asked_and_those_that_tell_their_images(tmp_path, rows):
    for number in range(7):
        write_opinions(tmp_path, f"j{number}", rows, {"cat.0": 0.1, "dog.0": 0.9}, skill=2 - 0.2 * number)
    assert find_label_issues([tmp_path], rows).jobs == ["j0", "j1", "j2", "j3", "j4"]
    (tmp_path / "j1" / "split.csv").unlink()
    found = find_label_issues([tmp_path], rows)
    assert found.jobs == ["j0", "j2", "j3", "j4"]
    assert any("job j1" in problem for problem in found.problems)
    # A study of other images is a mistake.
    with pytest.raises(UserError, match="none of its jobs has a validation"):
        find_label_issues([tmp_path], rows.assign(sha256="0" * 64))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an archive that has everything, a study, and what the command made of them; and what it printed."""
    place = tmp_path_factory.mktemp("audit")
    members = plain(8, 8) | {
        "cat.20.jpg": encoded(scene(0), quality=40),
        "dog.20.jpg": encoded(scene(1)),
        ODD_NAME: encoded(scene(1003)),
        "bird.30.jpg": encoded(scene(30)),
        "dog.31.jpg": encoded(scene(31, 30)),
        "dog.32.jpg": b"broken <b>",
        "cat.33.jpg": encoded(scene(2), quality=60),
    }
    zip_of(place / "train.zip", members)
    zip_of(place / "test.zip", {"1.jpg": encoded(scene(0)), "2.jpg": encoded(scene(900))})
    rows = build_catalog(open_images(place / "train.zip", place / "cache", 2**30), place / "cache")
    study = place / "night"
    opinions = {"cat.3": 0.97, "cat.4": 0.1, "dog.5": 0.2, "dog.6": 0.9}
    write_opinions(study, "one", rows, opinions, config={"data": {"ignore": ["cat.2", "unknown"]}})
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(place)
        arguments = ["train.zip", "--study", "night", "--test", "test.zip", "--cache", "cache"]
        assert audit._audit(arguments) == 0
    return place, printed.getvalue()


EXPECTED = [ODD_NAME.removesuffix(".jpg"), "cat.1", "cat.20", "dog.3", "dog.20"]


def test_the_terminal_and_the_tables_tell_everything(made):
    place, printed = made
    assert all(len(line) <= 100 for line in printed.splitlines() if "data.ignore" not in line)
    for told in (
        "11 of 23 images of train.zip deserve a look.",
        "suspected wrong label 2 models contradict it, of 4 judged",
        "4 images were judged, each by models that were not trained on it; 19 were not",
        "cat.3 cat 0.9700 1 of 1",
        "Page: audit.html",
    ):
        assert told in " ".join(printed.split())
    tables = {file.stem: pd.read_csv(file, keep_default_na=False) for file in (place / "audit").iterdir()}
    assert set(tables) == {"suspects", "copies", "oddities", "ignore"}
    assert sorted(tables["ignore"]["id"]) == sorted(EXPECTED)
    assert list(tables["suspects"]["id"]) == ["cat.3", "dog.5"]
    assert list(tables["oddities"]["id"]) == ["bird.30", "dog.31", "dog.32"]
    # Nothing tells which training image a test image is a copy of.
    assert not any("test" in str(column) for table in tables.values() for column in table)


def test_the_page_shows_everything_and_what_is_ignored_leaves_no_copies(made, composed):
    place, printed = made
    document = Document(place / "audit.html")
    boxes = [(a["data-id"], "checked" in a) for a, _ in document.all("input")]
    assert {name for name, checked in boxes if checked} == {quoted(EXPECTED[0]), *EXPECTED[1:]}
    assert {"cat.3", "dog.5", "bird.30", "dog.31", "cat.0"} <= {name for name, checked in boxes if not checked}
    assert len(document.all("img")) == len(boxes)
    assert "dog.32.jpg" in document.body
    assert "1 of 2 test images is a copy of training images, 1 of them with the same bytes" in document.body
    assert_fetches_nothing(document, place)

    (argument,) = [line for line in printed.splitlines() if "data.ignore" in line]
    (ready,) = document.text("code", id="ready")
    assert shlex.split(ready) == shlex.split(argument)
    data = to_search_config(composed(f"data.train={place / 'train.zip'}", *shlex.split(argument))).data
    # cat.33 is a copy of cat.2, which the study ignores already.
    assert data.ignore == ["cat.2", *EXPECTED]
    used = load_dataset(data, place / "cache", SplitConfig(0.0, 1, "copies"))
    assert group_duplicates(used.rows).is_unique
    assert list(used.skipped.query("problem != 'ignored by data.ignore'")["id"]) == ["bird.30", "dog.32"]


def test_again_in_its_own_place(made, tmp_path, monkeypatch, capsys):
    place, _ = made
    monkeypatch.chdir(tmp_path)
    clean = zip_of(tmp_path / "clean.zip", plain(3, 3))
    given = [str(clean), "--cache", "cache", "--output", "out.html"]
    assert audit._audit([str(place / "train.zip"), *given[1:]]) == 0
    assert (tmp_path / "out" / "ignore.csv").is_file()
    assert audit._audit(given) == 0
    assert "Nothing odd was found in 6 images of clean.zip." in capsys.readouterr().out
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ("mine.html", "was not written by catsdogs-audit"),
        ("mine/notes.txt", "already exists with other files"),
        ("mine", "already exists with other files"),
    ],
)
def test_nothing_of_others_is_overwritten(tmp_path, existing, told):
    folder_of(tmp_path, {existing: b"mine"})
    if existing.endswith(".txt"):
        folder_of(tmp_path, {"mine/ignore.csv": b"mine, too"})  # the name of a table of ours
    # It is told before anything is read: there is no such archive.
    with pytest.raises(UserError, match=told):
        audit._audit(["missing.zip", "--output", str(tmp_path / "mine.html")])
    assert (tmp_path / existing).read_bytes() == b"mine"


def test_pictures_of_many_groups_are_bounded(tmp_path, monkeypatch):
    members = {f"cat.{seed}.{copy}.jpg": encoded(scene(seed)) for seed in range(41) for copy in range(2)}
    members |= {f"cat.0.{copy}.jpg": encoded(scene(0)) for copy in range(2, 7)}
    monkeypatch.chdir(tmp_path)
    assert audit._audit([str(folder_of(tmp_path / "given", members)), "--cache", "cache"]) == 0
    document = Document(tmp_path / "audit.html")
    assert len(document.all("img")) == 6 + 39 * 2
    assert "40 of 41 groups are shown." in document.body
    assert "6 of 7 images are shown." in document.body
    (listed,) = [a for a, _ in document.all("div") if a.get("id") == "ignore"]
    assert listed["data-beside"] == "2 further copies"
    # What has no box on the page is in the list all the same.
    boxes = [a["data-id"] for a, _ in document.all("input") if "checked" in a]
    ignored = pd.read_csv(tmp_path / "audit" / "ignore.csv")["id"]
    assert sorted([*json.loads(listed["data-ignored"]), *boxes]) == sorted(ignored)
    check_page(tmp_path / "audit.html", "audit")


def test_a_zip_with_everything_broken_and_a_missing_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    zip_of(tmp_path / "bad.zip", {"cat.1.jpg": b"x"})
    for name, status in (("bad.zip", 0), ("no.zip", 2)):
        monkeypatch.setattr("sys.argv", ["catsdogs-audit", name, "--cache", "cache", "--output", f"page-{name}.html"])
        assert audit.main() == status
    told = capsys.readouterr()
    assert "does not decode" in told.out
    assert told.err.startswith("error: ")
    assert not (tmp_path / "page-no.zip.html").exists()
