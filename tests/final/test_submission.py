"""A submission contains the test ids in the form of its template, with probabilities between 0 and 1, both excluded."""

import csv
import string
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_csv
from catsdogs.config.schema import SubmissionConfig
from catsdogs.final.evaluation import _threshold
from catsdogs.final.submission import SubmissionForm, best_threshold, describe_rows, predicted_classes
from catsdogs.scoring.classes import DEFAULT, Classes
from catsdogs.scoring.scores import EPSILON

THREE = Classes(("ant", "bee", "big wasp"))

image_ids = st.one_of(
    st.integers(0, 10**12).map(str),
    st.from_regex(r"0{0,3}[0-9]{1,4}", fullmatch=True),
    st.text(string.ascii_letters + string.digits + " -_./,\"'éäß猫", min_size=1, max_size=8),
    st.sampled_from(["NA", "nan", "null", "True", "1e5", "-1", "id", "#1", ""]),
)


def form_of(classes, ids, template=None, kind="probability", threshold=None):
    test = pd.DataFrame({"id": ids, "path": [f"test/{name}.jpg" for name in ids]})
    return SubmissionForm.of(SubmissionConfig(template and str(template), kind, threshold), classes, test)


def written(ids, p_dog):
    with tempfile.TemporaryDirectory() as folder:
        path, p = Path(folder) / "submission.csv", DEFAULT.from_output(np.array(p_dog)[:, None])
        write_csv(path, form_of(DEFAULT, ids).fill(p, predicted_classes(p, None)))
        return path.read_bytes()


def test_file_has_the_kaggle_format_and_unchanged_ids():
    ids = ["10", "2", "007", "100", "NA", "b,c"]
    text = written(ids, np.array([0.25, 0.5, 1.0, 0.0, 0.5, 0.5], np.float32)).decode()
    assert text == 'id,label\n2,0.5\n007,0.9999999\n10,0.25\n100,1e-07\nNA,0.5\n"b,c",0.5\n'
    assert written([], np.array([])) == b"id,label\n"


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(image_ids, min_size=1, max_size=20, unique=True), data=st.data())
def test_file_does_not_depend_on_the_order_of_rows(ids, data):
    edge = st.sampled_from([0.0, 1.0, 1e-300, 1e-7, 1 - 1e-7, np.nextafter(1, 0)])
    numbers = st.lists(st.floats(0, 1) | edge, min_size=len(ids), max_size=len(ids))
    p_dog = np.array(data.draw(numbers))
    order = data.draw(st.permutations(range(len(ids))))
    content = written(ids, p_dog)
    assert written([ids[index] for index in order], p_dog[order]) == content
    # Read with the standard library, independently of pandas.
    header, *rows = csv.reader(content.decode().splitlines())
    assert header == ["id", "label"]
    clipped = np.clip(p_dog, EPSILON, 1 - EPSILON)
    assert {name: float(label) for name, label in rows} == dict(zip(ids, clipped, strict=True))
    assert all(0 < float(label) < 1 for _, label in rows)
    assert all(0 < np.float32(label) < 1 for _, label in rows)  # also in single precision


@pytest.mark.parametrize("p", [[[0.1, 0.9]], [[0.1, 0.9], [np.nan, np.nan]], [[-0.1, 1.1], [0.5, 0.5]], [[0.5], [0.5]]])
def test_invalid_probabilities_are_refused(p):
    with pytest.raises(ValueError, match="of 2 images"):
        form_of(DEFAULT, ["1", "2"]).fill(np.array(p), np.zeros(2, int))


P_TWO, P_THREE = [[0.9, 0.1], [0.3, 0.7]], [[0.7, 0.2, 0.1], [1 / 3, 0.0, 2 / 3]]


@pytest.mark.parametrize(
    ("classes", "template", "kind", "p", "expected"),
    [
        (THREE, None, "probability", P_THREE, "id,ant,bee,big wasp\n2,0.7,0.2,0.1\n10,0.33333333,1e-07,0.66666667\n"),
        (THREE, None, "class", P_THREE, "id,label\n2,ant\n10,big wasp\n"),
        (DEFAULT, None, "class", P_TWO, "id,label\n2,cat\n10,dog\n"),
        (DEFAULT, "name,is_dog\n10.jpg,\n2.jpg,\n", "probability", P_TWO, "name,is_dog\n10.jpg,0.7\n2.jpg,0.1\n"),
        (DEFAULT, "id,cat_or_dog\n2,0\n10,0\n", "probability", P_TWO, "id,cat_or_dog\n2,0.1\n10,0.7\n"),
        (DEFAULT, "id,category\n2,0\n10,0\n", "probability", P_TWO, "id,category\n2,0.1\n10,0.7\n"),
        (DEFAULT, "id,Cat\n2,0\n10,0\n", "probability", P_TWO, "id,Cat\n2,0.9\n10,0.3\n"),
        (DEFAULT, "id,dog,cat\n2,0,0\n10,0,0\n", "probability", P_TWO, "id,dog,cat\n2,0.1,0.9\n10,0.7,0.3\n"),
        (
            THREE,
            "\ufeffImage,bee,Big Wasp,ant\ntest/10.jpg,0,0,0\ntest/2.jpg,1,0,0",
            "probability",
            P_THREE,
            "Image,bee,Big Wasp,ant\ntest/10.jpg,1e-07,0.66666667,0.33333333\ntest/2.jpg,0.2,0.1,0.7\n",
        ),
        (THREE, "id,species\n10,ant\n2,ant\n", "class", P_THREE, "id,species\n10,big wasp\n2,ant\n"),
    ],
)
def test_header_ids_order_and_columns_are_those_of_the_template(tmp_path, caplog, classes, template, kind, p, expected):
    if template:
        (tmp_path / "sample.csv").write_text(template, encoding="utf-8")
    caplog.set_level("INFO")
    form = form_of(classes, ["2", "10"], template and tmp_path / "sample.csv", kind)
    write_csv(tmp_path / "submission.csv", form.fill(np.array(p), predicted_classes(np.array(p), None)))
    assert (tmp_path / "submission.csv").read_text() == expected
    single = template and kind == "probability" and len(form.header) == 2
    assert (f"probability of class {'cat' if 'Cat' in form.header else 'dog'}" in caplog.text) == bool(single)


@pytest.mark.parametrize(
    ("classes", "template", "kind", "problem"),
    [
        (THREE, "id,ant,bee,fly\n2,0,0,0\n", "probability", "columns ant, bee, fly are not the classes ant, bee"),
        (THREE, "id,ant,bee\n2,0,0\n", "probability", "columns ant, bee are not .*; set data.classes, or use another"),
        (THREE, "id,label\n2,0\n", "probability", "use submission.kind=class or set data.classes"),
        (DEFAULT, "id,hen,dog\n2,0,0\n", "probability", "columns hen, dog are not"),
        (DEFAULT, "id,is_Cat\n2,0\n", "probability", r"is_Cat names the class cat, .* of dog; set data.classes in"),
        (DEFAULT, "id\n2\n", "probability", "has only the column id; separate"),
        (THREE, "id;label\n2;0\n", "class", "has only the column id;label; separate"),
        (THREE, "id,ant,bee,big wasp\n2,0,0,0\n", "class", "3 columns after id, expected one .*kind=probability"),
        (THREE, "id,label\n2,0\n2,0\n10,0\n", "class", "ids listed twice: 2; remove"),
        (THREE, "id,label\n2,0\n11,0\n", "class", r"1 ids without .* \(11\) and 1 test .* \(10\); use"),
        (THREE, "id,ant,bee,big wasp\n", "probability", "has no rows; enter one"),
        (THREE, "id,label\n2,0,0\n", "class", r"cannot be read \(line 2 has 3 cells"),
        (THREE, None, "class", r"cannot be read \(No such file"),
    ],
)
def test_a_template_of_other_classes_or_ids_is_refused(tmp_path, classes, template, kind, problem):
    if template:
        (tmp_path / "sample.csv").write_text(template)
    with pytest.raises(UserError, match=f"^submission.template=.*/sample.csv: .*{problem}"):
        form_of(classes, ["2", "10"], tmp_path / "sample.csv", kind)


def test_the_threshold_with_the_highest_accuracy_is_chosen_for_two_classes():
    labels, p_dog = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.55, 0.62, 0.58, 0.7, 0.9])
    p = DEFAULT.from_output(p_dog[:, None])
    threshold = best_threshold(labels, p)
    assert threshold == pytest.approx((0.55 + 0.58) / 2)
    assert (predicted_classes(p, threshold) != labels).sum() == 1
    assert best_threshold(labels, DEFAULT.from_output(labels[:, None].astype(float))) == 0.5
    with pytest.raises(UserError, match=r"submission\.threshold=0\.4: not supported with 3 classes"):
        form_of(THREE, ["1"], kind="class", threshold=0.4)


@pytest.mark.parametrize(
    ("classes", "kind", "test", "expected"),
    [
        (DEFAULT, "class", 1, 0.6),
        (DEFAULT, "probability", 1, None),
        (THREE, "class", 1, None),
        (DEFAULT, "class", None, None),
    ],
)
def test_a_threshold_is_chosen_only_for_a_submission_that_uses_it(classes, kind, test, expected):
    dataset: Any = SimpleNamespace(classes=classes, test=test)
    p = np.array([[0.45, 0.55], [0.35, 0.65]])
    config = SubmissionConfig(None, kind, "auto")
    assert _threshold(config, dataset, np.array([0, 1]), p) == (expected and pytest.approx(expected))
    if expected:
        with pytest.raises(UserError, match="cannot be chosen"):
            _threshold(config, dataset, np.array([0, 1]), None)


def test_the_form_of_the_ids_and_the_rows_without_a_prediction_are_described():
    assert describe_rows(["1", "2", "10"], 3, [], "0.5") == "3 rows for 3 images; ids from 1 to 10"
    assert describe_rows(["1"], 1, [], "0.5") == "1 row for 1 image; ids from 1 to 1"
    expected = "2 rows for 2 images; ids from a/1 to a/2; 1 with 0.5, because the image cannot be decoded: a/2"
    assert describe_rows(["a/1", "a/2"], 2, ["a/2"], "0.5") == expected
