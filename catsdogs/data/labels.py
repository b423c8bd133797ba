"""Paths, or a table of labels -> the class of every image, and the classes of a study in order.

The training images choose the rule: a table, cat or dog as in 0.2, class folders, or file names. Validation and test
images are labeled by the same rule.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import joined, listed
from catsdogs.data.archive import natural_key
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
class Rule:
    """How images are labeled, chosen by the training images."""

    source: str  # for messages
    classes: frozenset[str]  # of the training images
    names: Callable[[pd.DataFrame], Names]  # class of every row of a catalog, None: no label
    table: LabelTable | None = None

    @classmethod
    def of(cls, images: pd.DataFrame, source: str, table: LabelTable | None = None) -> Rule:
        """Choose the rule from all files of the training images, with the columns id and path.

        Raise UserError if none applies, naming `source`; if folders and file names are both possible; or as
        `LabelTable.fitted` does.
        """
        paths = images["path"]
        if table is not None:
            table = table.fitted(images)
            return cls(table.source, frozenset(filter(None, table.names(images))), table.names, table)
        if all(name or conflict for name, conflict in map(cat_or_dog, paths)):
            return cls("names of files and folders", frozenset(_CATS_AND_DOGS.values()), _cats_and_dogs)
        folders, numbers = _folders(images, frozenset()), [_numbered(path) for path in paths]
        if classes := frozenset(filter(None, folders)):
            _check_unambiguous(folders, numbers, source)
            return cls("class folders", classes, partial(_folders, classes=classes))
        classes = _repeated(numbers)
        if len(classes) < 2:
            raise UserError(f"{source}: no image has a label; use {LABEL_SOURCES}")
        return cls("file names", classes, partial(_file_names, classes=classes))


@dataclass(frozen=True)
class Labels:
    """Rule and classes of a study."""

    rule: Rule
    classes: Classes

    @classmethod
    def of(
        cls, images: pd.DataFrame, source: str, table: LabelTable | None = None, requested: Sequence[str] | None = None
    ) -> Labels:
        """Choose rule and classes from the training images of a catalog; see `Rule.of` and `class_order`."""
        rule = Rule.of(images, source, table)
        return cls(rule, class_order(rule.names(images), requested, source))

    def label(self, images: pd.DataFrame, source: str = "") -> pd.DataFrame:
        """Return images of a catalog with the column label, float64: the place of the class; NaN: none.

        With a column of groups in the table, group is added, str. The problem of an image without a label has the
        reason. Of own validation images, named by `source`, raise UserError if the training images lack a class, or
        have the row of the table.
        """
        names, table = self.rule.names(images), self.rule.table
        if source and (unknown := sorted(set(filter(None, names)) - self.rule.classes)):
            known = listed(sorted(self.rule.classes, key=natural_key), 20)
            raise UserError(f"{source}: unknown class {joined(unknown[:5])}; the training images have {known}")
        if source and table and not table.has_all(images):
            raise UserError(f"{source}: {table.source}: has rows of training images; enter paths in this column")
        places = pd.Index(self.classes.names).get_indexer(pd.Index(names, dtype=object))
        problems = []
        for path, name, place, problem in zip(images["path"], names, places, images["problem"], strict=True):
            conflict = "" if table else cat_or_dog(path)[1]
            unlabeled = OTHER_CLASS if name else "; ".join(filter(None, (problem, conflict))) or NO_LABEL
            problems.append(problem if place >= 0 else unlabeled)
        images = images.assign(label=np.where(places < 0, np.nan, places), problem=problems)
        return images.assign(group=table.groups(images)) if table and table.group_column else images

    def label_test(self, images: pd.DataFrame) -> pd.DataFrame:
        """Return test images with the column label, as `label` does; all NaN unless every image has a class.

        With a table, each needs a row that no training image has. Problems are unchanged.
        """
        unlabeled = images.assign(label=np.nan)
        if self.rule.table is not None and not self.rule.table.has_all(images):
            return unlabeled
        names = pd.Series(self.rule.names(images), images.index, dtype=object)
        if names.isna().any():
            if names.notna().any():
                text = "%d of %d test images have no unique label, so no test image is scored: %s"
                _log.warning(text, names.isna().sum(), len(images), listed(images["id"][names.isna()].tolist()))
            return unlabeled
        if (other := ~names.isin(self.classes.names)).any():
            text = "%d of %d test images are not scored, because the study lacks their classes: %s"
            _log.warning(text, other.sum(), len(images), listed(sorted(names[other].unique(), key=natural_key)))
        return self.label(images).assign(problem=images["problem"])

    def counts(self, images: pd.DataFrame) -> str:
        """Return a line with the source of the labels, and the classes in order with their numbers of images."""
        counts = images["label"].value_counts()
        each = [f"{name} {counts.get(place, 0):,}" for place, name in enumerate(self.classes.names)]
        return f"{len(self.classes)} classes from {self.rule.source}: {listed(each, 20)}"


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
    *folders, name = PurePosixPath(path).parts
    match = _CAT_OR_DOG.match(name)
    nearest = next((folder for folder in reversed(folders) if folder.lower() in _CATS_AND_DOGS), None)
    by_folder = _CATS_AND_DOGS[nearest.lower()] if nearest else None
    by_name = match[1].lower() if match else by_folder
    if nearest is None or by_folder == by_name:
        return by_name, ""
    return None, f"conflicting labels: {by_name} (file name), {nearest} (folder)"


def _cats_and_dogs(images: pd.DataFrame) -> Names:
    return [cat_or_dog(path)[0] for path in images["path"]]


def _folders(images: pd.DataFrame, classes: frozenset[str]) -> Names:
    """Return the folder of every image at the first level of several folders, or of a folder that is a class."""
    levels = list(_levels(nfc(images["path"])))
    several = [level for level in levels if len({*level} - {None}) > 1][:1]
    known = [level for level in levels if classes.intersection(filter(None, level))]
    return next(iter([*(level for level in several if level in known), *known, *several]), [None] * len(images))


def _levels(paths: Sequence[str]) -> Iterator[Names]:
    """Yield the folders of all paths at each depth, from the root; None where a path has fewer folders."""
    folders = [path.split("/")[:-1] for path in paths]
    for depth in range(max(map(len, folders), default=0)):
        yield [parents[depth] if depth < len(parents) else None for parents in folders]


def _file_names(images: pd.DataFrame, classes: frozenset[str]) -> Names:
    return [name if name in classes else None for name in map(_numbered, images["path"])]


def _numbered(path: str) -> str | None:
    """Return NAME of a file that is named NAME.NUMBER or NAME_NUMBER."""
    match = _NUMBERED.fullmatch(SUFFIX.sub("", posixpath.basename(path)))
    return nfc([match[1]])[0] if match else None


def _repeated(names: Iterable[str | None]) -> frozenset[str]:
    return frozenset(name for name, count in Counter(filter(None, names)).items() if count > 1)


def _check_unambiguous(folders: Names, numbered: Names, source: str) -> None:
    """Raise UserError if all class folders have the same two or more names of files, which may be the classes."""
    by_folder: dict[str, Names] = {folder: [] for folder in folders if folder}
    for folder, name in zip(folders, numbered, strict=True):
        if folder:
            by_folder[folder].append(name)
    first, *others = map(_repeated, by_folder.values())
    if len(first) > 1 and all(names == first for names in others):
        shown = (joined(sorted(names, key=natural_key)[:2]) for names in (by_folder, first))
        both = "classes may be its folders ({}) or file names ({})".format(*shown)
        raise UserError(f"{source}: {both}; set data.labels=FILE to a table of the labels")
