"""Paths, or a table of labels -> the class of every image, and the classes of a study in order.

The training images choose the rule: a table, cat or dog as in 0.2, class folders, or file names. Validation and test
images are labeled by the same rule.
"""

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Self

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import joined, listed, natural_key
from catsdogs.data.catalog import SUFFIX, nfc
from catsdogs.data.label_table import LabelTable
from catsdogs.scoring.classes import Classes, check_names

LABEL_SOURCES = "at least two class folders, file names such as ant.1.jpg and bee_2.png, or data.labels=FILE"

NO_LABEL, OTHER_CLASS = "no label", "class not in data.classes"  # problems of images

_NUMBERED = re.compile(r"(?=.*[^\W\d_])(.+)[._]\d+", re.DOTALL)  # a name with a letter, and a number
_CATS_AND_DOGS = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog"}
_CAT_OR_DOG = re.compile(r"(cat|dog)(?![^\W\d_])", re.IGNORECASE)  # not followed by a letter

Names = list[str | None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """Rule by which images are labeled, chosen by the training images, and the classes of a study."""

    classes: Classes
    source: str  # of the labels, for messages
    known: frozenset[str]  # classes of the training images
    names: Callable[[pd.DataFrame], Names]  # class of every row of a catalog, None: no label
    table: LabelTable | None = None

    @classmethod
    def of(cls, images: pd.DataFrame, source: str, data: Mapping[str, Any]) -> Self:
        """Choose rule and classes from the training images of a catalog; all files count.

        `data` may have the settings labels, id_column, class_column, group_column and classes. Raise UserError, naming
        `source`, if no rule applies; if folders and file names are both possible; or as `LabelTable.of` and
        `class_order` do.
        """
        table = LabelTable.of(data, images) if data.get("labels") else None
        requested = data.get("classes")
        rule, names = (table.source, table.names) if table else _rule(images, source, requested)
        known = names(images)
        classes = class_order(known, requested, source)
        return cls(classes, rule, frozenset(filter(None, known)), names, table)

    def label(self, images: pd.DataFrame, source: str = "") -> pd.DataFrame:
        """Return images of a catalog with the column label, float64: the place of the class; NaN: none.

        With a column of groups in the table, group is added, str. The problem of an image without a label has the
        reason. Of own validation images, named by `source`, raise UserError if the training images lack a class, or
        have the row of the table.
        """
        names = self.names(images)
        if source and (unknown := sorted(set(filter(None, names)) - self.known)):
            known = listed(sorted(self.known, key=natural_key), 20)
            raise UserError(f"{source}: unknown class {joined(unknown[:5])}; the training images have {known}")
        if source and self.table and not self.table.has_all(images):
            raise UserError(f"{source}: {self.source}: has rows of training images; enter paths in this column")
        labels, problems, paths = self._places(names), images["problem"].tolist(), images["path"].tolist()
        for row in np.flatnonzero(np.isnan(labels)):
            reasons = (problems[row], "" if self.table else cat_or_dog(paths[row])[1])
            problems[row] = OTHER_CLASS if names[row] else "; ".join(filter(None, reasons)) or NO_LABEL
        images = images.assign(label=labels, problem=problems)
        return images.assign(group=self.table.groups(images)) if self.table and self.table.group_column else images

    def label_test(self, images: pd.DataFrame) -> pd.DataFrame:
        """Return test images with the column label, as `label` does; all NaN unless every image has a class.

        With a table, each needs a row that no training image has. Problems are unchanged.
        """
        if self.table is not None and not self.table.has_all(images):
            return images.assign(label=np.nan)
        names = pd.Series(self.names(images), images.index, dtype=object)
        labels, problem = self._places(names), "a class that the study lacks, and are not scored"
        missing = np.isnan(labels)
        if names.isna().any():
            labels[:], missing, problem = np.nan, names.isna().to_numpy(), "no unique label, so no test image is scored"
        if missing.any() and not names.isna().all():
            shown = listed(images["id"][missing].tolist())
            _log.warning("%d of %d test images have %s: %s", missing.sum(), len(images), problem, shown)
        return images.assign(label=labels)

    def counts(self, images: pd.DataFrame) -> str:
        """Return a line with the source of the labels, and the classes in order with their numbers of images."""
        counts = images["label"].value_counts()
        each = [f"{name} {counts.get(place, 0):,}" for place, name in enumerate(self.classes.names)]
        return f"{len(self.classes)} classes from {self.source}: {listed(each, 20)}"

    def _places(self, names: Iterable[str | None]) -> np.ndarray:
        places = pd.Index(self.classes.names).get_indexer(pd.Index([*names], dtype=object))
        return np.where(places < 0, np.nan, places)


def _rule(
    images: pd.DataFrame, source: str, requested: Sequence[str] | None
) -> tuple[str, Callable[[pd.DataFrame], Names]]:
    """Choose the rule for images without a table; requested classes may be names of folders."""
    found = {*map(cat_or_dog, images["path"])}
    cats_and_dogs = partial(_by_path, name_of=lambda path: cat_or_dog(path)[0])
    every = "names of files and folders" if all(name or conflict for name, conflict in found) else ""
    if every and {name for name, _ in found} not in ({"cat"}, {"dog"}):
        return every, cats_and_dogs
    folders, numbers = _folders(images, frozenset()), _by_path(images, _numbered)
    if classes := frozenset(filter(None, folders)):
        by_folder = pd.Series(numbers, dtype=object).groupby(folders)
        repeated = {_repeated(names) for _, names in by_folder}
        first = min(repeated, key=len)
        if len(repeated) == 1 and len(first) > 1 and not classes.issuperset(requested or {""}):
            shown = (joined(sorted(names, key=natural_key)[:2]) for names in (classes, first))
            both = "classes may be its folders ({}) or file names ({})".format(*shown)
            fix = "set data.classes to the folders, or data.labels=FILE to a table of the labels"
            raise UserError(f"{source}: {both}; {fix}")
        return "class folders", partial(_folders, classes=classes)
    classes = _repeated(numbers)
    if len(classes) < 2 and every:
        return every, cats_and_dogs  # a single class, which is refused by its name
    if len(classes) < 2:
        raise UserError(f"{source}: no image has a label; use {LABEL_SOURCES}")
    known = {name: name for name in classes}
    return "file names", partial(_by_path, name_of=lambda path: known.get(_numbered(path) or ""))


def class_order(names: Iterable[str | None], requested: Sequence[str] | None, source: str) -> Classes:
    """Return the classes of a study: as requested by data.classes, else in the natural order of their names.

    Raise UserError if a requested one is not among `names`, or as `check_names` does.
    """
    found = sorted(set(filter(None, names)), key=natural_key)
    if requested is None:
        return check_names(found, source)
    key = f"data.classes=[{listed(requested, 20, ',')}]"
    if unknown := [name for name in requested if name not in found]:
        raise UserError(f"{key}: unknown class {joined(unknown[:5])}; {source} has {listed(found, 20)}")
    return check_names(requested, key)


def cat_or_dog(path: str) -> tuple[str | None, str]:
    """Return cat, dog or None for a relative path, as in 0.2, and a description of a conflict, or "".

    A file name is labeled if it starts with cat or dog, not followed by a letter. So is the nearest folder named cat,
    cats, dog or dogs. Case is ignored.
    """
    *folders, name = path.split("/")
    match = _CAT_OR_DOG.match(name)
    nearest = next((folder for folder in reversed(folders) if folder.lower() in _CATS_AND_DOGS), None)
    by_folder = _CATS_AND_DOGS[nearest.lower()] if nearest else None
    by_name = match[1].lower() if match else by_folder
    if nearest is None or by_folder == by_name:
        return by_name, ""
    return None, f"conflicting labels: {by_name} (file name), {nearest} (folder)"


def _by_path(images: pd.DataFrame, name_of: Callable[[str], str | None]) -> Names:
    return [name_of(path) for path in images["path"]]


def _folders(images: pd.DataFrame, classes: frozenset[str]) -> Names:
    """Return the folder of every image at the first level of several folders, or of a folder that is a class."""
    levels: list[Names] = [[*level] for level in zip_longest(*(path.split("/")[:-1] for path in nfc(images["path"])))]
    several = [level for level in levels if len({*level} - {None}) > 1][:1]
    known = [level for level in levels if classes.intersection(filter(None, level))]
    return next(iter([*(level for level in several if level in known), *known, *several]), [None] * len(images))


def _numbered(path: str) -> str | None:
    """Return NAME of a file that is named NAME.NUMBER or NAME_NUMBER."""
    match = _NUMBERED.fullmatch(SUFFIX.sub("", posixpath.basename(path)))
    return nfc([match[1]])[0] if match else None


def _repeated(names: Iterable[str | None]) -> frozenset[str]:
    return frozenset(name for name, count in Counter(filter(None, names)).items() if count > 1)
