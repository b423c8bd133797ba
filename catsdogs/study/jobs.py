"""Jobs of a study: `result.json`, the state of a job, and the best jobs and trials. No Keras."""

import dataclasses
import json
import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from catsdogs.base.errors import UserError
from catsdogs.base.records import LARGEST_LOSS, CorruptedFile, Count, Listed, Part, Record, Seconds
from catsdogs.base.text import counted, listed
from catsdogs.config.saved_config import saved_config
from catsdogs.config.setting_names import former_names, with_current_names
from catsdogs.scoring.classes import Classes, ClassNames
from catsdogs.study.locking import is_locked
from catsdogs.study.trials import TrialRecord, best_trial, lineage, read_trials, searched_values, summary, trial_id

log = logging.getLogger(__name__)

RESULT = "result.json"

OK, FAILED, RUNNING = "ok", "failed", "running"

# `error_type` of a job that the user or the system interrupted.
INTERRUPTED = "KeyboardInterrupt"


class State(StrEnum):
    """State of a job."""

    WAITING = "waiting"  # not started yet
    DELETED = "deleted"  # its folder, by the user
    RUNNING = "running"
    KILLED = "killed"  # exited without recording a result
    INTERRUPTED = "interrupted"  # by the user or the system
    FAILED = "failed"
    DONE = "ok"


@dataclass(frozen=True)
class JobRecord:
    """Contents of a job folder."""

    folder: Path
    result: dict[str, Any]  # of `result.json`; its `config` is empty if not recorded

    @property
    def name(self) -> str:
        """Name of the job and its folder."""
        return self.folder.name

    @property
    def status(self) -> str:
        """Recorded status: ok, failed or running."""
        return str(self.result["status"])

    @property
    def state(self) -> State:
        """Current state, from status and lock. Without permission to check the lock, the status counts."""
        if self.status == OK:
            return State.DONE
        if self.status == RUNNING:
            return State.KILLED if is_locked(self.folder) is False else State.RUNNING
        return State.INTERRUPTED if self.result.get("error_type") == INTERRUPTED else State.FAILED

    @property
    def data_digest(self) -> str | None:
        """Digest of images, labels and split: log losses of jobs with different digests are not comparable."""
        return self.result["data"].get("digest")

    @property
    def classes(self) -> Classes:
        """Classes of the job's images."""
        return Classes(tuple(self.result["classes"]))

    def best(self) -> dict[str, Any]:
        """Return `trials.summary` of the best completed trial, also of an unfinished job; empty without one."""
        best = None
        if not self.result["best_trial"]:
            with suppress(UserError):
                best = best_trial(self.trials())
        return self.result["best_trial"] or (summary(best) if best else {})

    @property
    def objective(self) -> float:
        """Best finite `val_log_loss`, or infinity."""
        value = self.best().get("val_log_loss")
        return value if value is not None and math.isfinite(value) else math.inf

    @property
    def choices(self) -> dict[str, str]:
        """Options of the composed groups, and values of other settings that the study varied."""
        return with_current_names(self.result["choices"])

    def choice(self, name: str) -> str | None:
        """Return the value of a choice, also of one that only other jobs varied; None if not recorded.

        Single values are read from the configuration, so 1e-3 and 0.001 are equal.
        """
        value: Any = self.result["config"]
        for part in name.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if isinstance(value, dict):
            return self.choices.get(name)
        return value if isinstance(value, str) else json.dumps(value)

    def execution(self, trial: str) -> int:
        """Return the number of the kept execution of a trial: not 0 for a winner of `tuning.selection`."""
        best = self.best()
        return (best.get("execution") or 0) if best.get("trial") == trial else 0

    def trials(self) -> list[TrialRecord]:
        """Read the finished trials; raise a `UserError` if `trials.csv` is corrupted."""
        try:
            return read_trials(self.folder / "trials.csv")
        except CorruptedFile as error:
            fix = "set another job with job=NAME, or a smaller ensemble.num_jobs"
            raise UserError(f"job {self.folder}: its trials.csv is {error.problem}; {fix}") from error


class JobConfig(Record):
    """Configuration of a job under current names, with the former meaning of keys that earlier versions lack."""

    data: Part[Any]
    backbone: Part[Any]
    model: Part[Any]
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
        new = ("validation", "labels", "id_column", "class_column", "group_column", "classes")
        self.data = {**dict.fromkeys(new), **self.data}
        if isinstance(self.data.get("sample"), dict):
            self.data["sample"] = {"classes": 2, **self.data["sample"]}
        self.fit = {"precision": "float32", "class_weights": "none", "keep_weights_gib": 0.0, **self.fit}
        self.timeout = {"study_seconds": None, **self.timeout}
        self.select = {"top_k": 1, "repeats": 3, **self.select}
        self.tta = {"kind": "views", "views": 10, "average": "probability", **self.tta}
        if self.tta["kind"] == "auto":
            self.tta = {"kinds": ["none", "flip", "crops", "views"], **self.tta}
        epochs = self.fit.get("epochs")
        stored = {"mode": "auto", "views": epochs if isinstance(epochs, int) else None, "dtype": "float32"}
        self.features = {**stored, "engine": "auto", "max_gib": 50.0, **self.features}
        self.split = {"holdout_fraction": 0.0, "folds": 1, "group_by": "copies", **self.split}
        self.backbone = {"resize": "squeeze", **self.backbone}
        self.model = {"head_init": "random", **self.model}
        saved_config(self.model_dump())  # checks types and ranges
        return self


class _Best(Record):
    trial: Annotated[str, AfterValidator(trial_id)] | None = None
    val_log_loss: Annotated[float, Field(ge=0, le=LARGEST_LOSS)] | None = None
    val_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    best_epoch: Count = 0
    execution: Count | None = None
    hyperparameters: Annotated[Part[Any], AfterValidator(searched_values)]


class _Data(Record):
    digest: str | None = None
    validation: Count | None = None


class _Result(Record):
    """`result.json`, written by `tuning.job`."""

    status: Literal["ok", "failed", "running"] = "running"
    choices: Part[str]
    classes: ClassNames
    best_trial: _Best | None = None
    config: JobConfig | None = None
    data: Annotated[_Data, BeforeValidator(lambda data: data or {}), Field(default_factory=_Data)]
    trials: Part[Count | None]
    versions: Part[str]
    seconds: Seconds | None = None
    fill_seconds: Seconds | None = None
    weights: str | None = None
    error: str | None = None
    error_type: str | None = None
    stopped: str | None = None


def read_job(folder: Path) -> JobRecord | None:
    """Read a job folder; None without a `result.json`. A corrupted `result.json` makes a failed job."""
    try:
        result = _Result.read(folder / RESULT)
    except CorruptedFile as error:
        result = _Result.model_validate({"status": FAILED, "error": f"{RESULT} is {error.problem}"})
    if result is None:
        return None
    record = result.model_dump() | {"data": result.data.model_dump(exclude_unset=True)}
    return JobRecord(folder, record | {"config": record["config"] or {}})


def read_jobs(study: Path) -> list[JobRecord]:
    """Read the jobs of a study, sorted by name; raise a `UserError` if there are none."""
    if not study.is_dir():
        known = _studies_in(study.parent)
        hint = f"; studies in {study.parent}: {', '.join(known[-8:])}" if known else ""
        raise UserError(f"study {study}: folder not found{hint}")
    jobs = [job for folder in sorted(study.iterdir()) if folder.is_dir() and (job := read_job(folder)) is not None]
    if not jobs and (study / RESULT).is_file():
        raise UserError(f"study {study}: this is a job folder; use the folder of its study, {study.parent}")
    if not jobs and (known := _studies_in(study)):
        raise UserError(f"study {study}: this folder contains studies; use one of them, such as {study / known[-1]}")
    if not jobs:
        raise UserError(f"study {study}: no job with a {RESULT}; use a folder that catsdogs.search wrote")
    return jobs


def check_job_names(study: Path) -> None:
    """Raise a `UserError` if a study varied a setting that was renamed since: its job folders have the former name."""
    for file in sorted(study.glob(f"*/{RESULT}")):
        job = read_job(file.parent)
        for former, current in former_names(job.result["choices"]).items() if job else ():
            problem = f"its job folders are named after {former}, which is now {current}"
            raise UserError(f"study {study}: cannot resume because {problem}; use a new study=NAME")


def _studies_in(folder: Path) -> list[str]:
    return sorted({file.parent.parent.name for file in folder.glob(f"*/*/{RESULT}")})


def best_job(study: Path, jobs: list[JobRecord]) -> JobRecord:
    """Return the job with the lowest objective; a `UserError` if none is finite, or the validation images differ."""
    completed = [job for job in jobs if math.isfinite(job.objective)]
    if not completed:
        problem = f"none of its {counted(len(jobs), 'job')} has a completed trial with a finite log loss"
        raise UserError(f"study {study}: {problem}; run its search again to resume")
    if len({job.data_digest for job in completed if job.data_digest}) > 1:
        raise UserError(f"study {study}: its jobs were validated on different images; set one with job=NAME")
    return min(completed, key=lambda job: (job.objective, job.name))


def best_jobs(study: Path, jobs: list[JobRecord], first: JobRecord, size: int | None) -> list[JobRecord]:
    """Return `first` and the best other jobs validated on its images; a `UserError` if fewer than `size` completed.

    None: all that completed; others are named in the log.
    """
    same_images = [job for job in jobs if job.name != first.name and job.data_digest == first.data_digest]
    comparable = [job for job in same_images if math.isfinite(job.objective)]
    chosen = [first, *sorted(comparable, key=lambda job: (job.objective, job.name))][:size]
    if size is None and (others := [job.name for job in jobs if job not in chosen]):
        log.info("not part of the ensemble, because of other images or no completed trial: %s", listed(others))
    if size is not None and len(chosen) < size:
        completed = counted(len(chosen), "job")
        problem = f"study {study} has {completed} with a completed trial on the images of {first.name}"
        fix = f"set ensemble.num_jobs={len(chosen)}, or search more jobs"
        raise UserError(f"ensemble.num_jobs={size}: {problem}; {fix}")
    return chosen


def chosen_trial(job: JobRecord, trial: str | None) -> TrialRecord:
    """Return the given trial of a job, or its best one; raise a `UserError` if it is missing or has no valid score.

    A winner selected with new seeds has its scores with them.
    """
    records = {record.trial: record for record in job.trials()}
    selected = job.best() if job.best().get("execution") is not None else {}
    if trial is None:
        best = records.get(str(selected.get("trial"))) or best_trial(records.values())
        if best is None:
            raise UserError(f"job {job.folder}: no completed trial with a finite log loss; set another job=NAME")
        trial = best.trial
    trial = trial_id(trial)
    if trial not in records:
        raise UserError(f"trial={trial}: not found in job {job.name}; its trials are {', '.join(records) or 'none'}")
    if not records[trial].can_win:
        raise UserError(f"trial={trial}: cannot be retrained (status {records[trial].status}); use another trial")
    if missing := sorted(set(job.result["config"].get("space", {})) - set(records[trial].hyperparameters)):
        problem = f"cannot be retrained, because {job.folder / 'trials.csv'} lacks its {missing[0]}"
        raise UserError(f"trial={trial}: {problem}; use another trial")
    chosen = records[trial]
    if selected.get("trial") == trial:
        scores = {name: selected[name] for name in ("val_log_loss", "val_accuracy", "best_epoch")}
        chosen = dataclasses.replace(chosen, **scores)
    last = max(max(one.best_epoch, one.epoch_budget or 0) for one in lineage(records.values(), chosen))
    most = job.result["config"].get("fit", {}).get("epochs") or math.inf
    if not chosen.best_epoch or last > most:
        problem = f"cannot be retrained, because job {job.folder} records its epoch {last} of {most}"
        raise UserError(f"trial={trial}: {problem}; use another trial")
    return chosen
