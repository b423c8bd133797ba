"""Ids + probabilities -> a checked `submission.csv`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base import files
from catsdogs.data.archive import natural_key
from catsdogs.scoring.scores import EPSILON, clip


def submission(ids: Sequence[str], p_dog: np.ndarray, expected_ids: Sequence[str]) -> pd.DataFrame:
    """A row per test image, in natural order of the ids: 1, 2, 10, 100.

    Args:
        ids: N texts in any order, one per probability; a text stays as it is, "007" included.
        p_dog: (N,) in [0, 1].
        expected_ids: every test image, in any order; `ids` must be the same texts.

    Returns:
        Columns `id` (str) and `label` (float64, probability of dog, clipped to [EPSILON, 1 - EPSILON], so that one
        certain mistake cannot make a log loss infinite).

    Raises:
        ValueError: an id that is twice there, missing or not expected; a probability that is NaN or outside [0, 1];
            another number of probabilities than of ids.
    """
    p_dog = np.asarray(p_dog, dtype=np.float64)
    if p_dog.shape != (len(ids),):
        raise ValueError(f"{len(ids)} ids need p_dog of shape ({len(ids)},), got {p_dog.shape}")
    _check_ids(ids, expected_ids)
    for place in np.flatnonzero(~((p_dog >= 0) & (p_dog <= 1)))[:1]:
        raise ValueError(f"id {ids[place]}: the probability must lie in [0, 1], got {p_dog[place]:g}")
    order = sorted(range(len(ids)), key=lambda place: natural_key(ids[place]))
    return pd.DataFrame({"id": [ids[place] for place in order], "label": clip(p_dog[order])})


def write_submission(path: Path, frame: pd.DataFrame) -> None:
    """Write what `submission` returned; only a file that reads back as the same rows comes into place.

    Raises:
        ValueError: the file would hold other ids, another order or other probabilities.
    """
    with files.replacing(path) as temporary:
        files.write_csv(temporary, frame)
        # Not by pandas: its numbers and texts depend on options and versions, and it did the writing.
        with temporary.open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
        if header != ["id", "label"]:
            raise ValueError(f"{path}: columns must be id,label, got {','.join(header)}")
        if any(len(row) != 2 for row in rows) or [row[0] for row in rows] != frame["id"].tolist():
            raise ValueError(f"{path}: the ids do not read back as they were written")
        labels = np.array([float(label or "nan") for _, label in rows])
        inside = (labels >= EPSILON) & (labels <= 1 - EPSILON)
        if not inside.all() or not np.array_equal(labels, frame["label"].to_numpy(np.float64)):
            raise ValueError(f"{path}: the probabilities do not read back as they were written")


def _check_ids(ids: Sequence[str], expected_ids: Sequence[str]) -> None:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids are there more than once, {twice[0]!r} for example")
    missing = sorted(set(expected_ids) - set(ids), key=natural_key)
    if missing:
        raise ValueError(f"{len(missing)} of {len(expected_ids)} test images have no row, {missing[0]!r} for example")
    unknown = sorted(set(ids) - set(expected_ids), key=natural_key)
    if unknown:
        raise ValueError(f"{len(unknown)} ids are no test images, {unknown[0]!r} for example")
