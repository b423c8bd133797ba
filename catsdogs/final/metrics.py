"""Predictions of the final model -> `metrics.json`, and what a terminal says of it."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pandas as pd

from catsdogs.final.pipeline import OUTPUTS
from catsdogs.pages.formats import format_gains
from catsdogs.scoring.intervals import Estimate, mean_intervals
from catsdogs.scoring.scores import Score, log_loss_per_image, scores

# What scores of a split are called: their names begin with ...
PREFIXES = {"validation": "", "holdout": "holdout_", "test": "test_"}

# ... and, after a step of OUTPUTS, end with ...
SUFFIXES = dict(zip(OUTPUTS, ("", "_tta", "_calibrated"), strict=True))

_MEANS = {
    "validation": "images outside the training that chose the trial and the epoch",
    "out-of-fold": "every image outside the hold-out, by a model of each job that has not seen it; they chose the "
    "trial and the epoch",
    "holdout": "images that no search and no training has seen",
    "test": "labelled test images",
}


def metrics(table: pd.DataFrame, validation: str) -> dict[str, Any]:
    """Flat numbers for scripts, and under `details` where each comes from.

    Scores of the validation images carry their plain names, those of others begin as PREFIXES says.

    Args:
        table: as `predictions.csv`.
        validation: what the validation images are called in the details: validation, or out-of-fold.
    """
    names = ("log_loss", "log_loss_tta", "log_loss_calibrated", "accuracy", "roc_auc", "brier", "ece")
    found: dict[str, Score | None] = dict.fromkeys(names)
    gains: dict[str, dict[str, Any]] = {step: {} for step in OUTPUTS[1:]}
    for split, prefix in PREFIXES.items():
        part = table[(table["split"] == split) & table["label"].notna() & table["p_dog"].notna()]
        if part.empty:
            continue
        name = validation if split == "validation" else split
        labels = part["label"].to_numpy()
        known = [column for column in OUTPUTS if part[column].notna().all()]
        losses = {column: log_loss_per_image(labels, part[column].to_numpy()) for column in known}
        for column in known:
            for score, value in scores(labels, part[column].to_numpy(), name).items():
                found[f"{prefix}{score}{SUFFIXES[column]}"] = value
        for before, step in pairwise(known):
            gains[step][split] = gain_of(mean_intervals((losses[before] - losses[step])[None])[0], name)
    numbers = {name: None if score is None else score.value for name, score in found.items()}
    details = {name: dataclasses.asdict(score) for name, score in found.items() if score is not None}
    for name in ("log_loss", "brier", "accuracy", "roc_auc", "ece"):
        if f"{name}_calibrated" in details:
            details[f"{name}_calibrated"]["cross_fitted"] = True
    splits = {detail["split"] for detail in details.values()}
    return {
        **numbers,
        "details": details,
        "splits": {name: _MEANS[name] for name in _MEANS if name in splits},
        "interval": "95 % percentile bootstrap over images",
        "tta_gain": gains["p_dog_tta"],
        "calibration_gain": gains["p_dog_calibrated"],
    }


def format_scores(found: dict[str, Any]) -> list[str]:
    """The log losses in lines, each with its split, size and interval, and which steps helped, in sentences."""
    labels = {"validation": "validation", "holdout": "hold-out", "test": "test"}
    steps = {"": "", "_tta": " with TTA", "_calibrated": " calibrated"}
    lines = []
    for split, prefix in PREFIXES.items():
        for suffix, step in steps.items():
            detail = found["details"].get(f"{prefix}log_loss{suffix}")
            if detail is None:
                continue
            where = "out-of-fold" if detail["split"] == "out-of-fold" else labels[split]
            between = "" if detail["low"] is None else f"  (95 % interval {detail['low']:.4f} to {detail['high']:.4f})"
            label = f"{where} log loss{step}"
            lines.append(f"{label:33} {detail['value']:.4f}{between}, {detail['size']} images")
    return lines + format_gains(found["tta_gain"], found["calibration_gain"])


def gain_of(interval: Estimate, split: str) -> dict[str, Any]:
    """For `metrics.json`: log loss before a step minus after it, image by image; above 0 it helps."""
    return {**dataclasses.asdict(interval), "split": split}
