"""Study folder <-> `result.json` of its jobs, `study.json` and `leaderboard.csv`; best job of a study. No Keras."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, model_validator

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_csv, write_json
from catsdogs.base.provenance import parse_timestamp, utc_timestamp
from catsdogs.base.records import CorruptedFile, Listed, Part, Record
from catsdogs.base.text import quoted
from catsdogs.config.setting_names import former_names, with_current_names, with_current_overrides
from catsdogs.study.locking import is_locked
from catsdogs.study.trials import TrialRecord, best_trial, read_trials, summary, trial_id

RESULT = "result.json"
PLAN = "study.json"

OK, FAILED, RUNNING = "ok", "failed", "running"

# The error type of a failed job that the user, or the system, asked to end.
INTERRUPTED = "KeyboardInterrupt"


class State(StrEnum):
    """What has become of a job."""

    WAITING = "waiting"  # nothing of it is there yet
    RUNNING = "running"
    KILLED = "killed"  # it had no time to say how it ended
    INTERRUPTED = "interrupted"  # the user, or the system, asked it to end
    FAILED = "failed"
    DONE = "ok"


@dataclass(frozen=True)
class JobRecord:
    """One job of a study, as its folder tells.

    Attributes:
        folder: of the job.
        result: what is in its `result.json`; its `config` is empty where nothing tells it.
    """

    folder: Path
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def state(self) -> State:
        """Who works on it is asked, so it is as of now; where only the owner may ask, a job runs that says so."""
        if self.status == OK:
            return State.DONE
        if self.status == RUNNING:
            return State.KILLED if is_locked(self.folder) is False else State.RUNNING
        return State.INTERRUPTED if self.result.get("error_type") == INTERRUPTED else State.FAILED

    @property
    def data_digest(self) -> str | None:
        """Of the labelled images and their split: log losses of jobs with different ones do not compare."""
        digest = self.result["data"].get("digest")
        return digest if isinstance(digest, str) else None

    def best(self) -> dict[str, Any]:
        """`trials.summary` of its best completed trial, also of a job that did not end; empty if there is none."""
        if told := self.result["best_trial"]:
            return told
        try:
            best = best_trial(self.trials())
        except UserError:
            return {}
        return summary(best) if best is not None else {}

    @property
    def objective(self) -> float:
        """Its best finite `val_log_loss`; infinity if it has none."""
        value = self.best().get("val_log_loss")
        return value if value is not None and math.isfinite(value) else math.inf

    @property
    def choices(self) -> dict[str, str]:
        """What it was told to choose: the options of the composed groups, and other values that its study varied."""
        return with_current_names(self.result["choices"])

    def choice(self, name: str) -> str | None:
        """What it chose, also where only other jobs were told to; None if nothing tells it.

        A choice that is one value of the configuration is read there: so 1e-3 and 0.001 are the same.
        """
        value: Any = self.result["config"]
        for part in name.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if isinstance(value, dict):
            return self.choices.get(name)
        return value if isinstance(value, str) else json.dumps(value)

    def execution(self, trial: str) -> int:
        """The execution of a trial that is kept: a fresh one of the trial that `selection` named the winner."""
        best = self.best()
        return int(best.get("execution", 0)) if best.get("trial") == trial else 0

    def trials(self) -> list[TrialRecord]:
        """Its trials so far.

        Raises:
            UserError: `trials.csv` is damaged.
        """
        try:
            return read_trials(self.folder / "trials.csv")
        except CorruptedFile as error:
            raise UserError(
                f"job {self.folder}: its trials.csv is damaged ({error.reason}); choose another with job=NAME, or "
                "fewer with ensemble.num_jobs"
            ) from error


class JobConfig(Record):
    """Configuration of a job under current names, with the former meaning of keys that earlier versions lack."""

    data: Part[Any]
    backbone: Part[Any]
    fit: Part[Any]
    timeout: Part[Any]
    select: Part[Any]
    tta: Part[Any]
    features: Part[Any]
    split: Part[Any]
    space: Part[dict[str, Any]]
    tuner: Part[Any]
    varied: Listed[Any]

    _renamed = model_validator(mode="before")(with_current_names)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self.fit = {"precision": "float32", **self.fit}
        self.timeout = {"study_seconds": None, **self.timeout}
        self.select = {"top_k": 1, "repeats": 3, **self.select}
        self.tta = {"kind": "views", "views": 10, "average": "probability", **self.tta}
        stored = {"mode": "auto", "views": self.fit.get("epochs"), "dtype": "float32"}
        self.features = {**stored, "engine": "auto", "max_gib": 50.0, **self.features}
        self.split = {"holdout_fraction": 0.0, "folds": 1, "group_by": "copies", **self.split}
        if not isinstance(self.fit.get("epochs", 1), int | float):
            raise ValueError(f"fit.epochs={self.fit['epochs']} is no number")
        return self


class _Best(Record):
    trial: Annotated[str, AfterValidator(trial_id)] | None = None
    val_log_loss: float | None = None
    val_accuracy: float | None = None
    best_epoch: int = 0
    hyperparameters: Part[Any]


class _Result(Record):
    """`result.json`; see `job.run_job`."""

    status: Literal["ok", "failed", "running"] = "running"
    choices: Part[str]
    best_trial: _Best | None = None
    config: JobConfig | None = None
    data: Part[Any]
    trials: Part[int | None]
    versions: Part[Any]
    seconds: float | None = None


def read_job(folder: Path) -> JobRecord | None:
    """The job in this folder, one that failed if its `result.json` is damaged; None if there is none."""
    try:
        result = _Result.read(folder / RESULT)
    except CorruptedFile as error:
        result = _Result.model_validate({"status": FAILED, "error": f"{RESULT} is damaged ({error.reason})"})
    if result is None:
        return None
    told = result.model_dump()
    return JobRecord(folder, told | {"config": told["config"] or {}})


def read_jobs(study: Path) -> list[JobRecord]:
    """The jobs of a study, by name.

    Raises:
        UserError: there is no such folder, or no job in it.
    """
    if not study.is_dir():
        known = _studies_in(study.parent)
        hint = f"; studies in {study.parent} are {', '.join(known[-8:])}" if known else ""
        raise UserError(f"study {study}: there is no such folder{hint}")
    jobs = [job for folder in sorted(study.iterdir()) if folder.is_dir() and (job := read_job(folder)) is not None]
    if not jobs and (study / RESULT).is_file():
        raise UserError(f"study {study}: this is a job; give the folder of its study, {study.parent}")
    if not jobs and (known := _studies_in(study)):
        raise UserError(f"study {study}: it holds studies; give one of them, such as {study / known[-1]}")
    if not jobs:
        raise UserError(f"study {study}: no job has left a {RESULT} in it; give the folder that catsdogs.search wrote")
    return jobs


def check_job_names(study: Path) -> None:
    """Refuse to resume a study that varied a setting that has another name now: its job folders carry the former one.

    Raises:
        UserError: names the former and the current setting.
    """
    for file in sorted(study.glob(f"*/{RESULT}")):
        job = read_job(file.parent)
        for former, current in former_names(job.result["choices"]).items() if job else ():
            raise UserError(
                f"study {study}: cannot resume because its job folders are named after {former}, which is now "
                f"{current}; use a new study=NAME"
            )


def _studies_in(folder: Path) -> list[str]:
    return sorted({file.parent.parent.name for file in folder.glob(f"*/*/{RESULT}")})


def best_job(study: Path, jobs: list[JobRecord]) -> JobRecord:
    """The job with the best finite objective.

    Raises:
        UserError: no job has a completed trial, or those that have were validated on different images.
    """
    able = [job for job in jobs if math.isfinite(job.objective)]
    if not able:
        raise UserError(f"study {study}: none of its {len(jobs)} jobs has a completed trial with a finite log loss")
    if len({job.data_digest for job in able if job.data_digest}) > 1:
        raise UserError(f"study {study}: its jobs were validated on different images, so choose one with job=NAME")
    return min(able, key=lambda job: (job.objective, job.name))


def best_jobs(study: Path, jobs: list[JobRecord], first: JobRecord, size: int) -> list[JobRecord]:
    """So many jobs of a study: this one, then the best others that were validated on the same images.

    Raises:
        UserError: there are not so many.
    """
    alike = [
        job
        for job in jobs
        if job.name != first.name and math.isfinite(job.objective) and job.data_digest == first.data_digest
    ]
    found = [first, *sorted(alike, key=lambda job: (job.objective, job.name))][:size]
    if len(found) < size:
        raise UserError(
            f"ensemble.num_jobs={size}: study {study} has jobs with a completed trial on the images of {first.name}: "
            f"{len(found)}; give ensemble.num_jobs={len(found)}, or search more jobs"
        )
    return found


def chosen_trial(job: JobRecord, trial: str | None) -> TrialRecord:
    """The named trial of a job, or its best one; of the winner what fresh seeds told, if it was selected by them.

    Raises:
        UserError: there is no such trial, or it cannot win.
    """
    records = {record.trial: record for record in job.trials()}
    selected = job.best() if "execution" in job.best() else {}
    if trial is None:
        best = records.get(str(selected.get("trial"))) or best_trial(records.values())
        if best is None:
            raise UserError(f"job {job.folder}: it has no completed trial with a finite log loss")
        trial = best.trial
    trial = trial_id(trial)
    if trial not in records:
        raise UserError(f"trial={trial}: job {job.name} has no such trial; it has {', '.join(records) or 'none'}")
    if not records[trial].can_win:
        raise UserError(
            f"trial={trial}: it ended as {records[trial].status} and cannot be trained again; choose another"
        )
    if selected.get("trial") != trial:
        return records[trial]
    again = {name: selected[name] for name in ("val_log_loss", "val_accuracy", "best_epoch")}
    return dataclasses.replace(records[trial], **again)


def choice_names(jobs: Iterable[JobRecord]) -> list[str]:
    """What any of these jobs was told to choose."""
    return list(dict.fromkeys(name for job in jobs for name in job.choices))


# Columns of every table of jobs: leaderboard.csv, which lacks what result.json does not tell, and those of a report.
_CHOICES, _HYPERPARAMETERS = "(choices)", "(hyperparameters)"
_COLUMNS = (
    *("label", "study", "job", "status", _CHOICES),
    *("val_log_loss", "val_log_loss_low", "val_log_loss_high", "share_best", "val_accuracy", "best_trial"),
    _HYPERPARAMETERS,
    *("trials_completed", "trials_failed", "trials", "trials_planned", "validation_images", "data_digest"),
    *("seconds", "started", "state", "error"),
)


def job_columns(choices: Iterable[str], hyperparameters: Iterable[str]) -> list[str]:
    """Columns of a table of jobs in their order."""
    several = {_CHOICES: choices, _HYPERPARAMETERS: hyperparameters}
    # A choice named as a column of ours would hide it.
    return list(dict.fromkeys(name for column in _COLUMNS for name in several.get(column, [column])))


def job_row(job: JobRecord, choices: Iterable[str]) -> dict[str, Any]:
    """What `result.json` tells of a job, by column."""
    result, best = job.result, job.best()
    trials, data = result["trials"], result["data"]
    return {
        "job": job.name,
        "status": job.status,
        **{name: job.choice(name) for name in choices},
        "val_log_loss": best.get("val_log_loss"),
        "val_accuracy": best.get("val_accuracy"),
        "best_trial": best.get("trial"),
        **best.get("hyperparameters", {}),
        "trials_completed": trials.get("completed"),
        "trials": trials.get("total"),
        "validation_images": data.get("validation"),
        "data_digest": job.data_digest,
        "seconds": result["seconds"],
        "error": result.get("error"),
    }


def write_leaderboard(study: Path) -> pd.DataFrame:
    """Write `leaderboard.csv` of a study and give it: a row per job, best first, failed jobs last with their error."""
    jobs = read_jobs(study)
    choices = choice_names(jobs)
    order = sorted(jobs, key=lambda job: (job.status == FAILED, job.objective, job.name))
    # As objects, or a job without a count would turn the counts of all others into floats.
    table = pd.DataFrame([job_row(job, choices) for job in order], dtype=object)
    searched = [name for job in jobs for name in job.best().get("hyperparameters", {})]
    table = table[[name for name in job_columns(choices, searched) if name in table]]
    write_csv(study / "leaderboard.csv", table)
    return table


def write_result(folder: Path, result: dict[str, Any]) -> None:
    write_json(folder / RESULT, result)


class Plan(Record):
    """What a study was last started with, as its `study.json` tells.

    Attributes:
        jobs: names of all jobs that it was ever started with.
        run: names of the jobs of the last run, in their order; empty where nobody wrote them down, or a sweeper decides
            as it goes.
        started: when, in UTC; None where nobody wrote it down.
        command: arguments of the command.
    """

    jobs: Listed[str]
    run: Listed[str]
    started: Annotated[datetime.datetime | None, BeforeValidator(parse_timestamp)] = None
    command: Listed[str]


def read_plan(study: Path) -> Plan:
    """The plan of a study; an empty one if there is none, or it is damaged."""
    try:
        return Plan.read(study / PLAN) or Plan.model_validate({})
    except CorruptedFile:
        return Plan.model_validate({})


def search_command(study: Path) -> str | None:
    """The command line that a study was last started with; None if nobody wrote it down."""
    words = read_plan(study).command
    return shlex.join(["python", "-m", "catsdogs.search", *with_current_overrides(words)]) if words else None


def write_plan(study: Path, names: list[str], command: list[str]) -> None:
    """Write down which jobs a study is started with, and when, beside those that it had before.

    Where another process is at work on the study, its jobs stay in the plan: both are one run.
    """
    before = read_plan(study)
    run, started = names, utc_timestamp()
    if names and before.started is not None and any(is_locked(study / name) for name in before.run):
        run, started = list(dict.fromkeys([*before.run, *names])), before.started.isoformat()
    jobs = list(dict.fromkeys([*before.jobs, *names]))
    write_json(study / PLAN, {"study": study.name, "jobs": jobs, "run": run, "started": started, "command": command})


def study_deadline(study: Path, seconds: float | None) -> float | None:
    """`time.time()` at which a run of a study that may take so long is over; None: never."""
    if seconds is None:
        return None
    started = read_plan(study).started
    return (time.time() if started is None else started.timestamp()) + seconds


def retrain_command(study: Path, job: str | None = None) -> str:
    """The command that trains the best trial of a study again, or that of one of its jobs, quoted for a shell."""
    here = Path.cwd()
    folder = study.absolute()
    if folder.is_relative_to(here):
        folder = folder.relative_to(here)
    # Without a slash it is taken for the name of a folder in `multirun`.
    name = folder.name if folder.parent == Path("multirun") else folder.as_posix()
    if len(folder.parts) == 1 and not folder.is_absolute():
        name = f"./{folder}"
    words = [f"study={quoted(name)}"] + ([f"job={quoted(job)}"] if job is not None else [])
    return f"python -m catsdogs.retrain {shlex.join(words)}"
