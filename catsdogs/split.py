"""Catalogue rows + seed -> `train` / `validation` for every row.

The unit is the distinct image, told by its sha256: copies of one file never stand on both sides. What is drawn depends
on the images and the seed, not on the order of the rows.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from catsdogs.archive import natural_key
from catsdogs.errors import UserError


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
    order = sorted(range(len(rows)), key=[natural_key(name) for name in rows["id"]].__getitem__)
    rows = rows.iloc[order]
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


def split(rows: pd.DataFrame, validation_fraction: float, seed: int) -> pd.Series:
    """Put every row on one of two sides.

    Distinct images are divided by scikit-learn's `train_test_split`, stratified by label. Identical images share a
    side, also where their labels differ (the higher one counts for the stratification).

    Args:
        rows: columns label (0.0 or 1.0) and sha256.
        validation_fraction: share of the distinct images that goes to validation, in (0, 1).
        seed: decides which.

    Returns:
        (N,) str, "train" or "validation", with the index of `rows`; named split.

    Raises:
        UserError: there are too few images for both classes on both sides.
    """
    labels = rows.groupby("sha256")["label"].max().sort_index()
    cats, dogs = int((labels == 0.0).sum()), int((labels == 1.0).sum())
    too_few = UserError(
        f"data.validation_fraction={validation_fraction:g}: {cats} distinct cats and {dogs} distinct dogs are too few "
        f"for both classes in training and validation; give more images, raise data.limit, or move the fraction "
        f"towards 0.5"
    )
    try:
        train, validation = train_test_split(
            labels.index.to_numpy(), test_size=validation_fraction, random_state=seed, stratify=labels.to_numpy()
        )
    except ValueError as error:
        raise too_few from error
    if any(labels[side].nunique() < 2 for side in (train, validation)):
        raise too_few
    return pd.Series(
        np.where(rows["sha256"].isin(validation), "validation", "train"), index=rows.index, name="split", dtype=str
    )


def _dogs_among(limit: int, cats: int, dogs: int) -> int:
    """How many of `limit` rows are dogs when there are so many cats and dogs, more than `limit` together."""
    at_least = min(2, limit // 2)
    low = max(min(at_least, dogs), limit - cats)
    high = min(dogs, limit - min(at_least, cats))
    return min(max(round(limit * dogs / (cats + dogs)), low), high)
