"""Typed records for JSON files and declared columns for CSV files.

Files may come from any version, or from other users. A file is missing, matches its declaration, or raises
`CorruptedFile`; callers need no further checks. Undeclared keys and columns are kept unchanged.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Final, Self, TypeVar

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_bytes, read_json


class CorruptedFile(UserError):
    """A file does not match its declaration; `reason` is the key or column, and its value."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: corrupted ({reason})")
        self.reason = reason


# Parts that may be missing or null.
T = TypeVar("T")
Part = Annotated[dict[str, T], BeforeValidator(lambda part: part or {}), Field(default_factory=dict)]
Listed = Annotated[list[T], BeforeValidator(lambda part: part or []), Field(default_factory=list)]


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


# Ranges of numbers; a column has the same meaning in every table.
_RANGES: Final = {
    **dict.fromkeys(("trial", "execution", "epoch", "epochs", "best_epoch", "first_epoch", "epoch_budget"), (0, 10**9)),
    **dict.fromkeys(("seed", "seconds"), (0, 10**9)),
    "fold": (-1, 10**9),  # -1: in no fold, as the holdout
    **dict.fromkeys(("log_loss", "loss", "val_log_loss", "val_loss", "learning_rate"), (0, math.inf)),
    **dict.fromkeys(("label", "p_dog", "p_dog_tta", "p_dog_calibrated", "accuracy", "val_accuracy"), (0, 1)),
}


_MAX_COLUMNS: Final = 1000


@dataclass(frozen=True)
class Table:
    """CSV file."""

    columns: Mapping[str, type | UnionType]  # str, int, float, or `int | None` and `float | None` (NaN: empty cell)
    optional: Collection[str] = ()  # columns that some versions did not write
    unique: Collection[str] = ()  # columns with different values in every row

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
        if content.count(b",", 0, content.index(b"\n")) > _MAX_COLUMNS:  # pandas takes 30 kB for each
            raise CorruptedFile(file, f"more than {_MAX_COLUMNS} columns")
        try:
            # Keep texts unchanged: one may be `nan`, and a name `007`.
            texts = {name: str for name, kind in self.columns.items() if kind is str}
            table = pd.read_csv(io.BytesIO(content), dtype=texts, na_values=[""], keep_default_na=False)
            table = table.fillna(dict.fromkeys(texts, ""))
        except ValueError as error:
            raise CorruptedFile(file, " ".join(str(error).split())) from error
        missing = [name for name in self.columns if name not in table and name not in self.optional]
        if missing:
            raise CorruptedFile(file, f"missing columns: {', '.join(missing)}")
        for name in [name for name, kind in self.columns.items() if name in table and kind is not str]:
            table[name] = self._numbers(table[name], file)
        if self.unique and (repeated := table.duplicated(list(self.unique))).any():
            values = [f"{name}={table[name][repeated].iloc[0]}" for name in self.unique]
            raise CorruptedFile(file, f"{' '.join(values)}: listed twice")
        return table

    def _numbers(self, column: pd.Series, file: Path) -> pd.Series:
        name, kind = str(column.name), self.columns[str(column.name)]
        integer = kind in (int, int | None)
        numbers = pd.to_numeric(column, errors="coerce")
        low, high = _RANGES.get(name, (-math.inf, math.inf))
        valid = numbers.between(low, high)
        if integer:
            # Above 2^53 not every integer is a float.
            valid &= (numbers % 1 == 0) & (numbers.abs() < 2**53)
        if isinstance(kind, UnionType):
            valid |= column.isna()
        if not valid.all():
            expected = f"{'an integer' if integer else 'a number'} from {low:g} to {high:g}"
            raise CorruptedFile(file, f"{name}={column[~valid].iloc[0]}: expected {expected}")
        return numbers.astype(int if kind is int else float)
