"""The file `submission.csv`, checked before and after it is written."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base import files
from catsdogs.base.text import listed, sanitize_line
from catsdogs.data.archive import natural_key
from catsdogs.scoring.scores import EPSILON, clip

# For test images that cannot be decoded: the log loss is log 2 for either label.
FALLBACK_PROBABILITY = 0.5


def submission(ids: Sequence[str], p_dog: np.ndarray, expected_ids: Sequence[str]) -> pd.DataFrame:
    """Return a row per test image, in natural order of the ids: 1, 2, 10, 100.

    The columns are `id` (str, unchanged, for example "007") and `label` (float64, probability of dog). Labels are
    clipped to [EPSILON, 1 - EPSILON], because a single error with probability 0 or 1 would make the log loss infinite.

    Args:
        ids: N ids in any order; a ValueError is raised if they differ from `expected_ids` or one is listed twice.
        p_dog: (N,) in [0, 1], one per id; a ValueError otherwise.
        expected_ids: ids of all test images, in any order.
    """
    p_dog = np.asarray(p_dog, dtype=np.float64)
    if p_dog.shape != (len(ids),):
        raise ValueError(f"p_dog: expected shape ({len(ids)},), one per id, got {p_dog.shape}")
    duplicates = [name for name, count in Counter(ids).items() if count > 1]
    missing, unknown = set(expected_ids) - set(ids), set(ids) - set(expected_ids)
    for problem, names in (("duplicate", duplicates), ("missing", missing), ("unknown", unknown)):
        if names:
            first = min(names, key=natural_key)
            raise ValueError(f"{problem} ids: {len(names)} of {len(expected_ids)}, for example {first!r}")
    for row in np.flatnonzero(~((p_dog >= 0) & (p_dog <= 1)))[:1]:
        raise ValueError(f"id {ids[row]}: the probability must be in [0, 1], got {p_dog[row]:g}")
    order = sorted(range(len(ids)), key=lambda row: natural_key(ids[row]))
    return pd.DataFrame({"id": [ids[row] for row in order], "label": clip(p_dog[order])})


def describe_rows(ids: Sequence[str], images: int, undecodable: Sequence[str]) -> str:
    """Return the number of rows and of images, the form of the ids, and which rows are 0.5 because of their image."""
    text = f"{len(ids):,} rows for {images:,} images"
    if len(ids):
        text += f"; ids from {ids[0]} to {ids[-1]}"
    if undecodable:
        text += f"; {len(undecodable):,} with 0.5, because the image cannot be decoded: {listed(undecodable)}"
    return sanitize_line(text)


def write_submission(path: Path, frame: pd.DataFrame) -> None:
    """Write the rows of `submission`, and read them back before the file replaces an existing one.

    Raise ValueError if ids, their order or probabilities differ from the rows.
    """
    with files.replacing(path) as temporary:
        files.write_csv(temporary, frame)
        # Read without pandas, which wrote the file and could repeat its own error.
        with temporary.open(encoding="utf-8", newline="") as stream:
            header, *rows = csv.reader(stream)
        if header != ["id", "label"]:
            raise ValueError(f"{path}: columns must be id,label, got {','.join(header)}")
        if any(len(row) != 2 for row in rows) or [row[0] for row in rows] != frame["id"].tolist():
            raise ValueError(f"{path}: ids differ from those written")
        labels = np.array([float(label or "nan") for _, label in rows])
        inside = (labels >= EPSILON) & (labels <= 1 - EPSILON)
        if not inside.all() or not np.array_equal(labels, frame["label"].to_numpy(np.float64)):
            raise ValueError(f"{path}: probabilities differ from those written")
