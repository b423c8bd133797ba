"""Undecodable images, images without a unique label, and tiny images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

UNDECODABLE, LABEL, TINY = "undecodable", "label", "tiny"

# Pixels of the shorter side. Smaller images are enlarged more than twofold for the smallest usual input (160).
TINY_PIXELS = 64


def find_unusual_files(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the problems of each image of a catalog.

    Returns:
        A row per problem, in the order of `rows`: id, kind ("undecodable", "label", "tiny"), detail.
    """
    problems = [(row["id"], kind, detail) for row in rows.to_dict("records") for kind, detail in _problems(row)]
    return pd.DataFrame(problems, columns=["id", "kind", "detail"], dtype=str)


def _problems(row: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    if row["width"] == 0:
        yield UNDECODABLE, row["problem"]
        return
    if row["problem"]:
        yield LABEL, row["problem"]
    elif math.isnan(row["label"]):
        yield LABEL, "no label in its file name or folders"
    if min(row["width"], row["height"]) < TINY_PIXELS:
        yield TINY, f"{row['width']} x {row['height']} pixels"
