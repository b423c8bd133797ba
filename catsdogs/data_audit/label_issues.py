"""Studies -> images whose label models contradict that were not trained on them.

A trial has never seen its validation images, so what it says of them is its own opinion. Where the best trials of
several jobs agree against a label, look at the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import JobRecord

# Jobs whose answers are averaged, the best of each split. More of them are worse ones, and agree no better.
_MOST_JOBS = 5


@dataclass(frozen=True)
class LabelIssues:
    """What models say against the labels.

    Attributes:
        table: images whose label the mean answer contradicts, the most confident first: id, label, p_dog (mean),
            log_loss (of the mean), jobs (how many of them were asked), against (how many of these contradict).
        judged: on how many images any job was asked.
        jobs: labels of the jobs, the best first.
        ignored: ids that the best of these jobs left out by `data.ignore`.
        problems: sentences about what could not be used.
    """

    table: pd.DataFrame
    judged: int
    jobs: list[str]
    ignored: list[str]
    problems: list[str]


def find_label_issues(studies: list[Path], rows: pd.DataFrame) -> LabelIssues:
    """Ask the best jobs of these studies about the images of a catalogue.

    Jobs are averaged over all splits; an image is judged by those jobs that validated on it. Images are told by their
    sha256, and labels are those of the catalogue.

    Raises:
        UserError: a study cannot be read, or no job of them validated on images of the catalogue.
    """
    study_data = read_study_data(studies)
    problems = list(study_data.problems)
    known = rows[rows["label"].notna() & (rows["width"] > 0)]
    answers = {}
    for label in _asked(study_data):
        answer = _answer(study_data.jobs[label], study_data.predictions[label])
        if answer is None:
            problems.append(f"job {label}: its split.csv is missing or damaged, so it is not asked about labels")
        elif known["sha256"].isin(answer.index).any():
            answers[label] = answer
    if not answers:
        told = ", ".join(str(study) for study in studies)
        raise UserError(
            f"--study {told}: none of its jobs has a validation.csv about these images; give a study that was searched "
            f"on them, or leave --study out"
        )
    by_job = pd.concat(answers, axis=1).reindex(known["sha256"]).to_numpy()  # (images, jobs), NaN: not asked
    labels = known["label"].to_numpy()
    asked = ~np.isnan(by_job)
    contradicting = asked & ((by_job > 0.5) != (labels == 1)[:, None])
    judged = asked.any(axis=1)
    mean = np.nansum(by_job, axis=1)[judged] / asked.sum(axis=1)[judged]
    table = pd.DataFrame(
        {
            "id": known["id"].to_numpy()[judged],
            "label": labels[judged],
            "p_dog": mean,
            "log_loss": log_loss_per_image(labels[judged], mean),
            "jobs": asked.sum(axis=1)[judged],
            "against": contradicting.sum(axis=1)[judged],
        }
    )
    table = table[(table["p_dog"] > 0.5) != (table["label"] == 1)]
    table = table.sort_values("log_loss", ascending=False, kind="stable", ignore_index=True)
    data = study_data.jobs[next(iter(answers))].result["config"].get("data", {})
    ignored = [name for name in map(str, data.get("ignore") or []) if name in set(rows["id"])]
    return LabelIssues(table, int(judged.sum()), list(answers), ignored, problems)


def _asked(study_data: StudyData) -> list[str]:
    """Labels of the best jobs with predictions of every split, best first."""
    board = study_data.leaderboard[study_data.leaderboard["label"].isin(list(study_data.predictions))]
    board = board[board["val_log_loss"].notna()]
    place = board.groupby(board["data_digest"].fillna(board["label"])).cumcount()
    return [str(label) for label in board.loc[place < _MOST_JOBS, "label"]]


def _answer(job: JobRecord, predictions: pd.DataFrame) -> pd.Series | None:
    """Probability of dog by sha256 of the validation images; None where they are not told."""
    try:
        table = pd.read_csv(job.folder / "split.csv", dtype=str, keep_default_na=False)
        told = predictions.merge(table[["id", "sha256"]].drop_duplicates("id"), on="id")
    except (OSError, ValueError, KeyError):
        return None
    # Copies of an image have the same answer, to rounding.
    return None if told.empty else told.groupby("sha256")["p_dog"].mean()
