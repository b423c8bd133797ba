"""Likely label errors: images with a label that contradicts the validation predictions of the best jobs of studies."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.comparison.study_data import StudyData, read_split
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import score_images
from catsdogs.study.jobs import JobRecord

# Jobs to average, the best ones of each split. Further jobs are worse and do not improve the mean.
_MOST_JOBS = 5


@dataclass(frozen=True)
class LabelIssues:
    """Likely label errors."""

    # Images with a mean prediction that contradicts the label, most confident first: id, label, probabilities as in
    # `validation.csv` (mean), log_loss (of the mean), jobs (number of predictions), against (number that contradict),
    # class (of the label), predicted (the most probable class) and its probability.
    table: pd.DataFrame
    checked: pd.Series  # number of images with a prediction by class
    jobs: list[str]  # labels of the jobs, best first
    ignored: list[str]  # ids that the best of these jobs excluded by `data.ignore`
    problems: list[str]  # messages about predictions that could not be used


def find_label_issues(study_data: StudyData, rows: pd.DataFrame, classes: Classes) -> LabelIssues:
    """Compare the labels of a catalog with the validation predictions of the best jobs of studies.

    Predictions of an image are averaged over all jobs that validated on it. Images are matched by SHA-256. Raise
    UserError if no job validated on images of the catalog.
    """
    problems = list(study_data.problems)
    known = rows[rows["label"].notna() & (rows["width"] > 0)]
    predictions = {}
    for label in best_jobs(study_data):
        predicted = _predictions(study_data.jobs[label], study_data.predictions[label])
        if predicted is None:
            problems.append(f"job {label}: split.csv is missing or corrupted, so its predictions are not used")
        elif study_data.jobs[label].classes != classes:
            problems.append(f"job {label}: it has other classes, so its predictions are not used")
        elif known["sha256"].isin(predicted.index).any():
            predictions[label] = predicted.reindex(known["sha256"]).to_numpy()
    if not predictions:
        names = ", ".join(map(str, study_data.studies))
        fix = "pass the images that the study validated on (data.validation, if set), another study, or no --study"
        raise UserError(f"--study {names}: no job has a validation.csv for these images; {fix}")
    by_job = np.stack(list(predictions.values()))  # (jobs, images, classes); NaN: not predicted
    some = ~np.isnan(by_job[..., 0]).all(axis=0)
    known, by_job = known[some], by_job[:, some]
    labels, class_names = known["label"].to_numpy(dtype=int), np.array(classes.names)
    mean = np.nanmean(by_job, axis=0)
    loss, wrong = score_images(labels, mean)
    predicted_by = ~np.isnan(by_job[..., 0])
    # Joined, because pandas warns about columns that are added one by one, if they are many.
    table = known[["id", "label"]].join(pd.DataFrame(classes.to_columns(mean), known.index))
    table = table.assign(log_loss=loss, jobs=predicted_by.sum(axis=0))
    table["against"] = ((by_job.argmax(axis=-1) != labels) & predicted_by).sum(axis=0)
    table = table.assign(**{"class": class_names[labels], "predicted": class_names[mean.argmax(axis=1)]})
    table["probability"] = mean.max(axis=1)
    data = study_data.jobs[next(iter(predictions))].result["config"].get("data", {})
    ignored = [name for name in map(str, data.get("ignore") or []) if name in set(rows["id"])]
    checked = table["class"].value_counts()
    table = table[wrong].sort_values("log_loss", ascending=False, kind="stable", ignore_index=True)
    return LabelIssues(table, checked, list(predictions), ignored, problems)


def best_jobs(study_data: StudyData) -> list[str]:
    """Return the labels of the best jobs of each split that have predictions, best first."""
    board = study_data.leaderboard[study_data.leaderboard["label"].isin(list(study_data.predictions))]
    board = board[board["val_log_loss"].notna()]
    rank = board.groupby(board["data_digest"].fillna(board["label"])).cumcount()
    return [str(label) for label in board.loc[rank < _MOST_JOBS, "label"]]


def _predictions(job: JobRecord, predictions: pd.DataFrame) -> pd.DataFrame | None:
    """Return the probabilities (N, K) by SHA-256 of the validation images, or None without a readable split.csv."""
    table = read_split(job.folder)
    if table is None:
        return None
    merged = predictions.merge(table[["id", "sha256"]].drop_duplicates("id"), on="id")
    probabilities = pd.DataFrame(job.classes.read(merged), merged["sha256"])
    # Predictions of identical images are equal, up to rounding.
    return None if merged.empty else probabilities.groupby(level=0).mean()
