"""What `retrain` measured of a final model -> a table of its scores, and what test-time augmentation (TTA) gained."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.evidence import Final
from catsdogs.comparison.paired import mean_intervals
from catsdogs.records import mapping
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
    details = mapping(final.metrics.get("details"))
    tables = []
    for split, prefix in (("validation", ""), ("holdout", "holdout_"), ("test", "test_")):
        name_of_split = mapping(details.get(f"{prefix}log_loss")).get("split") or split
        found = []
        for score in SCORES:
            for kind, suffix in KINDS.items():
                detail = mapping(details.get(f"{prefix}{score}{suffix}"))
                value, low, high, size = (_number(detail.get(key)) for key in ("value", "low", "high", "size"))
                found.append([score, kind, value, low, high, str(name_of_split), size])
        table = pd.DataFrame(found, columns=_COLUMNS)
        if split == "validation" or table["value"].notna().any():
            tables.append(table)
    return pd.concat(tables, ignore_index=True).astype({"size": "Int64"})


def tta_gains(final: Final) -> dict[str, Any]:
    """By split, log loss without minus log loss with TTA, image by image, as `metrics.json` tells it.

    Version 0.2 did not write it; of its models, that on the validation images.
    """
    if "tta_gain" in final.metrics:
        return mapping(final.metrics["tta_gain"])
    table = final.predictions
    told = (table["split"] == "validation") & table["label"].isin([0, 1])
    both = table[told & table["p_dog"].between(0, 1) & table["p_dog_tta"].between(0, 1)]
    if both.empty:
        return {}
    labels = both["label"].to_numpy(dtype=np.float64)
    plain, averaged = (log_loss_per_image(labels, both[name].to_numpy(np.float64)) for name in ("p_dog", "p_dog_tta"))
    gain = mean_intervals((plain - averaged)[None])[0]
    return {"validation": {**dataclasses.asdict(gain), "split": "validation"}}


def _number(value: Any) -> float:
    """NaN where it is no finite number."""
    told = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if told else math.nan
