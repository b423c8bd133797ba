"""The last start of a study, `study.json`, and the command lines to search and retrain it."""

import datetime
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.base.provenance import parse_timestamp, utc_timestamp
from catsdogs.base.records import CorruptedFile, Count, Listed, Part, Record
from catsdogs.base.text import quoted
from catsdogs.config.schema import TimeoutConfig
from catsdogs.config.setting_names import with_current_overrides
from catsdogs.study.locking import is_locked

PLAN = "study.json"


# Without a slash, and not only dots.
_Name = Annotated[str, Field(pattern=r"^[^/\\\x00]*[^./\\\x00][^/\\\x00]*$", max_length=255)]


class Plan(Record):
    """Contents of `study.json`: the last start of a study."""

    jobs: Listed[_Name]  # all that the study was ever started with
    ended: Listed[_Name]  # jobs of earlier runs and of this one; those without a folder were deleted
    run: Listed[_Name]  # jobs of the last run, in order; empty: not recorded, or chosen one by one by a sweeper
    started: Annotated[datetime.datetime | None, BeforeValidator(parse_timestamp)] = None  # UTC, of the last run
    command: Listed[str]  # arguments of the last command
    # Jobs of the run that were not finished: number of trials (None: all of the tuner), `identity.activations`.
    planned: Part[tuple[Count | None, str]]


def read_plan(study: Path) -> Plan:
    """Return the plan of a study; an empty one if the file is missing or corrupted."""
    try:
        return Plan.read(study / PLAN) or Plan.model_validate({})
    except CorruptedFile:
        return Plan.model_validate({})


def search_command(study: Path) -> str | None:
    """Return the command line that last started a study; None if not recorded."""
    words = read_plan(study).command
    return shlex.join(["python", "-m", "catsdogs.search", *with_current_overrides(words)]) if words else None


def write_plan(study: Path, names: list[str], command: list[str], planned: Mapping[str, Any] | None = None) -> None:
    """Record the start of a study, and add its jobs to those of earlier runs; simultaneous processes are one run.

    Raise a `UserError` if the file is corrupted, because the jobs of earlier runs would be lost. `planned`: as `Plan`.
    """
    try:
        before = Plan.read(study / PLAN) or Plan.model_validate({})
    except CorruptedFile as error:
        raise UserError(f"{error}; restore it from a backup, or remove it") from error
    run, started, planned = names, utc_timestamp(), planned or {}
    if names and before.started is not None and any(is_locked(study / name) for name in before.run):
        run, started = list(dict.fromkeys([*before.run, *names])), before.started.isoformat()
        planned = {**before.planned, **planned}
    jobs = list(dict.fromkeys([*before.jobs, *names]))
    ended = [name for name in before.ended if name not in names]
    record = {"study": study.name, "jobs": jobs, "ended": ended, "run": run, "started": started, "command": command}
    write_json(study / PLAN, record | {"planned": planned})


def record_ended(study: Path, names: Iterable[str]) -> None:
    """Record that these jobs have run; without that, a deleted job would be waiting."""
    with suppress(OSError, ValueError):
        record = read_json(study / PLAN)
        write_json(study / PLAN, {**record, "ended": list(dict.fromkeys([*record.get("ended", []), *names]))})


def deleted_jobs(study: Path, plan: Plan) -> list[str]:
    """Return the jobs of the last run that have run, and whose folders do not exist."""
    return [name for name in plan.run if name in plan.ended and not (study / name).exists()]


class StudyTimeout(Exception):
    """The time limit of the study is reached: the running trial stops and is not recorded."""


def check_timeout(timeout: TimeoutConfig, deadline: float | None) -> None:
    """Raise `StudyTimeout`, with the text for `result.json`, after the deadline; None: no limit."""
    if deadline is not None and time.time() > deadline:
        raise StudyTimeout(f"timeout.study_seconds={timeout.study_seconds:g} reached")


def study_deadline(study: Path, seconds: float | None) -> float | None:
    """Return the `time.time()` at which the run of a study reaches its timeout; None without a timeout."""
    if seconds is None:
        return None
    started = read_plan(study).started
    return (time.time() if started is None else started.timestamp()) + seconds


def retrain_command(study: Path, job: str | None = None) -> str:
    """Return the shell command that retrains the best trial of a study, or of one of its jobs."""
    folder = _relative(study)
    # Without a slash, the command reads a name of a folder in `multirun`.
    name = folder.name if folder.parent == Path("multirun") else folder.as_posix()
    if len(folder.parts) == 1 and not folder.is_absolute():
        name = f"./{folder}"
    words = [f"study={quoted(name)}"] + ([f"job={quoted(job)}"] if job is not None else [])
    return f"python -m catsdogs.retrain {shlex.join(words)}"


def predict_command(study: Path) -> str:
    """Return the shell command that predicts images with the final model of a study; IMAGES is to be replaced."""
    return f"python -m catsdogs.predict {shlex.quote(_relative(study).as_posix())} IMAGES"


def _relative(study: Path) -> Path:
    """Return the path from the current folder if the study is inside it, otherwise the absolute path."""
    folder = study.absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
