"""Assignment of images to training, validation, holdout and folds.

Duplicates (equal SHA-256) are always in the same split. So are the images of a group, if the rows have a column
`groups`. Splits depend on the images and the seed, not on the order of the rows.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from catsdogs.base.errors import UserError
from catsdogs.config.schema import SplitConfig
from catsdogs.data.archive import natural_key


def subset(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Sample rows, stratified by label.

    Return min(limit, N) of the rows, in natural order of id, with their index. Duplicates are sampled only after all
    distinct images of their class. A class gets at least two rows, if it has them, because fewer cannot be split.

    Args:
        rows: columns id, label (0.0 or 1.0) and sha256; others are kept.
        limit: number of rows, at least 4; None returns all.
    """
    rows = rows.sort_values("id", key=lambda ids: ids.map(natural_key))
    if limit is None or limit >= len(rows):
        return rows
    is_dog = (rows["label"] == 1.0).tolist()
    copy = rows.groupby("sha256").cumcount().tolist()  # 0 for the first row of each distinct image
    # A random number of image and seed only, independent of the other rows.
    rank = [hashlib.sha256(f"{seed} {sha256}".encode()).hexdigest() for sha256 in rows["sha256"]]
    order = sorted(range(len(rows)), key=lambda row: (copy[row], rank[row]))
    dogs = _number_of_dogs(limit, cats=is_dog.count(False), dogs=is_dog.count(True))
    sampled = [row for row in order if is_dog[row]][:dogs]
    sampled += [row for row in order if not is_dog[row]][: limit - dogs]
    return rows.iloc[sorted(sampled)]


def assign_splits(rows: pd.DataFrame, split: SplitConfig, validation_fraction: float | None, seed: int) -> pd.DataFrame:
    """Split off the holdout, then split the rest into training and validation, or into folds.

    scikit-learn splits the distinct images, stratified by label. If identical images have different labels, the higher
    label counts. The holdout is sampled first, so neither the folds nor the validation fraction change it. Raise
    UserError if there are too few images for both classes in every split.

    Args:
        rows: columns label (0.0 or 1.0), sha256 and optionally groups (str), equal for all duplicates of an image.
        validation_fraction: of the distinct images outside the holdout, in (0, 1); unused with several folds. None
            if the validation images are not among the rows: then all rows outside the holdout are for training.

    Returns:
        With the index of `rows`: split (str), "train", "validation" or "holdout", and fold (int), -1 in the holdout.
        With one fold, it is 0 for validation and -1 for training. With several, it is the fold that validates on the
        row, and split describes fold 0.
    """
    unit = rows["groups"] if "groups" in rows else rows["sha256"]
    labels = rows["label"].groupby(unit).max()  # sorted by unit
    table = pd.DataFrame({"split": "train", "fold": -1}, index=labels.index)
    if split.holdout_fraction:
        # With the same seed, the holdout would equal the validation images of an earlier study without a holdout, which
        # may have selected the settings.
        holdout_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        holdout = _sample(labels, split.holdout_fraction, holdout_seed, "split.holdout_fraction")
        table.loc[holdout, "split"] = "holdout"
        labels = labels.drop(holdout)
    if validation_fraction is None:
        return table.loc[unit].set_axis(rows.index)
    if split.folds == 1:
        table.loc[_sample(labels, validation_fraction, seed, "data.validation_fraction"), "fold"] = 0
    else:
        if min((labels == label).sum() for label in (0.0, 1.0)) < split.folds:
            raise _too_few(labels, f"split.folds={split.folds}", "in every fold", "lower split.folds")
        folding = StratifiedKFold(split.folds, shuffle=True, random_state=seed)
        for number, (_, validation) in enumerate(folding.split(labels.to_numpy(), labels.to_numpy())):
            table.loc[labels.index[validation], "fold"] = number
    table.loc[table["fold"] == 0, "split"] = "validation"
    return table.loc[unit].set_axis(rows.index)


def _sample(labels: pd.Series, fraction: float, seed: int, key: str) -> np.ndarray:
    """Sample units from the index of `labels`, stratified by label."""
    try:
        others, sampled = train_test_split(
            labels.index.to_numpy(), test_size=fraction, random_state=seed, stratify=labels.to_numpy()
        )
        enough = all(labels[side].nunique() == 2 for side in (others, sampled))
    except ValueError:
        enough = False
    if not enough:
        sides = "inside and outside the holdout" if key == "split.holdout_fraction" else "in training and validation"
        raise _too_few(labels, f"{key}={fraction:g}", sides, "set a fraction closer to 0.5")
    return sampled


def _too_few(labels: pd.Series, setting: str, where: str, fix: str) -> UserError:
    counts = f"{(labels == 0.0).sum()} of class cat, {(labels == 1.0).sum()} of class dog"
    text = f"{setting}: too few distinct images for both classes {where} ({counts} outside the holdout)"
    return UserError(f"{text}; add images, raise data.limit, or {fix}")


def _number_of_dogs(limit: int, cats: int, dogs: int) -> int:
    """Return how many of `limit` sampled rows are dogs; `limit` is less than cats + dogs."""
    low = max(min(2, dogs), limit - cats)
    high = min(dogs, limit - min(2, cats))
    return min(max(round(limit * dogs / (cats + dogs)), low), high)
