"""Predictions + images -> the most confident mistakes and the least sure answers, with thumbnails.

Images are read where they are: in the folder or zip that the job was given, or in the cache. Nothing is unpacked, and a
picture is shown only if its bytes are those that the job saw.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from catsdogs.archive import IMAGE_SUFFIXES, image_paths, natural_key
from catsdogs.catalogue import ids_of
from catsdogs.comparison.answer import Answer
from catsdogs.comparison.evidence import Evidence, Final
from catsdogs.errors import UserError
from catsdogs.images import decode
from catsdogs.scores import log_loss_per_image
from catsdogs.study import Job

MOST_MISTAKES = 24
MOST_UNSURE = 12

_PIXELS = 128  # of the longer side of a thumbnail
_QUALITY = 82  # of its JPEG: about 5 kB
_MOST_BYTES = 64 * 2**20  # of an image; a larger member of a zip is no picture

# What a damaged or vanished file or archive raises; it must not keep the numbers of a page from being read.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, UserError)

_log = logging.getLogger(__name__)

Read = Callable[[], bytes]


@dataclass(frozen=True)
class Shot:
    """One image and what was said of it.

    Attributes:
        id: as in the catalogue.
        label: 0 = cat, 1 = dog.
        p_dog: in [0, 1].
        loss: log loss of this image, in nats.
        thumbnail: `data:image/jpeg;base64,...`; None: the image is not at hand.
    """

    id: str
    label: int
    p_dog: float
    loss: float
    thumbnail: str | None

    @property
    def said(self) -> int:
        """0 = cat, 1 = dog, as accuracy counts."""
        return int(self.p_dog > 0.5)


@dataclass(frozen=True)
class Gallery:
    """What a model got wrong, and where it could not decide.

    Attributes:
        source: whose answers these are, as the end of a sentence: "the final model of ...".
        mistakes: the most confident first, at most 24.
        mistakes_total: how many there are.
        unsure: the least sure first, at most 12, without those that `mistakes` shows.
        images: how many were judged.
        missing: why thumbnails are missing, and what to do; None: all are there.
        wrong: all mistakes, the most confident first: id, label, p_dog, log_loss.
        ignored: ids that the job left out by `data.ignore` already.
    """

    source: str
    mistakes: list[Shot]
    mistakes_total: int
    unsure: list[Shot]
    images: int
    missing: str | None
    wrong: pd.DataFrame
    ignored: list[str]


def gallery(evidence: Evidence, answer: Answer) -> Gallery | None:
    """The gallery of the final model of the best job's study, else of the best trial of the best job.

    A final model is judged by the probabilities that it submits: with test-time augmentation where it has some. None
    where nothing was predicted.
    """
    if answer.best is None:
        return None
    study = str(evidence.board.set_index("label")["study"][answer.best])
    final = evidence.finals.get(study)
    judged = None if final is None else _of_final(evidence, final)
    if judged is None:
        if answer.best not in evidence.predictions:
            return None
        job = evidence.jobs[answer.best]
        trial = "the best trial" if answer.trial is None else f"trial {answer.trial}, the best"
        judged = (
            f"{trial} of job {answer.best}",
            evidence.predictions[answer.best][["id", "label", "p_dog"]],
            job,
            _mapping(job.result.get("config")),
        )
    source, table, job, config = judged
    table = table.assign(log_loss=log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy()))
    wrong = table[(table["p_dog"] > 0.5) != (table["label"] == 1)].sort_values(
        "log_loss", ascending=False, kind="stable", ignore_index=True
    )
    shown = wrong.head(MOST_MISTAKES)
    rest = table[~table["id"].isin(shown["id"])]
    unsure = rest.iloc[np.argsort((rest["p_dog"] - 0.5).abs().to_numpy(), kind="stable")[:MOST_UNSURE]]
    wanted = [str(name) for name in [*shown["id"], *unsure["id"]]]
    thumbnails, missing = _thumbnails(wanted, job, config)
    return Gallery(
        source=source,
        mistakes=_shots(shown, thumbnails),
        mistakes_total=len(wrong),
        unsure=_shots(unsure, thumbnails),
        images=len(table),
        missing=missing,
        wrong=wrong.reset_index(drop=True),
        ignored=[str(name) for name in _mapping(config.get("data")).get("ignore") or []],
    )


def _of_final(evidence: Evidence, final: Final) -> tuple[str, pd.DataFrame, Job, dict[str, Any]] | None:
    """Source, answers, job and configuration of a final model; None if it was judged on no labelled image."""
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1]) & table["p_dog"].between(0, 1)]
    row = evidence.board[(evidence.board["study"] == final.study) & (evidence.board["job"] == final.metrics.get("job"))]
    labels = [label for label in row["label"] if label in evidence.jobs]
    if table.empty or not labels or not table["id"].is_unique:
        return None
    judged_by = final.metrics.get("validated_by")
    source = f"the final model of study {final.study}"
    if judged_by == "folds":
        source = f"the models of the folds of study {final.study}, each on images that it had not seen"
    for name, told in (("p_dog_tta", ", with test-time augmentation"), ("p_dog_calibrated", ", calibrated")):
        if name in table and table[name].between(0, 1).all():
            table, source = table.assign(p_dog=table[name]), source + told
    job = evidence.jobs[labels[0]]
    if judged_by != "folds" and (final.metrics.get("fit_on") == "all" or judged_by == "search"):
        # The final model has seen these images; `retrain` kept what the trial's own model had said of them.
        source = f"trial {final.metrics.get('trial')} of job {labels[0]}, before it was trained again on all images"
    config = _mapping(final.recipe.get("config")) or _mapping(job.result.get("config"))
    return source, table[["id", "label", "p_dog"]], job, config


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _shots(table: pd.DataFrame, thumbnails: dict[str, str]) -> list[Shot]:
    columns = zip(table["id"].map(str), table["label"], table["p_dog"], table["log_loss"], strict=True)
    return [Shot(name, int(label), float(p), float(loss), thumbnails.get(name)) for name, label, p, loss in columns]


def _thumbnails(ids: list[str], job: Job, config: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    """Thumbnails by id, and why some are missing."""
    if not ids:
        return {}, None
    hashes = _hashes(job, ids)
    if not hashes:
        return {}, (
            f"No pictures: job {job.name} has no readable split.csv, without which no picture can be told to be the "
            "one that the job saw; run it again with this version to see them."
        )
    found: dict[str, str] = {}
    changed = False
    for source in _sources(config):
        left = {name: digest for name, digest in hashes.items() if name not in found}
        if not left:
            break
        try:
            for name, read in source(left):
                made = thumbnail(read, left[name])
                if made is not None:
                    found[name] = made
                else:
                    changed = True
        except _UNREADABLE as error:
            _log.debug("no pictures from one source: %s", error)
    lacking = len(ids) - len(found)
    if not lacking:
        return found, None
    return found, _missing(lacking, len(ids), changed, config)


def _missing(lacking: int, total: int, changed: bool, config: dict[str, Any]) -> str:
    how_many = "No pictures" if lacking == total else f"{lacking} of {total} pictures are not shown"
    train = _mapping(config.get("data")).get("train")
    if changed and train:
        return (
            f"{how_many}: the images at {train} are no longer those that the job saw; "
            "put the original archive back and write this report again."
        )
    if train:
        return (
            f"{how_many}: {train} is not at hand, or does not hold them; "
            "put the archive back where it was and write this report again."
        )
    return f"{how_many}: the drawn images are no longer in the cache; run the study again with a new name to draw them."


def _hashes(job: Job, ids: list[str]) -> dict[str, str]:
    """sha256 of these images, as the job saw them."""
    try:
        table = pd.read_csv(job.folder / "split.csv", dtype=str, keep_default_na=False)
        known = dict(zip(table["id"], table["sha256"], strict=True))
    except (OSError, ValueError, KeyError):
        return {}
    return {name: known[name] for name in ids if name in known}


Source = Callable[[dict[str, str]], Iterator[tuple[str, Read]]]


def _sources(config: dict[str, Any]) -> list[Source]:
    """Where the images of a job may be, the likeliest first."""
    data = _mapping(config.get("data"))
    sources: list[Source] = []
    cache = Path(str(config["cache"])).expanduser() if config.get("cache") else None
    if data.get("train"):
        train = Path(str(data["train"])).expanduser()
        if train.is_dir():
            sources.append(_from(_in_folder, train))
        elif train.is_file():
            sources.append(_from(_in_zip, train))
    if cache is not None:
        if not data.get("train"):
            # Drawn images: whichever archive holds the very bytes is the right one.
            sources += [_from(_in_zip, archive) for archive in sorted((cache / "sample").glob("*/train.zip"))]
        sources.append(_from(_in_cache, cache))
    return sources


def _from(kind: Callable[[Path, dict[str, str]], Iterator[tuple[str, Read]]], place: Path) -> Source:
    return lambda wanted: kind(place, wanted)


def _in_folder(folder: Path, wanted: dict[str, str]) -> Iterator[tuple[str, Read]]:
    paths = image_paths(folder)
    for name, path in zip(ids_of(paths), paths, strict=True):
        if name in wanted:
            yield name, (folder / path).read_bytes


def _in_zip(archive: Path, wanted: dict[str, str]) -> Iterator[tuple[str, Read]]:
    """Members are read one by one in memory; nothing is written, so their names can lead nowhere."""
    with zipfile.ZipFile(archive) as file:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in file.infolist():
            parts = [part for part in info.filename.replace("\\", "/").split("/") if part not in ("", ".")]
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
            if parts and not hidden and not info.is_dir() and parts[-1].lower().endswith(IMAGE_SUFFIXES):
                members["/".join(parts)] = info
        paths = sorted(members, key=natural_key)
        for name, path in zip(ids_of(paths), paths, strict=True):
            info = members[path]
            if name in wanted and info.file_size <= _MOST_BYTES:
                yield name, _member(file, info)


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Read:
    def read() -> bytes:
        with file.open(info) as member:
            return member.read(_MOST_BYTES)

    return read


def _in_cache(cache: Path, wanted: dict[str, str]) -> Iterator[tuple[str, Read]]:
    """Unpacked archives, found by the sha256 of their images in the catalogues."""
    digests: dict[str, list[str]] = {}
    for name, digest in wanted.items():
        digests.setdefault(digest, []).append(name)
    for file in sorted((cache / "catalogues").glob("*.csv")):
        root = cache / "archives" / file.name.partition("-")[0]
        if not root.is_dir():
            continue
        table = pd.read_csv(file, usecols=["path", "sha256"], dtype=str, keep_default_na=False)
        for relative, sha256 in zip(table["path"], table["sha256"], strict=True):
            path = root / relative
            for name in digests[sha256] if sha256 in digests and path.is_file() else []:
                yield name, path.read_bytes


def thumbnail(read: Read, sha256: str) -> str | None:
    """A small upright JPEG of an image file as a `data:` address; None if these are not the bytes that the job saw."""
    try:
        data = read()
    except _UNREADABLE:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    image = Image.fromarray(decode(io.BytesIO(data), None))
    image.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
