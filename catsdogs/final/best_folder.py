"""The folder `best/`, written under a temporary name and moved into place complete."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from catsdogs.base.files import free_name, replacing, sync_folder, write_csv, write_json, write_text
from catsdogs.data.dataset import Dataset
from catsdogs.final.evaluation import Evaluation
from catsdogs.final.members import Member
from catsdogs.final.model_card import model_card
from catsdogs.final.pipeline import final_output, write_pipeline
from catsdogs.final.submission import describe_rows, submission, write_submission

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FinalResult:
    """Content of `best/`."""

    model: keras.Model
    members: Sequence[Member]
    evaluation: Evaluation
    predictions: pd.DataFrame
    metrics: dict[str, Any]
    recipe: dict[str, Any]


def write_best(temporary: Path, best: Path, final: FinalResult, dataset: Dataset) -> None:
    """Write a temporary folder and rename it to `best`; an existing folder is renamed to `best.1`, `best.2`, ..."""
    evaluation = final.evaluation
    temporary.mkdir(parents=True)
    with replacing(temporary / "model.keras") as file:
        final.model.save(file)
    combination = {"way": evaluation.combination.method, "weights": evaluation.combination.weights}
    write_pipeline(temporary, evaluation.pipeline, combination)
    write_json(temporary / "metrics.json", final.metrics)
    write_json(temporary / "recipe.json", final.recipe)
    # With several members, the column `member` has their number.
    histories = [member.history.assign(member=number) for number, member in enumerate(final.members)]
    history = pd.concat(histories, ignore_index=True) if len(histories) > 1 else final.members[0].history
    write_csv(temporary / "history.csv", history)
    write_csv(temporary / "predictions.csv", final.predictions)
    for name, table in (("tta.csv", evaluation.tta_table), ("ensemble.csv", evaluation.ensemble_table)):
        if table is not None:
            write_csv(temporary / name, table)
    if dataset.test is not None:
        test = final.predictions[final.predictions["split"] == "test"]
        rows = submission(list(test["id"]), final_output(test), list(dataset.test["id"]))
        undecodable = list(dataset.test["id"][dataset.test["width"] == 0])
        log.info("submission.csv: %s", describe_rows(list(rows["id"]), len(dataset.test), undecodable))
        write_submission(temporary / "submission.csv", rows)
    write_text(temporary / "MODEL_CARD.md", model_card(final.metrics, final.recipe, dataset))
    if best.exists():
        previous = free_name(best)
        best.rename(previous)
        log.info("renamed the previous %s to %s", best.name, previous.name)
    temporary.rename(best)
    sync_folder(best.parent)
