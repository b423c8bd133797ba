"""A submission contains the test ids in natural order, with probabilities between 0 and 1, both excluded."""

import csv
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catsdogs.base.files import write_csv
from catsdogs.final.submission import describe_rows, submission
from catsdogs.scoring.scores import EPSILON

image_ids = st.one_of(
    st.integers(0, 10**12).map(str),
    st.from_regex(r"0{0,3}[0-9]{1,4}", fullmatch=True),
    st.text(string.ascii_letters + string.digits + " -_./,\"'éäß猫", min_size=1, max_size=8),
    st.sampled_from(["NA", "nan", "null", "True", "1e5", "-1", "id", "#1", ""]),
)


def written(ids, p_dog, expected_ids):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        write_csv(path, submission(ids, p_dog, expected_ids))
        return path.read_bytes()


def test_file_has_the_kaggle_format_and_unchanged_ids():
    ids = ["10", "2", "007", "100", "NA", "b,c"]
    text = written(ids, np.array([0.25, 0.5, 1.0, 0.0, 0.5, 0.5], np.float32), ids[::-1]).decode()
    assert text == 'id,label\n2,0.5\n007,0.9999999\n10,0.25\n100,1e-07\nNA,0.5\n"b,c",0.5\n'
    assert written([], np.array([]), []) == b"id,label\n"


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(image_ids, min_size=1, max_size=20, unique=True), data=st.data())
def test_file_does_not_depend_on_the_order_of_rows(ids, data):
    edge = st.sampled_from([0.0, 1.0, 1e-300, 1e-7, 1 - 1e-7, np.nextafter(1, 0)])
    numbers = st.lists(st.floats(0, 1) | edge, min_size=len(ids), max_size=len(ids))
    p_dog = np.array(data.draw(numbers))
    order = data.draw(st.permutations(range(len(ids))))
    expected = data.draw(st.permutations(ids))
    content = written(ids, p_dog, ids)
    assert written([ids[index] for index in order], p_dog[order], expected) == content
    # Read with the standard library, independently of pandas.
    header, *rows = csv.reader(content.decode().splitlines())
    assert header == ["id", "label"]
    clipped = np.clip(p_dog, EPSILON, 1 - EPSILON)
    assert {name: float(label) for name, label in rows} == dict(zip(ids, clipped, strict=True))
    assert all(0 < float(label) < 1 for _, label in rows)
    assert all(0 < np.float32(label) < 1 for _, label in rows)  # also in single precision


@pytest.mark.parametrize(
    ("ids", "p_dog"),
    [
        (["1", "2", "2"], [0.1, 0.2, 0.3]),
        (["1"], [0.1]),
        (["1", "2", "3"], [0.1, 0.2, 0.3]),
        (["1", "2"], [0.1, np.nan]),
        (["1", "2"], [-0.1, 0.2]),
        (["1", "2"], [0.1, 1.5]),
        (["1", "2"], [0.1]),
    ],
)
def test_invalid_ids_and_probabilities_are_refused(ids, p_dog):
    with pytest.raises(ValueError, match=r"ids|probabilities|length"):
        submission(ids, np.array(p_dog), ["1", "2"])


def test_the_form_of_the_ids_and_the_rows_without_a_prediction_are_described():
    assert describe_rows(["1", "2", "10"], 3, []) == "3 rows for 3 images; ids from 1 to 10"
    expected = "2 rows for 2 images; ids from a/1 to a/2; 1 with 0.5, because the image cannot be decoded: a/2"
    assert describe_rows(["a/1", "a/2"], 2, ["a/2"]) == expected
