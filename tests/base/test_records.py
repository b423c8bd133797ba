import json
import os

import pytest

import catsdogs
from catsdogs.base.errors import UserError
from catsdogs.base.records import CorruptedFile, Listed, Record, Table, check_table_size

pytestmark = pytest.mark.lowest

TABLE = Table({"id": str, "label": int | None, "p_dog": float}, unique=("id",), ranges={"label": (0, 1)})


class Names(Record):
    names: Listed[str]


SHARES = {"p_a": float, "p_b": float | None, "p_c": float | None}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,0.5,0.5", "label=0.5: expected an integer from 0 to 1"),
        ("a,1,1.5", "p_dog=1.5: expected a number from 0 to 1"),
        ("a,1,nan", "p_dog=nan"),
        ("a,1,", "p_dog=nan"),
        ("first,1,0.5", "id=first: listed twice"),
    ],
)
def test_values_out_of_range_and_repeated_rows_are_corrupted(tmp_path, row, reason):
    file = tmp_path / "table.csv"
    file.write_text("id,label,p_dog\nfirst,,0\n")
    table = TABLE.read(file)
    assert table is not None
    assert table["label"].isna().all()
    file.write_text(f"id,label,p_dog\nfirst,,0\n{row}\n")
    with pytest.raises(CorruptedFile) as error:
        TABLE.read(file)
    assert error.value.problem.startswith(f"corrupted ({reason}")


@pytest.mark.parametrize("share", ["0.25", "", "0.2", "0.2495"])
def test_probabilities_of_a_row_that_do_not_sum_to_1_are_corrupted(tmp_path, share):
    file = tmp_path / "table.csv"
    file.write_text(f"p_a,p_b,p_c\n0,1,0\n0.5,0.25,{share}\n")
    table = Table(SHARES, distributions=[["p_a", "p_b", "p_c"], ["p_a"], ["absent", "p_b"]])
    if share != "0.2":
        assert table.read(file) is not None
    else:
        with pytest.raises(CorruptedFile, match=r"p_a to p_c: have the sum 0\.95 in row 2, expected 1"):
            table.read(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": {"b": NaN}}', "b=nan: must be finite"),
        ('{"b": 1, "b": 2}', "b=2: listed twice"),
        ("[" * 100_000, "nested"),
        ('{"a": ' * 40 + "0" + "}" * 40, "nested"),
        ('{"a": ' + "9" * 5000 + "}", "a=inf: must be finite"),
        (f'{{"a": "{"x" * (2**20 + 1)}"}}', "a=x+...: text of more than 1,048,576 characters"),
        (f'{{"names": [{"[]," * 20_000}[]]}}', r"names=.*at most 10000 items"),  # not each of the wrong elements
    ],
)
def test_ambiguous_infinite_and_too_many_values_are_corrupted(tmp_path, content, reason):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(CorruptedFile, match=reason):
        Names.read(tmp_path / "file.json")


def _sparse(file):
    file.touch()
    os.truncate(file, 2**27 + 1)


@pytest.mark.parametrize("read", [Record.read, TABLE.read])
@pytest.mark.parametrize(
    ("make", "reason"), [(os.mkdir, "is a folder"), (os.mkfifo, "is not a regular file"), (_sparse, "larger than")]
)
def test_what_is_no_file_or_too_large_is_corrupted(tmp_path, read, make, reason):
    make(tmp_path / "file")
    with pytest.raises(CorruptedFile, match=reason):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("id,label,p_dog,id\na,1,0,b\n", "id: column listed twice"),
        ("id,label,p_dog\na,1,0,1\n", "line 2 has 4 cells, expected 3"),
        ("id,label,p_dog" + ",x" * 3998 + "\n", "more than 4,000 columns"),
        (f"id,label,p_dog\n{'a' * 200_000},1,0\n", "field larger"),
        ("id,label,p_dog\n" + "," * (3 * 10**7) + "\n", "more than 30,000,000 cells"),
        (f"id,label,p_dog\na,1{'0' * 400},0\n", "label=10{79}: expected"),
    ],
)
def test_a_table_that_is_too_large_or_irregular_is_corrupted(tmp_path, content, reason):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(CorruptedFile, match=reason):
        TABLE.read(tmp_path / "table.csv")


class Whole(Record):
    number: int


@pytest.mark.parametrize("file", ["result.json", "table.csv", "recipe.json"])
@pytest.mark.parametrize(("version", "newer"), [("99.1.0", True), ("0.1.0", False), ("9" * 5000, False), (3, False)])
def test_a_file_of_a_newer_version_is_recognized(tmp_path, file, version, newer):
    (tmp_path / "table.csv").write_text("id\na\n")
    recorder = "recipe.json" if file == "recipe.json" else "result.json"
    (tmp_path / recorder).write_text(json.dumps({"number": "x", "versions": {"catsdogs": version}}))
    with pytest.raises(CorruptedFile) as error:
        (TABLE if file == "table.csv" else Whole).read(tmp_path / file)
    fix = f"written by catsdogs 99.1.0; this is {catsdogs.__version__}: install 99.1.0 or newer ("
    assert (fix in str(error.value)) == newer
    assert ("corrupted (" in str(error.value)) != newer


@pytest.mark.parametrize(("rows", "outputs", "steps"), [(677_000, 1, 3), (2_000, 1000, 3), (6_000, 1000, 1)])
def test_predictions_that_could_not_be_read_are_refused(rows, outputs, steps):
    check_table_size(rows, outputs, steps, "data.limit=null", "fix")
    with pytest.raises(UserError, match=f"data.limit=null: predictions of {2 * rows:,} images .*too large .*; fix"):
        check_table_size(2 * rows, outputs, steps, "data.limit=null", "fix")
