"""Evidence -> MLflow runs: an experiment per study, a run per job, below it a run per trial, a run per final model.

    pip install 'catsdogs[mlflow]'
    mlflow ui --backend-store-uri sqlite:////where/the/study/is/mlflow.db

The store is whatever the URI names. Without a server a SQLite file does; `local_store` names the one in a folder.
MLflow refuses folders of files (`./mlruns`), which it no longer maintains, and `mlflow-skinny` has no SQLite.

A run stands for what happened: a job that started then, one of its trials, a model that `retrain` made. Written again
it is the same run, found by its tag `catsdogs.key` and brought up to date; what happened again is another run. Nothing
is deleted, and a run that the user deleted stays so.

`val_log_loss` of a trial is that of its best epoch, averaged over executions. That of a job is its best trial's so far
(step: number of trials). Epochs are `epoch/val_log_loss` and so on (step: epoch), those of executions after the first
`execution_1/val_log_loss`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shlex
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pandas as pd

from catsdogs.comparison.evidence import Evidence, Final
from catsdogs.comparison.timeline import curves, ended_at, epochs_ended_at, metric_names
from catsdogs.errors import UserError
from catsdogs.files import read_json
from catsdogs.study import FAILED, PLAN, RUNNING, Job
from catsdogs.trials import COMPLETED

_KEY, _CONTENT = "catsdogs.key", "catsdogs.content"

# Characters that every store takes; newer ones take more.
_MOST_NAME, _MOST_PARAM, _MOST_TAG = 250, 500, 5000

# MLflow reads these when it is imported and when it is called. Nothing is to leave this machine but for the store.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line per run
    "GIT_PYTHON_REFRESH": "quiet",  # GitPython, which MLflow imports, warns where there is no git
}
_ENVIRONMENT_UNLESS_SET = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}  # else it asks for minutes where there is no server


class _Point(NamedTuple):
    """One value of a metric."""

    metric: str
    step: int
    value: float
    time: int  # in ms since 1970


@dataclass(frozen=True)
class _Run:
    """What MLflow is to know of one run.

    Attributes:
        happened: what tells it from every other run of its experiment.
        parent: `key` of the run above it.
        status: MLflow's word: FINISHED, FAILED, RUNNING.
        started: in ms since 1970.
        ended: likewise; None while it runs.
    """

    happened: tuple[str, ...]
    parent: str | None
    name: str
    status: str
    started: int
    ended: int | None
    params: dict[str, str]
    tags: dict[str, str]
    points: list[_Point]

    @property
    def key(self) -> str:
        return _digest(self.happened)

    @property
    def content(self) -> str:
        """The same for what says the same. Without times: those of a final model come from its files' dates."""
        return _digest([self.name, self.status, self.params, self.tags, [point[:3] for point in self.points]])


def local_store(folder: Path) -> str:
    """URI of the SQLite file in a folder.

    Raises:
        UserError: no such URI can name this folder.
    """
    file = (folder.resolve() / "mlflow.db").as_posix()
    if "%" in file or "?" in file:
        # Quoted, MLflow would make a folder of the quoted name besides.
        raise UserError(
            f"MLflow's file {file}: an address cannot hold its % or ?; name another file, as in "
            "--mlflow=sqlite:////FOLDER/mlflow.db"
        )
    return f"sqlite:///{file}"


def write_mlflow(evidence: Evidence, uri: str) -> int:
    """Bring a store up to date with these studies.

    Args:
        uri: of an MLflow tracking store: `sqlite:////folder/mlflow.db`, which is made if it is not there, or
            `http://server:5000`.

    Returns:
        Number of runs that are now as the studies are.

    Raises:
        UserError: MLflow is not installed, or cannot write to this store.
    """
    shown = _shown(uri)
    with _nothing_sent():
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise UserError(
                f"--mlflow={shown}: MLflow cannot be imported ({error}); pip install 'catsdogs[mlflow]'"
            ) from error
        database_errors: tuple[Any, ...] = ()
        with suppress(ImportError):  # `mlflow-skinny`, which suffices for a server, comes without it
            from sqlalchemy.exc import SQLAlchemyError

            database_errors = (SQLAlchemyError,)
        try:
            with _silent():
                file = _sqlite_file(uri)
                client = MlflowClient(tracking_uri=uri)
                written = 0
                for folder in evidence.studies:
                    study, runs = _runs(evidence, folder)
                    if runs:
                        written += _bring_up_to_date(client, _experiment(client, study, file, shown), runs)
                return written
        except (MlflowException, ImportError, OSError, sqlite3.Error, *database_errors) as error:
            told = " ".join(str(error).replace(uri, shown).split()).split(". ")[0][:300]
            raise UserError(
                f"--mlflow={shown}: it cannot be written ({told}); name another store, such as "
                "--mlflow=sqlite:///mlflow.db"
            ) from error


def _sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, which can be opened; None for other stores. MLflow would try for 100 seconds.

    Raises:
        OSError, sqlite3.Error: it cannot.
        ImportError: SQLAlchemy is not installed, as with `mlflow-skinny`.
    """
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    name = make_url(uri).database
    if not name or name == ":memory:":
        return None
    file = Path(name).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA schema_version")
    return file


@contextmanager
def _nothing_sent() -> Iterator[None]:
    """MLflow's environment for as long as it is imported and called."""
    before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, *_ENVIRONMENT_UNLESS_SET)}
    os.environ.update(_ENVIRONMENT)
    for name, value in _ENVIRONMENT_UNLESS_SET.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, told in before.items():
            if told is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = told


@contextmanager
def _silent() -> Iterator[None]:
    """MLflow's own affairs are not told: dozens of lines about the tables of a new file, what it uses that is old."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Since SQLAlchemy 2.1, of MLflow's tables.
            warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _experiment(client: Any, study: str, file: Path | None, shown: str) -> str:
    """Id of the experiment of a study; made if it is not there.

    Args:
        file: of a SQLite store.
        shown: the URI.

    Raises:
        UserError: the user deleted it.
    """
    name = _cut(study, _MOST_NAME)
    found = client.get_experiment_by_name(name)
    if found is None:
        # Without a server, MLflow would take the working folder of today as the place of whatever is added to a run.
        place = None if file is None else (file.parent / "mlruns").as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}  # and not about language models
        return str(client.create_experiment(name, artifact_location=place, tags=tags))
    if found.lifecycle_stage != "active":
        raise UserError(
            f"--mlflow={shown}: its experiment {name} was deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or name another store"
        )
    return str(found.experiment_id)


def _bring_up_to_date(client: Any, experiment: str, runs: list[_Run]) -> int:
    """Write what the store does not have yet; give the number of runs that are now as they should be."""
    there = _there(client, experiment)
    ids: dict[str, str] = {}
    for run in runs:
        found = there.get(run.key)
        if (found is not None and found.info.lifecycle_stage != "active") or (run.parent and run.parent not in ids):
            continue  # the user deleted it, or its job
        tags = {**run.tags, **({"mlflow.parentRunId": ids[run.parent]} if run.parent else {}), _KEY: run.key}
        if found is None:
            made = client.create_run(experiment, start_time=run.started, tags=tags, run_name=run.name)
            ids[run.key] = made.info.run_id
            _log(client, made.info.run_id, run, run.params, run.points, {})
            continue
        ids[run.key] = found.info.run_id
        if found.data.tags.get(_CONTENT) == run.content:
            continue
        # A parameter cannot change, and a point that is logged twice is there twice.
        params = {name: value for name, value in run.params.items() if name not in found.data.params}
        logged = {
            (point.key, point.step, point.value)
            for name in found.data.metrics
            for point in client.get_metric_history(found.info.run_id, name)
        }
        points = [point for point in run.points if point[:3] not in logged]
        changed = {name: value for name, value in tags.items() if found.data.tags.get(name) != value}
        _log(client, found.info.run_id, run, params, points, changed)
    return len(ids)


def _there(client: Any, experiment: str) -> dict[str, Any]:
    """By key, the runs of an experiment that were written here, deleted ones too."""
    from mlflow.entities import ViewType

    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], run_view_type=ViewType.ALL, max_results=1000, page_token=token)
        for run in page:
            key = run.data.tags.get(_KEY)
            # One that is there beats one that was deleted.
            if key is not None and (key not in found or run.info.lifecycle_stage == "active"):
                found[key] = run
        token = page.token
        if not token:
            return found


def _log(
    client: Any,
    run_id: str,
    run: _Run,
    params: dict[str, str],
    points: list[_Point],
    tags: dict[str, str],
) -> None:
    """The tag that says that all is there comes last. MLflow's client divides what is too large for one call."""
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run_id,
        [Metric(point.metric, point.value, point.time, point.step) for point in points],
        [Param(name, value) for name, value in params.items()],
        [RunTag(name, value) for name, value in tags.items()],
    )
    if run.ended is not None:
        client.set_terminated(run_id, run.status, run.ended)
    client.set_tag(run_id, _CONTENT, run.content)


def _runs(evidence: Evidence, folder: Path) -> tuple[str, list[_Run]]:
    """The name of a study and its runs, every job before its trials."""
    labels = [label for label, job in evidence.jobs.items() if job.folder.parent == folder]
    rows = {row["label"]: row for row in evidence.board.to_dict("records")}
    trials: dict[str, list[Mapping[Any, Any]]] = {label: [] for label in labels}
    for trial in evidence.trials.to_dict("records"):
        trials.setdefault(trial["label"], []).append(trial)
    its_epochs = curves(evidence.epochs)
    study, command = str(rows[labels[0]]["study"]), _command(folder)
    runs: dict[str, _Run] = {}
    for label in labels:
        of_job = _job_run(evidence.jobs[label], rows[label], trials[label], evidence.choices, command)
        runs[of_job.key] = of_job
        for its in trials[label]:
            of_trial = _trial_run(of_job, its, evidence, its_epochs.get((label, str(its["trial"])), {}))
            runs[of_trial.key] = of_trial
    if study in evidence.finals:
        of_final = _final_run(evidence.finals[study], evidence.jobs)
        runs[of_final.key] = of_final
    return study, list(runs.values())


def _job_run(
    job: Job, row: Mapping[Any, Any], trials: list[Mapping[Any, Any]], choices: tuple[str, ...], command: str
) -> _Run:
    started = _milliseconds(job.result.get("started"))
    ended = _milliseconds(job.result.get("finished")) or started + _thousands(row["seconds"])
    points: list[_Point] = []
    best, completed = {"val_log_loss": math.inf, "val_accuracy": math.nan}, 0
    for number, trial in enumerate(trials, start=1):
        if math.isfinite(trial["val_log_loss"]):
            completed += 1
            best = min(best, {name: trial[name] for name in best}, key=lambda scores: scores["val_log_loss"])
        so_far = {**best, "trials": number, "trials_completed": completed}
        points += _points(so_far, number, _thousands(ended_at(trial)))
    if not trials:
        points += _points({name: row[name] for name in best}, 0, ended)
    points += _points({"seconds": row["seconds"]}, 0, ended)
    return _Run(
        happened=("job", job.name, str(job.result.get("started"))),
        parent=None,
        name=_cut(job.name, _MOST_NAME),
        status={RUNNING: "RUNNING", FAILED: "FAILED"}.get(row["status"], "FINISHED"),
        started=started,
        ended=None if row["status"] == RUNNING else ended,
        params=_params({name: row[name] for name in choices}),
        tags=_tags(
            {
                "study": row["study"],
                "job": job.name,
                "status": row["status"],
                "data_digest": job.data_digest,
                "best_trial": row["best_trial"],
                "error": row["error"],
                "command": command,
                "mlflow.source.name": "catsdogs.search",
                "mlflow.source.type": "LOCAL",
                **_versions(job.result.get("versions")),
            }
        ),
        points=points,
    )


def _trial_run(job: _Run, trial: Mapping[Any, Any], evidence: Evidence, executions: dict[int, pd.DataFrame]) -> _Run:
    over = ended_at(trial)
    points: list[_Point] = []
    for number, (execution, epochs) in enumerate(executions.items()):
        points += _epoch_points(epochs, "epoch" if number == 0 else f"execution_{execution}", over)
    scores = {name: trial[name] for name in ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds")}
    ended = _thousands(over)
    points += _points(scores, 0, ended)
    running = trial["status"] == "RUNNING"
    success = trial["status"] == COMPLETED and math.isfinite(trial["val_log_loss"])
    return _Run(
        happened=(*job.happened, "trial", str(trial["trial"])),
        parent=job.key,
        # The number first: a list of runs cuts names.
        name=_cut(f"trial {trial['trial']}, {trial['job']}", _MOST_NAME),
        status="RUNNING" if running else "FINISHED" if success else "FAILED",
        started=max(0, ended - _thousands(trial["seconds"])),
        ended=None if running else ended,
        params=_params({name: trial[name] for name in (*evidence.choices, *evidence.hyperparameters)}),
        tags=_tags(
            {
                "study": trial["study"],
                "job": trial["job"],
                "trial": trial["trial"],
                "status": trial["status"],
                "data_digest": job.tags.get("data_digest"),
                "parent_trial": trial["parent"],
                "error": trial["error"],
                "mlflow.source.name": "catsdogs.search",
                "mlflow.source.type": "LOCAL",
            }
        ),
        points=points,
    )


def _final_run(final: Final, jobs: dict[str, Job]) -> _Run:
    metrics, recipe = final.metrics, final.recipe
    over = (final.folder / "metrics.json").stat().st_mtime
    ended = _thousands(over)
    seconds, tta = _mapping(metrics.get("seconds")), _mapping(metrics.get("tta"))
    details = {name: _mapping(score) for name, score in _mapping(metrics.get("details")).items()}
    bounds = {f"{name}_{end}": score.get(end) for name, score in details.items() for end in ("low", "high")}
    measured = dict.fromkeys(f"{score.get('split')}, {score.get('size')} images" for score in details.values())
    its_job = next((job for job in jobs.values() if job.folder == final.folder.parent / str(metrics.get("job"))), None)
    choices = _mapping(its_job.result.get("choices")) if its_job is not None else {}
    points = _epoch_points(final.history, "epoch", over) if len(final.history) else []
    times = {f"seconds_{name}": value for name, value in seconds.items()}
    points += _points({_key(str(name)): value for name, value in {**metrics, **bounds, **times}.items()}, 0, ended)
    return _Run(
        happened=("final", _digest(metrics)),
        parent=None,
        name="final",
        status="FINISHED",
        started=max(0, ended - _thousands(seconds.get("all"))),
        ended=ended,
        params=_params(
            {
                **choices,
                **_mapping(recipe.get("hyperparameters")),
                "fit_on": metrics.get("fit_on"),
                **{f"tta_{name}": value for name, value in tta.items()},
            }
        ),
        tags=_tags(
            {
                "study": final.study,
                "job": metrics.get("job"),
                "trial": metrics.get("trial"),
                "status": "ok",
                "data_digest": recipe.get("data_digest"),
                "scored_on": "; ".join(measured),
                "mlflow.source.name": "catsdogs.retrain",
                "mlflow.source.type": "LOCAL",
                **_versions(recipe.get("versions")),
            }
        ),
        points=points,
    )


def _epoch_points(epochs: pd.DataFrame, prefix: str, ended: float) -> list[_Point]:
    """The last of the epochs was over at `ended`, in seconds since 1970."""
    values = epochs[metric_names(epochs)].to_dict("records")
    points: list[_Point] = []
    for time, epoch, metrics in zip(epochs_ended_at(epochs, ended), epochs["epoch"], values, strict=True):
        named = {f"{prefix}/{_key(str(name))}": value for name, value in metrics.items()}
        points += _points(named, int(epoch), max(0, _thousands(time)))
    return points


def _points(values: dict[str, Any], step: int, time: int) -> list[_Point]:
    """Of those that are finite numbers."""
    return [
        _Point(name, step, float(value), time)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _params(values: dict[str, Any]) -> dict[str, str]:
    return {_key(name): _cut(_written(value), _MOST_PARAM) for name, value in values.items() if not _missing(value)}


def _tags(values: dict[str, Any]) -> dict[str, str]:
    return {_key(name): _cut(_written(value), _MOST_TAG) for name, value in values.items() if not _missing(value)}


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _versions(versions: Any) -> dict[str, Any]:
    return {f"version.{name}": str(value) for name, value in _mapping(versions).items()}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _written(value: Any) -> str:
    """A whole number without a point: next to a missing one pandas makes it a float."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def _key(name: str) -> str:
    """The name itself if MLflow takes it as that of a parameter, metric or tag, else one like it, with a hash of it."""
    safe = re.sub(r"[^\w.\- /]|^[./]|/(?=[./])", "_", name)
    if safe == name and 0 < len(name) <= _MOST_NAME // 2 and not name.endswith("/"):
        return name
    return f"{safe[: _MOST_NAME // 2].rstrip('/')}-{_digest(name)[:12]}"


def _cut(text: str, most: int) -> str:
    """At most so many characters, and valid Unicode: a folder's name need not be."""
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _thousands(seconds: Any) -> int:
    """In ms; 0 if it is not known."""
    return round(1000 * seconds) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else 0


def _milliseconds(text: Any) -> int:
    """Since 1970; 0 if it tells no time."""
    told = pd.to_datetime(str(text), errors="coerce", utc=True)
    return 0 if pd.isna(told) else round(told.timestamp() * 1000)


def _command(study: Path) -> str:
    """The command line that started a study; empty if nobody wrote it down."""
    try:
        told = read_json(study / PLAN)["command"]
        return "python -m catsdogs.search " + shlex.join(map(str, told))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _shown(uri: str) -> str:
    """Without the password that it may hold."""
    secret = urlsplit(uri).password
    return uri.replace(f":{secret}@", ":***@") if secret else uri
