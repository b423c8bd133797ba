"""The final model and all that is told of it -> `best/`, moved into place whole."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import pandas as pd

from catsdogs.base.files import free_name, write_csv, write_json, write_text
from catsdogs.data.dataset import Dataset
from catsdogs.final.evaluation import Evaluation
from catsdogs.final.members import Member
from catsdogs.final.model_card import model_card
from catsdogs.final.pipeline import submitted, write_pipeline
from catsdogs.final.submission import submission, write_submission

log = logging.getLogger(__name__)


def write_best(
    best: Path,
    model: keras.Model,
    metrics: dict[str, Any],
    predictions: pd.DataFrame,
    dataset: Dataset,
    recipe: dict[str, Any],
    members: Sequence[Member],
    judged: Evaluation,
) -> None:
    """Write everything beside `best/`, keep an earlier one under another name, and move it into place."""
    temporary = Path(tempfile.mkdtemp(prefix=".best-", dir=best.parent))
    try:
        temporary.chmod(0o755)
        model.save(temporary / "model.keras")
        write_pipeline(temporary, judged.pipeline, dataclasses.asdict(judged.combination))
        write_json(temporary / "metrics.json", metrics)
        write_json(temporary / "recipe.json", recipe)
        write_csv(temporary / "history.csv", _histories(members))
        write_csv(temporary / "predictions.csv", predictions)
        for name, table in (("tta.csv", judged.tta_table), ("ensemble.csv", judged.ensemble_table)):
            if table is not None:
                write_csv(temporary / name, table)
        if dataset.test is not None:
            test = predictions[predictions["split"] == "test"]
            rows = submission(list(test["id"]), submitted(test), list(dataset.test["id"]))
            write_submission(temporary / "submission.csv", rows)
        write_text(temporary / "MODEL_CARD.md", model_card(metrics, recipe, dataset))
        if best.exists():
            earlier = free_name(best)
            best.rename(earlier)
            log.info("kept the earlier %s as %s", best.name, earlier.name)
        temporary.rename(best)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _histories(members: Sequence[Member]) -> pd.DataFrame:
    """A row per epoch, of several members with the number of each."""
    if len(members) == 1:
        return members[0].training.history
    return pd.concat(
        [member.training.history.assign(member=number) for number, member in enumerate(members)], ignore_index=True
    )
