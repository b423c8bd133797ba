"""Readers of files from other people: how to make a valid input, how to read it, and which values are in range."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configurations as conf
import numpy as np
import pandas as pd
from configurations import composed
from PIL import Image
from pydantic import BaseModel
from studies import CHOICES, write_final, write_job, write_study
from synthetic_images import cats_and_dogs, encoded, folder_of, gradient, zip_of

from catsdogs.base.files import write_csv, write_json
from catsdogs.base.provenance import versions
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.config.schema import BackboneConfig
from catsdogs.data.archive import open_images
from catsdogs.data.catalog import build_catalog
from catsdogs.data.images import pixels
from catsdogs.features.store import Store
from catsdogs.final.pipeline import PIPELINE, final_output, read_pipeline
from catsdogs.launching.registration import register
from catsdogs.network.backbones import load_network
from catsdogs.scoring.classes import DEFAULT
from catsdogs.study.decision import inspect_job
from catsdogs.study.identity import fingerprint
from catsdogs.study.job_tables import HISTORY_TABLE, validation_table
from catsdogs.study.jobs import read_job
from catsdogs.study.plan import Plan, read_plan
from catsdogs.study.trials import read_trials

KEY = "e" * 64
CHOSEN = "mobilenet_v2-light-cosine-none"  # the job with damaged files

register()
RANGES: dict[str, tuple[float, float]] = {  # of docs/SCORES.md and the tables of a study
    **dict.fromkeys(("label", "p_dog", "p_dog_tta", "p_dog_calibrated", "val_accuracy", "accuracy"), (0, 1)),
    **dict.fromkeys(("val_log_loss", "log_loss", "loss", "val_loss", "learning_rate"), (0, math.inf)),
    **dict.fromkeys(("trial", "execution", "epoch", "epochs", "best_epoch", "first_epoch", "seconds"), (0, 1e9)),
}


@dataclass(frozen=True)
class Reader:
    """How to make, damage, read and check one kind of input."""

    cases: int  # of 100,000
    files: Mapping[str, str]  # patterns of the files to damage, each with its kind in `cases.KINDS`
    make: Callable[[Path], Any]  # writes a valid input into a folder
    read: Callable[[Path, Path], Any]  # returns the values, from the folder and the path of the damaged file
    problem: Callable[[Any, Any], str] = lambda value, valid: ""  # why values, other than the valid ones, are wrong
    heals: bool = False  # every damaged input gives the values of the valid one, as that of a cache
    message: Callable[[Any], str] = lambda value: ""  # in values that report a damaged file among the others
    writes: tuple[str, ...] = ("cache",)  # paths below which files may change
    seconds: int = 10  # longest time of a case on the processor; six times as long by the clock
    same: bool = False  # the valid values are the same for all files


def plain(value: Any) -> Any:
    """Return values in a form in which equal values have equal texts, and others different ones."""
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel):
        value = dict(value) if isinstance(value, BaseModel) else vars(value)
    if isinstance(value, pd.DataFrame):
        return value.to_dict("split"), list(map(str, value.dtypes))
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def out_of_range(*tables: Any) -> str:
    """Return the first column with a value that its meaning excludes; cells may be empty."""
    for table in tables:
        for name, (low, high) in RANGES.items():
            if name in table:
                column = pd.to_numeric(pd.Series(table[name], dtype=object)).dropna()
                if not column.between(low, high).all():
                    return f"{name} is out of range"
    return ""


# Images, archives and the cache


def make_zip(folder: Path) -> None:
    zip_of(folder / "train.zip", cats_and_dogs(3, 3) | {"notes.txt": b"x"})


def read_zip(folder: Path, file: Path) -> Any:
    images = open_images(file, folder / "cache")
    return {path: (images.root / path).read_bytes() for path in images.paths}, images.skipped


def archive_problem(value: Any, valid: Any) -> str:
    """Check that every image has a path below its folder, and the content of a member."""
    for path, content in value[0].items():
        parts = path.split("/")
        if not path.isprintable() or len(path) > 2048 or {"", ".", ".."} & {*parts}:
            return f"path {path!a}"
        # `cases.mutated_zip` adds zeros and a path; `notes.txt` may get the name of an image.
        if content not in (*valid[0].values(), b"x", b"/etc/passwd") and content.strip(b"\0"):
            return f"content of {path!a}"
    return ""


def make_images(folder: Path) -> None:
    image, exif = gradient(1, 64, 48), Image.Exif()
    exif[274] = 6
    names = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "GIF")
    files = {name: encoded(image, name) for name in names}
    files |= {mode: encoded(image.convert(mode), "PNG") for mode in ("P", "LA", "1", "I;16")}
    files |= {"CMYK": encoded(image.convert("CMYK")), "EXIF": encoded(image, exif=exif)}
    folder_of(folder, {f"{name}/cat.1.jpg": data for name, data in files.items()})


def read_images(folder: Path, file: Path) -> Any:
    """Decode in full, for the catalog, and resize, as for training."""
    images = open_images(file.parent, folder / "cache")
    table = build_catalog(images, folder / "cache")
    decoded = table[table["problem"] == ""]
    array = np.array(pixels(decoded, images.root, 32, folder / "cache")) if len(decoded) else None
    return table.drop(columns="sha256"), array


def image_problem(value: Any, valid: Any) -> str:
    (row,), array = value[0].to_dict("records"), value[1]
    if array is None:
        reason = row["problem"]
        return "" if row["width"] == 0 and len(reason) <= 300 and reason.isprintable() else f"reason {reason!r}"
    square = array.shape == (1, 32, 32, 3) and array.dtype == np.uint8
    return "" if square and row["width"] > 0 and row["height"] > 0 else f"{row} {array.shape} {array.dtype}"


def make_folder(folder: Path) -> None:
    folder_of(folder / "images", cats_and_dogs(3, 3))
    for image in (folder / "images" / "train").iterdir():
        os.utime(image, (10**9, 10**9))  # part of the key of a catalog
    read_folder(folder, folder)


def read_folder(folder: Path, file: Path) -> Any:
    images = open_images(folder / "images", folder / "cache")
    table = build_catalog(images, folder / "cache")
    return table, np.array(pixels(table, images.root, 32, folder / "cache"))


def read_store(folder: Path, file: Path | None = None) -> Any:
    store, values = Store(folder / "cache" / "features", 2**30), np.arange(120, dtype=np.float32).reshape(5, 2, 12)
    store.clear(1.0, dry_run=True)
    sizes = [store.room([KEY]) > 0, all(entry.bytes >= 0 for entry in store.entries())]
    store.fill(KEY, {KEY: values.shape}, "float16", lambda missing: iter([[values]]))
    stored = store.open(KEY)
    assert stored is not None
    return stored.read(np.arange(5)), sizes


# Studies


def make_study(folder: Path) -> None:
    best = write_final(write_study(folder / "study"))
    table = pd.read_csv(best.parent / CHOSEN / "validation.csv")
    split = table.assign(split="validation", sha256=[f"{row:064x}" for row in range(len(table))])
    write_csv(best.parent / CHOSEN / "split.csv", split[["id", "label", "sha256", "split"]])
    tta, calibration = {"kind": "views", "views": 2, "average": "logit"}, {"temperature": 1.5, "floor": 0.001}
    pipeline = {"tta": tta, "calibration": calibration, "combination": {}, "seed": 3}
    write_json(best / PIPELINE, pipeline | {"augmentation": dataclasses.asdict(composed())["augmentation"]})


def plan_problem(value: Plan, valid: Any) -> str:
    """Check that jobs are names of folders in the study, and that the start is in UTC."""
    names = [*value.jobs, *value.run]
    if not all(name.strip(".") and not {*name} & {*"/\\\0"} and len(name) < 256 for name in names):
        return f"jobs {names}"
    texts = all(isinstance(word, str) for word in value.command)
    return "" if texts and (value.started is None or value.started.utcoffset() is not None) else "command or start"


def pipeline_problem(value: Any, valid: Any) -> str:
    """Check that a pipeline gives probabilities."""
    if value is None:
        return ""
    plain = np.eye(len(value.classes))
    final = final_output(value.steps(plain, plain if value.uses_tta else None))
    return "" if np.all((final >= 0) & (final <= 1)) else f"{final}"


def read_tables(folder: Path, file: Path) -> Any:
    tables = {"trials": read_trials, "history": HISTORY_TABLE.read, "validation": validation_table(DEFAULT).read}
    return tables[file.stem](file)


def tables_problem(value: Any, valid: Any) -> str:
    if isinstance(value, list):
        numbers = [trial.trial for trial in value]
        parents = all(trial.parent in ("", *numbers[:at]) for at, trial in enumerate(value))
        if len({*numbers}) < len(numbers) or not parents:
            return "repeated trial or wrong parent"
        value = pd.DataFrame([{**vars(trial), "trial": int(trial.trial)} for trial in value])
    return "" if value is None else out_of_range(value)


def read_result(folder: Path, file: Path) -> Any:
    job = read_job(file.parent)
    return job and (job.result, job.best(), job.objective, job.state.value, job.choices, job.choice("fit.epochs"))


def result_problem(value: Any, valid: Any) -> str:
    if value is None:
        return ""
    result, best, objective, _, choices, _ = value
    if result["status"] not in ("ok", "failed", "running") or math.isnan(objective):
        return "status or objective"
    texts = all(isinstance(text, str) for pair in choices.items() for text in pair)
    declared = ("val_log_loss", "val_accuracy", "best_epoch", "execution")
    return "choices" if not texts else out_of_range({name: [best[name]] for name in declared if name in best})


def result_message(value: Any) -> str:
    """Return the error of a job with a damaged `result.json`."""
    error = (value and value[0]["error"]) or ""
    return error if error.startswith("result.json is ") else ""


def read_study(folder: Path, file: Path) -> Any:
    return read_study_data([folder / "study"])


def study_problem(value: StudyData, valid: StudyData) -> str:
    """Check ranges, and that no row of another job differs."""
    final = [table for model in value.final_models.values() for table in (model.predictions, model.history)]
    jobs = [table.drop(columns="label") for table in (value.leaderboard, value.trials, value.epochs)]  # names of jobs
    if problem := out_of_range(*jobs, *value.predictions.values(), *final):
        return problem

    def others(data: StudyData) -> Any:
        tables = [(getattr(data, name), list(getattr(valid, name))) for name in ("trials", "epochs")]
        rows = [table[table["label"] != CHOSEN].reindex(columns=columns) for table, columns in tables]
        return [table.to_csv(index=False, float_format="%.12g") for table in rows]

    return "" if others(value) == others(valid) else "another job differs"


def study_message(value: StudyData) -> str:
    """Return the problems that the report shows, and the errors of jobs."""
    failed = value.leaderboard[value.leaderboard["error"].notna()]
    return "; ".join([*value.problems, *(f"{row.label}: error {row.error}" for row in failed.itertuples())])


def make_resumable(folder: Path) -> None:
    """Write a job that was killed after four of eight trials."""
    config = dataclasses.asdict(composed())
    write_job(folder, CHOICES, name="job", config=config, status="killed", planned=8, epochs=config["fit"]["epochs"])
    result = json.loads((folder / "job" / "result.json").read_text())
    write_json(folder / "job" / "result.json", result | {"config": config, "versions": versions()})


def read_resumable(folder: Path, file: Path) -> Any:
    decision = inspect_job(composed(), folder / "job", fingerprint(composed(), "d" * 64))
    return decision.kind.name, decision.trials, decision.planned, decision.restart, decision.damage


def resumable_problem(value: Any, valid: Any) -> str:
    """A damaged file must not lose finished trials: the job resumes with all of them, or is refused."""
    return "" if value[1] == valid[1] and not value[3] else f"{value}"


# Weights


def make_weights(folder: Path) -> None:
    backbone = dataclasses.replace(WEIGHTLESS, weights=None)
    load_network(backbone, 1).backbone.save_weights(folder / "tiny.weights.h5")


def read_weights(folder: Path, file: Path) -> Any:
    return load_network(dataclasses.replace(WEIGHTLESS, weights=str(file)), 1).weights


def weights_problem(value: Any, valid: Any) -> str:
    same = [one.shape for one in value] == [one.shape for one in valid]
    return "" if same and all(np.isfinite(one).all() for one in value) else "shape or numbers that are not finite"


WEIGHTLESS = BackboneConfig("tiny_backbone.build", {}, None, 32, "none", False, "squeeze")
TABLES = {f"study/{CHOSEN}/{name}.csv": "csv" for name in ("trials", "history", "validation")}
IN_STORE = {"cache/features/e*/*.npy": "npy", "cache/features/e*/about.json": "json"}
RESULT_FILE, PLAN_FILE = {f"study/{CHOSEN}/result.json": "json"}, {"study/study.json": "json"}
PIPELINE_FILE, JOB = {f"study/best/{PIPELINE}": "json"}, {"job/*.csv": "csv", "job/result.json": "json"}
STUDY = {f"study/{CHOSEN}/*.csv": "csv", "study/best/*.csv": "csv", "study/best/[mr]*.json": "json"}
STUDY |= RESULT_FILE | PLAN_FILE
READERS = {
    "archive": Reader(12_000, {"train.zip": "zip"}, make_zip, read_zip, archive_problem),
    "image": Reader(6_500, {"*/cat.1.jpg": "image"}, make_images, read_images, image_problem),
    "catalog": Reader(1_500, {"cache/catalogues/*": "csv"}, make_folder, read_folder, heals=True),
    "pixels": Reader(1_000, {"cache/pixels/*": "npy"}, make_folder, read_folder, heals=True),
    "activations": Reader(8_000, IN_STORE, read_store, read_store, heals=True),
    "result": Reader(6_000, RESULT_FILE, make_study, read_result, result_problem, message=result_message),
    "tables": Reader(15_000, TABLES, make_study, read_tables, tables_problem),
    "plan": Reader(6_000, PLAN_FILE, make_study, lambda folder, file: read_plan(file.parent), plan_problem),
    "pipeline": Reader(18_000, PIPELINE_FILE, make_study, lambda _, file: read_pipeline(file.parent), pipeline_problem),
    "study": Reader(1_700, STUDY, make_study, read_study, study_problem, message=study_message),
    "resume": Reader(4_000, JOB, make_resumable, read_resumable, resumable_problem),
    "space": Reader(17_500, {"*.json": "space"}, conf.make_spaces, conf.read_space, conf.config_problem),
    "override": Reader(1_500, {"*.txt": "override"}, conf.make_overrides, conf.read_override, conf.config_problem),
    "group": Reader(800, {"*/mine.yaml": "yaml"}, conf.make_groups, conf.read_group, conf.config_problem),
    "weights": Reader(500, {"tiny.weights.h5": "bytes"}, make_weights, read_weights, weights_problem),
}
