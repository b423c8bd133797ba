"""Dataset of a study: catalogs, splits and digest, shared by all jobs."""

import dataclasses
import hashlib
import json
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import remove_temporaries
from catsdogs.base.text import listed, natural_key
from catsdogs.config.schema import AUTO, DataConfig, SplitConfig
from catsdogs.data import near_duplicates
from catsdogs.data.archive import MOST_NAMES, ImageFolder, open_images
from catsdogs.data.catalog import stray_message
from catsdogs.data.labels import OTHER_CLASS, Labels
from catsdogs.data.parts import Parts, with_validation_ids
from catsdogs.data.split import assign_splits, subset
from catsdogs.scoring.classes import DEFAULT, Classes

# A fifth of few images is too small a validation split to compare trials.
_FEW_IMAGES, _FOLDS = 1_000, 5

_IGNORED = "ignored by data.ignore"
_ABANDONED_SECONDS = 86400.0  # a process that writes the cache may sleep for hours

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows of `Dataset.rows` to train and validate a model on; int, ascending, disjoint."""

    train_rows: np.ndarray
    validation_rows: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Images of a study. Tables have the columns of `build_catalog` and label, in natural order of id, indexed from 0.

    A label is the place of a class, float, or NaN.
    """

    # Labeled images in use; problem is "", and `assign_splits` adds the columns split and fold; with data.group_column,
    # also group (str). Ids of the user's own validation images start with `validation/`; their paths are absolute if
    # data.validation is set.
    rows: pd.DataFrame
    root: Path  # folder of the paths of `rows` and `skipped`
    # All test images. Only undecodable images have a problem (and width 0). label is NaN unless all have a class, and
    # of classes that the study lacks; in_training (bool) marks exact and near-duplicates of labeled training and
    # validation images, also of those that data.ignore or data.limit excludes, and labeled images in a group of these.
    test: pd.DataFrame | None
    test_root: Path | None  # folder of the paths of `test`
    skipped: pd.DataFrame  # training and validation images that are not used; problem is the reason
    digest: str  # see `_digest`
    images_digest: str  # of the folder of `rows`, see `ImageFolder.digest`
    classes: Classes = DEFAULT
    validation: ImageFolder | None = None  # folder of data.validation
    own_validation: bool = False  # whether data.validation or a part of data.train has the validation images
    notes: tuple[str, ...] = ()  # lines for the user: which parts of the sources are used

    def folds(self) -> list[Fold]:
        """Return `split.folds` folds without the holdout.

        With several, every row outside the holdout is a validation row of exactly one fold.
        """
        fold, outside = self.rows["fold"].to_numpy(), (self.rows["split"] != "holdout").to_numpy()
        return [
            Fold(np.flatnonzero(outside & (fold != number)), np.flatnonzero(fold == number))
            for number in range(fold.max() + 1)
        ]

    @property
    def relative_paths(self) -> list[str]:
        """Paths of `rows`, each relative to the folder of its source."""
        own_folder = "" if self.validation is None else f"{self.validation.root}/"
        return [str(path).removeprefix(own_folder) for path in self.rows["path"]]

    @property
    def holdout_rows(self) -> np.ndarray:
        """Rows of the holdout, ascending; int, possibly empty."""
        return np.flatnonzero(self.rows["split"] == "holdout")


def load_dataset(data: DataConfig, cache: Path, split: SplitConfig) -> Dataset:
    """Open the archives, choose their parts, skip unusable images, sample the subset and split it.

    Skipped are undecodable images, images without a unique label and those of `data.ignore`. Identical images with
    different labels, also excluded ones, are all skipped, unless `data.ignore` leaves one label. Of the user's own
    validation images, duplicates of training images are skipped too; `data.limit` does not apply to them.

    Without `data.train`, `data.sample` configures synthetic archives. Folds `auto` are five for few images. Raise
    UserError if the images cannot be used, see also `open_images`, or the settings do not fit them.
    """
    for folder in (cache / "archives", cache / "catalogues", cache / "pixels", *cache.glob("sample/*")):
        remove_temporaries(folder, older_than_seconds=_ABANDONED_SECONDS)
    train, test = _sources(data, cache)
    training = _opened("train", train, data, cache)
    images, root = training.images("train"), training.folder.root
    labels = Labels.of(images, training.source, vars(data))
    training.check_classes(labels.known, data.classes)
    images = labels.label(images)
    own, notes = _own_validation(data, split, training, images, labels, cache)
    testing = None if test is None else _opened("test", test, data, cache)
    ids = [*images["id"], *([] if own is None else own.table["id"])]
    if unknown := sorted({*data.ignore} - {*ids}):
        about = f"an id is the path without the common folder and extension, for example {ids[0]}"
        raise UserError(f"data.ignore: unknown image ids: {listed(unknown)}; {about}")

    usable, skipped = _usable(images, data.ignore, train)
    _check_classes(usable, skipped, labels.classes, training.source, least=2)
    rows = _split(usable, data, split, own is not None, training, labels.classes, cache)
    if own:
        reasons = _reasons(own.table, usable, root, cache)
        own_rows, own_skipped = _usable(own.table, data.ignore, reasons=reasons)
        _check_classes(own_rows, own_skipped, labels.classes, own.source, least=1)
        rows = pd.concat([rows, own_rows.assign(split="validation", fold=0)])
        rows = rows.sort_values("id", key=lambda ids: ids.map(natural_key), ignore_index=True)
        skipped = pd.concat([skipped, own_skipped], ignore_index=True)
    test_rows = None
    if testing:
        notes.append(testing.note("test"))
        test_rows = _test_rows(testing, labels, images, own, root, cache)
    if labels.table:
        labels.table.check_unknown([parts.table for parts in (training, testing) if parts])
    notes.append(f"{training.source}: {labels.counts(rows)}")
    return Dataset(
        rows=rows,
        root=root,
        test=test_rows,
        test_root=None if testing is None else testing.folder.root,
        skipped=skipped,
        digest=_digest(rows, labels.classes),
        images_digest=training.folder.digest,
        classes=labels.classes,
        validation=own.folder if own and data.validation is not None else None,
        own_validation=own is not None,
        notes=tuple(filter(None, notes)),
    )


def _own_validation(
    data: DataConfig, split: SplitConfig, training: Parts, images: pd.DataFrame, labels: Labels, cache: Path
) -> tuple[Parts | None, list[str]]:
    """Return the images of data.validation or, with one fold, of a part of data.train; and notes on the parts."""
    if data.validation is not None:
        own = _opened("validation", Path(data.validation), data, cache)
        table = labels.label(own.images("validation"), own.source)
        table = table.assign(path=[f"{own.folder.root}/{image}" for image in table["path"]])
        all_of_it = f"{own.source}: using {len(table):,} images for validation"
        notes = [training.note("train"), own.note("validation") or all_of_it]
    elif (name := training.part("validation")) is None:
        return None, [training.note("train")]
    elif split.folds > 1:
        reason = f"{name} is not used because split.folds={split.folds} validates on training images"
        return None, [training.note("train"), f"{training.source}: {reason}"]
    else:
        own = dataclasses.replace(training, source=f"{training.source}, part {name}")
        table = labels.label(training.images("validation"), own.source)
        notes = [training.note("train", "validation") + "; data.validation_fraction is not used"]
    return dataclasses.replace(own, table=with_validation_ids(table, images)), notes


def _sources(data: DataConfig, cache: Path) -> tuple[Path, Path | None]:
    """Return the training and the test source; generate them if `data.train` is null."""
    for key, value in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if value is not None and not value.strip():
            raise UserError(f"data.{key}={value!r}: empty path; set data.{key}=PATH of a zip or a folder of images")
    test = None if data.test is None else Path(data.test)
    if data.train is not None:
        return Path(data.train), test
    assert data.sample is not None  # see `config.checks`
    from catsdogs.data.sample.archives import sample_archives

    sample_train, sample_test = sample_archives(data.sample, cache)
    return sample_train, test or sample_test


def _opened(key: str, source: Path, data: DataConfig, cache: Path) -> Parts:
    try:
        folder = open_images(source, cache, data.max_unpacked_gib * 2**30)
    except UserError as error:
        named = "=" if str(error).startswith(str(source)) else ": "
        raise UserError(f"data.{key}{named}{error}") from error
    if folder.skipped:
        _log.warning("data.%s=%s: %s", key, source, folder.skipped_message(source))
    return Parts.of(f"data.{key}={source}", folder, cache)


def _reasons(own: pd.DataFrame, usable: pd.DataFrame, root: Path, cache: Path) -> pd.Series:
    """Return why the user's own validation images cannot be used beside the training images, or ""."""
    copies = near_duplicates.copies_of(own, root, usable, root, cache)
    reasons = copies.map({True: "duplicate of a training image", False: ""})
    if "group" not in usable:
        return reasons
    return reasons.mask(own["group"].isin(usable["group"]), "in a group of training images")


def _usable(
    table: pd.DataFrame, ignore: list[str], train: Path | None = None, reasons: pd.Series | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the images that can be used, and the others with their problem, and log the latter.

    `train` is the path of training images; `reasons` are those not to use validation images, or "".
    """
    problems = table["problem"].copy()
    problems[table["id"].isin(ignore)] = _IGNORED
    # Images of classes that data.classes excludes, without a label here, have another label than their copies.
    known = table[problems.isin(["", OTHER_CLASS])].fillna({"label": -1})
    labels = known.groupby("sha256")["label"].transform("nunique").reindex(table.index, fill_value=0)
    problems[(problems == "") & (labels > 1)] = "identical images have different labels"
    if reasons is not None:
        problems = problems.where(problems != "", reasons)
    table = table.assign(problem=problems)
    usable, skipped = table[problems == ""], table[problems != ""].reset_index(drop=True)
    kind = "validation" if train is None else "training"
    for key, reason in (("data.ignore", _IGNORED), ("data.classes", OTHER_CLASS)):
        if count := int((skipped["problem"] == reason).sum()):
            _log.info("%s excludes %d of %d %s images", key, count, len(table), kind)
    unusable = skipped[~skipped["problem"].isin([_IGNORED, OTHER_CLASS])]
    if len(unusable):
        shown = listed([f"{row.id} ({row.problem})" for row in unusable.itertuples()], MOST_NAMES)
        if len(unusable) > MOST_NAMES and train is not None:
            shown += f"; all reasons: python -m catsdogs.audit {shlex.quote(str(train))}"
        _log.warning("skipping %d of %d %s images: %s", len(unusable), len(table), kind, shown)
    return usable, skipped


def _split(
    rows: pd.DataFrame, data: DataConfig, split: SplitConfig, own: bool, source: Parts, classes: Classes, cache: Path
) -> pd.DataFrame:
    """Sample the subset of the training images and split it; with `own` validation images, they are not split off."""
    # The order of the classes must not change the split.
    strata = classes.ranks[rows["label"].astype(int)].astype(float)
    sampled = subset(rows.assign(label=strata), data.limit, data.split_seed)
    rows = rows.loc[sampled.index].reset_index(drop=True)
    pairs = near_duplicates.confirmed_pairs(cache, (rows, source.folder.root))
    groups = near_duplicates.components(rows["sha256"], pairs)
    together = split.group_by == "near_duplicates"
    units = groups if together else rows["sha256"]
    if "group" in rows:
        first = units.groupby(rows["group"]).transform("first")
        units = near_duplicates.components(units, pd.DataFrame({"one": first, "other": units}))
    table = sampled.reset_index(drop=True).assign(unit=units)
    fraction = None if own else data.validation_fraction
    if split.folds == AUTO:
        units_of_class = table.groupby("label")["unit"].nunique()
        few = len(table) < _FEW_IMAGES and units_of_class.min() >= 2 * _FOLDS and not own
        split = dataclasses.replace(split, folds=_FOLDS if few else 1)
    try:
        splits = assign_splits(table, split, fraction, data.split_seed, sorted(classes.names, key=natural_key))
    except UserError as error:
        count_as_one = together and groups.nunique() < rows["sha256"].nunique()
        fix = ", or set split.group_by=copies, because near-duplicates count as one image here" * count_as_one
        key = "" if str(error).startswith("split.") else f"{source.source}: "
        raise UserError(f"{key}{error}{fix}") from error
    if "group" in rows:
        shares = splits["split"].value_counts(normalize=True)
        text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        _log.info("data.group_column=%s: %d groups; images: %s", data.group_column, rows["group"].nunique(), text)
    rows = rows.join(splits)
    # Duplicates of other images are kept together, or separated by the split.
    separated = rows.groupby(groups)[["split", "fold"]].transform("nunique").max(axis=1) > 1
    if together and (count := len(rows) - groups.nunique() - int(rows["sha256"].duplicated().sum())):
        _log.info("keeping %d near-duplicates in the same split as the similar image", count)
    elif separated.any():
        _log.warning(
            "split.group_by=copies: %d images have a near-duplicate in another split or fold, so scores are "
            "optimistic: %s; split.group_by=near_duplicates keeps them together",
            separated.sum(),
            listed(rows["id"][separated].tolist()),
        )
    return rows


def _check_classes(rows: pd.DataFrame, skipped: pd.DataFrame, classes: Classes, source: str, *, least: int) -> None:
    """Raise UserError if a class has fewer usable images than the `least` number."""
    counts = rows["label"].value_counts()
    for place, name in enumerate(classes.names):
        if (count := counts.get(place, 0)) < least:
            unused = skipped[skipped["label"] == place] if (skipped["label"] == place).any() else skipped
            reasons = [f"{row.id} ({row.problem})" for row in unused.itertuples()]
            shown = f"; not usable: {listed(reasons)}" if reasons else ""
            problem = f"usable images of class {name}: {count}, at least {least} needed"
            raise UserError(f"{source}: {problem}; add images of it, or remove it by data.classes{shown}")


def _test_rows(
    testing: Parts, labels: Labels, images: pd.DataFrame, own: Parts | None, root: Path, cache: Path
) -> pd.DataFrame:
    """Return the test set, see `Dataset.test`; log duplicates of labeled images, by name if it is labeled."""
    table = testing.images("test")
    if set(table["sha256"]) == set(images["sha256"]):
        raise UserError(f"{testing.source}: has the images of data.train; pass other images, or data.test=null")
    if stray := stray_message(list(table["id"]), list(table["path"])):
        _log.warning("%s: %s", testing.source, stray)
    # A model may be retrained with another data.ignore than the search that selected its settings.
    known = pd.concat([rows[rows["label"].notna()] for rows in (images, *([own.table] if own else []))])
    table = labels.label_test(table)
    copies = near_duplicates.copies_of(table, testing.folder.root, known, root, cache)
    shared = copies & False
    if labels.table and labels.table.group_column and table["label"].notna().any():
        shared = pd.Series(labels.table.groups(table, training=False), table.index).isin(known["group"])
    if shared.any():
        text = "%d of %d test images are in groups of training images, so they are not scored: %s"
        _log.warning(text, shared.sum(), len(table), listed(table["id"][shared].tolist()))
    table, found = table.assign(in_training=copies | shared), table[copies]
    text = f"{len(found):,} of {len(table):,} test images are exact or near-duplicates of training, validation or "
    text += "holdout images"
    if len(found) and table["label"].isna().all():
        _log.info("%s", text)
    elif len(found):
        _log.warning("%s, so they are not scored: %s", text, listed(found["id"].tolist()))
    return table


def _digest(rows: pd.DataFrame, classes: Classes) -> str:
    """Return a SHA-256, hexadecimal, of the rows with their split, and of the names of the classes unless default."""
    digest = hashlib.sha256(b"" if classes == DEFAULT else json.dumps(classes.names).encode() + b"\n")
    # With one fold, the split determines it, and digests of studies from before there were folds stay valid.
    columns = ["id", "label", "sha256", "split"] + (["fold"] if rows["fold"].max() > 0 else [])
    for row in zip(*(rows[name].tolist() for name in columns), strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
