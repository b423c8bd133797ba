"""What `retrain` measured of a final model -> a table of its scores, and what test-time augmentation (TTA) gained."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.evidence import Final
from catsdogs.comparison.paired import Interval, mean_intervals
from catsdogs.scores import log_loss_per_image

SCORES = ("log_loss", "accuracy", "roc_auc", "brier", "ece")

# Kinds of prediction, and how the names of their scores end in metrics.json.
KINDS = {"plain": "", "tta": "_tta", "calibrated": "_calibrated"}

_COLUMNS = ["score", "kind", "value", "low", "high", "split", "size"]


def final_scores(final: Final) -> pd.DataFrame:
    """Every score of a final model, as its `metrics.json` tells it.

    Returns:
        A row per score (`SCORES`) and kind (`KINDS`): score, kind, value, low and high (95 % interval), split, size
        (images, Int64). What was not computed is NaN. All rows of the split `validation`, or `out-of-fold`, come
        first; those of `holdout` and `test` follow where there are any.
    """
    details = final.metrics.get("details")
    tables = []
    for split, prefix in (("validation", ""), ("holdout", "holdout_"), ("test", "test_")):
        told = details.get(f"{prefix}log_loss") if isinstance(details, dict) else None
        name_of_split = told.get("split") if isinstance(told, dict) else None
        found = []
        for score in SCORES:
            for kind, suffix in KINDS.items():
                name = f"{prefix}{score}{suffix}"
                detail = details.get(name) if isinstance(details, dict) else None
                # Versions that wrote no details told the numbers alone.
                if not isinstance(detail, dict):
                    detail = {"value": final.metrics.get(name), "size": _labelled(final, split)}
                numbers = [_number(detail.get(key)) for key in ("value", "low", "high")]
                size = detail.get("size") if math.isfinite(numbers[0]) else None
                found.append([score, kind, *numbers, str(name_of_split or split), _number(size)])
        table = pd.DataFrame(found, columns=_COLUMNS)
        if split == "validation" or table["value"].notna().any():
            tables.append(table)
    return pd.concat(tables, ignore_index=True).astype({"size": "Int64"})


def tta_gain(final: Final) -> Interval | None:
    """Log loss without minus log loss with TTA, image by image on the validation split; above 0: TTA helps.

    None where the two were not both computed: without TTA, or for a model that was trained on all labelled images.
    """
    table = final.predictions
    told = (table["split"] == "validation") & table["label"].isin([0, 1])
    both = table[told & table["p_dog"].between(0, 1) & table["p_dog_tta"].between(0, 1)]
    if both.empty:
        return None
    labels = both["label"].to_numpy(dtype=np.float64)
    plain, averaged = (log_loss_per_image(labels, both[name].to_numpy(np.float64)) for name in ("p_dog", "p_dog_tta"))
    return mean_intervals((plain - averaged)[None])[0]


def _labelled(final: Final, split: str) -> int | None:
    """Images that a score of this split was computed on; None if the predictions do not tell."""
    table = final.predictions
    return int(((table["split"] == split) & table["label"].notna() & table["p_dog"].notna()).sum()) or None


def _number(value: Any) -> float:
    """NaN where it is no finite number."""
    told = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if told else math.nan
