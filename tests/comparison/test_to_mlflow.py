"""MLflow runs, read back by MLflow itself."""

import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, STARTED, write_final, write_job, write_study

from catsdogs.base.errors import UserError
from catsdogs.comparison.exports.to_mlflow import local_store, write_mlflow
from catsdogs.comparison.study_data import read_study_data

# A warning about MLflow's tables since SQLAlchemy 2.1, which Python does not show to users.
warning = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
pytestmark = [pytest.mark.lowest, warning]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Return a SQLite file with MLflow's tables, which take a second to create."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def study(tmp_path):
    return tmp_path / "study"


@pytest.fixture
def uri(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return local_store(tmp_path)


def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri, experiment="study"):
    """Return the runs of an experiment by their names, which are unique."""
    store = client(uri)
    infos = store.search_runs([store.get_experiment_by_name(experiment).experiment_id])
    by_name = {run.info.run_name: run for run in infos}
    assert len(by_name) == len(infos)
    return by_name


def history(uri, run, metric):
    """Return a metric by step; steps are unique, and the last one ends with the run."""
    points = client(uri).get_metric_history(run.info.run_id, metric)
    assert len({point.step for point in points}) == len(points)
    assert max(point.timestamp for point in points) == run.info.end_time
    return {point.step: point.value for point in points}


def test_jobs_trials_and_final_model_are_written_once(study, uri):
    write_study(study, failed_trials=1)
    write_final(study)
    study_data = read_study_data([study])
    assert write_mlflow(study_data, uri) == 4 + 16 + 1
    read = runs(uri)
    for row in study_data.leaderboard.to_dict("records"):
        run = read[row["job"]]
        assert run.data.params == {name: row[name] for name in study_data.choices}
        metrics = ("val_log_loss", "val_accuracy", "seconds", "trials", "trials_completed")
        assert run.data.metrics == {name: row[name] for name in metrics}
        command = "python -m catsdogs.search -m study=study augmentation=light,none label_smoothing=none,mild"
        tags = {"best_trial": row["best_trial"], "data_digest": "d" * 64, "version.keras": "3.15.1", "command": command}
        tags["classes"] = "cat, dog"
        assert tags.items() <= run.data.tags.items()
        losses = study_data.trials.loc[study_data.trials["label"] == row["label"], "val_log_loss"]
        so_far = dict(enumerate(losses.cummin().ffill(), start=1))
        assert history(uri, run, "val_log_loss") == so_far
    for trial in study_data.trials.to_dict("records"):
        run = read[f"trial {trial['trial']}, {trial['job']}"]
        assert run.data.tags["mlflow.parentRunId"] == read[trial["job"]].info.run_id
        assert run.info.end_time == round(trial["ended"].timestamp() * 1000)
        assert run.info.end_time - run.info.start_time == trial["seconds"] * 1000
        failed = np.isnan(trial["val_log_loss"])
        assert (run.info.status, run.data.tags.get("error")) == (
            ("FAILED", "DivergedError: <b>the loss</b> is nan") if failed else ("FINISHED", None)
        )
        scores = ("epochs", "seconds", *(() if failed else ("val_log_loss", "val_accuracy", "best_epoch")))
        assert {name: trial[name] for name in scores}.items() <= run.data.metrics.items()
        names = (*study_data.choices, "unfreeze_depth", "dropout", "l2")
        assert run.data.params == {name: str(trial[name]) for name in names}
    best = study_data.leaderboard.iloc[0]
    epochs = pd.read_csv(study / best["job"] / "history.csv", dtype={"trial": str}).query("trial == '0'")
    for name in ("val_log_loss", "accuracy", "learning_rate"):
        expected = dict(zip(epochs["epoch"], epochs[name], strict=True))
        assert history(uri, read[f"trial 0, {best['job']}"], f"epoch/{name}") == expected

    final, saved = read["final"], study_data.final_models["study"].metrics
    expected = {name: saved[name] for name in ("log_loss", "accuracy_tta", "ece", "epochs", "selected_val_log_loss")}
    expected["log_loss_low"] = saved["details"]["log_loss"]["low"]
    assert expected.items() <= final.data.metrics.items()
    assert "log_loss_calibrated" not in final.data.metrics
    assert final.data.params == {**CHOICES, "fit_on": "train", "tta_kind": "views", "tta_views": "10"}

    # A job that was started again is another run; integers next to missing values stay integers.
    name = write_job(study, CHOICES, trials=2, started=STARTED + datetime.timedelta(hours=1))
    table = pd.read_csv(study / name / "trials.csv").assign(unfreeze_depth=[10, np.nan])
    table.to_csv(study / name / "trials.csv", index=False)
    write_mlflow(read_study_data([study]), uri)
    known = {run.info.run_id for run in read.values()}
    new = [run for run in client(uri).search_runs([final.info.experiment_id]) if run.info.run_id not in known]
    assert {run.data.params.get("unfreeze_depth") for run in new} == {"10", None}
    assert len(new) == 3


def test_a_resumed_study_updates_its_runs(study, uri):
    name = write_job(study, CHOICES, trials=2, status="running", planned=4)
    with patch("mlflow.MlflowClient.log_batch", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        write_mlflow(read_study_data([study]), uri)
    assert write_mlflow(read_study_data([study]), uri) == 3
    before = runs(uri)
    assert (before[name].info.status, before[name].info.end_time) == ("RUNNING", None)
    assert before[f"trial 1, {name}"].info.status == "FINISHED"

    write_job(study, CHOICES, trials=4)
    assert write_mlflow(read_study_data([study]), uri) == 5
    after = runs(uri)
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert (before[name].data.tags["status"], after[name].data.tags["status"]) == ("running", "ok")
    for key, run in before.items():
        same = after[key].info.run_id == run.info.run_id
        assert same == (run.info.status == "FINISHED"), key  # unfinished runs are replaced
        assert after[key].data.tags.get("mlflow.parentRunId") in (None, after[name].info.run_id)
    assert list(history(uri, after[name], "val_log_loss")) == [1, 2, 3, 4]
    assert after[name].data.metrics["trials"] == 4


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:////dev/null/mlflow.db", "(Not a directory|File exists).*--mlflow=sqlite:///mlflow.db"),
        ("sqlite:///{folder}", "unable to open"),
        ("nonsense://there", "unsupported URI"),
        ("http://me:tresure@127.0.0.1:9", r"--mlflow=http://me:\*\*\*@127.0.0.1:9: cannot write"),
        (None, r"http://me:\*\*\*@there.*pip install 'catsdogs\[mlflow\]'"),
    ],
)
def test_errors_of_stores_and_a_missing_mlflow_contain_no_passwords(tmp_path, monkeypatch, uri, message):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if uri is None:
        monkeypatch.setitem(sys.modules, "mlflow", None)
    write_job(tmp_path / "study", CHOICES, trials=1)
    with pytest.raises(UserError, match=message) as error:
        write_mlflow(read_study_data([tmp_path / "study"]), (uri or "http://me:tresure@there").format(folder=tmp_path))
    assert "tresure" not in str(error.value)


def test_a_folder_that_a_uri_cannot_represent(tmp_path):
    assert local_store(tmp_path / "with space#") == f"sqlite:///{tmp_path}/with space#/mlflow.db"
    with pytest.raises(UserError, match="--mlflow: a SQLite URI cannot contain % or"):
        local_store(tmp_path / "100%")


def test_nothing_is_sent_printed_or_left_behind(study, tmp_path):
    """Run a separate process, because MLflow sends nothing under pytest."""
    program = """
import socket, sys
from pathlib import Path

calls = []
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, lambda self, *address: calls.append(address))
socket.getaddrinfo = lambda *address, **options: calls.append(address)
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.exports.to_mlflow import local_store, write_mlflow

print(write_mlflow(read_study_data([Path(sys.argv[1])]), local_store(Path(sys.argv[1]))), calls)
"""
    write_job(study, CHOICES, trials=1)
    for name in ("empty", "home"):
        (tmp_path / name).mkdir()
    hidden = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", program, str(study)]
    done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2 []\n", "")
    assert [*(tmp_path / "empty").iterdir(), *(tmp_path / "home").iterdir()] == []
    assert [path.name for path in study.iterdir() if path.is_file()] == ["mlflow.db"]
