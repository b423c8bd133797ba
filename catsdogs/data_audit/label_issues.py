"""Likely label errors: images with a label that contradicts the validation predictions of the best jobs of studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.comparison.study_data import StudyData, read_split, read_study_data
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import JobRecord

# Jobs to average, the best ones of each split. Further jobs are worse and do not improve the mean.
_MOST_JOBS = 5


@dataclass(frozen=True)
class LabelIssues:
    """Likely label errors."""

    # Images with a mean prediction that contradicts the label, most confident first: id, label, p_dog (mean), log_loss
    # (of the mean), jobs (number of predictions), against (number that contradict).
    table: pd.DataFrame
    checked: int  # images with a prediction
    jobs: list[str]  # labels of the jobs, best first
    ignored: list[str]  # ids that the best of these jobs excluded by `data.ignore`
    problems: list[str]  # messages about predictions that could not be used


def find_label_issues(studies: list[Path], rows: pd.DataFrame) -> LabelIssues:
    """Compare the labels of a catalog with the validation predictions of the best jobs of these studies.

    Predictions of an image are averaged over all jobs that validated on it. Images are matched by SHA-256. Raise
    UserError if a study cannot be read, or no job validated on images of the catalog.
    """
    study_data = read_study_data(studies)
    problems = list(study_data.problems)
    known = rows[rows["label"].notna() & (rows["width"] > 0)]
    predictions = {}
    for label in _best_jobs(study_data):
        p_dog = _predictions(study_data.jobs[label], study_data.predictions[label])
        if p_dog is None:
            problems.append(f"job {label}: split.csv is missing or corrupted, so its predictions are not used")
        elif known["sha256"].isin(p_dog.index).any():
            predictions[label] = p_dog
    if not predictions:
        names = ", ".join(map(str, studies))
        fix = "pass the images that the study validated on (data.validation, if set), another study, or no --study"
        raise UserError(f"--study {names}: no job has a validation.csv for these images; {fix}")
    # Columns are jobs; NaN is not predicted.
    by_job = pd.concat(predictions, axis=1).reindex(known["sha256"]).set_axis(known.index).dropna(how="all")
    table = known.loc[by_job.index, ["id", "label"]].assign(p_dog=by_job.mean(axis=1))
    contradicts = (by_job > 0.5).ne(table["label"] == 1, axis=0) & by_job.notna()
    table["log_loss"] = log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy())
    table = table.assign(jobs=by_job.count(axis=1), against=contradicts.sum(axis=1))
    checked = len(table)
    table = table[(table["p_dog"] > 0.5) != (table["label"] == 1)]
    table = table.sort_values("log_loss", ascending=False, kind="stable", ignore_index=True)
    data = study_data.jobs[next(iter(predictions))].result["config"].get("data", {})
    ignored = [name for name in map(str, data.get("ignore") or []) if name in set(rows["id"])]
    return LabelIssues(table, checked, list(predictions), ignored, problems)


def _best_jobs(study_data: StudyData) -> list[str]:
    """Return the labels of the best jobs of each split that have predictions, best first."""
    board = study_data.leaderboard[study_data.leaderboard["label"].isin(list(study_data.predictions))]
    board = board[board["val_log_loss"].notna()]
    rank = board.groupby(board["data_digest"].fillna(board["label"])).cumcount()
    return [str(label) for label in board.loc[rank < _MOST_JOBS, "label"]]


def _predictions(job: JobRecord, predictions: pd.DataFrame) -> pd.Series | None:
    """Return the probability of dog by SHA-256 of the validation images, or None without a readable split.csv."""
    table = read_split(job.folder)
    if table is None:
        return None
    merged = predictions.merge(table[["id", "sha256"]].drop_duplicates("id"), on="id")
    # Predictions of identical images are equal, up to rounding.
    return None if merged.empty else merged.groupby("sha256")["p_dog"].mean()
