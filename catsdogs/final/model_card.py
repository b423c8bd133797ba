"""The file `MODEL_CARD.md`."""

from pathlib import Path
from typing import Any

import jinja2
from omegaconf import OmegaConf

from catsdogs.base.text import joined, listed
from catsdogs.data.dataset import Dataset
from catsdogs.pages.formats import (
    count,
    describe_model,
    format_ensemble_gain,
    format_tta_choice,
    loss,
    not_scored,
    percent,
)

_TEMPLATES = Path(__file__).parents[1] / "pages" / "template"


def model_card(metrics: dict[str, Any], recipe: dict[str, Any], dataset: Dataset) -> str:
    """Return the model card in Markdown, from the content of `metrics.json` and `recipe.json` and the data."""
    counts, folds = dataset.rows["split"].value_counts(), len(dataset.folds())
    split = f"{counts['train']:,} for training, {counts['validation']:,} for validation"
    if folds > 1:
        split = f"{counts['train'] + counts['validation']:,} in {folds} folds"
    if len(dataset.holdout_rows):
        split += f", {len(dataset.holdout_rows):,} in the holdout"
    class_split = next((name for name in ("holdout", "validation", "test") if name in metrics["class_scores"]), None)
    layout: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **layout)
    return environment.get_template("model_card.md.j2").render(
        metrics=metrics,
        recipe=recipe,
        dataset=dataset,
        split=split,
        shown_classes=listed(dataset.classes.names),
        outputs=dataset.classes.outputs,
        class_rows=_class_rows(metrics["class_scores"].get(class_split), dataset),
        class_split=class_split,
        loss=loss,
        not_scored=not_scored(metrics["test_images_not_scored"]),
        size=metrics["image_size"],
        resize=recipe["config"]["backbone"]["resize"],
        ensemble=metrics["ensemble"],
        model=describe_model(metrics),
        tta_choice=metrics["tta_choice"] and format_tta_choice(metrics["tta_choice"]),
        chosen=joined(metrics["chosen_on_validation"]),
        ensemble_gain=format_ensemble_gain(metrics["ensemble"]),
        several_trials=len({(member["job"], member["trial"]) for member in metrics["ensemble"]["members"]}) > 1,
        yaml=OmegaConf.to_yaml({name: recipe[name] for name in ("hyperparameters", "config", "versions")}),
    )


def _class_rows(scores: list[dict[str, Any]] | None, dataset: Dataset) -> list[list[str]]:
    images, names = dataset.rows["label"].value_counts(), dataset.classes.names
    rows = []
    for label, (name, row) in enumerate(zip(names, scores or [{}] * len(names), strict=True)):
        shown = [percent(row.get(key), 2) for key in ("precision", "recall")]
        rows.append([str(label), name.replace("|", r"\|"), count(images.get(label, 0)), *shown])
    return rows
