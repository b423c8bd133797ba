"""Trial records: `trials.csv`, the best trial and its ancestors. No Keras, because the report reads trials too."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from catsdogs.base.files import write_csv
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.config.schema import SEARCHABLE

COMPLETED = "COMPLETED"
STOPPED = "STOPPED"  # by a race; `error` is the reason
RUNGS = "rungs"  # folder of a job with the losses by which a race compares trials

# The columns of trials.csv before and after the hyperparameters.
_LEADING: dict[str, Any] = {"trial": int, "status": str, "val_log_loss": float | None, "val_accuracy": float | None}
_LEADING |= {"epochs": int, "best_epoch": int, "seconds": float}
_TRAILING = {"parent": str, "first_epoch": int, "epoch_budget": int | None, "ended": str, "error": str}
_TABLE = Table(_LEADING | _TRAILING, ("parent", "first_epoch", "epoch_budget", "ended"), unique=("trial",))

# Columns of all tables of jobs; leaderboard.csv has only those from result.json.
CHOICES, HYPERPARAMETERS = "(choices)", "(hyperparameters)"
JOB_COLUMNS = (
    *("label", "study", "job", "status", CHOICES),
    *("val_log_loss", "val_log_loss_low", "val_log_loss_high", "share_best", "val_accuracy", "val_errors"),
    "best_trial",
    HYPERPARAMETERS,
    *(
        "trials_completed",
        "trials_stopped",
        "trials_failed",
        "trials",
        "trials_planned",
        "validation_images",
        "data_digest",
    ),
    *("seconds", "started", "state", "error"),
)

# Names of columns in the tables of a report, which a choice or hyperparameter must not replace.
RESERVED = {*_TABLE.columns, *JOB_COLUMNS, "hyperparameters", "ended_seconds", "_order"}

_OTHER = TypeAdapter(str | Annotated[float, Field(ge=-1e15, le=1e15)])  # figures need differences and decades
_SETTINGS = {name: TypeAdapter(get_type_hints(group, include_extras=True)[name]) for name, group in SEARCHABLE.items()}


@dataclass(frozen=True)
class TrialRecord:
    """One trial."""

    trial: str  # number in the job, from 0
    status: str  # of Keras Tuner: COMPLETED, FAILED, INVALID or RUNNING; STOPPED
    val_log_loss: float | None  # mean over executions at the best epoch; None: the trial did not complete
    val_accuracy: float | None  # mean over executions at the best epoch
    epochs: int  # trained epochs, rounded mean over executions
    best_epoch: int  # from 1, rounded mean over executions
    seconds: float  # wall time of all executions
    hyperparameters: dict[str, Any]  # searched values
    error: str = ""  # last line of the traceback, or why a race stopped it
    parent: str = ""  # trial from whose weights a promoted Hyperband trial continued
    first_epoch: int = 0  # epochs trained by its ancestors
    epoch_budget: int | None = None  # number of the last epoch that it could train; None: not recorded
    ended: str = ""  # ISO 8601 time in UTC; "": not recorded

    @property
    def can_win(self) -> bool:
        """Whether the trial may be the best one: Keras Tuner alone would accept failed trials and infinite scores."""
        return self.status == COMPLETED and self.val_log_loss is not None and math.isfinite(self.val_log_loss)


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the COMPLETED trials with a finite `val_log_loss`, sorted by it and then by number."""
    winners = [record for record in records if record.can_win]
    return sorted(winners, key=lambda record: (record.val_log_loss, int(record.trial)))


def best_trial(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the first trial of `ranked`, or None."""
    return next(iter(ranked(records)), None)


def write_trials(path: Path, records: Iterable[TrialRecord]) -> None:
    """Write one row per trial, with one column per hyperparameter."""
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record.hyperparameters))
    rows = [{name: getattr(record, name) for name in _TABLE.columns} | record.hyperparameters for record in records]
    write_csv(path, pd.DataFrame(rows, columns=[*_LEADING, *names, *_TRAILING]))


def lineage(records: Iterable[TrialRecord], trial: TrialRecord) -> list[TrialRecord]:
    """Return the ancestors of a trial and the trial itself, oldest first."""
    by_id = {record.trial: record for record in records}
    line = [trial]
    while line[0].parent in by_id:
        line.insert(0, by_id[line[0].parent])
    return line


def summary(record: TrialRecord) -> dict[str, Any]:
    """Return the entry of `result.json` for the best trial."""
    names = ("trial", "val_log_loss", "val_accuracy", "epochs", "best_epoch", "hyperparameters")
    return {name: getattr(record, name) for name in names}


def trial_counts(records: Collection[TrialRecord]) -> dict[str, int]:
    """Return the numbers of trials: total, completed, failed and stopped."""
    completed, stopped = sum(record.can_win for record in records), sum(record.status == STOPPED for record in records)
    failed = len(records) - completed - stopped
    return {"total": len(records), "completed": completed, "failed": failed, "stopped": stopped}


def outcome(records: Collection[TrialRecord], planned: int | None) -> dict[str, Any]:
    """Return the entries of `result.json` about the trials of a job, finished or stopped early."""
    best, counts = best_trial(records), trial_counts(records)
    if not counts["stopped"]:  # only a race stops trials
        del counts["stopped"]
    return {
        "best_trial": None if best is None else summary(best),
        "objective": None if best is None else best.val_log_loss,
        "trials": {"planned": planned, **counts},
    }


def read_trials(path: Path) -> list[TrialRecord]:
    """Read `trials.csv`, empty if it does not exist; raise `CorruptedFile` if a value is missing or invalid."""
    table = _TABLE.read(path)
    records: list[TrialRecord] = []
    finished = set[str]()
    for row in [] if table is None else table.to_dict("records"):
        cells: dict[str, Any] = {str(name): None if pd.isna(value) else value for name, value in row.items()}
        own = {name: cells.pop(name) for name in _TABLE.columns if name in cells}
        own["trial"], own["parent"] = str(own["trial"]), trial_id(own.get("parent", ""))
        if own.get("epoch_budget") is not None:
            own["epoch_budget"] = int(own["epoch_budget"])
        try:
            values = searched_values({name: value for name, value in cells.items() if value is not None})
        except ValueError as error:
            raise CorruptedFile(path, str(error)) from error
        if own["status"] == COMPLETED:
            # `epochs` counts from `first_epoch`, which version 0.1 did not record. Both epochs are rounded means.
            first, budget = own.get("first_epoch", 0), own.get("epoch_budget") or math.inf
            last = min(budget, first + own["epochs"] + (first > 0)) if "first_epoch" in own else math.inf
            for name, low, high in (("epochs", 1, budget - first), ("best_epoch", 1, last)):
                if not low <= own[name] <= high:
                    limits = f"{low} to {high}, as epochs, first_epoch and epoch_budget allow"
                    raise CorruptedFile(path, f"{name}={own[name]}: expected an integer from {limits}")
        # Ancestors finish first; otherwise, a lineage might be endless or incomplete.
        if own["parent"] and own["parent"] not in finished:
            raise CorruptedFile(path, f"parent={own['parent']}: not an earlier trial of trial={own['trial']}")
        finished.add(own["trial"])
        records.append(TrialRecord(**own, hyperparameters=values))
    return records


def searched_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters without those in RESERVED; raise ValueError if one has the wrong type or range.

    Those of newer versions may be any text or finite number.
    """
    searched = {name: value for name, value in values.items() if name not in RESERVED}
    for name, value in searched.items():
        try:  # tables store the integer 3 as 3.0
            whole = isinstance(value, float) and value.is_integer()
            _SETTINGS.get(name, _OTHER).validate_python(int(value) if whole else value)
        except ValidationError as error:
            raise ValueError(f"{name}={str(value)[:80]}: {error.errors()[0]['msg']}") from error
    return searched


def trial_id(text: str) -> str:
    """Return the current form of a trial number: versions up to 0.2 wrote `03` or `0003`."""
    return (text.lstrip("0") or "0") if text.isdecimal() else text
