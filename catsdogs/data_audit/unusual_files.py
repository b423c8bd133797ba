"""Catalogue -> the images that do not decode, have no clear label, or are tiny."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

UNDECODABLE, LABEL, TINY = "undecodable", "label", "tiny"

# Pixels of the shorter side. Below, an image is enlarged more than twofold for the smallest usual input (160).
TINY_PIXELS = 64


def find_unusual_files(rows: pd.DataFrame) -> pd.DataFrame:
    """What is odd about each image of a catalogue.

    Returns:
        A row per oddity, in the order of `rows`: id, kind ("undecodable", "label", "tiny"), detail.
    """
    found = [(row["id"], kind, detail) for row in rows.to_dict("records") for kind, detail in _of_row(row)]
    return pd.DataFrame(found, columns=["id", "kind", "detail"], dtype=str)


def _of_row(row: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    if row["width"] == 0:
        yield UNDECODABLE, row["problem"]
        return
    if row["problem"]:
        yield LABEL, row["problem"]
    elif math.isnan(row["label"]):
        yield LABEL, "neither its file name nor a folder tells a label"
    if min(row["width"], row["height"]) < TINY_PIXELS:
        yield TINY, f"{row['width']} x {row['height']} pixels"
