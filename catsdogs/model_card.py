"""Metrics + recipe -> `MODEL_CARD.md`."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from catsdogs.dataset import Dataset


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
    size = recipe["config"]["backbone"]["image_size"]
    lines = [
        f"# Cat or dog: {recipe['config']['backbone']['builder'].rpartition('.')[2]}",
        "",
        "A binary classifier of photographs. It gives the probability that an image shows a dog rather than a cat.",
        "",
        "## How to load it",
        "",
        "```python",
        "import keras",
        "",
        'model = keras.models.load_model("model.keras")',
        f"p_dog = model.predict(images)  # images: (N, {size}, {size}, 3), RGB, 0..255; p_dog: (N, 1), 0..1",
        "```",
        "",
        f"Images are squeezed to {size} x {size} pixels by Pillow's bilinear filter, without regard to their aspect "
        "ratio. Preprocessing is inside the model. `python -m catsdogs.predict` does both.",
        "",
        "## Scores",
        "",
        "| score | value | 95 % interval | split | images |",
        "|---|---|---|---|---|",
    ]
    for name, detail in metrics["details"].items():
        lines.append(
            f"| {name} | {_number(detail['value'])} | {_interval(detail)} | {detail['split']} | {detail['size']} |"
        )
    lines += [
        "",
        "Log loss is the binary cross-entropy of the unsmoothed label; a leaderboard's scale is another one. Images "
        "that chose the trial and the epoch flatter the model a little.",
        "",
        *(f"- {name}: {meaning}" for name, meaning in metrics["splits"].items()),
    ]
    several = len({member["job"] for member in metrics["ensemble"]["members"]}) > 1
    if metrics["ensemble"]["kind"] == "folds":
        whose = "one member of each job, combined," if several else "the members, each alone"
        lines += [
            "",
            f"The scores on images that the search used are those of {whose} on the fold that it was not trained on, "
            "and so are TTA and calibration judged. What they come to together the hold-out tells.",
        ]
    elif metrics["validated_by"] != "final model":
        images = "all labelled images" if metrics["fit_on"] == "all" else "all images outside the hold-out"
        whose = "the models of its folds" if metrics["validated_by"] == "folds" else "the search's own models"
        lines += [
            "",
            f"The model was trained on {images}, for the epochs that the trial needed. The scores on images that the "
            f"search used are those of {whose}, which were not trained on the images that they are scored on.",
        ]
    if several and metrics["ensemble"]["way"] != "single":
        lines += ["", "How the jobs are combined was chosen on these images, which flatters the model a little too."]
    tta, calibration = metrics["tta"], metrics["calibration"]
    if len(metrics["ensemble"]["members"]) > 1:
        lines += ["", "## Members", "", f"Combined by {metrics['ensemble']['way']}:", ""]
        for member in metrics["ensemble"]["members"]:
            fold = "" if member["fold"] is None else f", fold {member['fold']}"
            lines.append(f"- job {member['job']}, trial {member['trial']}{fold}: weight {member['weight']:.3g}")
    if tta["kind"] != "none":
        lines += [
            "",
            f"Scores named `_tta` average the {tta['average']} of {tta['views']} views (tta={tta['kind']}), as the "
            "submission does.",
        ]
    if calibration is not None:
        lines += [
            "",
            f"The submission is calibrated: logits are divided by {calibration['temperature']:.3f}, and no class gets "
            f"less than {calibration['floor']:.2g}. Scores named `_calibrated` are; on the images that this was fitted "
            "on they are cross-fitted.",
        ]
    lines += [
        "",
        "## Data",
        "",
        f"- {len(dataset.rows)} labelled images: {divided}; {len(dataset.left_out)} left out",
        f"- digest of ids, labels, contents and split: `{recipe['data_digest']}`",
        "",
        "## Recipe",
        "",
        f"Study {metrics['study']}, job {recipe['job']}, trial {recipe['trial']}; {metrics['epochs']} epochs trained, "
        f"the best was epoch {metrics['best_epoch']}; seed {recipe['seed']}.",
        "",
        "```yaml",
        OmegaConf.to_yaml({"hyperparameters": recipe["hyperparameters"]}).strip(),
        OmegaConf.to_yaml({"config": recipe["config"]}).strip(),
        OmegaConf.to_yaml({"versions": recipe["versions"]}).strip(),
        "```",
        "",
        "## Limits",
        "",
        "It knows cats and dogs alone and will call anything else one of the two. It was measured on images of the "
        "same source as those it was trained on; expect worse on other sources."
        + (" Probabilities are not calibrated." if calibration is None else ""),
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5f}"


def _interval(detail: dict[str, Any]) -> str:
    return "–" if detail["low"] is None else f"{detail['low']:.5f} to {detail['high']:.5f}"
