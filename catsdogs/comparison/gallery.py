"""Misclassified and uncertain images of a model, with thumbnails.

A study may be untrusted, so it cannot name files of this machine. Images are looked up in the cache and in the folder
that the user passed. For the user's own studies, the folders that the job names are also tried. No folder is listed. A
thumbnail is shown only if the image has the same SHA-256 as in the job.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from PIL import Image

from catsdogs.base.files import read_bytes
from catsdogs.comparison.study_data import FinalModel, StudyData, read_split
from catsdogs.comparison.summary import Summary
from catsdogs.config.locations import default_cache
from catsdogs.data.images import transform
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import JobRecord

MOST_ERRORS = 24
MOST_UNCERTAIN = 12

_PIXELS = 128  # longer side of a thumbnail
_QUALITY = 82  # JPEG quality: about 5 kB per thumbnail
_MOST_BYTES = 64 * 2**20  # larger files are not read


@dataclass(frozen=True)
class Gallery:
    """Misclassified and uncertain images of a model.

    Attributes:
        source: the model, as a noun phrase: "the final model of ...".
        wrong: all misclassified images, most confident first: id, label (0 = cat, 1 = dog), p_dog, log_loss.
        errors: the first 24 rows of `wrong`, with thumbnail: `data:image/jpeg;base64,...` or None.
        uncertain: at most 12 other images, most uncertain first, with thumbnail.
        images: number of evaluated images.
        missing: why thumbnails are missing and how to fix it; None if none are.
        ignored: ids that the job already excluded with `data.ignore`.
    """

    source: str
    wrong: pd.DataFrame
    errors: list[dict[Any, Any]]
    uncertain: list[dict[Any, Any]]
    images: int
    missing: str | None
    ignored: list[str]


def gallery(study_data: StudyData, summary: Summary, images: Path | None = None) -> Gallery | None:
    """Return the gallery of the final model of the best job's study, or else of the best trial of the best job.

    A final model is evaluated by the probabilities that it submits, which include TTA and calibration if it uses them.
    None if there are no predictions. `images` is the folder of the images, if the user passed one.
    """
    if summary.best is None:
        return None
    row: Any = study_data.leaderboard.set_index("label").loc[summary.best]
    final = study_data.final_models.get(row["study"])
    evaluation = _of_final(study_data, final) if final is not None else None
    if evaluation is None and summary.best in study_data.predictions:
        job = study_data.jobs[summary.best]
        trial = "the best trial" if pd.isna(row["best_trial"]) else f"trial {row['best_trial']}"
        source = f"{trial} of job {summary.best}"
        evaluation = source, study_data.predictions[summary.best], job, job.result["config"]
    if evaluation is None:
        return None
    source, table, job, config = evaluation
    table = table[["id", "label", "p_dog"]]
    table = table.assign(log_loss=log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy()))
    wrong = table[(table["p_dog"] > 0.5) != (table["label"] == 1)]
    wrong = wrong.sort_values("log_loss", ascending=False, kind="stable", ignore_index=True)
    shown = wrong.head(MOST_ERRORS)
    by_certainty = table.sort_values("p_dog", key=lambda p_dog: (p_dog - 0.5).abs(), kind="stable")
    least_certain = by_certainty[~by_certainty["id"].isin(shown["id"])].head(MOST_UNCERTAIN)
    thumbnails, missing = _thumbnails([*shown["id"], *least_certain["id"]], job, config, images)
    errors, uncertain = (
        [{**row, "thumbnail": thumbnails.get(row["id"])} for row in part.astype({"label": int}).to_dict("records")]
        for part in (shown, least_certain)
    )
    ignored = [str(name) for name in config.get("data", {}).get("ignore") or []]
    return Gallery(source, wrong, errors, uncertain, len(table), missing, ignored)


def _of_final(study_data: StudyData, final: FinalModel) -> tuple[str, pd.DataFrame, JobRecord, dict[str, Any]] | None:
    """Return source, predictions, job and configuration of a final model; None without labeled validation images."""
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1]) & table["p_dog"].between(0, 1)]
    board = study_data.leaderboard
    row = board[(board["study"] == final.study) & (board["job"] == final.metrics.get("job"))]
    labels = [label for label in row["label"] if label in study_data.jobs]
    if table.empty or not labels or not table["id"].is_unique:
        return None
    evaluated_with, job, suffix = final.metrics.get("validated_by"), study_data.jobs[labels[0]], ""
    for name, step in (("p_dog_tta", "TTA"), ("p_dog_calibrated", "calibration")):
        if name in table and table[name].between(0, 1).all():
            table = table.assign(p_dog=table[name])
            suffix += f" {'and' if suffix else 'with'} {step}"
    if evaluated_with == "folds":
        source = f"the fold models of study {final.study} on their validation folds{suffix}"
    elif final.metrics.get("fit_on") == "all" or evaluated_with == "search":
        # The final model was trained on these images; `retrain` saved the predictions of the trial's own model.
        source = f"trial {final.metrics.get('trial')} of job {labels[0]} in the search, before retraining"
    else:
        source = f"the final model of study {final.study}{suffix}"
    return source, table, job, final.recipe["config"] or job.result["config"]


def _thumbnails(
    ids: list[str], job: JobRecord, config: dict[str, Any], images: Path | None
) -> tuple[dict[str, str], str | None]:
    """Return thumbnails by id, and why some are missing."""
    table = read_split(job.folder)
    # Versions 0.1 and 0.2 did not record paths.
    rows = [] if table is None or "path" not in table else table[["id", "path", "sha256"]].itertuples(index=False)
    recorded = {name: (path, sha256) for name, path, sha256 in rows}
    folders = _folders(job, config, images)

    def first(path: str, sha256: str) -> str | None:
        return next(filter(None, (thumbnail(folder, path, sha256) for folder in folders)), None)

    thumbnails = {name: jpeg for name in ids if name in recorded and (jpeg := first(*recorded[name]))}
    missing = len(ids) - len(thumbnails)
    if not missing:
        return thumbnails, None
    how_many = "No thumbnails" if missing == len(ids) else f"{missing} of {len(ids)} thumbnails are missing"
    fix = "Restore them, or regenerate the report with --images FOLDER, the folder of the paths in split.csv."
    return thumbnails, f"{how_many}: the images of the job were not found, or differ from its split.csv. {fix}"


def _folders(job: JobRecord, config: dict[str, Any], images: Path | None) -> list[Path]:
    """Return folders that may contain the images of a job: those of the user, and those that the user's study names."""
    data = config.get("data", {})
    digests = [str(job.result["data"].get(key)) for key in ("validation_digest", "images_digest")]
    archives = [f"archives/{digest}" for digest in digests if re.fullmatch("[0-9a-f]{64}", digest)]
    sources = [images, *(f"{default_cache()}/{archive}" for archive in archives)]
    if job.folder.parent.stat().st_uid == os.getuid():
        sources += [data.get("validation"), data.get("train")]
        sources += [f"{config['cache']}/{archive}" for archive in archives] if config.get("cache") else []
    return [Path(os.path.expanduser(str(source))) for source in sources if source]


def thumbnail(folder: Path, path: str, sha256: str) -> str | None:
    """Return a small upright JPEG of an image file as a `data:` URL.

    None if the path is outside the folder or not a regular file with this SHA-256.
    """
    file = folder / path
    try:
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if not inside or hashlib.sha256(data := read_bytes(file, _MOST_BYTES)).hexdigest() != sha256:
            return None
        jpeg = transform(data, _shrunk)
    except (OSError, ValueError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")


def _shrunk(image: Image.Image) -> io.BytesIO:
    image.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    return jpeg
