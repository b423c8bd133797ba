"""Assignment of images to training, validation, holdout and folds.

Images of a unit are always in the same split: identical images (equal SHA-256) or, if the rows have a column `unit`,
those with an equal value. Splits depend on the images and the seed, not on the order of the rows.
"""

import hashlib
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from catsdogs.base.errors import UserError
from catsdogs.base.text import natural_key
from catsdogs.config.schema import SplitConfig

_FOLDS_OF_SAMPLE = 20  # a sample of groups consists of some of these folds


def subset(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Sample min(limit, N) rows (columns id, label, sha256 and any others), stratified by label; None: all.

    They are in natural order of id, with their index. Duplicates are sampled only after all distinct images of their
    class. A class gets at least two rows, if it has them, because fewer cannot be split; raise UserError if the limit
    is too low for that.
    """
    rows = rows.sort_values("id", key=lambda ids: ids.map(natural_key))
    if limit is None or limit >= len(rows):
        return rows
    copy = rows.groupby("sha256").cumcount().tolist()  # 0 for the first row of each distinct image
    rank = [_rank(sha256, seed) for sha256 in rows["sha256"]]
    order = sorted(range(len(rows)), key=lambda row: (copy[row], rank[row]))
    labels = rows["label"].to_numpy()
    counts = rows["label"].value_counts()
    if (least := int(counts.clip(upper=2).sum())) > limit:
        raise UserError(f"data.limit={limit}: two images of each of {len(counts)} classes are {least}; raise it")
    sampled: list[int] = []
    for label in sorted(counts.index, reverse=True):
        count, others, left = int(counts[label]), counts[counts.index < label], limit - len(sampled)
        low, high = max(min(2, count), left - others.sum()), min(count, left - others.clip(upper=2).sum())
        size = min(max(round(left * count / (count + int(others.sum()))), low), high)
        sampled += [row for row in order if labels[row] == label][:size]
    return rows.iloc[sorted(sampled)]


def assign_splits(
    rows: pd.DataFrame, split: SplitConfig, validation_fraction: float | None, seed: int, names: Sequence[str]
) -> pd.DataFrame:
    """Split off the holdout, then split the rest into training and validation, or into folds.

    scikit-learn splits the units, stratified by label; the highest label of a unit counts. With a column `group`, whose
    units have images of several classes, it splits the images by `StratifiedGroupKFold`. The holdout is sampled first,
    so neither the folds nor the validation fraction change it. Every class is on both sides of each split; raise
    UserError, with the `names` of the K classes, if it has too few units for that.

    `rows` have the columns id, label (0.0 to K - 1), sha256, and optionally unit (str), equal for duplicates, and
    group. `validation_fraction` is that of the units outside the holdout, unused with several folds; None if the
    validation images are not among the rows, and all rows outside the holdout are for training.

    The result has the index of `rows`, and the columns split (str), "train", "validation" or "holdout", and fold (int),
    -1 in the holdout. With one fold, it is 0 for validation and -1 for training. With several, it is the fold that
    validates on the row, and split describes fold 0.
    """
    grouped, unit = "group" in rows, rows["unit"] if "unit" in rows else rows["sha256"]
    labels = rows["label"].groupby(unit).max()  # sorted by unit
    if grouped:
        ordered = rows.sort_values("id").index
        labels = rows["label"][ordered].set_axis(unit[ordered])
    table = pd.DataFrame({"split": "train", "fold": -1}, index=labels.index.unique())
    sides = split.folds if split.folds > 1 else 1 if validation_fraction is None else 2
    _check_units(labels, split, sides, names)
    if split.holdout_fraction:
        # With the same seed, the holdout would equal the validation images of an earlier study without a holdout, which
        # may have selected the settings.
        holdout_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        holdout = _sample(labels, split.holdout_fraction, holdout_seed, sides, grouped)
        table.loc[holdout, "split"] = "holdout"
        labels = labels.drop(holdout)
    if split.folds > 1:
        for number, validation in enumerate(_folds(labels, split.folds, seed, grouped)):
            table.loc[validation, "fold"] = number
    elif validation_fraction is not None:
        table.loc[_sample(labels, validation_fraction, seed, 1, grouped), "fold"] = 0
    table.loc[table["fold"] == 0, "split"] = "validation"
    splits = table.loc[unit].set_axis(rows.index)
    sets = rows["label"].groupby([splits["split"], splits["fold"]])
    if (sets.nunique() < rows["label"].nunique()).any():  # of groups only
        problem = "groups of data.group_column are too few or too large for every class on each side of a split"
        raise UserError(f"{problem}; use more groups, or fewer folds and no holdout")
    return splits


def _folds(labels: pd.Series, folds: int, seed: int, grouped: bool) -> list[pd.Index]:
    folding = (StratifiedGroupKFold if grouped else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class has fewer images than there are folds
        splits = list(folding.split(labels.to_numpy(), labels.to_numpy(), labels.index.to_numpy()))
    return [labels.index[validation].unique() for _, validation in splits]


def _sample(labels: pd.Series, fraction: float, seed: int, least: int, grouped: bool) -> pd.Index:
    """Sample units from the index of `labels`, stratified by label.

    Units are moved, if needed, so that of every class one is in the sample and `least` are not.
    """
    units = labels.index.unique()
    if grouped:
        number = min(_FOLDS_OF_SAMPLE, len(units), labels.value_counts().max())
        folds = _folds(labels, number, seed, grouped)
        sampled = np.concatenate(folds[: min(max(round(fraction * number), 1), number - 1)])
    else:
        try:
            _, sampled = train_test_split(
                units.to_numpy(), test_size=fraction, random_state=seed, stratify=labels.to_numpy()
            )
        except ValueError:  # fewer units than classes on one side
            sampled = (units if fraction > 0.5 else units[:0]).to_numpy()
    inside = pd.Series(units.isin(sampled), units)
    for label in labels.unique():
        of_class = inside[labels.index[labels == label].unique()]
        change = min(max(of_class.sum(), 1), len(of_class) - least) - of_class.sum()
        candidates = sorted(of_class.index[of_class != (change > 0)], key=lambda unit: _rank(unit, seed))
        inside[candidates[: abs(change)]] = change > 0
    return units[inside]


def _rank(name: str, seed: int) -> str:
    """Return a random number that depends on the name and the seed only."""
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def _check_units(labels: pd.Series, split: SplitConfig, sides: int, names: Sequence[str]) -> None:
    """Raise UserError if a class has fewer units than sets that need one; `sides` are those outside the holdout."""
    pairs = labels.reset_index(name="label").drop_duplicates()
    units, needed = pairs["label"].value_counts(), sides + (split.holdout_fraction > 0)
    if units.min() < needed:
        holdout = " and holdout" if split.holdout_fraction else ""
        sets = (f"{split.folds} folds" if split.folds > 1 else "training and validation") + holdout
        name = names[int(units.index.to_numpy()[units.argmin()])]
        count = f"class {name} has {units.min()} distinct images or groups of images"
        fix = "lower split.folds" if split.folds > 1 else "remove it by data.classes"
        problem = f"{count}, at least {needed} are needed for {sets}"
        if units.min() >= sides:
            key = f"split.holdout_fraction={split.holdout_fraction:g}"
            raise UserError(f"{key}: {problem}; set split.holdout_fraction=0, or add images of it")
        raise UserError(f"{problem}; add images of it, raise data.limit, or {fix}")
