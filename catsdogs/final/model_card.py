"""The file `MODEL_CARD.md`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from omegaconf import OmegaConf

from catsdogs.base.text import joined
from catsdogs.data.dataset import Dataset
from catsdogs.pages.formats import describe_model, format_tta_choice, loss, not_scored

_TEMPLATES = Path(__file__).parents[1] / "pages" / "template"


def model_card(metrics: dict[str, Any], recipe: dict[str, Any], dataset: Dataset) -> str:
    """Return the model card in Markdown, from the content of `metrics.json` and `recipe.json` and the data."""
    counts, folds = dataset.rows["split"].value_counts(), len(dataset.folds())
    split = f"{counts['train']:,} for training, {counts['validation']:,} for validation"
    if folds > 1:
        split = f"{counts['train'] + counts['validation']:,} in {folds} folds"
    if len(dataset.holdout_rows):
        split += f", {len(dataset.holdout_rows):,} in the holdout"
    layout: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **layout)
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics,
        recipe=recipe,
        dataset=dataset,
        split=split,
        loss=loss,
        not_scored=not_scored(metrics["test_images_not_scored"]),
        size=recipe["config"]["backbone"]["image_size"],
        ensemble=metrics["ensemble"],
        model=describe_model(metrics),
        tta_choice=metrics["tta_choice"] and format_tta_choice(metrics["tta_choice"]),
        chosen=joined(metrics["chosen_on_validation"]),
        several_jobs=len({member["job"] for member in metrics["ensemble"]["members"]}) > 1,
        yaml=OmegaConf.to_yaml({name: recipe[name] for name in ("hyperparameters", "config", "versions")}),
    )
