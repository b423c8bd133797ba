"""Scores of the final model, for `metrics.json` and for the terminal."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.text import joined
from catsdogs.pages.formats import accuracy_text, few_errors, format_ensemble_gain, format_gains, loss, not_scored
from catsdogs.scoring.classes import STEPS, Classes
from catsdogs.scoring.intervals import FEW_ERRORS, METHOD, Estimate, ImageScores, paired_intervals
from catsdogs.scoring.scores import class_scores, score_images, scores

# Prefixes of score names, by split.
PREFIXES = {"validation": "", "holdout": "holdout_", "test": "test_"}

_SPLITS = {
    "validation": "images that selected the {chosen}, predicted by a model that was not trained on them",
    "out-of-fold": "all images outside the holdout, which selected the {chosen}, each predicted by models that were "
    "not trained on it",
    "holdout": "images that were used neither in the search nor for training",
    "test": "labeled test images without exact and near-duplicates of the labeled images of the study",
}


# Keys that are None without a score.
_NAMES: tuple[str, ...] = ("log_loss", "log_loss_tta", "log_loss_calibrated", "accuracy", "roc_auc", "brier", "ece")
_NAMES += ("balanced_accuracy", "macro_f1")


def metrics(table: pd.DataFrame, classes: Classes, validation: str, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Return scores of `predictions.csv` as flat numbers, with split, size and interval of each under `details`.

    `class_scores` has the images, precision and recall of every class, by the last step of each split. Test images that
    are duplicates of labeled images of the study are counted, not scored. `validation`: name of the validation images
    in `details`, validation or out-of-fold; `chosen`: what they chose.
    """
    details: dict[str, dict[str, Any]] = {}
    gains: dict[str, dict[str, Any]] = {step: {} for step in STEPS[1:]}
    by_class: dict[str, Any] = {}
    labeled = table["label"].notna() & table[classes.columns()[0]].notna()
    in_training = labeled & table["in_training"] if "in_training" in table else labeled & False
    for split, prefix in PREFIXES.items():
        part = table[(table["split"] == split) & labeled & ~in_training]
        if part.empty:
            continue
        name = validation if split == "validation" else split
        labels = part["label"].to_numpy()
        columns = {step: classes.columns(step) for step in STEPS}
        steps = [step for step in STEPS if {*columns[step]} <= {*part} and part[columns[step]].notna().all(axis=None)]
        probabilities = {step: classes.read(part, step) for step in steps}
        for step in steps:
            for score, estimate in scores(labels, probabilities[step]).items():
                details[f"{prefix}{score}{step}"] = detail_of(estimate, name)
                if step == STEPS[2] and not prefix:
                    details[f"{score}{step}"]["cross_fitted"] = True
        images = {step: score_images(labels, probabilities[step]) for step in steps}
        for before, step in pairwise(steps):
            former = ImageScores(*(one[None] for one in images[before]))
            gains[step][split] = detail_of(paired_intervals(former, images[step])[0], name)
        of_classes = class_scores(labels, probabilities[steps[-1]]).replace({np.nan: None})
        by_class[split] = of_classes.assign(**{"class": classes.names}).to_dict("records")
    splits = {detail["split"] for detail in details.values()}
    return {
        "classes": list(classes.names),
        **dict.fromkeys(_NAMES),
        **{name: detail["value"] for name, detail in details.items()},
        "details": details,
        "class_scores": by_class,
        "test_images_not_scored": int(in_training.sum()),
        "splits": {name: _SPLITS[name].format(chosen=joined(chosen)) for name in _SPLITS if name in splits},
        "chosen_on_validation": list(chosen),
        "interval": METHOD,
        "warnings": _few_errors(details),
        "tta_gain": gains[STEPS[1]],
        "calibration_gain": gains[STEPS[2]],
    }


def format_scores(metrics: dict[str, Any]) -> list[str]:
    """Format the log losses, one line per split and output, and the gains of TTA and calibration."""
    steps = {"": "", "_tta": " with TTA", "_calibrated": " calibrated"}
    lines = []
    for prefix in PREFIXES.values():
        for suffix, step in steps.items():
            if detail := metrics["details"].get(f"{prefix}log_loss{suffix}"):
                bounds = "" if detail["low"] is None else f" (95% CI {loss(detail['low'])} to {loss(detail['high'])})"
                label = f"{detail['split']} log loss{step}"
                score = f"{loss(detail['value'])}{bounds}, accuracy {accuracy_text(detail['errors'], detail['size'])}"
                gain = metrics["tta_gain"].get(prefix.removesuffix("_") or "validation", {}) if suffix == "_tta" else {}
                note = ", higher than without TTA" if gain.get("value", 0) < 0 else ""
                lines.append(f"{label:33} {score}, {detail['size']:,} images{note}")
    lines += [*metrics["warnings"], *not_scored(metrics.get("test_images_not_scored"))]
    lines += format_ensemble_gain(metrics.get("ensemble") or {})
    return lines + format_gains(metrics["tta_gain"], metrics["calibration_gain"], metrics.get("tta_choice"))


def _few_errors(details: dict[str, Any]) -> list[str]:
    """Warn about log losses of images of which few are misclassified, once per split."""
    groups: dict[tuple[str, int], dict[str, int]] = {}
    for name, detail in details.items():
        if "log_loss" in name and detail["errors"] < FEW_ERRORS:
            groups.setdefault((detail["split"], detail["size"]), {})[name] = detail["errors"]
    return [
        f"{', '.join(group)} ({split} images): {few_errors(min(group.values()), size, most=max(group.values()))}"
        for (split, size), group in groups.items()
    ]


def detail_of(estimate: Estimate, split: str) -> dict[str, Any]:
    """Return a score or gain for `metrics.json`; an undefined value is None."""
    value = None if math.isnan(estimate.value) else estimate.value
    return {**dataclasses.asdict(estimate), "value": value, "split": split}
