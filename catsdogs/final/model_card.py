"""Metrics + recipe -> `MODEL_CARD.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from omegaconf import OmegaConf

from catsdogs.data.dataset import Dataset

_TEMPLATES = Path(__file__).parents[1] / "pages" / "template"


def model_card(metrics: dict[str, Any], recipe: dict[str, Any], dataset: Dataset) -> str:
    """What a stranger must know to use the model, in Markdown.

    Args:
        metrics: as written to `metrics.json`.
        recipe: as written to `recipe.json`.
    """
    counts, folds = dataset.rows["split"].value_counts(), len(dataset.folds())
    divided = f"{counts['train']} for training, {counts['validation']} for validation"
    if folds > 1:
        divided = f"{counts['train'] + counts['validation']} in {folds} folds"
    if len(dataset.holdout_rows):
        divided += f", {len(dataset.holdout_rows)} held out"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics,
        recipe=recipe,
        dataset=dataset,
        divided=divided,
        size=recipe["config"]["backbone"]["image_size"],
        ensemble=metrics["ensemble"],
        several=len({member["job"] for member in metrics["ensemble"]["members"]}) > 1,
        yaml=OmegaConf.to_yaml({name: recipe[name] for name in ("hyperparameters", "config", "versions")}),
    )
