"""Typed records for JSON files and declared columns for CSV files.

Files may come from any version, or from other users. A file is missing, matches its declaration, or raises
`CorruptedFile`; callers need no further checks. Undeclared keys and columns are kept unchanged.
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Final, Self, TypeVar

import pandas as pd
from packaging.version import Version
from pandas.api.types import is_object_dtype
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from catsdogs import __version__
from catsdogs.base.errors import UserError
from catsdogs.base.files import MAX_FILE_BYTES, read_bytes, read_json


class CorruptedFile(UserError):
    """A file does not match its declaration; `problem` names the key or column and its value, or a newer version."""

    def __init__(self, file: Path, reason: str) -> None:
        reason = reason if len(reason) <= 300 else f"{reason[:300]}..."
        newer = _newer_version(file)
        fix = newer and f"written by catsdogs {newer}; this is {__version__}: install {newer} or newer"
        self.problem = f"{fix} ({reason})" if fix else f"corrupted ({reason})"
        super().__init__(f"{file}: {self.problem}")


def _newer_version(file: Path) -> str | None:
    """Return the version of catsdogs that wrote a file of a job or model, if it is newer than this one."""
    # Only these files record the version.
    for recorder in (file, file.with_name("result.json"), file.with_name("recipe.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            written = read_json(recorder)["versions"]["catsdogs"]
            return written if len(written) < 40 and Version(written) > Version(__version__) else None
    return None


# Parts that may be missing or null. pydantic lists every wrong element, so their number is limited.
T = TypeVar("T")
_Limit = Field(max_length=10_000)
Part = Annotated[dict[str, T], _Limit, BeforeValidator(lambda part: part or {}), Field(default_factory=dict)]
Listed = Annotated[list[T], _Limit, BeforeValidator(lambda part: part or []), Field(default_factory=list)]


class Record(BaseModel):
    """JSON file, or a part of one."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the record, or None if the file is missing; raise `CorruptedFile` if it is no file, or wrong."""
        try:
            # Parsed by Python: pydantic's parser refuses the surrogates of file names that are not UTF-8.
            return cls.model_validate(read_json(file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CorruptedFile(file, str(error.strerror)) from error
        except ValidationError as error:
            first = error.errors()[0]
            key, value = ".".join(map(str, first["loc"])), repr(first["input"])
            # Without the name of a class, which is internal.
            problem = re.sub(r"(Input should be a ).* instance of .*", r"\1JSON object", first["msg"])
            reason = f"{key}={value[:80]}: {problem}" if key else problem
            if first["type"] == "value_error":  # of a validator of catsdogs, which names the rest of the key
                reason = f"{key}.{first['ctx']['error']}"
            raise CorruptedFile(file, reason) from error
        except ValueError as error:
            raise CorruptedFile(file, str(error)) from error


# A number of trials, epochs or images, and seconds: 31 years.
Count = Annotated[int, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(ge=0, le=10**9)]
LARGEST_LOSS: Final = 1e39  # finite ones are below the largest float32

# Limits of a table: the largest one has a row per image. pandas takes 30 kB for each column.
_MAX_CELLS: Final = 3 * 10**7
_MAX_COLUMNS: Final = 4000

SUM_TOLERANCE: Final = 1e-3  # of the probabilities of an image; float32 outputs are 1e-6 off, rounded tables more

# Ranges of numbers; a column has the same meaning in every table.
_RANGES: Final = {
    **dict.fromkeys(("trial", "execution", "epoch", "epochs", "best_epoch", "first_epoch", "epoch_budget"), (0, 10**9)),
    **dict.fromkeys(("seed", "seconds", "width", "height"), (0, 10**9)),
    "fold": (-1, 10**9),  # -1: in no fold, as the holdout
    **dict.fromkeys(("log_loss", "loss", "val_log_loss", "val_loss"), (0, LARGEST_LOSS)),
    **dict.fromkeys(("learning_rate", "max_learning_rate"), (0, LARGEST_LOSS)),
    **dict.fromkeys(("accuracy", "val_accuracy"), (0, 1)),
    "label": (0, 999),  # see `scoring.classes.MOST_CLASSES`
}


@dataclass(frozen=True)
class Table:
    """CSV file."""

    columns: Mapping[str, type | UnionType]  # str, int, float, or `int | None` and `float | None` (NaN: empty cell)
    optional: Collection[str] = ()  # columns that some versions did not write
    unique: Collection[str] = ()  # columns with different values in every row
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # narrower ones than in every table
    # Groups of columns; where a group has several, their sum is 1 in each row, or NaN.
    distributions: Collection[Sequence[str]] = ()

    def read(self, file: Path) -> pd.DataFrame | None:
        """Return the rows, with undeclared columns as pandas reads them, or None if the file is missing.

        Raise `CorruptedFile` if the file is truncated, a column is missing, a row is repeated, or a value has the wrong
        type or range.
        """
        try:
            content = read_bytes(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CorruptedFile(file, str(error.strerror)) from error
        if not content.endswith(b"\n"):
            raise CorruptedFile(file, "truncated")
        try:
            check_shape(content)
            # Keep texts unchanged: one may be `nan`, and a name `007`.
            texts = {name: str for name, kind in self.columns.items() if kind is str}
            table = pd.read_csv(
                io.BytesIO(content), dtype=texts, na_values=[""], keep_default_na=False, low_memory=False
            )
            table = table.fillna(dict.fromkeys(texts, ""))
            # Integers beyond 64 bits, which are not converted to floats.
            table = table.astype({name: str for name, kind in table.dtypes.items() if is_object_dtype(kind)})
        except (ValueError, csv.Error) as error:
            raise CorruptedFile(file, " ".join(str(error).split())) from error
        missing = [name for name in self.columns if name not in table and name not in self.optional]
        if missing:
            raise CorruptedFile(file, f"missing columns: {', '.join(missing)}")
        for name in [name for name, kind in self.columns.items() if name in table and kind is not str]:
            table[name] = self._numbers(table[name], file)
        if self.unique and (repeated := table.duplicated(list(self.unique))).any():
            values = [f"{name}={table[name][repeated].iloc[0]}" for name in self.unique]
            raise CorruptedFile(file, f"{' '.join(values)}: listed twice")
        for group in self.distributions:
            sums = table[group].sum(axis=1, skipna=False) if len(group) > 1 and {*group} <= {*table} else pd.Series(1.0)
            if (wrong := (sums - 1).abs() > SUM_TOLERANCE).any():
                problem = f"have the sum {sums[wrong].iloc[0]:.4g} in row {int(wrong.argmax()) + 1}, expected 1"
                raise CorruptedFile(file, f"{group[0]} to {group[-1]}: {problem}")
        return table

    def _numbers(self, column: pd.Series, file: Path) -> pd.Series:
        name, kind = str(column.name), self.columns[str(column.name)]
        integer = kind in (int, int | None)
        numbers = pd.to_numeric(column, errors="coerce")
        known = (0, 1) if name.startswith("p_") else _RANGES.get(name, (-math.inf, math.inf))
        low, high = self.ranges.get(name, known)
        valid = numbers.between(low, high) | (numbers.eq(math.inf) & (high == LARGEST_LOSS))
        if integer:
            # Above 2^53 not every integer is a float.
            valid &= (numbers % 1 == 0) & (numbers.abs() < 2**53)
        if isinstance(kind, UnionType):
            valid |= column.isna()
        if not valid.all():
            expected = f"{'an integer' if integer else 'a number'} from {low:g} to {high:g}"
            raise CorruptedFile(file, f"{name}={str(column[~valid].iloc[0])[:80]}: expected {expected}")
        return numbers.astype(int if kind is int else float)


def check_table_size(rows: int, outputs: int, steps: int, key: str, fix: str) -> None:
    """Raise a `UserError` if `predictions.csv` with the outputs of every step would be too large to be read."""
    # Up to six other columns. A probability with 8 decimals takes up to 11 bytes, so _MAX_CELLS is not reached.
    if 11 * rows * (6 + outputs * steps) > MAX_FILE_BYTES:
        problem = f"predictions of {rows:,} images in {outputs * steps:,} columns would be too large to be read"
        raise UserError(f"{key}: {problem}; {fix}")


def read_parquet(content: bytes) -> pd.DataFrame:
    """Return the columns of a parquet file, without lists and groups.

    Raise ValueError, OSError, or another error of pyarrow, if the file is corrupted or too large as a table. Sizes are
    checked before its texts are expanded, because a small file may repeat a long text in every row.
    """
    import pyarrow
    from pyarrow import compute, types
    from pyarrow.parquet import ParquetFile

    about = ParquetFile(io.BytesIO(content)).metadata
    columns = [about.schema.column(number) for number in range(about.num_columns)]
    size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))  # uncompressed
    size += about.num_rows * sum(one.length for one in columns if one.physical_type == "FIXED_LEN_BYTE_ARRAY")
    _check_sizes({"columns": len(columns), "cells": about.num_rows * len(columns), "bytes": size})
    texts = [one.path for one in columns if one.physical_type == "BYTE_ARRAY"]
    file = ParquetFile(io.BytesIO(content), read_dictionary=texts)
    _check_names(file.schema_arrow.names)
    table = file.read([one.name for one in file.schema_arrow if not types.is_nested(one.type)])
    table.validate(full=True)  # texts in UTF-8, which pandas decodes later
    encoded = [number for number, one in enumerate(table.schema) if types.is_dictionary(one.type)]
    chunks = [chunk for number in encoded for chunk in table.column(number).chunks]
    lengths = (compute.binary_length(chunk.dictionary).take(chunk.indices) for chunk in chunks)
    _check_sizes({"bytes": sum(compute.sum(one).as_py() or 0 for one in lengths)})
    for number in encoded:
        values = table.column(number).cast(table.schema.types[number].value_type)
        table = table.set_column(number, pyarrow.field(table.schema.names[number], values.type), values)
    return table.to_pandas()


def _check_sizes(sizes: Mapping[str, int]) -> None:
    limits = {"columns": _MAX_COLUMNS, "cells": _MAX_CELLS, "bytes": MAX_FILE_BYTES}
    for unit, size in sizes.items():
        if size > limits[unit]:
            raise ValueError(f"more than {limits[unit]:,} {unit}")


def _check_names(names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{repeated[0]}: column listed twice")


def check_shape(content: bytes) -> None:
    """Raise ValueError or csv.Error if a table is too large, repeats a column, or has rows of different lengths.

    pandas renames repeated columns, and fills or shifts rows. csv refuses cells of more than 131,072 characters.
    """
    _check_sizes({"cells": sum(map(content.count, (b",", b"\n", b"\r")))})
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))
    names = next(rows, [])  # pandas refuses an empty file
    _check_sizes({"columns": len(names)})
    _check_names(names)
    for row in rows:
        if len(row) not in (len(names), 0):
            raise ValueError(f"line {rows.line_num} has {len(row)} cells, expected {len(names)}")
