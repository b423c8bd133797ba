"""Evidence -> MLflow runs: an experiment per study, a run per job, below it a run per trial, a run per final model.

    pip install 'catsdogs[mlflow]'
    mlflow ui --backend-store-uri sqlite:////where/the/study/is/mlflow.db

The store is whatever the URI names. Without a server a SQLite file does; `local_store` names the one in a folder.

A run stands for what happened: a job that started then, one of its trials, a model that `retrain` made. Its tag
`catsdogs.key` says which. A run that has ended is not written again; one that was still running, or was only half
written, is deleted and written anew. What happened again is another run.

`val_log_loss` of a trial is that of its best epoch, averaged over executions. That of a job is its best trial's so far
(step: number of trials). Epochs of the first execution are `epoch/val_log_loss` and so on (step: epoch).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from catsdogs.comparison.evidence import Evidence, Final
from catsdogs.comparison.timeline import curves, ended_at, epochs_ended_at, metric_names
from catsdogs.errors import UserError
from catsdogs.provenance import moment
from catsdogs.study import FAILED, RUNNING, Job, search_command
from catsdogs.trials import COMPLETED

_KEY, _PARENT = "catsdogs.key", "mlflow.parentRunId"

# MLflow reads these when it is imported and when it is called. Nothing is to leave this machine but for the store.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # else it tells of the tables of a new file
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line per run
    "GIT_PYTHON_REFRESH": "quiet",  # GitPython, which MLflow imports, warns where there is no git
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else it asks for minutes where there is no server
}

# Name, value, ms since 1970, step: the arguments of MLflow's `Metric`.
_Point = tuple[str, float, int, int]


@dataclass(frozen=True)
class _Run:
    """What MLflow is to know of one run.

    Attributes:
        happened: what tells it from every other run of its experiment.
        status: MLflow's word: FINISHED, FAILED, RUNNING.
        started: in seconds since 1970, as is `ended`.
        parent: `key` of the run above it.
    """

    happened: tuple[str, ...]
    name: str
    status: str
    started: float
    ended: float
    params: dict[str, Any]
    tags: dict[str, Any]
    points: list[_Point]
    parent: str | None = None

    @property
    def key(self) -> str:
        return _digest(self.happened)


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
    """Write to a store what it does not have of these studies.

    Args:
        uri: of an MLflow tracking store: `sqlite:////folder/mlflow.db`, which is made if it is not there, or
            `http://server:5000`.

    Returns:
        Number of runs that are now as the studies are.

    Raises:
        UserError: MLflow is not installed, or cannot write to this store.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    secret = urlsplit(uri).password
    shown = uri.replace(f":{secret}@", ":***@") if secret else uri
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise UserError(
            f"--mlflow={shown}: MLflow cannot be imported ({error}); pip install 'catsdogs[mlflow]'"
        ) from error
    try:
        place = _artifacts(uri)
        client = MlflowClient(tracking_uri=uri)
        runs: dict[str, dict[str, _Run]] = {}
        for study, run in _runs(evidence):
            runs.setdefault(study, {})[run.key] = run
        for study, its in runs.items():
            _write(client, _experiment(client, study, place), list(its.values()))
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError) as error:
        told = " ".join(str(error).replace(uri, shown).split()).split(". ")[0][:300]
        raise UserError(
            f"--mlflow={shown}: it cannot be written ({told}); name another store, such as --mlflow=sqlite:///mlflow.db"
        ) from error
    return sum(map(len, runs.values()))


def _artifacts(uri: str) -> str | None:
    """Where MLflow keeps what is added to runs of a SQLite file: beside it, else it would be today's working folder.

    Raises:
        OSError, sqlite3.Error: the file cannot be opened, which MLflow would try for 100 seconds.
    """
    if not uri.startswith("sqlite:///"):
        return None
    file = Path(uri.removeprefix("sqlite:///")).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA schema_version")
    return file.with_name("mlruns").as_uri()


def _experiment(client: Any, study: str, artifacts: str | None) -> str:
    """Id of the experiment of a study; made if it is not there."""
    found = client.get_experiment_by_name(study)
    if found is not None:
        return str(found.experiment_id)
    tags = {"mlflow.experimentKind": "custom_model_development"}  # and not about language models
    return str(client.create_experiment(study, artifact_location=artifacts, tags=tags))


def _write(client: Any, experiment: str, runs: list[_Run]) -> None:
    """Jobs come before their trials."""
    from mlflow.entities import Metric, Param

    found = {run.data.tags.get(_KEY): run for run in client.search_runs([experiment], max_results=50_000)}
    ids: dict[str, str] = {}
    for run in runs:
        parent = {_PARENT: ids[run.parent]} if run.parent else {}
        there = found.get(run.key)
        if there is not None and there.info.status != "RUNNING":
            ids[run.key] = there.info.run_id
            if parent and there.data.tags.get(_PARENT) != parent[_PARENT]:
                client.set_tag(there.info.run_id, _PARENT, parent[_PARENT])
            continue
        if there is not None:
            client.delete_run(there.info.run_id)
        tags = {**_texts(run.tags), **parent, _KEY: run.key}
        made = client.create_run(experiment, round(1000 * run.started), tags, run.name).info.run_id
        ids[run.key] = made
        params = [Param(name, value) for name, value in _texts(run.params).items()]
        client.log_batch(made, [Metric(*point) for point in run.points], params)
        # The status comes last, and so says that all is there.
        if run.status != "RUNNING":
            client.set_terminated(made, run.status, round(1000 * run.ended))


def _runs(evidence: Evidence) -> Iterator[tuple[str, _Run]]:
    """Every run after the name of its study, a job before its trials."""
    its_epochs = curves(evidence.epochs)
    for row in evidence.board[evidence.board["label"].isin(list(evidence.jobs))].to_dict("records"):
        trials = evidence.trials[evidence.trials["label"] == row["label"]]
        job = _job_run(evidence.jobs[row["label"]], row, trials, evidence.choices)
        yield row["study"], job
        for trial in trials.to_dict("records"):
            epochs = its_epochs.get((trial["label"], trial["trial"]))
            yield row["study"], _trial_run(job, trial, evidence, epochs)
    for study, final in evidence.finals.items():
        yield study, _final_run(final, evidence.jobs)


def _job_run(job: Job, row: Mapping[Any, Any], trials: pd.DataFrame, choices: tuple[str, ...]) -> _Run:
    started = _seconds(job.result.get("started"))
    ended = _seconds(job.result.get("finished")) or started + float(np.nan_to_num(row["seconds"]))
    times = [ended_at(trial) for trial in trials.to_dict("records")]
    points: list[_Point] = []
    for number, best in enumerate(trials["val_log_loss"].cummin().ffill()[:-1], start=1):
        points += _points({"val_log_loss": best}, times[number - 1], number)
    names = ("val_log_loss", "val_accuracy", "trials", "trials_completed", "seconds")
    points += _points({name: row[name] for name in names}, max([ended, *times]), len(trials))
    return _Run(
        happened=("job", job.name, str(job.result.get("started"))),
        name=row["job"],
        status={RUNNING: "RUNNING", FAILED: "FAILED"}.get(row["status"], "FINISHED"),
        started=started,
        ended=ended,
        params={name: row[name] for name in choices},
        tags={
            **{name: row[name] for name in ("study", "job", "status", "data_digest", "best_trial", "error")},
            "command": search_command(job.folder.parent) or "",
            "mlflow.source.name": "catsdogs.search",
            "mlflow.source.type": "LOCAL",
            **_versions(job.result),
        },
        points=points,
    )


def _trial_run(job: _Run, trial: Mapping[Any, Any], evidence: Evidence, epochs: pd.DataFrame | None) -> _Run:
    ended = ended_at(trial)
    scores = {name: trial[name] for name in ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds")}
    success = trial["status"] == COMPLETED and math.isfinite(trial["val_log_loss"])
    return _Run(
        happened=(*job.happened, "trial", trial["trial"]),
        parent=job.key,
        # The number first: a list of runs cuts names.
        name=f"trial {trial['trial']}, {trial['job']}",
        status="RUNNING" if trial["status"] == "RUNNING" else "FINISHED" if success else "FAILED",
        started=max(0.0, ended - trial["seconds"]),
        ended=ended,
        params={name: trial[name] for name in (*evidence.choices, *evidence.hyperparameters)},
        tags={
            **{name: trial[name] for name in ("study", "job", "trial", "status", "error")},
            "parent_trial": trial["parent"],
            "data_digest": job.tags["data_digest"],
            "mlflow.source.name": "catsdogs.search",
            "mlflow.source.type": "LOCAL",
        },
        points=_epoch_points(epochs, ended) + _points(scores, ended),
    )


def _final_run(final: Final, jobs: Mapping[str, Job]) -> _Run:
    metrics, recipe = final.metrics, final.recipe
    ended = (final.folder / "metrics.json").stat().st_mtime
    seconds = _mapping(metrics.get("seconds"))
    details = {name: _mapping(score) for name, score in _mapping(metrics.get("details")).items()}
    scores = {
        **metrics,
        **{f"{name}_{end}": score.get(end) for name, score in details.items() for end in ("low", "high")},
        **{f"seconds_{name}": value for name, value in seconds.items()},
    }
    chosen = [job.choices for job in jobs.values() if job.folder == final.folder.parent / str(metrics.get("job"))]
    return _Run(
        happened=("final", _digest(metrics)),
        name="final",
        status="FINISHED",
        started=ended - float(seconds.get("all", 0)),
        ended=ended,
        params={
            **dict(*chosen),
            **_mapping(recipe.get("hyperparameters")),
            "fit_on": metrics.get("fit_on"),
            **{f"tta_{name}": value for name, value in _mapping(metrics.get("tta")).items()},
        },
        tags={
            "study": final.study,
            "job": metrics.get("job"),
            "trial": metrics.get("trial"),
            "status": "ok",
            "data_digest": recipe.get("data_digest"),
            "scored_on": "; ".join(
                dict.fromkeys(f"{s.get('split')}, {s.get('size')} images" for s in details.values())
            ),
            "mlflow.source.name": "catsdogs.retrain",
            "mlflow.source.type": "LOCAL",
            **_versions(recipe),
        },
        points=_epoch_points(final.history, ended) + _points(scores, ended),
    )


def _epoch_points(epochs: pd.DataFrame | None, ended: float) -> list[_Point]:
    """The last of the epochs was over at `ended`, in seconds since 1970."""
    if epochs is None or epochs.empty:
        return []
    points: list[_Point] = []
    rows = epochs[metric_names(epochs)].add_prefix("epoch/").to_dict("records")
    for time, epoch, metrics in zip(epochs_ended_at(epochs, ended), epochs["epoch"], rows, strict=True):
        points += _points(metrics, time, int(epoch))
    return points


def _points(values: Mapping[Any, Any], time: float, step: int = 0) -> list[_Point]:
    """Of those that are finite numbers."""
    return [
        (str(name), float(value), max(0, round(1000 * time)), step)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Those that are known; a whole number without a point, as pandas makes it a float where others are missing."""
    known = {name: value for name, value in values.items() if value not in (None, "") and value == value}
    whole = {name: int(value) for name, value in known.items() if isinstance(value, float) and value.is_integer()}
    return {name: str(value) for name, value in (known | whole).items()}


def _versions(told: Mapping[str, Any]) -> dict[str, Any]:
    return {f"version.{name}": value for name, value in _mapping(told.get("versions")).items()}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _seconds(text: Any) -> float:
    """Since 1970; 0 if it tells no time."""
    told = moment(text)
    return 0.0 if told is None else told.timestamp()
