"""`data` config -> the catalogues, split and digest that every job shares."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed
from catsdogs.config.schema import DataConfig, SplitConfig
from catsdogs.data import near_duplicates
from catsdogs.data.archive import ImageFolder, open_images
from catsdogs.data.catalog import CAT, DOG, LABELS_COME_FROM, build_catalog
from catsdogs.data.split import assign_splits, subset

_IGNORED = "ignored by data.ignore"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of `Dataset.rows` that one model is trained and validated on; int, ascending, none of them in both."""

    train_rows: np.ndarray
    validation_rows: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """The images of a study. Tables have the columns of `catalogue`, are sorted naturally by id and indexed from 0.

    Attributes:
        rows: the labelled images in use; problem is "", and split and fold, as `split.divide` gives them, are further
            columns.
        root: folder that the paths of `rows` and `skipped` are relative to.
        test: every test image, also those that do not decode, which alone have a problem (and width 0); label is NaN in
            all rows unless all are labelled. None: there is no test set.
        test_root: folder that the paths of `test` are relative to.
        skipped: the training images that are not used, each with the reason as its problem.
        digest: sha256 over (id, label, sha256, split) of `rows`, with several folds over the fold too; 64 hexadecimal
            digits.
        images_digest: of the folder of `rows`, see `ImageFolder.digest`.
    """

    rows: pd.DataFrame
    root: Path
    test: pd.DataFrame | None
    test_root: Path | None
    skipped: pd.DataFrame
    digest: str
    images_digest: str

    def folds(self) -> list[Fold]:
        """One of training and validation, or as many as `split.folds` says; none has a row of the hold-out.

        With several every row outside the hold-out is validated on in exactly one of them.
        """
        fold, outside = self.rows["fold"].to_numpy(), (self.rows["split"] != "holdout").to_numpy()
        return [
            Fold(np.flatnonzero(outside & (fold != number)), np.flatnonzero(fold == number))
            for number in range(fold.max() + 1)
        ]

    @property
    def holdout_rows(self) -> np.ndarray:
        """Rows that no search sees, ascending; int, empty without a hold-out."""
        return np.flatnonzero(self.rows["split"] == "holdout")


def load_dataset(data: DataConfig, cache: Path, division: SplitConfig) -> Dataset:
    """Open the archives, leave out what cannot be trained on, draw the subset, and split.

    Left out are images that do not decode, that have no label or two, and those of `data.ignore`. An image that occurs
    under both labels has two; ignoring the wrong ones mends that.

    Args:
        data: the configuration; relative paths start at the current directory, `~` is expanded. Where `train` is null
            the archives are drawn as `sample` says.
        division: the hold-out and the folds, and which images stay together in both.

    Raises:
        UserError: an archive cannot be used (see `open_images`), an id in `data.ignore` is unknown, no image or only
            one class is left, or there are too few images to split.
    """
    train, test = _sources(data, cache)
    folder = _opened("train", train, data, cache)
    test_folder = None if test is None else _opened("test", test, data, cache)
    table = build_catalog(folder, cache)
    test_table = None if test_folder is None else build_catalog(test_folder, cache)

    table["problem"] = _problems(table, data.ignore)
    rows = table[table["problem"] == ""]
    skipped = table[table["problem"] != ""].reset_index(drop=True)
    _report(skipped, len(table))
    _check_classes(rows, skipped, train, test_table)
    rows = subset(rows, data.limit, data.split_seed).reset_index(drop=True)
    units = rows
    if division.group_by == "near_duplicates":
        units = rows.assign(groups=near_duplicates.group_duplicates(rows))
        joined = len(rows) - units["groups"].nunique() - int(rows["sha256"].duplicated().sum())
        if joined:
            _log.info("%d near-duplicates stay on the side of the image that they resemble", joined)
    rows = rows.join(assign_splits(units, division, data.validation_fraction, data.split_seed))
    return Dataset(
        rows=rows,
        root=folder.root,
        test=None if test_table is None else _test_rows(test_table),
        test_root=None if test_folder is None else test_folder.root,
        skipped=skipped,
        digest=_digest(rows, division),
        images_digest=folder.digest,
    )


def _sources(data: DataConfig, cache: Path) -> tuple[Path, Path | None]:
    """The training and the test source, drawn if none is given."""
    for key, value in (("train", data.train), ("test", data.test)):
        if value is not None and not value.strip():
            raise UserError(f"data.{key}={value!r}: no path; pass data.{key}=PATH of a zip or a folder of images")
    test = None if data.test is None else Path(data.test)
    if data.train is not None:
        return Path(data.train), test
    if data.sample is None:
        raise UserError("data.train=null: no training images are given; pass data.train=PATH of a zip or a folder")
    from catsdogs.data.sample.archives import sample_archives

    drawn_train, drawn_test = sample_archives(data.sample, cache)
    return drawn_train, test or drawn_test


def _opened(key: str, source: Path, data: DataConfig, cache: Path) -> ImageFolder:
    try:
        return open_images(source, cache, data.max_unpacked_gib * 2**30)
    except UserError as error:
        raise UserError(f"data.{key}: {error}") from error


def _problems(table: pd.DataFrame, ignore: list[str]) -> pd.Series:
    """Why a row cannot be trained on, "" where it can; (N,) str."""
    unknown = sorted(set(ignore) - set(table["id"]))
    if unknown:
        raise UserError(
            f"data.ignore: there is no training image with the id {listed(unknown)}; "
            f"an id is the path without shared folders and suffix, {table['id'].iloc[0]} for example"
        )
    problems = table["problem"].copy()
    problems[(problems == "") & table["label"].isna()] = "no label"
    problems[table["id"].isin(ignore)] = _IGNORED
    usable = table[problems == ""]
    labels = usable.groupby("sha256")["label"].transform("nunique")
    problems[usable.index[labels > 1]] = "the same image occurs under both labels"
    return problems


def _report(skipped: pd.DataFrame, total: int) -> None:
    """Say what is left out; what was asked to be left out needs no warning."""
    unasked = skipped[skipped["problem"] != _IGNORED]
    if len(unasked) < len(skipped):
        _log.info("data.ignore leaves out %d of %d training images", len(skipped) - len(unasked), total)
    if len(unasked):
        named = [f"{row.id} ({row.problem})" for row in unasked.itertuples()]
        _log.warning("%d of %d training images are left out: %s", len(unasked), total, listed(named))


def _check_classes(rows: pd.DataFrame, skipped: pd.DataFrame, train: Path, test: pd.DataFrame | None) -> None:
    cats, dogs = int((rows["label"] == CAT).sum()), int((rows["label"] == DOG).sum())
    if cats and dogs:
        return
    if cats or dogs:
        there, missing = ("cats", "dogs") if cats else ("dogs", "cats")
        raise UserError(
            f"data.train: {train} has {cats or dogs} usable images of {there} but none of {missing}; add {missing}, "
            f"whose label is told by {LABELS_COME_FROM}"
        )
    if (skipped["problem"] == "no label").any():
        swapped = test is not None and bool(test["label"].notna().any())
        hint = "; data.test has labels, so the two may have changed places" if swapped else ""
        raise UserError(
            f"data.train: none of the usable images of {train} has a label, which is told by {LABELS_COME_FROM}{hint}"
        )
    raise UserError(
        f"data.train: none of the {len(skipped)} images of {train} can be used, "
        f"the first, {skipped['id'].iloc[0]}, because: {skipped['problem'].iloc[0]}"
    )


def _test_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A catalogue as a test set, where a doubtful label is no problem and some labels are as good as none."""
    undecodable = table["width"] == 0
    table = table.assign(problem=table["problem"].where(undecodable, ""))
    if table["label"].isna().any():
        table["label"] = math.nan
    return table


def _digest(rows: pd.DataFrame, division: SplitConfig) -> str:
    digest = hashlib.sha256()
    # With one fold the split tells it, and the digest stays that of studies from before there were folds.
    columns = ["id", "label", "sha256", "split"] + (["fold"] if division.folds > 1 else [])
    for row in zip(*(rows[name].tolist() for name in columns), strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
