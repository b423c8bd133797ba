"""Scores of a final model, as measured by `retrain`."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from catsdogs.comparison.study_data import FinalModel

SCORES = ("log_loss", "accuracy", "roc_auc", "brier", "ece")

# Kinds of prediction, with the suffix of their scores in metrics.json.
KINDS = {"plain": "", "tta": "_tta", "calibrated": "_calibrated"}

_COLUMNS: dict[str, Any] = {"value": float, "low": float, "high": float, "split": str, "size": "Int64"}


def final_scores(final: FinalModel) -> pd.DataFrame:
    """Return every score of a final model, as recorded in its `metrics.json`; NaN if it was not computed.

    A row per score (`SCORES`) and kind (`KINDS`), first of the split `validation` or `out-of-fold`, then of `holdout`
    and `test` if available. low and high are the 95% confidence interval.
    """
    details = final.metrics["details"]
    tables = []
    for split, prefix in (("validation", ""), ("holdout", "holdout_"), ("test", "test_")):
        name_of_split = details.get(f"{prefix}log_loss", {}).get("split") or split
        rows = [
            {"score": score, "kind": kind, **details.get(f"{prefix}{score}{suffix}", {}), "split": name_of_split}
            for score, (kind, suffix) in itertools.product(SCORES, KINDS.items())
        ]
        table = pd.DataFrame(rows, columns=["score", "kind", *_COLUMNS]).astype(_COLUMNS)
        if split == "validation" or table["value"].notna().any():
            tables.append(table)
    return pd.concat(tables, ignore_index=True)
