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
    write_study(study)
    write_final(study)
    study_data = read_study_data([study])
    assert write_mlflow(study_data, uri) == 4 + 16 + 1
    read = runs(uri)
    assert {run.info.status for run in read.values()} == {"FINISHED"}
    for row in study_data.leaderboard.to_dict("records"):
        run = read[row["job"]]
        assert run.data.params == {name: row[name] for name in study_data.choices}
        metrics = ("val_log_loss", "val_accuracy", "seconds", "trials", "trials_completed")
        assert run.data.metrics == {name: row[name] for name in metrics}
        command = "python -m catsdogs.search -m study=study augmentation=light,none label_smoothing=none,mild"
        tags = {"best_trial": row["best_trial"], "data_digest": "d" * 64, "version.keras": "3.15.1", "command": command}
        assert tags.items() <= run.data.tags.items()
        started = datetime.datetime.fromisoformat(row["started"]).timestamp()
        assert run.info.start_time == started * 1000
        assert run.info.end_time == pytest.approx((started + row["seconds"]) * 1000, abs=1)
    for trial in study_data.trials.to_dict("records"):
        run = read[f"trial {trial['trial']}, {trial['job']}"]
        assert run.data.tags["mlflow.parentRunId"] == read[trial["job"]].info.run_id
        assert run.info.end_time == round(trial["ended"].timestamp() * 1000)
        assert run.info.end_time - run.info.start_time == trial["seconds"] * 1000
        scores = ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds")
        assert {name: trial[name] for name in scores}.items() <= run.data.metrics.items()
        names = (*study_data.choices, "unfreeze_depth", "dropout", "l2")
        assert run.data.params == {name: str(trial[name]) for name in names}
        table = pd.read_csv(study / trial["job"] / "history.csv", dtype={"trial": str})
        epochs = table[table["trial"] == trial["trial"]]
        for name in ("val_log_loss", "accuracy", "learning_rate"):
            assert history(uri, run, f"epoch/{name}") == dict(zip(epochs["epoch"], epochs[name], strict=True))

    final, saved = read["final"], study_data.final_models["study"].metrics
    expected = {name: saved[name] for name in ("log_loss", "accuracy_tta", "ece", "epochs", "selected_val_log_loss")}
    expected["log_loss_low"] = saved["details"]["log_loss"]["low"]
    assert expected.items() <= final.data.metrics.items()
    assert "log_loss_calibrated" not in final.data.metrics
    assert history(uri, final, "epoch/val_log_loss") == {1: 0.3, 2: 0.2}
    assert final.data.params == {**CHOICES, "fit_on": "train", "tta_kind": "views", "tta_views": "10"}
    tags = {"job": "mobilenet_v2-light-cosine-none", "trial": "0", "scored_on": "validation, 200 images"}
    assert tags.items() <= final.data.tags.items()

    # A copy is the same study even if file times differ.
    copy = shutil.copytree(study, study.parent / "copies" / "study", copy_function=shutil.copyfile)
    assert write_mlflow(read_study_data([copy]), uri) == 21
    assert {name: run.info.run_id for name, run in runs(uri).items()} == {n: run.info.run_id for n, run in read.items()}


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


def test_a_failed_and_restarted_job_is_two_runs(study, uri):
    name = write_job(study, CHOICES, trials=1, status="failed", error="no memory")
    write_mlflow(read_study_data([study]), uri)
    failed = runs(uri)[name]
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "no memory")
    write_job(study, CHOICES, trials=2, started=STARTED + datetime.timedelta(hours=1))
    assert write_mlflow(read_study_data([study]), uri) == 3
    all_runs = client(uri).search_runs([failed.info.experiment_id])
    assert len(all_runs) == 5
    assert [run.data.tags.get("error") for run in all_runs if run.info.status == "FINISHED"] == [None] * 4


def test_best_so_far_failed_trials_and_missing_values(study, uri):
    name = write_job(study, CHOICES, trials=4, failed_trials=1)
    table = pd.read_csv(study / name / "trials.csv").assign(unfreeze_depth=[10, np.nan, 30, 30])
    table = table.assign(val_log_loss=[0.5, 0.25, 0.75, np.nan], val_accuracy=[0.7, 0.8, 0.9, np.nan])
    table.to_csv(study / name / "trials.csv", index=False)
    write_mlflow(read_study_data([study]), uri)
    read = runs(uri)
    # The last value is that of the job's result.
    assert list(history(uri, read[name], "val_log_loss").items())[:3] == [(1, 0.5), (2, 0.25), (3, 0.25)]
    assert read[name].data.metrics["trials_completed"] == 3
    failed = read[f"trial 3, {name}"]
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "DivergedError: <b>the loss</b> is nan")
    assert "val_log_loss" not in failed.data.metrics
    # pandas converts integers next to missing values to floats.
    depths = [read[f"trial {number}, {name}"].data.params.get("unfreeze_depth") for number in (0, 1)]
    assert depths == ["10", None]


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
