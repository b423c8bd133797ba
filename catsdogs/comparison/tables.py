"""Tables behind the report page, by name, also written as CSV files next to the page.

Page and files are made from the same tables, so their numbers agree.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.comparison.choices import choice_effects, choice_pairs
from catsdogs.comparison.evaluated import Evaluated, evaluated_model
from catsdogs.comparison.final_models import FinalModel
from catsdogs.comparison.gallery import Gallery, ImageFolder, gallery
from catsdogs.comparison.importance import Importance, importance
from catsdogs.comparison.study_data import StudyData
from catsdogs.comparison.summary import Summary, summarize
from catsdogs.config.schema import leaves
from catsdogs.study.leaderboard import job_columns

# Description of every table, in the order of the page.
TITLES = {
    "jobs": "jobs, best first",
    "effects": "effect of each choice",
    "pairs": "pairs of jobs that differ in one choice",
    "trials": "trials",
    "importance": "importance of hyperparameters and choices",
    "epochs": "epochs",
    "scores": "scores of the final models",
    "predictions": "predictions of the final models on labeled images",
    "classes": "images, precision and recall of each class",
    "confusion": "images by class and predicted class",
    "mistakes": "misclassified images, highest log loss first",
    "unsure": "most uncertain predictions",
    "differences": "settings that differ between jobs",
    "common": "settings shared by all jobs",
}

SCORES = ("log_loss", "accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "brier", "ece")

# Kinds of prediction, with the suffix of their scores in metrics.json.
KINDS = {"plain": "", "tta": "_tta", "calibrated": "_calibrated"}

_COLUMNS: dict[str, Any] = {"value": float, "low": float, "high": float, "split": str, "size": "Int64"}


@dataclass(frozen=True)
class Findings:
    """Data of the studies and all results computed from it."""

    study_data: StudyData
    summary: Summary
    pairs: pd.DataFrame
    effects: pd.DataFrame
    importance: Importance | None
    scores: dict[str, pd.DataFrame]  # of the final models, by study
    evaluated: Evaluated | None
    gallery: Gallery | None


def findings(study_data: StudyData, images: ImageFolder = None) -> Findings:
    """Compute all results."""
    summary, pairs, effects = summarize(study_data), choice_pairs(study_data), choice_effects(study_data)
    scores = {study: final_scores(final) for study, final in study_data.final_models.items()}
    model = evaluated_model(study_data, summary)
    shown = gallery(model, images) if model else None
    return Findings(study_data, summary, pairs, effects, importance(study_data), scores, model, shown)


def tables(results: Findings) -> dict[str, pd.DataFrame]:
    """Return every table behind the page by the name of its file; numbers are not rounded."""
    study_data = results.study_data
    differences, common = compare_settings(study_data)
    finals = {
        study: final.predictions.dropna(subset=["label", *final.classes.columns()])
        for study, final in study_data.final_models.items()
    }
    model, shown = results.evaluated, results.gallery
    return {
        "jobs": _jobs(results),
        "effects": results.effects,
        "pairs": results.pairs,
        "trials": study_data.trials,
        "importance": pd.DataFrame() if results.importance is None else results.importance.table,
        "epochs": study_data.epochs,
        "scores": _by_study(results.scores),
        "predictions": _by_study(finals),
        "classes": model.class_table() if model else pd.DataFrame(),
        "confusion": model.confusions() if model else pd.DataFrame(),
        "mistakes": shown.wrong if shown else pd.DataFrame(),
        "unsure": shown.unsure if shown else pd.DataFrame(),
        "differences": differences,
        "common": common,
    }


def write_tables(folder: Path, by_name: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Write `<name>.csv` for each nonempty table and return these tables; delete the others of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in by_name.items():
        if len(table):
            write_csv(folder / f"{name}.csv", table)
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    return {name: table for name, table in by_name.items() if len(table)}


def compare_settings(study_data: StudyData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return configuration, versions, data and machine of the jobs, by dotted key, as two tables.

    Differences have `key` and a column per label, empty if a job does not have it; shared values `key` and `value`.
    """
    by_label = {label: _facts(job.result) for label, job in study_data.jobs.items()}
    keys = dict.fromkeys(key for facts in by_label.values() for key in facts)
    table = pd.DataFrame(by_label, index=list(keys)).fillna("").rename_axis("key")
    shared = table.nunique(axis=1) == 1
    common = table.loc[shared].iloc[:, :1].set_axis(["value"], axis=1)
    # A job may be named `key`.
    return table[~shared].reset_index(allow_duplicates=True), common.reset_index()


def _facts(result: dict[str, Any]) -> dict[str, str]:
    # The others only name the job, or are shown elsewhere.
    config = {key: value for key, value in result["config"].items() if key not in ("study", "studies_dir", "varied")}
    parts = {"images": result["data"], "versions": result["versions"], "machine": result.get("machine")}
    known = config | {name: part for name, part in parts.items() if isinstance(part, dict)}
    return {key: _text(value) for key, value in leaves(known)}


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def _jobs(results: Findings) -> pd.DataFrame:
    """Return the leaderboard with confidence intervals of the log loss and the share of resamples that a job wins."""
    study_data, intervals = results.study_data, results.summary.intervals
    labels = study_data.leaderboard["label"]
    table = study_data.leaderboard.assign(share_best=labels.map(results.summary.share_best).astype(float))
    for name, end in (("val_log_loss_low", "low"), ("val_log_loss_high", "high"), ("val_errors", "errors")):
        table[name] = labels.map({label: getattr(one, end) for label, one in intervals.items()}).astype(float)
    return table[[name for name in job_columns(study_data.choices, study_data.hyperparameters) if name in table]]


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


def _by_study(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(study=study)[["study", *table]] for study, table in parts.items() if len(table)]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame()
