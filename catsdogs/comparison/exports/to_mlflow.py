"""Evidence -> MLflow runs: an experiment per study, a run per job, below it a run per trial, a run per final model.

    pip install 'catsdogs[mlflow]'
    mlflow ui --backend-store-uri sqlite:////where/the/study/is/mlflow.db

The tag `catsdogs.key` says what a run stands for: a job that started then, one of its trials, a model that `retrain`
made. A run that has ended is not written again; one that was still running, or was only half written, is completed.

`val_log_loss` of a trial is that of its best epoch, averaged over executions. That of a job is its best trial's so far
(step: number of trials). Epochs of the first execution are `epoch/val_log_loss` and so on (step: epoch).
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.provenance import parse_timestamp
from catsdogs.comparison.exports.timeline import curves, ended_at, epoch_rows
from catsdogs.comparison.study_data import FinalModel, StudyData
from catsdogs.study.jobs import FAILED, RUNNING, search_command

_KEY = "catsdogs.key"

# MLflow reads these when it is imported and when it is called. Nothing is to leave this machine but for the store.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # else it tells of the tables of a new file
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line per run
    "GIT_PYTHON_REFRESH": "quiet",  # GitPython, which MLflow imports, warns where there is no git
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else it asks for minutes where there is no server
}


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


def write_mlflow(study_data: StudyData, uri: str) -> int:
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
    artifacts = None
    try:
        if uri.startswith("sqlite:///"):
            file = Path(uri.removeprefix("sqlite:///")).resolve()
            file.parent.mkdir(parents=True, exist_ok=True)
            # MLflow would try for 100 seconds to open a file that cannot be opened.
            sqlite3.connect(file).close()
            # What users add to runs; else it would go to today's working folder.
            artifacts = file.with_name("mlruns").as_uri()
        client = MlflowClient(tracking_uri=uri)
        studies = {*study_data.leaderboard["study"], *study_data.final_models}
        experiments = {study: _Experiment(client, study, artifacts) for study in studies}
        its_epochs = curves(study_data.epochs)
        for row in study_data.leaderboard[study_data.leaderboard["label"].isin(list(study_data.jobs))].to_dict(
            "records"
        ):
            _write_job(experiments[row["study"]], study_data, row, its_epochs)
        for final in study_data.final_models.values():
            _write_final(experiments[final.study], final, study_data)
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError) as error:
        told = " ".join(str(error).replace(uri, shown).split()).split(". ")[0][:300]
        raise UserError(
            f"--mlflow={shown}: it cannot be written ({told}); name another store, such as --mlflow=sqlite:///mlflow.db"
        ) from error
    return len(study_data.jobs) + len(study_data.trials) + len(study_data.final_models)


class _Experiment:
    """The experiment of a study, made if it is not there."""

    def __init__(self, client: Any, study: str, artifacts: str | None):
        self._client = client
        found = client.get_experiment_by_name(study)
        tags = {"mlflow.experimentKind": "custom_model_development"}  # and not about language models
        self._id = found.experiment_id if found else client.create_experiment(study, artifacts, tags)
        self._found = {run.data.tags.get(_KEY): run.info for run in client.search_runs([self._id], max_results=50_000)}

    def write(
        self,
        key: str,
        name: str,
        status: str,
        seconds: tuple[float, float],
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        metrics: list[Any],
    ) -> str:
        """Write a run unless it is there and has ended; give its id. `seconds`: its start and end, since 1970."""
        from mlflow.entities import Param

        there = self._found.get(key)
        if there is not None and there.status != "RUNNING":
            if parent := tags.get("mlflow.parentRunId"):  # which may have been written anew
                self._client.set_tag(there.run_id, "mlflow.parentRunId", parent)
            return str(there.run_id)
        if there is not None:
            self._client.delete_run(there.run_id)
        started, ended = (round(1000 * time) for time in seconds)
        tags = {**_texts(tags), "mlflow.source.type": "LOCAL", _KEY: key}
        made = str(self._client.create_run(self._id, started, tags, name).info.run_id)
        self._client.log_batch(made, metrics, [Param(*param) for param in _texts(params).items()])
        # The status comes last, and so says that all is there.
        if status != "RUNNING":
            self._client.set_terminated(made, status, ended)
        return made


def _write_job(
    experiment: _Experiment,
    study_data: StudyData,
    row: Mapping[Any, Any],
    its_epochs: Mapping[tuple[str, str], pd.DataFrame],
) -> None:
    """A job and, below it, its trials."""
    job = study_data.jobs[row["label"]]
    trials = study_data.trials[study_data.trials["label"] == row["label"]].to_dict("records")
    key = f"job {job.name} {job.result.get('started')}"
    started = _seconds(job.result.get("started"))
    ended = _seconds(job.result.get("finished")) or started + float(np.nan_to_num(row["seconds"]))
    times = [ended_at(trial) for trial in trials]
    best = pd.Series([trial["val_log_loss"] for trial in trials], dtype=float).cummin().ffill()
    metrics = []
    for number, loss in enumerate(best[:-1], start=1):
        metrics += _metrics({"val_log_loss": loss}, times[number - 1], number)
    names = ("val_log_loss", "val_accuracy", "trials", "trials_completed", "seconds")
    metrics += _metrics({name: row[name] for name in names}, max([ended, *times]), len(trials))
    parent = experiment.write(
        key,
        row["job"],
        {RUNNING: "RUNNING", FAILED: "FAILED"}.get(row["status"], "FINISHED"),
        (started, ended),
        {name: row[name] for name in study_data.choices},
        {
            **{name: row[name] for name in ("study", "job", "status", "data_digest", "best_trial", "error")},
            "command": search_command(job.folder.parent),
            "mlflow.source.name": "catsdogs.search",
            **_versions(job.result),
        },
        metrics,
    )
    for trial, ended in zip(trials, times, strict=True):
        scores = {name: trial[name] for name in ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds")}
        experiment.write(
            f"{key} trial {trial['trial']}",
            # The number first: a list of runs cuts names.
            f"trial {trial['trial']}, {trial['job']}",
            "FINISHED" if math.isfinite(trial["val_log_loss"]) else "FAILED",
            (max(0.0, ended - trial["seconds"]), ended),
            {name: trial[name] for name in (*study_data.choices, *study_data.hyperparameters)},
            {
                **{name: trial[name] for name in ("study", "job", "trial", "status", "error")},
                "parent_trial": trial["parent"],
                "data_digest": row["data_digest"],
                "mlflow.source.name": "catsdogs.search",
                "mlflow.parentRunId": parent,
            },
            _epoch_metrics(its_epochs.get((trial["label"], trial["trial"])), ended) + _metrics(scores, ended),
        )


def _write_final(experiment: _Experiment, final: FinalModel, study_data: StudyData) -> None:
    told, recipe = final.metrics, final.recipe
    file = final.folder / "metrics.json"
    ended = file.stat().st_mtime
    seconds, details = told["seconds"], told["details"]
    bounds = {f"{name}_{end}": score[end] for name, score in details.items() for end in ("low", "high")}
    scores = {**told, **bounds, **{f"seconds_{name}": value for name, value in seconds.items()}}
    folder = final.folder.parent / str(told.get("job"))
    chosen = next((job.choices for job in study_data.jobs.values() if job.folder == folder), {})
    tta = {f"tta_{name}": value for name, value in told["tta"].items()}
    scored_on = dict.fromkeys(f"{score['split']}, {score['size']} images" for score in details.values())
    experiment.write(
        f"final {hashlib.sha256(file.read_bytes()).hexdigest()}",
        "final",
        "FINISHED",
        (ended - seconds.get("all", 0), ended),
        {**chosen, **recipe["hyperparameters"], "fit_on": told.get("fit_on"), **tta},
        {
            **{name: told.get(name) for name in ("job", "trial")},
            "study": final.study,
            "status": "ok",
            "data_digest": recipe.get("data_digest"),
            "scored_on": "; ".join(scored_on),
            "mlflow.source.name": "catsdogs.retrain",
            **_versions(recipe),
        },
        _epoch_metrics(final.history, ended) + _metrics(scores, ended),
    )


def _epoch_metrics(epochs: pd.DataFrame | None, ended: float) -> list[Any]:
    """The last of the epochs was over at `ended`, in seconds since 1970."""
    metrics = []
    for time, epoch, values in epoch_rows(epochs, ended):
        metrics += _metrics({f"epoch/{name}": value for name, value in values.items()}, time, epoch)
    return metrics


def _metrics(values: Mapping[Any, Any], time: float, step: int = 0) -> list[Any]:
    """Of those that are finite numbers."""
    from mlflow.entities import Metric

    return [
        Metric(str(name), float(value), max(0, round(1000 * time)), step)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Those that are known; a whole number without a point, as pandas makes it a float where others are missing."""
    known = {name: value for name, value in values.items() if value not in (None, "") and value == value}
    whole = {name: int(value) for name, value in known.items() if isinstance(value, float) and value.is_integer()}
    return {name: str(value) for name, value in (known | whole).items()}


def _versions(told: Mapping[str, Any]) -> dict[str, Any]:
    return {f"version.{name}": value for name, value in told["versions"].items()}


def _seconds(text: Any) -> float:
    """Since 1970; 0 if it tells no time."""
    told = parse_timestamp(text)
    return 0.0 if told is None else told.timestamp()
