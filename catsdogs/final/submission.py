"""The rows of `submission.csv`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from catsdogs.base.text import listed, sanitize_line
from catsdogs.data.archive import natural_key
from catsdogs.scoring.scores import clip

# For test images that cannot be decoded: the log loss is log 2 for either label.
FALLBACK_PROBABILITY = 0.5


def submission(ids: Sequence[str], p_dog: np.ndarray, expected_ids: Sequence[str]) -> pd.DataFrame:
    """Return a row per test image, in natural order of the ids: 1, 2, 10, 100.

    The columns are `id` (str, unchanged, for example "007") and `label` (float64, probability of dog). Labels are
    clipped to [EPSILON, 1 - EPSILON], because a single error with probability 0 or 1 would make the log loss infinite.
    A ValueError is raised if the ids are not `expected_ids`, each once and in any order, or a probability of `p_dog`,
    (N,), is missing or outside [0, 1].
    """
    if sorted(ids) != sorted(set(expected_ids)):
        raise ValueError(f"the {len(ids)} ids are not those of the {len(expected_ids)} test images, each once")
    table = pd.DataFrame({"id": ids, "label": p_dog}).sort_values("id", key=lambda names: names.map(natural_key))
    if not table["label"].between(0, 1).all():
        raise ValueError("probabilities must be in [0, 1]")
    return table.assign(label=clip(table["label"].to_numpy())).reset_index(drop=True)


def describe_rows(ids: Sequence[str], images: int, undecodable: Sequence[str]) -> str:
    """Return the number of rows and of images, the form of the ids, and which rows are 0.5 because of their image."""
    text = f"{len(ids):,} rows for {images:,} images"
    if len(ids):
        text += f"; ids from {ids[0]} to {ids[-1]}"
    if undecodable:
        text += f"; {len(undecodable):,} with 0.5, because the image cannot be decoded: {listed(undecodable)}"
    return sanitize_line(text)
