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

from catsdogs.base.errors import UserError
from catsdogs.config.schema import SplitConfig
from catsdogs.data.archive import natural_key


def subset(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Draw some of the rows, each class by its share.

    A copy of an image is drawn only once every distinct image of its class is. A class gets at least two rows, if it
    has them, so that the result can be split.

    Args:
        rows: columns id, label (0.0 or 1.0), sha256; further ones are kept.
        limit: number of rows to draw, 4 or more; None, or as many as there are, draws all.

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


def assign_splits(rows: pd.DataFrame, division: SplitConfig, validation_fraction: float, seed: int) -> pd.DataFrame:
    """Set the hold-out aside, then divide the rest into training and validation, or into folds.

    Distinct images are divided by scikit-learn, stratified by label. Identical images share a side, also where their
    labels differ (the higher one counts for the stratification). The hold-out is drawn first: neither the folds nor the
    validation fraction change it.

    Args:
        rows: columns label (0.0 or 1.0) and sha256, and perhaps groups (str), the same for all copies of an image.
        validation_fraction: share of the distinct images outside the hold-out that goes to validation, in (0, 1);
            unused with several folds.

    Returns:
        With the index of `rows`: split (str), "train", "validation" or "holdout", and fold (int), -1 in the hold-out.
        With one fold it is 0 for validation rows and -1 for training rows. With several it is the fold whose model has
        not seen the row, and split tells the sides of fold 0.

    Raises:
        UserError: there are too few images for both classes on every side.
    """
    unit = rows["groups"] if "groups" in rows else rows["sha256"]  # rows with the same one stay on one side
    labels = rows["label"].groupby(unit).max()  # sorted by unit
    places = pd.DataFrame({"split": "train", "fold": -1}, index=labels.index)
    if division.holdout_fraction:
        # Of a seed of its own: else the validation images of a study without a hold-out, which chose its models, would
        # be the hold-out of the next one.
        own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
        held = _drawn(labels, division.holdout_fraction, own_seed, "split.holdout_fraction")
        places.loc[held, "split"] = "holdout"
        labels = labels.drop(held)
    if division.folds == 1:
        places.loc[_drawn(labels, validation_fraction, seed, "data.validation_fraction"), "fold"] = 0
    else:
        cats, dogs = int((labels == 0.0).sum()), int((labels == 1.0).sum())
        if min(cats, dogs) < division.folds:
            raise UserError(
                f"split.folds={division.folds}: {cats} distinct cats and {dogs} distinct dogs outside the hold-out are "
                f"too few for both classes in every fold; give more images, raise data.limit, or lower split.folds"
            )
        folding = StratifiedKFold(division.folds, shuffle=True, random_state=seed)
        for number, (_, drawn) in enumerate(folding.split(labels.to_numpy(), labels.to_numpy())):
            places.loc[labels.index[drawn], "fold"] = number
    places.loc[places["fold"] == 0, "split"] = "validation"
    return places.loc[unit].set_axis(rows.index)


def _drawn(labels: pd.Series, share: float, seed: int, key: str) -> np.ndarray:
    """Some of the units in the index of `labels`, stratified by these."""
    try:
        others, drawn = train_test_split(
            labels.index.to_numpy(), test_size=share, random_state=seed, stratify=labels.to_numpy()
        )
        enough = all(labels[side].nunique() == 2 for side in (others, drawn))
    except ValueError:
        enough = False
    if not enough:
        cats, dogs = int((labels == 0.0).sum()), int((labels == 1.0).sum())
        sides = "in the hold-out and outside it" if key == "split.holdout_fraction" else "in training and validation"
        raise UserError(
            f"{key}={share:g}: {cats} distinct cats and {dogs} distinct dogs are too few for both classes {sides}; "
            f"give more images, raise data.limit, or move the fraction towards 0.5"
        )
    return drawn


def _dogs_among(limit: int, cats: int, dogs: int) -> int:
    """How many of `limit` rows are dogs when there are so many cats and dogs, more than `limit` together."""
    low = max(min(2, dogs), limit - cats)
    high = min(dogs, limit - min(2, cats))
    return min(max(round(limit * dogs / (cats + dogs)), low), high)
