"""A job and what is in its folder -> what the same command does with it: begin, go on, try again, leave, or refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from catsdogs.base.errors import UserError
from catsdogs.base.files import free_name
from catsdogs.config.schema import SearchConfig
from catsdogs.study.identity import changes
from catsdogs.study.jobs import RESULT, JobRecord, State, read_job
from catsdogs.study.locking import HOLDER, LOCK
from catsdogs.study.resume_state import HISTORY, TRIALS, VALIDATION, finished_trials
from catsdogs.study.trials import COMPLETED

FIX = "choose another study=NAME, or move that folder away"


class Action(Enum):
    """What is to be done with a job."""

    NEW = "new"
    FINISHED = "finished before"
    RESUMED = "goes on"
    RETRIED = "failed and is tried again"
    EXTENDED = "finished before and gets more trials"
    RESELECTED = "finished before and selects again"


@dataclass(frozen=True)
class JobDecision:
    """How a job stands.

    Attributes:
        kind: what is to be done.
        job: what is in the folder; None if nothing is, or its `result.json` is lost.
        trials: finished trials that are kept.
        planned: trials that it will have at most; None: all that the oracle proposes.
        restart: whether what is in the folder is of no more use: `set_aside` before the job begins.
        damage: what is damaged of a job that is left as it is, in a sentence; empty if nothing is.
    """

    kind: Action
    job: JobRecord | None = None
    trials: int = 0
    planned: int | None = None
    restart: bool = False
    damage: str = ""

    @property
    def runs(self) -> bool:
        return self.kind is not Action.FINISHED

    def told(self) -> str:
        """`goes on at trial 3 of 8`."""
        if self.kind is Action.RESELECTED or (self.kind is not Action.RESUMED and not (self.trials and self.runs)):
            return self.kind.value
        of = "" if self.planned is None else f" of {self.planned}"
        joint = " at" if self.kind is Action.RESUMED else ", from"
        return f"{self.kind.value}{joint} trial {self.trials + 1}{of}"


def inspect_job(config: SearchConfig, folder: Path, mark: dict[str, Any]) -> JobDecision:
    """How the job stands. Nothing is changed.

    Args:
        mark: `identity.fingerprint` of the job at hand.

    Raises:
        UserError: another job is in the folder, or what is there is damaged so that going on might lose something.
    """
    job = read_job(folder)
    planned = config.tuner.max_trials
    if job is None and not left_behind(folder):
        return JobDecision(Action.NEW, planned=planned)
    if job is None or not job.result["config"]:
        if _may_have_completed(folder):
            raise UserError(
                f"job {folder}: its trials are there, but its {RESULT} is lost or damaged, so that nothing tells what "
                f"they were run with; {FIX}"
            )
        return JobDecision(Action.NEW if job is None else Action.RETRIED, job, planned=planned, restart=True)
    # One that is told to run goes on too: its lock is the caller's, or nobody's.
    kind = Action.RETRIED if job.state is State.FAILED else Action.RESUMED
    if job.state is State.DONE:
        kind = _kind_of_finished(job, config)
    changed = changes(job.result, mark, unfinished=kind is not Action.FINISHED)
    if changed and job.state is State.DONE:
        raise _refusal(folder, changed)
    if kind is Action.FINISHED:
        _enough(folder, job.result["trials"].get("total") or 0, planned)
        return JobDecision(kind, job, damage=_damage(folder, job))
    records = finished_trials(folder, job.result)
    completed = any(record.status == COMPLETED for record in records)
    if changed and completed:
        raise _refusal(folder, changed)
    if changed or (kind is Action.RETRIED and not completed):
        return JobDecision(kind if kind is Action.RETRIED else Action.NEW, job, planned=planned, restart=True)
    _enough(folder, len(records), planned)
    return JobDecision(kind, job, len(records), planned)


def _kind_of_finished(job: JobRecord, config: SearchConfig) -> Action:
    if job.result.get("stopped"):
        return Action.RESUMED
    was, planned = job.result["config"], config.tuner.max_trials
    before = was["tuner"].get("max_trials")
    if before is not None and (planned is None or planned > before):
        return Action.EXTENDED
    same = _selection(was["select"]) == _selection(dataclasses.asdict(config.select))
    return Action.FINISHED if same else Action.RESELECTED


def _damage(folder: Path, job: JobRecord) -> str:
    """Its scores stand, and the jobs beside it go on; but whoever reads its trials should know."""
    try:
        finished_trials(folder, job.result)
    except UserError as error:
        return str(error)
    return ""


def _selection(select: dict[str, Any]) -> tuple[int, int] | None:
    """What the winner is named by; None: the search alone."""
    return (select["top_k"], select["repeats"]) if select["top_k"] > 1 else None


def summary(study: str, names: Sequence[str], standings: Sequence[JobDecision]) -> list[str]:
    """`study X: 4 jobs: 1 finished before, 1 goes on at trial 3 of 8, 2 new`, and a line for each that is not new."""
    told = [standing.told() for standing in standings]
    counts = ", ".join(
        f"{told.count(text)} {text}" for text in sorted(set(told), key=lambda text: (text == "new", text))
    )
    jobs = "1 job" if len(names) == 1 else f"{len(names)} jobs"
    lines = [f"study {study}: {jobs}: {counts}"]
    lines += [f"  {name}: {text}" for name, text in zip(names, told, strict=True) if text != Action.NEW.value]
    return lines + [f"warning: {standing.damage}" for standing in standings if standing.damage]


def archive_attempt(folder: Path, keep: Collection[str] = ()) -> Path | None:
    """Move what is in a job folder out of the way of its next try, to `.failed/`; give its new place, if it needs one.

    Args:
        keep: names of what stays, beside the lock.
    """
    staying = {LOCK, HOLDER, *keep}
    moving = [path for path in folder.iterdir() if path.name not in staying]
    if not moving:
        return None
    place = free_name(folder.parent / ".failed" / folder.name)
    place.mkdir(parents=True)
    # What tells what the job is goes last: a kill in between leaves a job that is set aside again.
    for path in sorted(moving, key=lambda path: path.name == RESULT):
        path.rename(place / path.name)
    return place


def left_behind(folder: Path) -> list[str]:
    """Names of the files of an earlier run that tell what it was, or what it found."""
    return [name for name in (RESULT, TRIALS, HISTORY, VALIDATION) if (folder / name).exists()]


def _may_have_completed(folder: Path) -> bool:
    """Whether a trial may have completed, damage counted as one that may."""
    try:
        records = finished_trials(folder)
    except UserError:
        return True
    return any(record.status == COMPLETED for record in records) or (folder / VALIDATION).exists()


def _enough(folder: Path, count: int, planned: int | None) -> None:
    if planned is not None and count > planned:
        raise UserError(
            f"job {folder}: {count} of its trials are finished, and tuner.max_trials asks for fewer; give "
            f"tuner.max_trials={count} or more, or {FIX}"
        )


def _refusal(folder: Path, changed: list[str]) -> UserError:
    return UserError(f"job {folder}: it was run with another configuration ({', '.join(changed[:5])}); {FIX}")
