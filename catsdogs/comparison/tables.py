"""Everything that the page shows -> tables by name, and as CSV files beside the page.

The page and the files are made from the same tables, so that they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.files import write_csv
from catsdogs.comparison.choices import choice_effects, choice_pairs
from catsdogs.comparison.final_scores import final_scores
from catsdogs.comparison.gallery import Gallery, gallery
from catsdogs.comparison.importance import Importance, importance
from catsdogs.comparison.study_data import StudyData
from catsdogs.comparison.summary import Summary, score_intervals, summarize
from catsdogs.scoring.intervals import Estimate
from catsdogs.study.jobs import job_columns

# What every table says, in the order in which the page shows them.
TITLES = {
    "jobs": "jobs, best first",
    "effects": "effect of each choice",
    "pairs": "pairs of jobs that differ in one choice",
    "trials": "trials",
    "importance": "importance of the hyperparameters",
    "epochs": "epochs",
    "scores": "scores of the final models",
    "predictions": "predictions of the final models on labelled images",
    "mistakes": "all mistakes, most confident first",
    "unsure": "least sure answers",
    "differences": "what differs between the jobs",
    "common": "what all jobs share",
}


@dataclass(frozen=True)
class Findings:
    """The study_data and all that was concluded from it, worked out once.

    Attributes:
        intervals: log loss of every comparable job, by label.
        scores: of the final models, by study.
    """

    study_data: StudyData
    summary: Summary
    intervals: dict[str, Estimate]
    pairs: pd.DataFrame
    effects: pd.DataFrame
    importance: Importance | None
    scores: dict[str, pd.DataFrame]
    gallery: Gallery | None


def findings(study_data: StudyData, images: Path | None = None) -> Findings:
    """
    Args:
        images: folder of the images, as the user gave it; None: it is looked for in the usual places.
    """
    told = summarize(study_data)
    return Findings(
        study_data=study_data,
        summary=told,
        intervals=score_intervals(study_data),
        pairs=choice_pairs(study_data),
        effects=choice_effects(study_data),
        importance=importance(study_data),
        scores={study: final_scores(final) for study, final in study_data.final_models.items()},
        gallery=gallery(study_data, told, images),
    )


def tables(found: Findings) -> dict[str, pd.DataFrame]:
    """Every table behind the page that has a row, by the name of its file; numbers unrounded."""
    study_data = found.study_data
    differences, common = what_ran(study_data)
    wrong, unsure = (found.gallery.wrong, found.gallery.unsure) if found.gallery else (pd.DataFrame(), [])
    made = {
        "jobs": _jobs(found),
        "effects": found.effects,
        "pairs": found.pairs,
        "trials": study_data.trials,
        "importance": pd.DataFrame() if found.importance is None else found.importance.table,
        "epochs": study_data.epochs,
        "scores": _by_study(found.scores),
        "predictions": _by_study(
            {
                study: final.predictions[final.predictions["label"].notna() & final.predictions["p_dog"].notna()]
                for study, final in study_data.final_models.items()
            }
        ),
        "mistakes": wrong,
        "unsure": pd.DataFrame(unsure, columns=list(wrong)),
        "differences": differences,
        "common": common,
    }
    return {name: made[name] for name in TITLES if len(made[name])}


def write_tables(folder: Path, made: Mapping[str, pd.DataFrame]) -> None:
    """Write `<name>.csv` of every table into a folder; those that an earlier report left there go."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TITLES:
        if name not in made:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    for name, table in made.items():
        write_csv(folder / f"{name}.csv", table)


def what_ran(study_data: StudyData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Configuration, versions, data and machine of the jobs.

    Returns:
        What differs between jobs: a row per key, `key` and a column per label; and what all share: `key`, `value`.
        Keys are joined by dots; a key that a job does not have is empty.
    """
    by_label = {label: _facts(job.result) for label, job in study_data.jobs.items()}
    keys = list(dict.fromkeys(key for facts in by_label.values() for key in facts))
    rows: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for key in keys:
        values = {label: facts.get(key, "") for label, facts in by_label.items()}
        same = len(set(values.values())) == 1
        rows[same].append({"key": key, "value": next(iter(values.values()))} if same else {"key": key, **values})
    return pd.DataFrame(rows[False]), pd.DataFrame(rows[True])


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """What a job ran with, flat."""
    told_as = {"config": "config", "images": "data", "versions": "versions", "machine": "machine"}
    parts = {name: result.get(key) for name, key in told_as.items()}
    flat = _flat({name: part for name, part in parts.items() if isinstance(part, dict)})
    # These name the job or are told elsewhere; they differ without meaning anything.
    left_out = {"config.study", "config.studies_dir", "config.varied"}
    return {key.removeprefix("config."): value for key, value in flat.items() if key not in left_out}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{key}"] = "[" + ", ".join(map(str, value)) + "]"
        else:
            flat[f"{prefix}{key}"] = "null" if value is None else str(value)
    return flat


def _jobs(found: Findings) -> pd.DataFrame:
    """The board, with the interval of the log loss and the share of resamples in which a job is the best."""
    study_data = found.study_data
    added: dict[str, dict[str, Any]] = {
        "val_log_loss_low": {label: interval.low for label, interval in found.intervals.items()},
        "val_log_loss_high": {label: interval.high for label, interval in found.intervals.items()},
        "share_best": found.summary.share_best,
    }
    labels = study_data.leaderboard["label"]
    table = study_data.leaderboard.assign(**{name: labels.map(told).astype(float) for name, told in added.items()})
    return table[[name for name in job_columns(study_data.choices, study_data.hyperparameters) if name in table]]


def _by_study(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(study=study)[["study", *table]] for study, table in parts.items() if len(table)]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame()
