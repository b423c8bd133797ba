"""Typed records for JSON files and declared columns for CSV files.

Files may come from any version, or from other users. A file is missing, matches its declaration, or raises
`CorruptedFile`; callers need no further checks. Undeclared keys and columns are kept unchanged.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, TypeVar

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json


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
        """Return the record, or None if the file is missing; raise `CorruptedFile` if JSON or types are wrong."""
        try:
            # Parsed by Python: pydantic's parser refuses the surrogates of file names that are not UTF-8.
            return cls.model_validate(read_json(file))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            first = error.errors()[0]
            key, value = ".".join(map(str, first["loc"])), repr(first["input"])
            raise CorruptedFile(file, f"{key}={value[:80]}: {first['msg']}" if key else first["msg"]) from error
        except ValueError as error:
            raise CorruptedFile(file, str(error)) from error


@dataclass(frozen=True)
class Table:
    """CSV file.

    Attributes:
        columns: type of each column: str, int or float (NaN if the cell is empty).
        optional: columns that some versions did not write.
    """

    columns: Mapping[str, type]
    optional: Collection[str] = ()

    def read(self, file: Path) -> pd.DataFrame | None:
        """Return the rows, with undeclared columns as pandas reads them, or None if the file is missing.

        Raise `CorruptedFile` if the file is truncated, a column is missing, or a value has the wrong type.
        """
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CorruptedFile(file, str(error.strerror)) from error
        if not content.endswith(b"\n"):
            raise CorruptedFile(file, "truncated")
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
        for name, kind in self.columns.items():
            if name in table and kind is not str:
                numbers = pd.to_numeric(table[name], errors="coerce")
                # Above 2^53 not every integer is a float.
                integer = (numbers % 1 == 0) & (numbers.abs() < 2**53)
                wrong = ~integer if kind is int else numbers.isna() & table[name].notna()
                if wrong.any():
                    expected = "an integer" if kind is int else "a number"
                    raise CorruptedFile(file, f"{name}={table[name][wrong].iloc[0]}: expected {expected}")
                table[name] = numbers.astype(kind)
        return table
