"""Study folders -> jobs, trials, epochs, predictions, final models, all read once; damage is told and is not fatal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
from pydantic import BeforeValidator

from catsdogs.base.errors import UserError
from catsdogs.base.files import escape_surrogates
from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.records import CorruptedFile, Part, Record, Table
from catsdogs.base.text import sanitize_line
from catsdogs.pages.formats import number
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import JobConfig, JobRecord, State, choice_names, job_columns, job_row, read_jobs, read_plan
from catsdogs.study.resume_state import HISTORY, HISTORY_TABLE, VALIDATION, VALIDATION_TABLE
from catsdogs.study.trials import TrialRecord


class _Score(Record):
    value: float | None = None
    low: float | None = None
    high: float | None = None
    split: str | None = None
    size: int | None = None


class _Metrics(Record):
    details: Part[_Score]
    tta: Part[Any]
    tta_gain: dict[str, _Score] | None = None  # no version before 0.3 wrote it
    calibration_gain: Part[_Score]
    seconds: Part[float]


class _Recipe(Record):
    config: Annotated[JobConfig | None, BeforeValidator(lambda config: config or None)] = None
    hyperparameters: Part[Any]
    versions: Part[str]


_PREDICTIONS = Table(
    dict.fromkeys(("id", "split", "fold"), str)
    | dict.fromkeys(("label", "p_dog", "p_dog_tta", "p_dog_calibrated"), float),
    optional=("fold", "p_dog_calibrated"),
)
_HISTORY = Table({"epoch": int})

WAITING = State.WAITING.value


@dataclass(frozen=True)
class FinalModel:
    """What `retrain` left in `best/` of a study.

    Attributes:
        study: name of the study.
        folder: `best/`.
        metrics: of `metrics.json`.
        predictions: of `predictions.csv`: id, label (NaN: unknown), split, p_dog, p_dog_tta and, since
            there is calibration, p_dog_calibrated (NaN: not computed).
        history: of `history.csv`, a row per epoch, of several members of the first; empty if it is not there.
        recipe: of `recipe.json`; empty if it is not there.
    """

    study: str
    folder: Path
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    history: pd.DataFrame
    recipe: dict[str, Any]


@dataclass(frozen=True)
class StudyData:
    """One study, or several side by side.

    Every table names a job by `label`: its folder's name, with its study before it where there are several.

    Attributes:
        studies: folders, in the order given.
        jobs: by label; those that only wait are not among them.
        leaderboard: a row per job, best first, failed and waiting ones last: label, study, job, status (ok, failed,
            running, waiting), the choices, val_log_loss, val_accuracy, best_trial, the best trial's hyperparameters,
            trials_completed, trials_failed, trials, trials_planned, validation_images, data_digest, seconds, started
            (ISO 8601), state (a `study.State`: a job whose status is running may have been killed), error.
        trials: a row per trial: label, study, job, trial, status, val_log_loss (NaN unless it can win), val_accuracy,
            epochs, best_epoch, epoch_budget, seconds, ended_seconds (wall time from the start of the job to the end of
            the trial, from the trials' own seconds), ended (timestamp in UTC, NaT if the job tells no start), the
            choices of the job, the hyperparameters, parent, error.
        epochs: a row per label, trial, execution (each fold of one counts as one) and epoch: every metric,
            learning_rate, seconds.
        predictions: by label, what the best trial said of the validation images: id, label, p_dog.
        final_models: of the studies that have one, by the study's name.
        choices: names of the choices in which the jobs may differ, the four composed groups first.
        hyperparameters: names of the searched values.
        problems: sentences about what is lost or damaged.
    """

    studies: tuple[Path, ...]
    jobs: dict[str, JobRecord]
    leaderboard: pd.DataFrame
    trials: pd.DataFrame
    epochs: pd.DataFrame
    predictions: dict[str, pd.DataFrame]
    final_models: dict[str, FinalModel]
    choices: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def varied_choices(self) -> tuple[str, ...]:
        """The choices in which jobs really differ."""
        return tuple(name for name in self.choices if self.leaderboard[name].astype(str).nunique() > 1)

    @property
    def shared_choices(self) -> dict[str, str]:
        """The choices that are the same in all jobs that tell theirs."""
        board = self.leaderboard[self.leaderboard[list(self.choices)].notna().any(axis=1)]
        return {
            name: str(board[name].iloc[0])
            for name in self.choices
            if name not in self.varied_choices and board[name].notna().all()
        }

    def comparable(self) -> list[str]:
        """Labels of jobs with a completed trial and its predictions, best first, all validated on the same images.

        Where jobs were validated on different images, these are the ones that share them with the best job that has
        predictions.
        """
        able = self.leaderboard[
            self.leaderboard["label"].isin(list(self.predictions)) & self.leaderboard["val_log_loss"].notna()
        ]
        if able.empty:
            return []
        # Running jobs of version 0.1 do not tell their images; such a job compares with itself alone.
        same = (able["data_digest"] == able["data_digest"].iloc[0]) | (able.index == able.index[0])
        return list(able.loc[same, "label"])

    def losses(self) -> pd.DataFrame:
        """Log loss of every validation image (index: its id) by every comparable job (columns: labels, best first)."""
        tables = {label: self.predictions[label].set_index("id") for label in self.comparable()}
        columns = {
            label: pd.Series(log_loss_per_image(table["label"].to_numpy(), table["p_dog"].to_numpy()), table.index)
            for label, table in tables.items()
        }
        # Images that a damaged table lacks are left out of all.
        return pd.concat(columns, axis=1, join="inner") if columns else pd.DataFrame()


# Texts that may have several lines.
_LONG = ("error", "traceback")


def clean(thing: Any, kept: str = "") -> Any:
    """What a study tells, without what a table, a page or a terminal cannot hold, at any depth of lists and mappings.

    Halves of characters become escapes, control characters question marks; what is told of errors keeps its lines.
    """
    if isinstance(thing, str):
        return sanitize_line(escape_surrogates(re.sub("\r\n?", "\n", thing)), kept)
    if isinstance(thing, dict):
        return {clean(str(key)): clean(value, "\n\t" if key in _LONG else "") for key, value in thing.items()}
    return [clean(value) for value in thing] if isinstance(thing, list) else thing


def read_study_data(folders: list[Path]) -> StudyData:
    """Read what these studies left behind, also while they run and where files are missing or damaged.

    Raises:
        UserError: a folder is not there or no job has begun in it; or it is given twice.
    """
    folders = [folder.resolve() for folder in folders]
    twice = {folder for folder in folders if folders.count(folder) > 1}
    if twice:
        raise UserError(f"study {min(twice)}: it is given twice; give every study once")
    names = _study_names(folders)
    problems: list[str] = []
    jobs: dict[str, JobRecord] = {}
    rows, trials, epochs = [], [], []
    searched: dict[str, None] = {}
    predictions: dict[str, pd.DataFrame] = {}
    final_models: dict[str, FinalModel] = {}
    found = {folder: [JobRecord(job.folder, clean(job.result)) for job in read_jobs(folder)] for folder in folders}
    choices = choice_names(job for its_jobs in found.values() for job in its_jobs)
    for folder in folders:
        study = names[folder]
        prefix = f"{study}/" if len(folders) > 1 else ""
        waiting = dict.fromkeys(map(clean, read_plan(folder).run))
        for job in found[folder]:
            name = clean(job.name)
            waiting.pop(name, None)
            label = prefix + name
            jobs[label] = job
            records = _records(job, label, problems)
            searched |= dict.fromkeys(name for record in records for name in record.hyperparameters)
            own = {"label": label, "study": study, "job": name}
            rows.append({**_row(job, choices, records), **own})
            trials += [{**trial, **own} for trial in _trials(job, choices, records)]
            epochs.append(_epochs(job, label, problems))
            table = _predictions(job, label, problems)
            if table is not None:
                predictions[label] = table
        none = dict.fromkeys(("trials_completed", "trials_failed", "trials"), 0)
        for name in waiting:
            own = {"label": prefix + name, "study": study, "job": name}
            rows.append({**own, "status": WAITING, "state": State.WAITING, **none})
        final = _final(folder, study, problems)
        if final is not None:
            final_models[study] = final
    filled = [table for table in epochs if len(table)]
    trial_columns = list(dict.fromkeys([*_LEADING, *choices, *searched, *_TRAILING]))
    return StudyData(
        studies=tuple(folders),
        jobs=jobs,
        leaderboard=_board(rows, choices, list(searched)),
        trials=pd.DataFrame(trials, columns=trial_columns).astype({"epoch_budget": "Int64"}),
        epochs=pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=_EPOCH),
        predictions=predictions,
        final_models=final_models,
        choices=tuple(choices),
        hyperparameters=tuple(searched),
        problems=tuple(map(clean, problems)),
    )


# Columns of the trials before and after the choices and hyperparameters, and those that name an epoch.
_LEADING = (
    *("label", "study", "job", "trial", "status", "val_log_loss", "val_accuracy", "epochs", "best_epoch"),
    *("epoch_budget", "seconds", "ended_seconds", "ended"),
)
_TRAILING = ("parent", "error")
_EPOCH = ("label", "trial", "execution", "epoch")


def _study_names(folders: list[Path]) -> dict[Path, str]:
    """A short name for every study: its folder's, with as many parents as it takes to tell them apart."""
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return {folder: clean("/".join(folder.parts[-parts:])) for folder in folders}


def _row(job: JobRecord, choices: list[str], records: list[TrialRecord]) -> dict[str, Any]:
    """Its row of the board. Counted from its trials, which a job that did not end has too."""
    row, result = clean(job_row(job, choices)), job.result
    completed = sum(record.can_win for record in records)
    return row | {
        "val_log_loss": number(row["val_log_loss"]),
        "val_accuracy": number(row["val_accuracy"]),
        "trials_completed": completed,
        "trials_failed": len(records) - completed,
        "trials": len(records),
        "trials_planned": result["trials"].get("planned"),
        "seconds": number(row["seconds"]),
        "started": result.get("started"),
        "state": job.state,
        "error": str(result.get("error") or "") or None,
    }


def _records(job: JobRecord, label: str, problems: list[str]) -> list[TrialRecord]:
    try:
        records = [TrialRecord(**clean(vars(record))) for record in job.trials()]
    except UserError:
        problems.append(f"job {label}: its trials.csv is damaged, so its trials are missing here")
        return []
    stopped = job.result.get("stopped")  # perhaps before its first trial had ended
    if job.state is State.DONE and not stopped and not (job.folder / "trials.csv").is_file():
        problems.append(f"job {label}: its trials.csv is missing, so its trials are missing here")
    return records


def _trials(job: JobRecord, choices: list[str], records: list[TrialRecord]) -> list[dict[str, Any]]:
    """A row per trial."""
    started = _timestamp(job.result.get("started"))
    chosen = {name: job.choice(name) for name in choices}
    rows, passed = [], 0.0
    for record in records:
        passed += record.seconds
        ended = _timestamp(record.ended) if record.ended else started + pd.Timedelta(seconds=passed)
        lost = {} if record.can_win else {"val_log_loss": math.nan, "val_accuracy": math.nan}
        own = {**vars(record), **lost, "ended_seconds": passed, "ended": ended}
        rows.append({**own, **chosen, **record.hyperparameters})
    return rows


def _timestamp(text: Any) -> Any:
    """In UTC; NaT if it tells no time."""
    told = parse_timestamp(text)
    return pd.NaT if told is None else pd.Timestamp(told).tz_convert("UTC")


def _board(rows: list[dict[str, Any]], choices: list[str], searched: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    # Those without a result come last, the failed ones after those that may still have one.
    place = table["state"].map({State.WAITING: 1, State.FAILED: 2, State.INTERRUPTED: 2}).fillna(0)
    table = table.assign(_place=place.where(table["val_log_loss"].isna(), 0)).sort_values(
        ["_place", "val_log_loss", "label"], ignore_index=True
    )
    # Also those that no best trial has; what takes predictions is told in the tables of a report.
    columns = job_columns(choices, searched)
    return table.reindex(columns=[name for name in columns if name in table or name in searched])


def _epochs(job: JobRecord, label: str, problems: list[str]) -> pd.DataFrame:
    """`history.csv` of a job, with its label."""
    table = _table(HISTORY_TABLE, job.folder / HISTORY, f"job {label}", problems)
    if table is None:
        return pd.DataFrame()
    table["trial"] = table["trial"].astype(str)
    if "fold" in table:
        # Every fold is a training of its own, with curves of its own.
        executions = table["execution"] * (table["fold"].max() + 1) + table["fold"]
        table = table.assign(execution=executions).drop(columns="fold")
    table.insert(0, "label", label)
    return table


def _predictions(job: JobRecord, label: str, problems: list[str]) -> pd.DataFrame | None:
    """`validation.csv` of a job, if every probability in it is one."""
    table = _table(VALIDATION_TABLE, job.folder / VALIDATION, f"job {label}", problems)
    if table is None or table.empty:
        return None
    if not (table["p_dog"].between(0, 1).all() and table["label"].isin([0, 1]).all() and table["id"].is_unique):
        problems.append(f"job {label}: its validation.csv is damaged, so it is not compared image by image")
        return None
    return table


def _table(kind: Table, file: Path, whose: str, problems: list[str]) -> pd.DataFrame | None:
    table = _read(kind.read, file, whose, problems)
    return None if table is None else table.rename(columns=clean)


T = TypeVar("T")


def _read(read: Callable[[Path], T | None], file: Path, whose: str, problems: list[str]) -> T | None:
    """A file of ours; None if it is not there, or damaged, which is told."""
    try:
        return read(file)
    except CorruptedFile as error:
        problems.append(f"{whose}: its {file.name} is damaged ({error.reason})")
        return None


def _final(study: Path, name: str, problems: list[str]) -> FinalModel | None:
    """What is in `best/` of a study; None if `retrain` has not run, or what it left is damaged."""
    folder, whose = study / "best", f"best/ of study {name}"
    metrics = _read(_Metrics.read, folder / "metrics.json", whose, problems)
    if metrics is None:
        return None
    recipe = _read(_Recipe.read, folder / "recipe.json", whose, problems) or _Recipe.model_validate({})
    predictions = _table(_PREDICTIONS, folder / "predictions.csv", whose, problems)
    if predictions is None:
        return None
    # A model that was trained on all images was validated on none.
    history = _table(_HISTORY, folder / HISTORY, whose, problems)
    if history is not None and "member" in history:
        history = history[history["member"] == 0].drop(columns="member").reset_index(drop=True)
    return FinalModel(
        study=name,
        folder=folder,
        metrics=clean(metrics.model_dump()),
        predictions=predictions,
        history=pd.DataFrame() if history is None else history,
        recipe=clean(recipe.model_dump()),
    )
