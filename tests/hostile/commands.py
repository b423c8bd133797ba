"""Whole commands, each in a process forked from one that has imported everything."""

import functools
import importlib
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from readers import Reader
from synthetic_images import cats_and_dogs, zip_of

from catsdogs.base.errors import UserError

SECONDS = 600
NAMES = re.compile(r"\b([\w-]+\.(?:json|csv|keras|npy|zip))\b")
JOB, OTHER = "small_cnn-none-cosine-none", "small_cnn-flip-cosine-none"
SEARCH = (
    "search study=s data.train=train.zip data.test=test.zip backbone=small_cnn cache=cache space=small_cnn "
    "backbone.builder=tiny_backbone.build ~backbone.arguments.filters backbone.image_size=32 model.dense_units=8 "
    "space.unfreeze_depth.values=[2] tuner.max_trials=2 fit.epochs=2 fit.batch_size=8 features.engine=tensorflow "
    "label_smoothing=none augmentation=none"
)
RETRAIN = "retrain study=s tta=flip cache=cache backbone.builder=tiny_backbone.build"


def run(command: str, folder: Path) -> tuple[int, str, str]:
    """Return exit status (negative: a signal), stdout and stderr of a command in a folder."""
    words = shlex.split(command)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        sys.stderr.flush()
        process = os.fork()
        if process == 0:
            status = 1
            try:
                signal.alarm(SECONDS)
                os.dup2(out.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
                os.chdir(folder)
                sys.argv = words
                status = int(importlib.import_module(f"catsdogs.{words[0]}").main())
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        printed, problems = (os.pread(file.fileno(), 10**7, 0).decode(errors="replace") for file in (out, errors))
    return status, printed, problems


@functools.cache
def pristine() -> Path:
    """Return a folder with a study of two jobs, its final model, and archives; kept until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-commands-"))
    zip_of(folder / "train.zip", cats_and_dogs(12, 12))
    zip_of(folder / "test.zip", {f"{n}.jpg": data for n, data in enumerate(cats_and_dogs(2, 2).values())})
    for command in (SEARCH, SEARCH.replace("augmentation=none", "augmentation=flip"), RETRAIN):
        status, _, errors = run(command, folder)
        if status:
            raise SystemExit(f"{command}: exit status {status}\n{errors}")
    return folder


def make(folder: Path) -> None:
    shutil.copytree(pristine(), folder, dirs_exist_ok=True)


def reading(command: str, output: str = "") -> Callable[[Path, Path], Any]:
    """Return a function that runs a command; status 2 with one line is a `UserError`, and its output is the value."""

    def read(folder: Path, file: Path) -> Any:
        status, out, errors = run(command, folder)
        messages = [line for line in errors.splitlines() if line.startswith("error: ")]
        if status < 0:
            raise AssertionError("hang" if status == -signal.SIGALRM else f"signal {-status}")
        if "Traceback (most recent call last)" in out + errors or re.search(r"\w+Warning: ", errors):
            raise AssertionError(f"traceback or warning: {errors.strip().splitlines()[-1][:150]}")
        if status == 2 and len(messages) == 1:
            raise UserError(messages[0])
        if status and not (command.startswith("doctor") and "PROBLEM" in out):
            raise AssertionError(f"exit status {status}: {errors[-300:]}")
        text = (folder / output).read_text() if output else ""
        named = " ".join(sorted({*NAMES.findall(out + errors)}))
        return {"output": text, "jobs": [name in out for name in (JOB, OTHER)], "named": named}

    return read


def problem(value: Any, valid: Any) -> str:
    """Other jobs are still shown; predictions are those of the same images, from 0 to 1."""
    rows = [row.split(",") for row in value["output"].splitlines()[1:]]
    if valid["jobs"][1] and not value["jobs"][1]:
        return "the other job is not shown"
    return "" if all(0 <= float(row[1]) <= 1 for row in rows) else "probabilities out of range"


JOB_FILES = {f"multirun/s/{JOB}/*.csv": "csv", f"multirun/s/{JOB}/result.json": "json", "multirun/s/study.json": "json"}
BEST = {"multirun/s/best/*.csv": "csv", "multirun/s/best/m*.json": "json", "multirun/s/best/recipe.json": "json"}
MODEL = {"multirun/s/best/pipeline.json": "json", "multirun/s/best/model.keras": "zip", "test.zip": "zip"}
TRAIN, CATALOGS = {"train.zip": "zip"}, {"cache/catalogues/*": "csv"}
IN_CACHE = CATALOGS | {"cache/pixels/*": "npy", "cache/features/*/*.npy": "npy"}
REPORT = "multirun/s/report multirun/s/leaderboard.csv"
SEARCHED = f"multirun/s/{JOB} multirun/s/.failed multirun/s/study.json"
FINAL = "multirun/s/best multirun/s/.best multirun/s/.retrain multirun/s/.hydra"
PREDICT, AUDIT = "predict multirun/s/best test.zip --cache cache --output out.csv", "audit train.zip --study multirun/s"


def whole(cases: int, files: dict[str, str], writes: str, read: Any) -> Reader:
    """Return the reader of a command: cases of 500, damaged files, paths that it may write, and how it is run."""
    return Reader(cases, files, make, read, problem, False, itemgetter("named"), tuple(writes.split()), SECONDS, True)


COMMANDS = {
    "report": whole(200, JOB_FILES | BEST, REPORT, reading("report multirun/s")),
    "predict": whole(120, MODEL, "cache out.csv", reading(PREDICT, "out.csv")),
    "retrain": whole(30, JOB_FILES | IN_CACHE | TRAIN, f"cache {REPORT} {FINAL}", reading(RETRAIN)),
    "search": whole(40, JOB_FILES | IN_CACHE, f"cache {REPORT} {SEARCHED}", reading(SEARCH)),
    "audit": whole(60, JOB_FILES | TRAIN | CATALOGS, "cache audit", reading(f"{AUDIT} --cache cache")),
    "doctor": whole(30, TRAIN | CATALOGS, "cache", reading("doctor --train train.zip --cache cache")),
    "cache": whole(20, {"cache/features/*/about.json": "json"}, "", reading("cache show --cache cache")),
}
