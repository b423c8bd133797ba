"""Load the files of one or more studies into tables. Missing or corrupted files are listed in `problems`."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.files import check_links, escape_surrogates
from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.records import CorruptedFile, Table
from catsdogs.base.text import sanitize_line
from catsdogs.comparison.final_models import HISTORY_TABLE as FINAL_HISTORY
from catsdogs.comparison.final_models import ClassActivation, FinalModel, Metrics, Recipe, predictions_table
from catsdogs.config.locations import ACTIVATION
from catsdogs.pages.formats import number
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import score_images
from catsdogs.study.job_tables import HISTORY, HISTORY_TABLE, VALIDATION, validation_table
from catsdogs.study.jobs import JobRecord, State, read_jobs
from catsdogs.study.leaderboard import choice_names, job_columns, job_row
from catsdogs.study.plan import PLAN, Plan, deleted_jobs
from catsdogs.study.trials import TrialRecord, read_trials, trial_counts

# Earlier versions did not record paths.
_SPLIT = Table(
    {**dict.fromkeys(("id", "sha256", "split", "path"), str), "label": int, "fold": int},
    optional=("path", "label", "fold"),
)

WAITING = State.WAITING.value


@dataclass(frozen=True)
class StudyData:
    """Data of one or more studies.

    Every table identifies a job by `label`: the name of its folder, prefixed with its study if there are several.

    Attributes:
        studies: study folders, in the given order.
        jobs: jobs by label, without those that are waiting.
        leaderboard: a row per job, best first, failed and waiting jobs last: label, study, job, status (ok, failed,
            running, waiting, deleted), the choices, val_log_loss, val_accuracy, best_trial, hyperparameters of the best
            trial, trials_completed, trials_stopped, trials_failed, trials, trials_planned, validation_images,
            data_digest, seconds, started (ISO 8601), state (a `State`: a job with status running may have been killed),
            error.
        trials: a row per trial: label, study, job, trial, status, val_log_loss (NaN if the trial cannot win),
            val_accuracy, epochs, best_epoch, epoch_budget, seconds, ended_seconds (sum of the trials' seconds from the
            start of the job to the end of the trial), ended (timestamp in UTC, NaT if the start of the job is unknown),
            the choices of the job, the hyperparameters, parent, error.
        epochs: a row per label, trial, execution (each fold counts as one) and epoch: every metric, learning_rate,
            seconds.
        predictions: id, label and probabilities of the validation images, by label; from the best trial of the job.
        final_models: final models by the name of their study.
        choices: names of the choices in which the jobs may differ, the four composed groups first.
        hyperparameters: names of the searched values.
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
        """The choices in which jobs differ."""
        return tuple(name for name in self.choices if self.leaderboard[name].astype(str).nunique() > 1)

    @property
    def shared_choices(self) -> dict[str, str]:
        """The choices with the same value in all jobs that record their choices."""
        recorded = self.leaderboard[self.leaderboard[list(self.choices)].notna().any(axis=1)]
        names = [name for name in self.choices if name not in self.varied_choices and recorded[name].notna().all()]
        return {name: str(recorded[name].iloc[0]) for name in names}

    def on_same_images(self, labels: Collection[str] | None = None) -> pd.DataFrame:
        """Return leaderboard rows of jobs (None: all) with a completed trial, on the images of the best of them."""
        ranked = self.leaderboard[self.leaderboard["val_log_loss"].notna()]
        ranked = ranked if labels is None else ranked[ranked["label"].isin(labels)]
        # The digest covers the classes. Running jobs of version 0.1 have none, and are comparable with themselves only.
        digests = [self.jobs[label].data_digest or label for label in ranked["label"]]
        return ranked.loc[[digest == digests[0] for digest in digests]]

    def comparable(self) -> list[str]:
        """Return labels of jobs with a completed trial and predictions, best first, all validated on the same images.

        These are the images of the best job that has predictions.
        """
        return list(self.on_same_images(self.predictions)["label"])

    def losses(self) -> pd.DataFrame:
        """Return the log loss of every image (index: ids) for each comparable job (columns: labels, best first)."""
        return self._scores[0]

    def errors(self) -> pd.DataFrame:
        """Return whether each comparable job (columns) misclassifies an image; index and columns as in `losses`."""
        return self._scores[1]

    @cached_property
    def _scores(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        losses, wrong = {}, {}
        for label in self.comparable():
            table = self.predictions[label]
            scores = score_images(table["label"].to_numpy(), self.jobs[label].classes.read(table))
            losses[label] = pd.Series(scores.losses, table["id"])
            wrong[label] = pd.Series(scores.wrong, table["id"])
        if not losses:
            return pd.DataFrame(), pd.DataFrame()
        # Only images that every table contains are compared.
        return pd.concat(losses, axis=1, join="inner"), pd.concat(wrong, axis=1, join="inner")


# Keys of texts that may have several lines.
_LONG = ("error", "traceback")


def clean(value: Any, allowed: str = "") -> Any:
    """Replace characters that a table, page or terminal cannot show, in strings at any depth of lists and mappings.

    Lone surrogates become escapes and control characters become question marks. Errors and tracebacks keep their lines.
    """
    if isinstance(value, str):
        return sanitize_line(escape_surrogates(re.sub("\r\n?", "\n", value)), allowed)
    if isinstance(value, dict):
        return {clean(str(key)): clean(item, "\n\t" if key in _LONG else "") for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value


def read_study_data(folders: list[Path]) -> StudyData:
    """Read the files of these studies, also while the studies run.

    Raise a `UserError` if a folder does not exist, has no started job, or is listed twice.
    """
    folders = [folder.resolve() for folder in folders]
    if repeated := {folder for folder in folders if folders.count(folder) > 1}:
        raise UserError(f"{min(repeated)}: study listed twice; list every study once")
    names = _study_names(folders)
    rows, trials, epochs, problems = [], [], [], list[str]()
    jobs, searched = dict[str, JobRecord](), dict[str, None]()
    predictions, final_models = dict[str, pd.DataFrame](), dict[str, FinalModel]()
    for folder in folders:
        check_links(folder)
    jobs_of = {folder: [JobRecord(job.folder, clean(job.result)) for job in read_jobs(folder)] for folder in folders}
    choices = choice_names(job for jobs_of_study in jobs_of.values() for job in jobs_of_study)
    for folder in folders:
        study = names[folder]
        prefix = f"{study}/" if len(folders) > 1 else ""
        plan = _read(Plan.read, folder / PLAN, f"study {study}", problems)
        waiting = dict.fromkeys(map(clean, plan.run if plan else ()))
        for job in jobs_of[folder]:
            name = clean(job.name)
            waiting.pop(name, None)
            label = prefix + name
            jobs[label] = job
            names_of_job = {"label": label, "study": study, "job": name}
            records = _records(job, label, problems)
            searched |= dict.fromkeys(name for record in records for name in record.hyperparameters)
            rows.append({**_row(job, choices, records), **names_of_job})
            trials += [{**trial, **names_of_job} for trial in _trials(job, choices, records)]
            epochs.append(_epochs(job, label, problems))
            if (table := _predictions(job, label, problems)) is not None:
                predictions[label] = table
        deleted = [clean(name) for name in (deleted_jobs(folder, plan) if plan else ())]
        for name in waiting:
            state = State.DELETED if name in deleted else State.WAITING
            row = {"label": prefix + name, "study": study, "job": name, "status": state.value, "state": state}
            rows.append(row | dict.fromkeys(("trials_completed", "trials_stopped", "trials_failed", "trials"), 0))
        if final := _final(folder, study, problems):
            final_models[study] = final
    epochs = [table for table in epochs if len(table)]
    columns = dict.fromkeys([*_JOB, *_RESULT, *_TIMES, *choices, *searched, *_ORIGIN])
    return StudyData(
        studies=tuple(folders),
        jobs=jobs,
        leaderboard=_leaderboard(rows, choices, list(searched)),
        trials=pd.DataFrame(trials, columns=list(columns)).astype({"epoch_budget": "Int64"}),
        epochs=pd.concat(epochs, ignore_index=True) if epochs else pd.DataFrame(columns=_EPOCH),
        predictions=predictions,
        final_models=final_models,
        choices=tuple(choices),
        hyperparameters=tuple(searched),
        problems=tuple(map(clean, problems)),
    )


# Columns of the trials: choices and hyperparameters are between `_TIMES` and `_ORIGIN`.
_JOB = ("label", "study", "job", "trial")
_RESULT = ("status", "val_log_loss", "val_accuracy", "epochs", "best_epoch", "epoch_budget")
_TIMES = ("seconds", "ended_seconds", "ended")
_ORIGIN = ("parent", "error")

# Columns that identify an epoch.
_EPOCH = ("label", "trial", "execution", "epoch")


def _study_names(folders: list[Path]) -> dict[Path, str]:
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return {folder: clean("/".join(folder.parts[-parts:])) for folder in folders}


def _row(job: JobRecord, choices: list[str], records: list[TrialRecord]) -> dict[str, Any]:
    """Return the leaderboard row of a job. Trials are counted from their records, which unfinished jobs have too."""
    row, result = clean(job_row(job, choices)), job.result
    row |= {name: number(row[name]) for name in ("val_log_loss", "val_accuracy", "seconds")}
    counts = trial_counts(records)
    row |= {f"trials_{name}": counts[name] for name in ("completed", "stopped", "failed")}
    row |= {
        "trials": counts["total"],
        "trials_planned": result["trials"].get("planned"),
        "started": result.get("started"),
    }
    return row | {"state": job.state, "error": str(result.get("error") or "") or None}


def _records(job: JobRecord, label: str, problems: list[str]) -> list[TrialRecord]:
    file, stopped = job.folder / "trials.csv", job.result.get("stopped")  # possibly before its first trial finished
    records = _read(read_trials, file, f"job {label}", problems) or []
    if job.state is State.DONE and not stopped and not file.is_file():
        problems.append(f"job {label}: trials.csv is missing; trials of this job are not included")
    return [TrialRecord(**clean(vars(record))) for record in records]


def _trials(job: JobRecord, choices: list[str], records: list[TrialRecord]) -> list[dict[str, Any]]:
    started = _timestamp(job.result.get("started"))
    rows, elapsed = [], 0.0
    for record in records:
        elapsed += record.seconds
        ended = _timestamp(record.ended) if record.ended else started + pd.Timedelta(seconds=min(elapsed, 1e9))
        row = vars(record) | {"ended_seconds": elapsed, "ended": ended}
        row |= {} if record.can_win else {"val_log_loss": math.nan, "val_accuracy": math.nan}
        rows.append({**row, **{name: job.choice(name) for name in choices}, **record.hyperparameters})
    return rows


def _timestamp(text: Any) -> Any:
    time = parse_timestamp(text)
    return pd.NaT if time is None else pd.Timestamp(time).tz_convert("UTC")


def _leaderboard(rows: list[dict[str, Any]], choices: list[str], searched: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    # Jobs without a result come last, failed jobs after those that may still finish.
    order = table["state"].map({State.WAITING: 1, State.FAILED: 2, State.INTERRUPTED: 2, State.DELETED: 3}).fillna(0)
    table["_order"] = order.where(table["val_log_loss"].isna(), 0)
    table = table.sort_values(["_order", "val_log_loss", "label"], ignore_index=True)
    # Hyperparameters are included even if no best trial has them. Columns from predictions are added in `tables`.
    columns = job_columns(choices, searched)
    return table.reindex(columns=[name for name in columns if name in table or name in searched])


def _epochs(job: JobRecord, label: str, problems: list[str]) -> pd.DataFrame:
    table = _table(HISTORY_TABLE, job.folder / HISTORY, f"job {label}", problems)
    if table is None:
        return pd.DataFrame()
    table["trial"] = table["trial"].astype(str)
    if "fold" in table:
        # Every fold is a separate training with separate curves.
        executions = table["execution"] * (table["fold"].max() + 1) + table["fold"]
        table = table.assign(execution=executions).drop(columns="fold")
    return table.assign(label=label)[list(dict.fromkeys(["label", *table]))]


def _predictions(job: JobRecord, label: str, problems: list[str]) -> pd.DataFrame | None:
    """Return `validation.csv` of a job, or None if it is missing or has invalid values."""
    table = _table(validation_table(job.classes), job.folder / VALIDATION, f"job {label}", problems)
    if table is None or table.empty:
        return None
    split = _table(_SPLIT, job.folder / "split.csv", f"job {label}", problems)
    if split is not None:
        held_out = split[split["fold"] >= 0 if "fold" in split else split["split"] == "validation"]
        columns = ["id", "label"] if "label" in split else ["id"]
        if len(table) != len(held_out) or len(table.merge(held_out, on=columns)) != len(table):
            problems.append(f"job {label}: validation.csv and split.csv have other images or labels; not compared")
            return None
    return table


def read_split(folder: Path) -> pd.DataFrame | None:
    """Return `split.csv` of a job, or None if it is missing or corrupted."""
    return _read(_SPLIT.read, folder / "split.csv", "", [])


def _table(kind: Table, file: Path, owner: str, problems: list[str]) -> pd.DataFrame | None:
    table = _read(kind.read, file, owner, problems)
    return None if table is None else table.rename(columns=clean)


T = TypeVar("T")


def _read(read: Callable[[Path], T | None], file: Path, owner: str, problems: list[str]) -> T | None:
    """Read a file; return None if it is missing, or if it is corrupted, which is added to `problems`."""
    try:
        return read(file)
    except CorruptedFile as error:
        problems.append(f"{owner}: {file.name} is {error.problem}")
        return None


def _final(study: Path, name: str, problems: list[str]) -> FinalModel | None:
    """Return the final model of a study; None if its metrics or predictions are missing or corrupted."""
    folder, owner = study / "best", f"best/ of study {name}"
    metrics = _read(Metrics.read, folder / "metrics.json", owner, problems)
    if metrics is None:
        return None
    recipe = _read(Recipe.read, folder / "recipe.json", owner, problems) or Recipe.model_validate({})
    classes = Classes(tuple(metrics.classes))
    predictions = _table(predictions_table(classes), folder / "predictions.csv", owner, problems)
    if predictions is None:
        return None
    # A model trained on all images has no validation history.
    history = _table(FINAL_HISTORY, folder / HISTORY, owner, problems)
    if history is not None and "member" in history:
        history = history[history["member"] == 0].drop(columns="member").reset_index(drop=True)
    history = pd.DataFrame() if history is None else history
    recorded, recipe_values = clean(metrics.model_dump()), clean(recipe.model_dump())
    activation = _read(ClassActivation.read, folder / ACTIVATION, owner, problems)
    return FinalModel(name, folder, recorded, classes, predictions, history, recipe_values, activation)
