"""Table of labels (data.labels) -> the row, class and group of every image."""

import dataclasses
import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.files import read_bytes
from catsdogs.base.records import check_shape, read_parquet
from catsdogs.base.text import joined, listed
from catsdogs.config.setting_names import did_you_mean, unknown
from catsdogs.data.catalog import SUFFIX, below_common, nfc

_CLASS_COLUMNS = ("label", "class", "target", "category", "species")


@dataclass(frozen=True)
class LabelTable:
    """Table with a row per image: a column of paths or ids, one of classes, and optionally one of groups."""

    key: str  # for messages, such as `data.labels=labels.csv`
    cells: pd.DataFrame  # str
    id_column: str
    class_column: str
    group_column: str  # "": none
    training: frozenset[int]  # rows of the training images
    found: set[int]  # rows of all images so far

    @classmethod
    def of(cls, data: Mapping[str, Any], images: pd.DataFrame) -> Self:
        """Read `data.labels` and find the columns that fit the training images, rows of a catalog.

        Raise UserError if the file cannot be read, lacks a column or has an ambiguous one, or an image has not exactly
        one row.
        """
        key = f"data.labels={data['labels']}"
        cells = read_cells(Path(data["labels"]), key)
        columns = [data.get(f"{name}_column") or "" for name in ("id", "class", "group")]
        for name, column in zip(("id", "class", "group"), columns, strict=True):
            if column and column not in cells:
                problem = unknown("column", did_you_mean(column, cells.columns), cells.columns)
                raise UserError(f"data.{name}_column={column}: {problem}")
        id_column, class_column, group_column = columns
        table = cls(key, cells, id_column, class_column, group_column, frozenset(), set())
        candidates = [id_column] if id_column else [name for name in cells.columns if name not in columns]
        matches = {name: table._match(images, name) for name in candidates}
        complete = {name: found["row"] for name, found in matches.items() if found["count"].eq(1).all()}
        if any(not rows.equals(next(iter(complete.values()))) for rows in complete.values()):
            raise UserError(f"{key}: ids may be in column {joined([*complete])}; set data.id_column=NAME")
        best = max(complete or matches, key=lambda name: matches[name]["count"].eq(1).sum(), default="")
        if not any(id_column or found["count"].any() for found in matches.values()):
            example = f"such as {images['path'].iloc[0]} or {images['id'].iloc[0]}"
            raise UserError(f"{key}: no column has paths or ids of the images, {example}; add one")
        others = [name for name in cells.columns if name not in (best, group_column)]
        others = [class_column] if class_column else [one for one in others if one.lower() in _CLASS_COLUMNS] or others
        if len(others) != 1:
            problem = f"classes may be in column {joined(others[:20])}" if others else "no column of classes"
            fix = "set data.class_column=NAME and data.id_column=NAME"
            raise UserError(f"{key}: {problem} (ids in {best}); {fix}")
        table = dataclasses.replace(table, id_column=best, class_column=others[0], found=set())
        return dataclasses.replace(table, training=frozenset(table._rows(images)))

    @property
    def source(self) -> str:
        """Name of the file and the columns in use, for messages."""
        groups = f", groups in column {self.group_column}" * bool(self.group_column)
        columns = f"ids in column {self.id_column}, classes in column {self.class_column}"
        return f"{posixpath.basename(self.key)}: {columns}{groups}"

    def names(self, images: pd.DataFrame) -> list[str | None]:
        """Return the class of every image, None for an empty cell; a UserError if an image has not exactly one row."""
        return [name or None for name in nfc(self.cells[self.class_column].iloc[self._rows(images)])]

    def groups(self, images: pd.DataFrame, training: bool = True) -> list[str]:
        """Return the group of every image, as `names`, but with `training` a UserError for an empty cell."""
        groups = self.cells[self.group_column].iloc[self._rows(images)].tolist()
        lacking = [name for name, group in zip(images["id"], groups, strict=True) if not group.strip()]
        if training and lacking:
            problem = f"{len(lacking):,} images without a group in column {self.group_column} ({listed(lacking)})"
            raise UserError(f"{self.key}: {problem}; enter one for each image")
        return groups

    def has_all(self, images: pd.DataFrame) -> bool:
        """Return whether each of these images, which are not for training, has a row of its own."""
        matches = self._match(images, self.id_column)
        return bool(matches["count"].eq(1).all()) and self.training.isdisjoint(matches["row"])

    def check_unknown(self, sources: Iterable[pd.DataFrame]) -> None:
        """Raise UserError if a row belongs to no image of these catalogs, nor to one that was looked up before."""
        for images in sources:
            self._match(images, self.id_column)
        if rows := self.cells[self.id_column][~self.cells.index.isin(self.found)].tolist():
            problem = f"{len(rows):,} of {len(self.cells):,} rows belong to no image ({listed(rows)})"
            raise UserError(f"{self.key}: {problem}; remove these rows")

    def _rows(self, images: pd.DataFrame) -> list[int]:
        matches = self._match(images, self.id_column)
        if (wrong := matches["count"].ne(1).to_numpy()).any():
            number, name = matches["count"][wrong].iloc[0], images["id"][wrong].iloc[0]
            of_all = f"{wrong.sum():,} of {len(images):,} images have no row or several"
            problem = f"{number} rows for image {name} in column {self.id_column} ({of_all})"
            raise UserError(f"{self.key}: {problem}; enter one row for each image")
        return matches["row"].tolist()

    def _match(self, images: pd.DataFrame, column: str) -> pd.DataFrame:
        matches = match_rows(self.cells[column], images)
        self.found.update(matches["row"])
        return matches


def match_rows(ids: pd.Series, images: pd.DataFrame) -> pd.DataFrame:
    """Find the rows of all images of a catalog in a column of paths or ids.

    Of `_image_keys`, the first one counts that finds one row for each image, else the best. Columns of the result are
    row, -1 without exactly one, and count (of rows); its index is 0 to N - 1.
    """
    cells = [cell.replace("\\", "/").removeprefix("./") for cell in nfc(ids)]
    best = pd.DataFrame({"row": -1, "count": 0}, index=range(len(images)))
    for keys, by_name in _image_keys(images):
        index = pd.Index([posixpath.basename(cell) for cell in cells] if by_name else cells, dtype=object)
        count = index.value_counts().reindex(keys, fill_value=0).to_numpy()
        first = np.flatnonzero(~index.duplicated())
        row = np.where(count == 1, first[index[first].get_indexer(pd.Index(keys, dtype=object))], -1)
        if len(set(keys)) == len(keys) and (count > 0).sum() > best["count"].gt(0).sum():
            best = pd.DataFrame({"row": row, "count": count})
        if best["count"].eq(1).all():
            break
    return best


def _image_keys(images: pd.DataFrame) -> Iterator[tuple[list[str], bool]]:
    """Yield the texts that may name the images in a table, and whether only the file name of its cells counts."""
    paths, ids = nfc(images["path"]), nfc(images["id"])
    names = [posixpath.basename(path) for path in paths]
    for texts, by_name in ((paths, False), (below_common(paths), False), (ids, False), (names, True)):
        yield texts, by_name
        yield [SUFFIX.sub("", text) for text in texts], by_name


def read_cells(file: Path, key: str) -> pd.DataFrame:
    """Return the cells of a CSV or parquet file as texts, "" where empty; a UserError names it by `key`.

    It has at least one row.
    """
    try:
        content = read_bytes(file)
        if file.suffix.lower() == ".parquet":
            cells = read_parquet(content)
            # Integers beside empty cells would be read as floats.
            cells = cells.reset_index(drop=cells.index.name is None).convert_dtypes()
            cells.columns = [str(name) for name in cells.columns]  # also of several levels
        else:
            check_shape(content)
            cells = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, encoding="utf-8-sig")
        cells = cells.astype(str).where(cells.notna(), "")
    except ImportError as error:
        raise UserError(f"{key}: needs pyarrow; run: pip install 'catsdogs[parquet]'") from error
    except Exception as error:  # of any type: pyarrow and pandas follow the metadata of the file
        problem = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{key}: cannot be read ({problem}); use a CSV or parquet file") from error
    if cells.empty:
        raise UserError(f"{key}: has no rows; enter one for each image")
    return cells
