"""Files of a study <-> values: a typed record for every JSON file, declared columns for every table.

What is read was written by any version, or by somebody else. A file is not there, it is what was declared, or it is
`Damaged`; nothing behind this module asks again. What is not declared is kept as it is: keys and columns are added.
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
    """A file does not hold what it should.

    Attributes:
        reason: which key or column, and its value.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: it is damaged ({reason})")
        self.reason = reason


# Parts that a file may lack, or have as null.
T = TypeVar("T")
Part = Annotated[dict[str, T], BeforeValidator(lambda part: part or {}), Field(default_factory=dict)]
Listed = Annotated[list[T], BeforeValidator(lambda part: part or []), Field(default_factory=list)]


class Record(BaseModel):
    """A JSON file, or a part of one."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """None: it is not there.

        Raises:
            Damaged: it is no JSON, or a key has not the value that it should have.
        """
        try:
            # By Python: pydantic's own parser refuses the halves of characters that stand for bytes of a file's name.
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
    """A CSV file.

    Attributes:
        columns: name -> str, int or float, where nothing is NaN.
        optional: those that not every version wrote.
    """

    columns: Mapping[str, type]
    optional: Collection[str] = ()

    def read(self, file: Path) -> pd.DataFrame | None:
        """Its rows, other columns as pandas reads them; None: it is not there.

        Raises:
            Damaged: its end or a column is missing, or a value is not of its type.
        """
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CorruptedFile(file, str(error.strerror)) from error
        if not content.endswith(b"\n"):
            raise CorruptedFile(file, "its end is missing")
        try:
            # Texts as they are written: one may be `nan`, and a name `007`.
            texts = {name: str for name, kind in self.columns.items() if kind is str}
            table = pd.read_csv(io.BytesIO(content), dtype=texts, na_values=[""], keep_default_na=False)
            table = table.fillna(dict.fromkeys(texts, ""))
        except ValueError as error:
            raise CorruptedFile(file, " ".join(str(error).split())) from error
        missing = [name for name in self.columns if name not in table and name not in self.optional]
        if missing:
            raise CorruptedFile(file, f"it lacks {', '.join(missing)}")
        for name, kind in self.columns.items():
            if name in table and kind is not str:
                numbers = pd.to_numeric(table[name], errors="coerce")
                # Above 2^53 not every whole number is a float.
                whole = (numbers % 1 == 0) & (numbers.abs() < 2**53)
                wrong = ~whole if kind is int else numbers.isna() & table[name].notna()
                if wrong.any():
                    raise CorruptedFile(file, f"{name}={table[name][wrong].iloc[0]} is no number")
                table[name] = numbers.astype(kind)
        return table
