"""Decide what to do with a job, given the contents of its folder: start, resume, retry, skip or refuse."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from catsdogs.base.errors import UserError
from catsdogs.base.files import free_name
from catsdogs.base.text import counted
from catsdogs.config.automatic import with_chosen
from catsdogs.config.schema import SearchConfig
from catsdogs.study.identity import changes
from catsdogs.study.job_tables import HISTORY, TRIALS, VALIDATION, finished_trials
from catsdogs.study.jobs import RESULT, JobRecord, State, read_job
from catsdogs.study.locking import HOLDER, LOCK
from catsdogs.study.trials import COMPLETED

FIX = "use a new study=NAME, or move the folder away"


class Action(Enum):
    """Action for a job, as the terminal shows it."""

    NEW = "new"
    FINISHED = "already finished"
    RESUMED = "resumes"
    RETRIED = "failed, retrying"
    EXTENDED = "finished, adding trials"
    RESELECTED = "finished, repeating the selection"


@dataclass(frozen=True)
class JobDecision:
    """Decision about a job and the contents of its folder."""

    kind: Action
    job: JobRecord | None = None  # in the folder; None without a readable `result.json`
    trials: int = 0  # number of finished trials that are kept
    planned: int | None = None  # largest number of trials of the job; None for all that the oracle proposes
    restart: bool = False  # whether to move the contents away with `archive_attempt` before the job starts
    damage: str = ""  # warning about corrupted files of a job that is skipped

    @property
    def runs(self) -> bool:
        """Whether the job runs; it is skipped otherwise."""
        return self.kind is not Action.FINISHED

    def describe(self) -> str:
        """Return a text such as `resumes at trial 3/8`."""
        if self.kind is Action.RESELECTED or (self.kind is not Action.RESUMED and not (self.trials and self.runs)):
            return self.kind.value
        planned = "" if self.planned is None else f"/{self.planned}"
        preposition = "at" if self.kind is Action.RESUMED else "from"
        return f"{self.kind.value} {preposition} trial {self.trials + 1}{planned}"


def with_values_of_job(config: SearchConfig, folder: Path) -> SearchConfig:
    """Replace settings that are `auto` by those of the job in a folder, if there is one: it is resumed with them."""
    job = read_job(folder)
    return with_chosen(config, {} if job is None else job.result["config"])[0]


def inspect_job(config: SearchConfig, folder: Path, mark: dict[str, Any]) -> JobDecision:
    """Decide what to do with a job, whose `identity.fingerprint` is `mark`, without changing its folder.

    Raise a `UserError` if the folder belongs to another job, or is so corrupted that resuming might lose results.
    """
    job, planned = read_job(folder), config.tuner.max_trials
    if job is None and not earlier_files(folder):
        return JobDecision(Action.NEW, planned=planned)
    if job is None or not job.result["config"]:
        if _may_have_completed(folder):
            problem = f"its {RESULT} is missing or corrupted, so the settings of its trials are unknown"
            raise UserError(f"job {folder}: cannot resume because {problem}; {FIX}")
        return JobDecision(Action.NEW if job is None else Action.RETRIED, job, planned=planned, restart=True)
    # A job with status running is resumed too: the caller holds its lock, or no process does.
    kind = Action.RETRIED if job.state is State.FAILED else Action.RESUMED
    if job.state is State.DONE:
        kind = _kind_of_finished(job, config)
    changed = changes(job.result, mark, unfinished=kind is not Action.FINISHED)
    if changed and job.state is State.DONE:
        raise _refusal(folder, changed)
    if kind is Action.FINISHED:
        _check_max_trials(folder, job.result["trials"].get("total") or 0, planned)
        try:
            finished_trials(folder, job.result)
        except UserError as error:
            # Reported, not raised: the job's score is still valid.
            return JobDecision(kind, job, damage=str(error))
        return JobDecision(kind, job)
    records = finished_trials(folder, job.result)
    completed = any(record.status == COMPLETED for record in records)
    if changed and completed:
        raise _refusal(folder, changed)
    if changed or (kind is Action.RETRIED and not completed):
        return JobDecision(kind if kind is Action.RETRIED else Action.NEW, job, planned=planned, restart=True)
    _check_max_trials(folder, len(records), planned)
    return JobDecision(kind, job, len(records), planned)


def _kind_of_finished(job: JobRecord, config: SearchConfig) -> Action:
    if job.result.get("stopped"):
        return Action.RESUMED
    earlier, planned = job.result["config"], config.tuner.max_trials
    max_trials = earlier["tuner"].get("max_trials")
    if max_trials is not None and (planned is None or planned > max_trials):
        return Action.EXTENDED
    # With top_k=1, the search alone selects the winner.
    selections = earlier["select"], dataclasses.asdict(config.select)
    then, now = ((select["top_k"], select["repeats"] if select["top_k"] > 1 else 0) for select in selections)
    return Action.FINISHED if then == now else Action.RESELECTED


def summary(study: str, names: Sequence[str], decisions: Sequence[JobDecision]) -> list[str]:
    """Return `Study NAME: 1 already finished; 2 resume at trial 3/8; 2 new`, and a line per job that is not new."""
    texts = [decision.describe() for decision in decisions]
    counts = sorted(Counter(texts).items(), key=lambda item: (item[0] == Action.NEW.value, item[0]))
    parts = [f"{count} {text if count == 1 else text.replace('resumes', 'resume')}" for text, count in counts]
    lines = [f"Study {study}: {'; '.join(parts)}"]
    lines += [f"  {name}: {text}" for name, text in zip(names, texts, strict=True) if text != Action.NEW.value]
    return lines + [f"warning: {decision.damage}" for decision in decisions if decision.damage]


def archive_attempt(folder: Path, keep: Collection[str] = ()) -> Path | None:
    """Move files of a job folder, except the lock and `keep`, to a new folder in `.failed/`; None if there are none."""
    moving = [path for path in folder.iterdir() if path.name not in {LOCK, HOLDER, *keep}]
    if not moving:
        return None
    target = free_name(folder.parent / ".failed" / folder.name)
    target.mkdir(parents=True)
    # result.json goes last: after a kill in between, the job is archived again.
    for path in sorted(moving, key=lambda path: path.name == RESULT):
        path.rename(target / path.name)
    return target


def earlier_files(folder: Path) -> list[str]:
    """Return the names of the files in a job folder that record settings or results of an earlier run."""
    return [name for name in (RESULT, TRIALS, HISTORY, VALIDATION) if (folder / name).exists()]


def _may_have_completed(folder: Path) -> bool:
    """Return whether a trial may have completed; corrupted files count as yes."""
    try:
        records = finished_trials(folder)
    except UserError:
        return True
    return any(record.status == COMPLETED for record in records) or (folder / VALIDATION).exists()


def _check_max_trials(folder: Path, finished: int, planned: int | None) -> None:
    if planned is not None and finished > planned:
        problem = f"tuner.max_trials={planned}: job {folder} has {counted(finished, 'finished trial')}"
        raise UserError(f"{problem}; set tuner.max_trials={finished} or more, {FIX}")


def _refusal(folder: Path, changed: list[str]) -> UserError:
    return UserError(f"job {folder}: cannot resume because the configuration changed ({', '.join(changed[:5])}); {FIX}")
