"""Catalogue rows + seed -> `train` / `validation` / `holdout` for every row, and its fold.

The unit is the distinct image, told by its sha256: copies of one file never stand on both sides. Where the rows have a
column `groups`, of near-duplicates for example, the group is the unit. What is drawn depends on the images and the
seed, not on the order of the rows.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from catsdogs.archive import natural_key
from catsdogs.errors import UserError
from catsdogs.schema import Split


def subset(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Draw some of the rows, each class by its share.

    A copy of an image is drawn only once every distinct image of its class is. A class gets at least two rows, if it
    has them and the limit allows, so that the result can be split.

    Args:
        rows: columns id, label (0.0 or 1.0), sha256; further ones are kept.
        limit: number of rows to draw; None, or as many as there are, draws all.
        seed: decides which.

    Returns:
        min(limit, N) of the rows, sorted naturally by id, with their index.
    """
    rows = rows.sort_values("id", key=lambda ids: ids.map(natural_key))
    if limit is None or limit >= len(rows):
        return rows
    is_dog = (rows["label"] == 1.0).tolist()
    copy = rows.groupby("sha256").cumcount().tolist()  # 0 for the first row of every distinct image
    # A random number that belongs to image and seed alone, so that no other row has a say in it.
    draw = [hashlib.sha256(f"{seed} {sha256}".encode()).hexdigest() for sha256 in rows["sha256"]]
    places = sorted(range(len(rows)), key=lambda place: (copy[place], draw[place]))
    dogs = _dogs_among(limit, cats=is_dog.count(False), dogs=is_dog.count(True))
    drawn = [place for place in places if is_dog[place]][:dogs]
    drawn += [place for place in places if not is_dog[place]][: limit - dogs]
    return rows.iloc[sorted(drawn)]


def divide(rows: pd.DataFrame, division: Split, validation_fraction: float, seed: int) -> pd.DataFrame:
    """Set the hold-out aside, then divide the rest into training and validation, or into folds.

    Distinct images are divided by scikit-learn, stratified by label. Identical images share a side, also where their
    labels differ (the higher one counts for the stratification). The hold-out is drawn first: neither the folds nor the
    validation fraction change it.

    Args:
        rows: columns label (0.0 or 1.0) and sha256, and perhaps groups (str), the same for all copies of an image.
        validation_fraction: share of the distinct images outside the hold-out that goes to validation, in (0, 1);
            unused with several folds.
        seed: decides which.

    Returns:
        With the index of `rows`: split (str), "train", "validation" or "holdout", and fold (int), -1 in the hold-out.
        With one fold it is 0 for validation rows and -1 for training rows. With several it is the fold whose model has
        not seen the row, and split tells the sides of fold 0.

    Raises:
        UserError: there are too few images for both classes on every side.
    """
    unit = rows["groups"] if "groups" in rows else rows["sha256"]  # rows with the same one stay on one side
    side = pd.Series("train", index=rows.index, name="split", dtype=str)
    fold = pd.Series(-1, index=rows.index, name="fold", dtype=np.int64)
    if division.holdout:
        # Of a seed of its own: else the validation images of a study without a hold-out, which chose its models, would
        # be the hold-out of the next one.
        own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        side[unit.isin(_drawn(unit, rows["label"], division.holdout, own_seed, "split.holdout"))] = "holdout"
    rest = side == "train"
    if division.folds == 1:
        drawn = _drawn(unit[rest], rows["label"][rest], validation_fraction, seed, "data.validation_fraction")
        fold[rest & unit.isin(drawn)] = 0
    else:
        fold[rest] = unit[rest].map(_folds(unit[rest], rows["label"][rest], division.folds, seed))
    return pd.DataFrame({"split": side.mask(fold == 0, "validation"), "fold": fold})


def _drawn(unit: pd.Series, label: pd.Series, share: float, seed: int, key: str) -> np.ndarray:
    """The distinct units of one side, stratified by label."""
    labels = label.groupby(unit).max().sort_index()
    try:
        others, drawn = train_test_split(
            labels.index.to_numpy(), test_size=share, random_state=seed, stratify=labels.to_numpy()
        )
    except ValueError as error:
        raise _too_few(key, share, labels) from error
    if any(labels[side].nunique() < 2 for side in (others, drawn)):
        raise _too_few(key, share, labels)
    return drawn


def _folds(unit: pd.Series, label: pd.Series, folds: int, seed: int) -> pd.Series:
    """Every distinct unit -> its fold, stratified by label."""
    labels = label.groupby(unit).max().sort_index()
    cats, dogs = int((labels == 0.0).sum()), int((labels == 1.0).sum())
    if min(cats, dogs) < folds:
        raise UserError(
            f"split.folds={folds}: {cats} distinct cats and {dogs} distinct dogs outside the hold-out are too few for "
            f"both classes in every fold; give more images, raise data.limit, or lower split.folds"
        )
    fold = pd.Series(-1, index=labels.index)
    folding = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for number, (_, places) in enumerate(folding.split(labels.to_numpy(), labels.to_numpy())):
        fold.iloc[places] = number
    return fold


def _too_few(key: str, share: float, labels: pd.Series) -> UserError:
    cats, dogs = int((labels == 0.0).sum()), int((labels == 1.0).sum())
    sides = "in the hold-out and outside it" if key == "split.holdout" else "in training and validation"
    return UserError(
        f"{key}={share:g}: {cats} distinct cats and {dogs} distinct dogs are too few for both classes {sides}; "
        f"give more images, raise data.limit, or move the fraction towards 0.5"
    )


def _dogs_among(limit: int, cats: int, dogs: int) -> int:
    """How many of `limit` rows are dogs when there are so many cats and dogs, more than `limit` together."""
    at_least = min(2, limit // 2)
    low = max(min(at_least, dogs), limit - cats)
    high = min(dogs, limit - min(at_least, cats))
    return min(max(round(limit * dogs / (cats + dogs)), low), high)
