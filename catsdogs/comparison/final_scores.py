"""Scores of a final model, and the gain from test-time augmentation (TTA), as measured by `retrain`."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pandas as pd

from catsdogs.comparison.study_data import FinalModel
from catsdogs.scoring.intervals import paired_intervals
from catsdogs.scoring.scores import log_loss_per_image

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


def tta_gains(final: FinalModel) -> dict[str, Any]:
    """Return the log loss without TTA minus that with TTA, by split, as recorded in `metrics.json`.

    Version 0.2 did not record it: for its models, compute it on the validation images, image by image.
    """
    if (recorded := final.metrics["tta_gain"]) is not None:
        return dict(recorded)
    table = final.predictions[final.predictions["split"] == "validation"].dropna(subset=["label", "p_dog", "p_dog_tta"])
    if table.empty:
        return {}
    labels = table["label"].to_numpy()
    plain, averaged = (log_loss_per_image(labels, table[name].to_numpy()) for name in ("p_dog", "p_dog_tta"))
    gain = paired_intervals(plain[None], averaged)[0]
    return {"validation": {**dataclasses.asdict(gain), "split": "validation"}}
