"""Export to MLflow: an experiment per study, a run per job with child runs for its trials, a run per final model.

    pip install 'catsdogs[mlflow]'
    mlflow ui --backend-store-uri sqlite:////path/of/the/study/mlflow.db

The tag `catsdogs.key` identifies the source of a run: a job with its start time, one of its trials, or a model written
by `retrain`. Finished runs are not written again; unfinished or incomplete runs are replaced.

`val_log_loss` of a trial is that of its best epoch, averaged over executions. For a job it is the value of the best
trial so far (step: number of trials). Epochs of the first execution are `epoch/val_log_loss` and so on (step: epoch).
"""

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
from catsdogs.base.text import listed
from catsdogs.comparison.exports.timeline import curves, ended_at, epoch_rows
from catsdogs.comparison.final_models import FinalModel
from catsdogs.comparison.study_data import StudyData
from catsdogs.study.jobs import FAILED, RUNNING
from catsdogs.study.plan import search_command
from catsdogs.study.trials import STOPPED

_KEY = "catsdogs.key"
_MOST_CLASSES = 40  # names in a tag, which MLflow limits to 5,000 characters

# MLflow reads these on import and on calls. Data may be sent to the store only.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # MLflow logs the creation of every table
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # one line per run
    "GIT_PYTHON_REFRESH": "quiet",  # GitPython, which MLflow imports, warns if git is missing
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default, MLflow retries for minutes without a server
}


def local_store(folder: Path) -> str:
    """Return the URI of the SQLite file in a folder; raise a `UserError` if a URI cannot represent this path."""
    file = (folder.resolve() / "mlflow.db").as_posix()
    if "%" in file or "?" in file:
        # For a quoted path, MLflow would also create a folder with the quoted name.
        fix = "set another file with --mlflow=sqlite:////FOLDER/mlflow.db"
        raise UserError(f"--mlflow: a SQLite URI cannot contain % or ? ({file}); {fix}")
    return f"sqlite:///{file}"


def write_mlflow(study_data: StudyData, uri: str) -> int:
    """Write the runs that an MLflow store does not contain yet; return the number of runs that are now up to date.

    `uri` is a tracking store: `sqlite:////folder/mlflow.db`, created if missing, or `http://server:5000`. Raise a
    `UserError` if MLflow is not installed, or the store is not writable.
    """
    os.environ.update(_ENVIRONMENT | os.environ)
    secret = urlsplit(uri).password
    shown = uri.replace(f":{secret}@", ":***@") if secret else uri
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        problem = f"--mlflow={shown}: cannot import MLflow ({error})"
        raise UserError(f"{problem}; run pip install 'catsdogs[mlflow]'") from error
    artifacts = None
    try:
        if uri.startswith("sqlite:///"):
            file = Path(uri.removeprefix("sqlite:///")).resolve()
            file.parent.mkdir(parents=True, exist_ok=True)
            # Fail now: MLflow would retry an unusable file for 100 seconds.
            sqlite3.connect(file).close()
            # Artifacts that users add to runs; MLflow's default is the current folder.
            artifacts = file.with_name("mlruns").as_uri()
        client = MlflowClient(tracking_uri=uri)
        studies = {*study_data.leaderboard["study"], *study_data.final_models}
        experiments = {study: _Experiment(client, study, artifacts) for study in studies}
        epochs = curves(study_data.epochs)
        recorded = study_data.leaderboard["label"].isin(list(study_data.jobs))
        for row in study_data.leaderboard[recorded].to_dict("records"):
            _write_job(experiments[row["study"]], study_data, row, epochs)
        for final in study_data.final_models.values():
            _write_final(experiments[final.study], final, study_data)
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError) as error:
        reason = " ".join(str(error).replace(uri, shown).split()).split(". ")[0][:300]
        fix = "set another store, for example --mlflow=sqlite:///mlflow.db"
        raise UserError(f"--mlflow={shown}: cannot write to the store ({reason}); {fix}") from error
    return len(study_data.jobs) + len(study_data.trials) + len(study_data.final_models)


class _Experiment:
    """MLflow experiment of a study, created if missing."""

    def __init__(self, client: Any, study: str, artifacts: str | None):
        self._client = client
        existing = client.get_experiment_by_name(study)
        tags = {"mlflow.experimentKind": "custom_model_development"}  # MLflow has another kind for language models
        self._id = existing.experiment_id if existing else client.create_experiment(study, artifacts, tags)
        self._runs = {run.data.tags.get(_KEY): run.info for run in client.search_runs([self._id], max_results=50_000)}

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
        """Write a run unless a finished run has this key; return its id. `seconds`: start and end, since 1970."""
        from mlflow.entities import Param

        existing = self._runs.get(key)
        if existing is not None and existing.status != "RUNNING":
            if parent := tags.get("mlflow.parentRunId"):  # the parent may have been replaced
                self._client.set_tag(existing.run_id, "mlflow.parentRunId", parent)
            return str(existing.run_id)
        if existing is not None:
            self._client.delete_run(existing.run_id)
        started, ended = (round(1000 * time) for time in seconds)
        tags = {**_texts(tags), _KEY: key}
        run_id = str(self._client.create_run(self._id, started, tags, name).info.run_id)
        self._client.log_batch(run_id, metrics, [Param(*param) for param in _texts(params).items()])
        # The status is written last: a finished run is complete.
        if status != "RUNNING":
            self._client.set_terminated(run_id, status, ended)
        return run_id


def _write_job(
    experiment: _Experiment, study_data: StudyData, row: Mapping[Any, Any], epochs: Mapping[tuple[str, str], Any]
) -> None:
    job = study_data.jobs[row["label"]]
    trials = study_data.trials[study_data.trials["label"] == row["label"]].to_dict("records")
    key = f"job {job.name} {job.result.get('started')}"
    started = _seconds(job.result.get("started"))
    ended = _seconds(job.result.get("finished")) or started + float(np.nan_to_num(row["seconds"]))
    times = [ended_at(trial) for trial in trials]
    best = pd.Series([trial["val_log_loss"] for trial in trials], dtype=float).cummin().ffill()
    so_far = enumerate(zip(best[:-1], times, strict=False), start=1)
    metrics = [one for step, (loss, time) in so_far for one in _metrics({"val_log_loss": loss}, time, step)]
    names = ("val_log_loss", "val_accuracy", "trials", "trials_completed", "seconds")
    metrics += _metrics({name: row[name] for name in names}, max([ended, *times]), len(trials))
    status = {RUNNING: "RUNNING", FAILED: "FAILED"}.get(row["status"], "FINISHED")
    params = {name: row[name] for name in study_data.choices}
    tags = {name: row[name] for name in ("study", "job", "status", "data_digest", "best_trial", "error")}
    tags |= {"command": search_command(job.folder.parent), "classes": listed(job.classes.names, _MOST_CLASSES)}
    tags |= _versions(job.result)
    parent = experiment.write(key, row["job"], status, (started, ended), params, tags, metrics)
    for trial, ended in zip(trials, times, strict=True):
        scores = {name: trial[name] for name in ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds")}
        incomplete = "KILLED" if trial["status"] == STOPPED else "FAILED"
        status = "FINISHED" if math.isfinite(trial["val_log_loss"]) else incomplete
        params = {name: trial[name] for name in (*study_data.choices, *study_data.hyperparameters)}
        tags = {name: trial[name] for name in ("study", "job", "trial", "status", "error")}
        tags |= {"parent_trial": trial["parent"], "data_digest": row["data_digest"], "mlflow.parentRunId": parent}
        metrics = _epoch_metrics(epochs.get((trial["label"], trial["trial"])), ended) + _metrics(scores, ended)
        # The number is first because MLflow cuts off long names.
        name, seconds = f"trial {trial['trial']}, {trial['job']}", (max(0.0, ended - trial["seconds"]), ended)
        experiment.write(f"{key} trial {trial['trial']}", name, status, seconds, params, tags, metrics)


def _write_final(experiment: _Experiment, final: FinalModel, study_data: StudyData) -> None:
    recorded, recipe = final.metrics, final.recipe
    file = final.folder / "metrics.json"
    ended = file.stat().st_mtime
    seconds, details = recorded["seconds"], recorded["details"]
    bounds = {f"{name}_{end}": score[end] for name, score in details.items() for end in ("low", "high")}
    scores = {**recorded, **bounds, **{f"seconds_{name}": value for name, value in seconds.items()}}
    folder = final.folder.parent / str(recorded.get("job"))
    chosen = next((job.choices for job in study_data.jobs.values() if job.folder == folder), {})
    tta = {f"tta_{name}": value for name, value in recorded["tta"].items()}
    scored_on = dict.fromkeys(f"{score['split']}, {score['size']} images" for score in details.values())
    params = {**chosen, **recipe["hyperparameters"], "fit_on": recorded.get("fit_on"), **tta}
    tags = {"study": final.study, "job": recorded.get("job"), "trial": recorded.get("trial"), "status": "ok"}
    tags |= {"data_digest": recipe.get("data_digest"), "scored_on": "; ".join(scored_on), **_versions(recipe)}
    tags["classes"] = listed(final.classes.names, _MOST_CLASSES)
    metrics = _epoch_metrics(final.history, ended) + _metrics(scores, ended)
    key = f"final {hashlib.sha256(file.read_bytes()).hexdigest()}"
    experiment.write(key, "final", "FINISHED", (ended - seconds.get("all", 0), ended), params, tags, metrics)


def _epoch_metrics(epochs: pd.DataFrame | None, ended: float) -> list[Any]:
    """Return metrics of all epochs; the last one ended at `ended`, in seconds since 1970."""
    rows = ((t, n, {f"epoch/{name}": v for name, v in values.items()}) for t, n, values in epoch_rows(epochs, ended))
    return [metric for time, epoch, values in rows for metric in _metrics(values, time, epoch)]


def _metrics(values: Mapping[Any, Any], time: float, step: int = 0) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(str(name), float(value), max(0, round(1000 * time)), step)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return known values as text. Integers next to missing values are floats in pandas: drop their decimal point."""
    known = {name: value for name, value in values.items() if value not in (None, "") and value == value}
    integers = {name: int(value) for name, value in known.items() if isinstance(value, float) and value.is_integer()}
    return {name: str(value) for name, value in (known | integers).items()}


def _versions(record: Mapping[str, Any]) -> dict[str, Any]:
    return {f"version.{name}": value for name, value in record["versions"].items()}


def _seconds(text: Any) -> float:
    time = parse_timestamp(text)
    return 0.0 if time is None else time.timestamp()
