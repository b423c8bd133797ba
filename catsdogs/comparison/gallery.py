"""Predictions + images -> the most confident mistakes and the least sure answers, with thumbnails.

A study may come from a stranger, so it names no file of this machine: a picture is looked for in the cache, in the
folder that the user gave, and, of the user's own studies, where the job found its images. It is shown only if its bytes
are those that the job saw.
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

import numpy as np
import pandas as pd
from PIL import Image

from catsdogs.base.errors import UserError
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.comparison.study_data import FinalModel, StudyData
from catsdogs.comparison.summary import Summary
from catsdogs.config.locations import default_cache
from catsdogs.data.archive import image_paths
from catsdogs.data.catalog import ids_of
from catsdogs.data.images import decode
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import JobRecord

MOST_MISTAKES = 24
MOST_UNSURE = 12

_PIXELS = 128  # of the longer side of a thumbnail
_QUALITY = 82  # of its JPEG: about 5 kB
_MOST_BYTES = 64 * 2**20  # of an image; a larger file is no picture


# Earlier versions did not write the paths.
_SPLIT = Table({"id": str, "sha256": str, "path": str}, optional=("path",))


@dataclass(frozen=True)
class Gallery:
    """What a model got wrong, and where it could not decide.

    Attributes:
        source: whose answers these are, as the end of a sentence: "the final model of ...".
        wrong: all mistakes, the most confident first: id, label (0 = cat, 1 = dog), p_dog, log_loss.
        mistakes: the first 24 of them, each with its thumbnail: `data:image/jpeg;base64,...`, or None.
        unsure: likewise, the least sure first, at most 12, without those that `mistakes` shows.
        images: how many were judged.
        missing: why thumbnails are missing, and what to do; None: all are there.
        ignored: ids that the job left out by `data.ignore` already.
    """

    source: str
    wrong: pd.DataFrame
    mistakes: list[dict[Any, Any]]
    unsure: list[dict[Any, Any]]
    images: int
    missing: str | None
    ignored: list[str]


def gallery(study_data: StudyData, answer: Summary, images: Path | None = None) -> Gallery | None:
    """The gallery of the final model of the best job's study, else of the best trial of the best job.

    A final model is judged by the probabilities that it submits: with test-time augmentation where it has some. None
    where nothing was predicted.

    Args:
        images: folder of the images, as the user gave it.
    """
    if answer.best is None:
        return None
    final = study_data.final_models.get(str(study_data.leaderboard.set_index("label")["study"][answer.best]))
    judged = _of_final(study_data, final) if final is not None else None
    if judged is None and answer.best in study_data.predictions:
        job = study_data.jobs[answer.best]
        trial = "the best trial" if answer.trial is None else f"trial {answer.trial}, the best"
        judged = f"{trial} of job {answer.best}", study_data.predictions[answer.best], job, job.result["config"]
    if judged is None:
        return None
    source, table, job, config = judged
    table = table[["id", "label", "p_dog"]]
    table = table.assign(log_loss=log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy()))
    wrong = table[(table["p_dog"] > 0.5) != (table["label"] == 1)].sort_values(
        "log_loss", ascending=False, kind="stable", ignore_index=True
    )
    shown = wrong.head(MOST_MISTAKES)
    rest = table[~table["id"].isin(shown["id"])]
    unsure = rest.iloc[np.argsort((rest["p_dog"] - 0.5).abs().to_numpy(), kind="stable")[:MOST_UNSURE]]
    thumbnails, missing = _thumbnails([*shown["id"], *unsure["id"]], job, config, images)
    mistakes, doubts = (
        [{**row, "thumbnail": thumbnails.get(row["id"])} for row in part.astype({"label": int}).to_dict("records")]
        for part in (shown, unsure)
    )
    return Gallery(
        source=source,
        wrong=wrong,
        mistakes=mistakes,
        unsure=doubts,
        images=len(table),
        missing=missing,
        ignored=[str(name) for name in config.get("data", {}).get("ignore") or []],
    )


def _of_final(study_data: StudyData, final: FinalModel) -> tuple[str, pd.DataFrame, JobRecord, dict[str, Any]] | None:
    """Source, answers, job and configuration of a final model; None if it was judged on no labelled image."""
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1]) & table["p_dog"].between(0, 1)]
    row = study_data.leaderboard[
        (study_data.leaderboard["study"] == final.study) & (study_data.leaderboard["job"] == final.metrics.get("job"))
    ]
    labels = [label for label in row["label"] if label in study_data.jobs]
    if table.empty or not labels or not table["id"].is_unique:
        return None
    judged_by = final.metrics.get("validated_by")
    source = f"the final model of study {final.study}"
    if judged_by == "folds":
        source = f"the models of the folds of study {final.study}, each on images that it had not seen"
    for name, told in (("p_dog_tta", ", with test-time augmentation"), ("p_dog_calibrated", ", calibrated")):
        if name in table and table[name].between(0, 1).all():
            table, source = table.assign(p_dog=table[name]), source + told
    job = study_data.jobs[labels[0]]
    if judged_by != "folds" and (final.metrics.get("fit_on") == "all" or judged_by == "search"):
        # The final model has seen these images; `retrain` kept what the trial's own model had said of them.
        source = f"trial {final.metrics.get('trial')} of job {labels[0]}, before it was trained again on all images"
    return source, table, job, final.recipe["config"] or job.result["config"]


def _thumbnails(
    ids: list[str], job: JobRecord, config: dict[str, Any], images: Path | None
) -> tuple[dict[str, str], str | None]:
    """Thumbnails by id, and why some are missing."""
    try:
        table = _SPLIT.read(job.folder / "split.csv")
    except CorruptedFile:
        table = None
    if table is None:
        return {}, (
            f"No pictures: job {job.name} has no readable split.csv, without which no picture can be told to be the "
            "one that the job saw; run it again with this version to see them."
        )
    hashes = dict(zip(table["id"], table["sha256"], strict=True))
    told = dict(zip(table["id"], table["path"], strict=True)) if "path" in table else {}
    found: dict[str, str] = {}
    for folder in _folders(job, config, images):
        left = [name for name in ids if name in hashes and name not in found]
        if not left:
            break
        paths = told if any((folder / told.get(name, "")).is_file() for name in left) else _listed(folder)
        for name in left:
            made = thumbnail(folder, paths.get(name, ""), hashes[name])
            if made is not None:
                found[name] = made
    lacking = len(ids) - len(found)
    if not lacking:
        return found, None
    how_many = "No pictures" if lacking == len(ids) else f"{lacking} of {len(ids)} pictures are not shown"
    return found, (
        f"{how_many}: the images that the job saw are not at hand, or have changed since; "
        "write this report again with --images FOLDER, the folder of the images."
    )


def _folders(job: JobRecord, config: dict[str, Any], images: Path | None) -> list[Path]:
    """Where the images of a job may lie, the likeliest first."""
    caches = [str(default_cache())]
    folders = [] if images is None else [images]
    if job.folder.parent.stat().st_uid == os.getuid():
        caches += [str(config["cache"])] if config.get("cache") else []
        train = config.get("data", {}).get("train")
        folders += [Path(str(train)).expanduser()] if train else []
    digest = str(job.result["data"].get("images_digest"))
    if re.fullmatch("[0-9a-f]{64}", digest):
        folders += [Path(cache).expanduser() / "archives" / digest for cache in caches]
    return [folder for folder in folders if folder.is_dir()]


def _listed(folder: Path) -> dict[str, str]:
    """Paths of the images of a folder by id, as the catalogue calls them."""
    try:
        paths = image_paths(folder)
    except (OSError, UserError):
        return {}
    return dict(zip(ids_of(paths), paths, strict=True))


def thumbnail(folder: Path, path: str, sha256: str) -> str | None:
    """A small upright JPEG of an image file as a `data:` address.

    None where the path leads out of the folder, and where there is no regular file of these bytes.
    """
    file = folder / path
    try:
        inside = not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
        if not (inside and file.is_file() and file.stat().st_size <= _MOST_BYTES):
            return None
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        image = Image.fromarray(decode(data, None))
    except (OSError, ValueError):
        return None
    image.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
