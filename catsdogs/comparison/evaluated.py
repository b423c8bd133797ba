"""The model whose predictions a report shows by class and by image, and its scores by class."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.final_models import ClassActivation, FinalModel
from catsdogs.comparison.study_data import StudyData, read_split
from catsdogs.comparison.summary import Summary
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import class_scores, confusion, score_images
from catsdogs.study.jobs import JobRecord


@dataclass(frozen=True)
class Evaluated:
    """Predictions of the validation images by a model that was not trained on them."""

    source: str  # the model, as a noun phrase: "the final model of ..."
    classes: Classes
    table: pd.DataFrame  # id, label, the probabilities of the classes, log_loss; the index is 0 to N - 1
    job: JobRecord
    config: dict[str, Any]  # configuration of the model, or of its job
    activation: ClassActivation | None = None  # of the final model

    @property
    def probabilities(self) -> np.ndarray:
        """Probabilities (N, K)."""
        return self.classes.read(self.table)

    def class_table(self) -> pd.DataFrame:
        """Return a row per class: label, class, train (not with folds), validation (images), precision, recall."""
        table = class_scores(self.table["label"].to_numpy(), self.probabilities)
        table = table.rename(columns={"images": "validation"})
        split = read_split(self.job.folder)
        if split is not None and "label" in split and "fold" not in split:
            counts = split.loc[split["split"] == "train", "label"].value_counts()
            table.insert(0, "train", counts.reindex(table.index, fill_value=0))
        table.insert(0, "class", self.classes.names)
        return table.rename_axis("label").reset_index()

    def confusions(self) -> pd.DataFrame:
        """Return class, predicted class, images and share (of the class) of all pairs of classes that have images."""
        counts, names = confusion(self.table["label"].to_numpy(), self.probabilities), np.array(self.classes.names)
        pair = counts.nonzero()
        rows = {"class": names[pair[0]], "predicted": names[pair[1]], "images": counts[pair]}
        return pd.DataFrame({**rows, "share": counts[pair] / counts.sum(axis=1)[pair[0]]})


def evaluated_model(study_data: StudyData, summary: Summary) -> Evaluated | None:
    """Return the final model of the best job's study, or else the best trial of the best job; None without predictions.

    A final model is evaluated by the probabilities that it submits, which include TTA and calibration if it uses them.
    """
    if summary.best is None:
        return None
    row: Any = study_data.leaderboard.set_index("label").loc[summary.best]
    final = study_data.final_models.get(row["study"])
    evaluated = _of_final(study_data, final) if final is not None else None
    if evaluated is None and summary.best in study_data.predictions:
        job = study_data.jobs[summary.best]
        trial = "the best trial" if pd.isna(row["best_trial"]) else f"trial={row['best_trial']}"
        table = study_data.predictions[summary.best]
        evaluated = _evaluated(f"{trial} of job {summary.best}", job.classes, table, job, job.result["config"])
    return evaluated


def _evaluated(source: str, classes: Classes, table: pd.DataFrame, job: JobRecord, config: dict[str, Any]) -> Evaluated:
    losses = score_images(table["label"].to_numpy(), classes.read(table)).losses
    table = table[["id", "label", *classes.columns()]].assign(log_loss=losses)
    return Evaluated(source, classes, table.reset_index(drop=True), job, config)


def _of_final(study_data: StudyData, final: FinalModel) -> Evaluated | None:
    """Return the evaluation of a final model; None without labeled validation images."""
    table, board = final.validation(), study_data.leaderboard
    row = board[(board["study"] == final.study) & (board["job"] == final.metrics.get("job"))]
    labels = [label for label in row["label"] if label in study_data.jobs]
    if table.empty or not labels or not table["id"].is_unique:
        return None
    evaluated_with, job, suffix = final.metrics.get("validated_by"), study_data.jobs[labels[0]], ""
    for end, step in (("_tta", "TTA"), ("_calibrated", "calibration")):
        if len(computed := final.validation(end)) == len(table):
            table = computed
            suffix += f" {'and' if suffix else 'with'} {step}"
    if evaluated_with == "folds":
        source = f"the fold models of study {final.study} on their validation folds{suffix}"
    elif final.metrics.get("fit_on") == "all" or evaluated_with == "search":
        # The final model was trained on these images; `retrain` saved the predictions of the trial's own model.
        source = f"trial={final.metrics.get('trial')} of job {labels[0]} in the search, before retraining"
    else:
        source = f"the final model of study {final.study}{suffix}"
    evaluated = _evaluated(source, final.classes, table, job, final.recipe["config"] or job.result["config"])
    return replace(evaluated, activation=final.activation)
