import os

import pytest

from catsdogs.base.records import CorruptedFile, Record, Table

TABLE = Table({"id": str, "label": int | None, "p_dog": float}, unique=("id",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,0.5,0.5", "label=0.5: expected an integer from 0 to 1"),
        ("a,2,0.5", "label=2"),
        ("a,1,low", "p_dog=low: expected"),
        ("a,1,1.5", "p_dog=1.5: expected a number from 0 to 1"),
        ("a,1,-inf", "p_dog=-inf"),
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": {"b": NaN}}', "b=nan: must be finite"),
        ('{"b": [1.0, -Infinity]}', "must be finite"),
        ('{"b": 1e999}', "b=inf"),
        ('{"b": 1, "b": 2}', "b=2: listed twice"),
        ("[" * 100_000, "nested"),
    ],
)
def test_ambiguous_and_infinite_values_are_corrupted(tmp_path, content, reason):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(CorruptedFile, match=reason):
        Record.read(tmp_path / "file.json")


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
