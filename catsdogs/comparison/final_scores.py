"""What `retrain` measured of a final model -> a table of its scores, and what test-time augmentation (TTA) gained."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.study_data import FinalModel
from catsdogs.scoring.intervals import mean_intervals
from catsdogs.scoring.scores import log_loss_per_image

SCORES = ("log_loss", "accuracy", "roc_auc", "brier", "ece")

# Kinds of prediction, and how the names of their scores end in metrics.json.
KINDS = {"plain": "", "tta": "_tta", "calibrated": "_calibrated"}

_COLUMNS: dict[str, Any] = {"value": float, "low": float, "high": float, "split": str, "size": "Int64"}


def final_scores(final: FinalModel) -> pd.DataFrame:
    """Every score of a final model, as its `metrics.json` tells it.

    Returns:
        A row per score (`SCORES`) and kind (`KINDS`): score, kind, value, low and high (95 % interval), split, size
        (images, Int64). What was not computed is NaN. All rows of the split `validation`, or `out-of-fold`, come
        first; those of `holdout` and `test` follow where there are any.
    """
    details = final.metrics["details"]
    tables = []
    for split, prefix in (("validation", ""), ("holdout", "holdout_"), ("test", "test_")):
        name_of_split = details.get(f"{prefix}log_loss", {}).get("split") or split
        table = pd.DataFrame(
            [
                {"score": score, "kind": kind, **details.get(f"{prefix}{score}{suffix}", {}), "split": name_of_split}
                for score in SCORES
                for kind, suffix in KINDS.items()
            ],
            columns=["score", "kind", *_COLUMNS],
        ).astype(_COLUMNS)
        if split == "validation" or table["value"].notna().any():
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def tta_gains(final: FinalModel) -> dict[str, Any]:
    """By split, log loss without minus log loss with TTA, image by image, as `metrics.json` tells it.

    Version 0.2 did not write it; of its models, that on the validation images.
    """
    if (told := final.metrics["tta_gain"]) is not None:
        return dict(told)
    table = final.predictions
    known = (table["split"] == "validation") & table["label"].isin([0, 1])
    both = table[known & table["p_dog"].between(0, 1) & table["p_dog_tta"].between(0, 1)]
    if both.empty:
        return {}
    labels = both["label"].to_numpy(dtype=np.float64)
    plain, averaged = (log_loss_per_image(labels, both[name].to_numpy(np.float64)) for name in ("p_dog", "p_dog_tta"))
    gain = mean_intervals((plain - averaged)[None])[0]
    return {"validation": {**dataclasses.asdict(gain), "split": "validation"}}
