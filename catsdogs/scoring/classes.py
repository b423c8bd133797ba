"""Classes of a study: their names and order, and their columns in tables and in the output of the network."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed, natural_key

MOST_CLASSES = 1000
_LONGEST_NAME = 100  # characters

# Ends of the columns of the steps from the output of the network to the submitted probability.
STEPS = ("", "_tta", "_calibrated")


@dataclass(frozen=True)
class Classes:
    """Names of K >= 2 classes, in order: label k is `names[k]`.

    The network and tables have one output for two classes, the probability of the second one, and otherwise one for
    each class. Everywhere else, probabilities are (..., K).
    """

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def outputs(self) -> int:
        """Number of outputs of the network, and of columns in tables: 1 for two classes, otherwise K."""
        return 1 if len(self) == 2 else len(self)

    @property
    def ranks(self) -> np.ndarray:
        """Places of the classes in the natural order of their names, int (K,)."""
        order = sorted(self.names, key=natural_key)
        return np.array([order.index(name) for name in self.names])

    def columns(self, step: str = "") -> list[str]:
        """Return the columns of a step, for example `p_dog_tta`."""
        return [f"p_{column_name(name)}{step}" for name in self.names[-self.outputs :]]

    def from_output(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of all classes, float64 (..., K), from those of the outputs (..., C)."""
        outputs = np.asarray(outputs, dtype=np.float64)
        return outputs if len(self) > 2 else np.concatenate([1 - outputs, outputs], axis=-1)

    def to_output(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities of the outputs, (..., C), from those of all classes (..., K)."""
        return probabilities[..., -self.outputs :]

    def read(self, table: pd.DataFrame, step: str = "") -> np.ndarray:
        """Return the probabilities of a step in a table, float64 (N, K); NaN where it was not computed."""
        return self.from_output(table[self.columns(step)].to_numpy(dtype=np.float64))

    def to_columns(self, probabilities: np.ndarray, step: str = "") -> dict[str, np.ndarray]:
        """Return the columns of a step for a table, each (N,), from probabilities (N, K).

        Those of more than two classes have 8 decimals, because a table has K of them in each row.
        """
        outputs = self.to_output(probabilities)
        rounded = outputs if self.outputs == 1 else np.round(outputs, 8)
        return dict(zip(self.columns(step), rounded.T, strict=True))

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return what the network is trained on, float32 (N, C): 0 or 1, or one-hot; NaN where the label is NaN."""
        labels = np.asarray(labels, dtype=np.float64)[:, None]
        places = np.arange(len(self))[-self.outputs :]
        return np.where(np.isnan(labels), np.nan, labels == places).astype(np.float32)


# Of files without the key `classes`, which versions before 0.3 wrote.
DEFAULT = Classes(("cat", "dog"))


def column_name(name: str) -> str:
    """Return the name of a class with every character but letters, digits and _ replaced by _."""
    return re.sub(r"\W", "_", name)


def check_names(names: Sequence[str], source: str) -> Classes:
    """Return the classes with these names, in this order.

    Raise a UserError that names `source` for fewer than 2 or more than MOST_CLASSES names, for equal names or names
    that differ only in case, for names with equal columns, and for names that a column or a line cannot have.
    """
    if len(names) < 2:
        only = f"only class {names[0]}" if names else "no class"
        raise UserError(f"{source}: has {only}; a classifier needs images of at least two classes")
    if len(names) > MOST_CLASSES:
        problem = f"has {len(names):,} classes, at most {MOST_CLASSES:,} are possible"
        raise UserError(f"{source}: {problem}; set data.classes")
    for name in names:
        if not name.isprintable() or not 0 < len(name.strip()) == len(name) <= _LONGEST_NAME or name.lower() == "id":
            problem = f"needs a printable name of 1 to {_LONGEST_NAME} characters, not id, without outer spaces"
            raise UserError(f"{source}: class {name!r} {problem}; rename it")
    for key, problem in (
        (str, "are equal; remove one of them"),
        (str.casefold, "differ only in case; rename one of them"),
        (column_name, "would have the same column; rename one of them"),
    ):
        counts = Counter(map(key, names))
        if same := [name for name in names if counts[key(name)] > 1]:
            raise UserError(f"{source}: classes {listed(same)} {problem}")
    columns = Counter(f"{column_name(name)}{step}" for name in names for step in STEPS)
    if same := [column for column, count in columns.items() if count > 1]:
        raise UserError(f"{source}: two classes would have the column p_{same[0]}; rename one of them")
    return Classes(tuple(names))


def _checked(names: list[str]) -> list[str]:
    try:
        check_names(names, "")
    except UserError as error:
        raise PydanticCustomError("classes", "{problem}", {"problem": str(error).removeprefix(": ")}) from error
    return names


# The key `classes` of a JSON file, which may be missing.
ClassNames = Annotated[
    list[str], Field(max_length=MOST_CLASSES, default_factory=lambda: [*DEFAULT.names]), AfterValidator(_checked)
]
