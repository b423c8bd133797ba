"""MLflow runs, read back by MLflow itself."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies import STARTED, write_final, write_job, write_study

from catsdogs.comparison.evidence import Evidence, read_evidence
from catsdogs.comparison.to_mlflow import local_store, write_mlflow
from catsdogs.errors import UserError
from catsdogs.files import write_json

CHOICES = {"backbone": "mobilenet_v2", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    study = write_study(tmp_path / "study")
    write_final(study)
    return study


@pytest.fixture
def evidence(study: Path) -> Evidence:
    return read_evidence([study])


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, which take it a second to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    write_job(folder / "study", CHOICES, trials=0)
    before = read_evidence([folder / "study"])
    assert write_mlflow(dataclasses.replace(before, studies=()), local_store(folder)) == 0
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return local_store(tmp_path)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str, experiment: str = "study") -> dict[str, Any]:
    """Of an experiment by `job`, `job/trial` and `final`; none of them is there twice."""
    asked = client(uri)
    found = asked.search_runs([asked.get_experiment_by_name(experiment).experiment_id], max_results=5000)
    named = {}
    for run in found:
        tags = run.data.tags
        job = "final" if run.info.run_name == "final" else tags["job"]
        named[f"{job}/{tags['trial']}" if "trial" in tags and job != "final" else job] = run
    assert len(named) == len(found)
    return named


def history(uri: str, run: Any, metric: str) -> dict[int, float]:
    """By step; no step is there twice."""
    points = client(uri).get_metric_history(run.info.run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def everything(uri: str) -> Any:
    """All that a store says, with the ids of its runs and the times."""
    return {
        name: (run.info, run.data, {metric: history(uri, run, metric) for metric in run.data.metrics})
        for name, run in runs(uri).items()
    }


def same(one: Any, other: Any) -> bool:
    return json.dumps(one, default=vars, sort_keys=True) == json.dumps(other, default=vars, sort_keys=True)


def test_jobs_and_their_trials(study: Path, evidence: Evidence, uri: str) -> None:
    assert write_mlflow(evidence, uri) == 4 + 16 + 1
    read = runs(uri)
    assert len(read) == 21
    for row in evidence.board.to_dict("records"):
        run = read[row["job"]]
        assert run.info.status == "FINISHED"
        assert run.info.run_name == row["job"]
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.data.params == {name: row[name] for name in evidence.choices}
        assert run.data.metrics["val_log_loss"] == row["val_log_loss"]
        assert run.data.metrics["val_accuracy"] == row["val_accuracy"]
        assert (run.data.metrics["trials"], run.data.metrics["trials_completed"]) == (4, 4)
        told = {
            "study": "study",
            "status": "ok",
            "best_trial": row["best_trial"],
            "data_digest": "d" * 64,
            "version.keras": "3.15.1",
            "command": "python -m catsdogs.search -m study=study augmentation=light,none label_smoothing=none,mild",
        }
        assert told.items() <= run.data.tags.items()
        started = datetime.datetime.fromisoformat(row["started"]).timestamp()
        assert run.info.start_time == started * 1000
        assert run.info.end_time == pytest.approx((started + row["seconds"]) * 1000, abs=1)
    for trial in evidence.trials.to_dict("records"):
        run = read[f"{trial['job']}/{trial['trial']}"]
        assert run.data.tags["mlflow.parentRunId"] == read[trial["job"]].info.run_id
        assert run.info.status == "FINISHED"
        assert run.info.end_time == round(trial["ended"].timestamp() * 1000)
        assert run.info.end_time - run.info.start_time == trial["seconds"] * 1000
        for name in ("val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds"):
            assert run.data.metrics[name] == trial[name]
        assert run.data.params == {
            **{name: trial[name] for name in evidence.choices},
            "unfreeze_depth": str(trial["unfreeze_depth"]),
            "dropout": str(trial["dropout"]),
            "l2": str(trial["l2"]),
        }


def test_epochs(study: Path, evidence: Evidence, uri: str) -> None:
    write_mlflow(evidence, uri)
    read = runs(uri)
    for job in evidence.jobs:
        table = pd.read_csv(study / job / "history.csv", dtype={"trial": str})
        for trial, epochs in table.groupby("trial"):
            for name in ("val_log_loss", "accuracy", "learning_rate"):
                expected = dict(zip(epochs["epoch"], epochs[name], strict=True))
                assert history(uri, read[f"{job}/{trial}"], f"epoch/{name}") == expected
    one = read[f"{job}/0"]
    points = client(uri).get_metric_history(one.info.run_id, "epoch/val_log_loss")
    assert max(point.timestamp for point in points) == one.info.end_time


def test_executions_after_the_first(tmp_path: Path, uri: str) -> None:
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=1)
    table = pd.read_csv(job / "history.csv")
    again = table.assign(execution=1, val_log_loss=table["val_log_loss"] + 1)
    pd.concat([table, again]).to_csv(job / "history.csv", index=False)
    write_mlflow(read_evidence([job.parent]), uri)
    run = runs(uri)[f"{job.name}/0"]
    first, second = history(uri, run, "epoch/val_log_loss"), history(uri, run, "execution_1/val_log_loss")
    assert second == {epoch: loss + 1 for epoch, loss in first.items()}


def test_a_job_shows_its_best_trial_so_far(tmp_path: Path, uri: str) -> None:
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=4, failed_trials=1)
    table = pd.read_csv(job / "trials.csv")
    table["val_log_loss"] = [0.5, 0.25, 0.75, None]
    table["val_accuracy"] = [0.7, 0.8, 0.9, None]
    table.to_csv(job / "trials.csv", index=False)
    write_mlflow(read_evidence([job.parent]), uri)
    run = runs(uri)[job.name]
    assert history(uri, run, "val_log_loss") == {1: 0.5, 2: 0.25, 3: 0.25, 4: 0.25}
    assert run.data.metrics["val_accuracy"] == 0.8
    assert history(uri, run, "trials_completed") == {1: 1, 2: 2, 3: 3, 4: 3}


def test_final_model(study: Path, evidence: Evidence, uri: str) -> None:
    write_mlflow(evidence, uri)
    run = runs(uri)["final"]
    metrics = evidence.finals["study"].metrics
    for name in ("log_loss", "accuracy_tta", "ece", "epochs", "selected_val_log_loss"):
        assert run.data.metrics[name] == metrics[name]
    assert run.data.metrics["log_loss_low"] == metrics["details"]["log_loss"]["low"]
    assert not any(name.startswith(("log_loss_calibrated", "ece_low")) for name in run.data.metrics)
    assert history(uri, run, "epoch/val_log_loss") == {1: 0.3, 2: 0.2}
    assert run.data.params == {**CHOICES, "fit_on": "train", "tta_kind": "views", "tta_views": "10"}
    told = {"job": "mobilenet_v2-light-cosine-none", "trial": "0", "scored_on": "validation, 200 images"}
    assert told.items() <= run.data.tags.items()
    assert run.info.status == "FINISHED"


def test_written_again_nothing_changes(study: Path, evidence: Evidence, uri: str) -> None:
    write_mlflow(evidence, uri)
    before = everything(uri)
    assert write_mlflow(evidence, uri) == 21
    assert same(everything(uri), before)
    # A study that is copied elsewhere is the same study, whatever the dates of its files.
    shutil.copytree(study, study.parent / "copies" / "study", copy_function=shutil.copyfile)
    os.utime(study.parent / "copies" / "study" / "best" / "metrics.json", (1.8e9, 1.8e9))
    assert write_mlflow(read_evidence([study.parent / "copies" / "study"]), uri) == 21
    assert same(everything(uri), before)


def test_a_study_that_goes_on(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "study"
    name = write_job(study, CHOICES, trials=2, status="running", planned=4)
    assert write_mlflow(read_evidence([study]), uri) == 3
    before = runs(uri)
    assert before[name].info.status == "RUNNING"
    assert before[name].info.end_time is None
    assert before[f"{name}/1"].info.status == "FINISHED"
    assert "seconds" not in before[name].data.metrics

    # The same job goes on: its first trials are as they were.
    write_job(study, CHOICES, trials=4)
    assert write_mlflow(read_evidence([study]), uri) == 5
    after = runs(uri)
    assert {key: run.info.run_id for key, run in before.items()}.items() <= {
        key: run.info.run_id for key, run in after.items()
    }.items()
    assert after[name].info.status == "FINISHED"
    assert after[name].info.end_time > after[name].info.start_time
    assert list(history(uri, after[name], "val_log_loss")) == [1, 2, 3, 4]
    assert after[name].data.metrics["seconds"] > 0
    assert (before[name].data.tags["status"], after[name].data.tags["status"]) == ("running", "ok")
    assert same(before[f"{name}/0"].data, after[f"{name}/0"].data)


def test_what_a_run_says_is_not_said_twice(evidence: Evidence, uri: str) -> None:
    """A later version may say more of a trial, or know its time better. Parameters cannot be changed in MLflow."""
    write_mlflow(evidence, uri)
    before = everything(uri)
    an_hour = pd.Timedelta(hours=1)
    later = evidence.trials.assign(ended=evidence.trials["ended"] + an_hour, error="told later", dropout=0.9)
    assert write_mlflow(dataclasses.replace(evidence, trials=later), uri) == 21
    for name, (_, data, curves) in everything(uri).items():
        _, data_before, curves_before = before[name]
        assert curves == curves_before
        assert data.params == data_before.params
        assert data.tags.get("error") == ("told later" if "/" in name else None)


def test_what_was_half_written_is_completed(study: Path, evidence: Evidence, uri: str, monkeypatch: Any) -> None:
    from mlflow import MlflowClient

    def fails(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_terminated", fails)
        with pytest.raises(KeyboardInterrupt):
            write_mlflow(evidence, uri)
    assert len(runs(uri)) == 1
    assert write_mlflow(evidence, uri) == 21
    read = runs(uri)
    assert len(read) == 21
    for name, run in read.items():
        assert run.info.status == "FINISHED"
        for metric in run.data.metrics:
            assert history(uri, run, metric), name


def test_what_happens_again_is_another_run(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "study"
    name = write_job(study, CHOICES, trials=1, status="failed", error="no memory")
    write_mlflow(read_evidence([study]), uri)
    write_job(study, CHOICES, trials=2, started=STARTED + datetime.timedelta(hours=1))
    assert write_mlflow(read_evidence([study]), uri) == 3
    asked = client(uri)
    found = asked.search_runs([asked.get_experiment_by_name("study").experiment_id], f"tags.job = '{name}'")
    jobs = [run for run in found if "trial" not in run.data.tags]
    assert sorted(run.info.status for run in jobs) == ["FAILED", "FINISHED"]
    assert {run.data.tags.get("error") for run in jobs} == {"no memory", None}
    assert len(found) == 5


def test_what_the_user_deleted_stays_deleted(evidence: Evidence, uri: str) -> None:
    write_mlflow(evidence, uri)
    one = next(run for name, run in runs(uri).items() if name.endswith("/3"))
    client(uri).delete_run(one.info.run_id)
    assert write_mlflow(evidence, uri) == 20
    assert len(runs(uri)) == 20
    job = runs(uri)["mobilenet_v2-light-cosine-none"]
    client(uri).delete_run(job.info.run_id)
    write_mlflow(evidence, uri)
    assert client(uri).get_run(job.info.run_id).info.lifecycle_stage == "deleted"


def test_a_deleted_experiment_is_told(evidence: Evidence, uri: str) -> None:
    write_mlflow(evidence, uri)
    experiment = client(uri).get_experiment_by_name("study").experiment_id
    client(uri).delete_experiment(experiment)
    with pytest.raises(UserError, match=f"study was deleted; restore it .* --experiment-id {experiment}"):
        write_mlflow(evidence, uri)


def test_failed_trials(tmp_path: Path, uri: str) -> None:
    name = write_job(tmp_path / "study", CHOICES, trials=2, failed_trials=1)
    write_mlflow(read_evidence([tmp_path / "study"]), uri)
    run = runs(uri)[f"{name}/1"]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "DivergedError: <b>the loss</b> is nan"
    assert "val_log_loss" not in run.data.metrics
    assert "dropout" in run.data.params


def test_several_studies_are_several_experiments(tmp_path: Path, uri: str) -> None:
    for name in ("first", "second"):
        write_job(tmp_path / name, CHOICES, trials=2, name="job")
    assert write_mlflow(read_evidence([tmp_path / "first", tmp_path / "second"]), uri) == 6
    assert set(runs(uri, "first")) == set(runs(uri, "second")) == {"job", "job/0", "job/1"}
    # One of them alone is the same experiment.
    assert write_mlflow(read_evidence([tmp_path / "second"]), uri) == 3
    assert len(runs(uri, "second")) == 3


def test_many_epochs_and_hyperparameters(tmp_path: Path, uri: str) -> None:
    """More than MLflow takes in one call: 1000 metrics, 100 parameters."""
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=1)
    table = pd.read_csv(job / "history.csv").head(1)
    pd.concat([table.assign(epoch=epoch) for epoch in range(1, 301)]).to_csv(job / "history.csv", index=False)
    trials = pd.read_csv(job / "trials.csv")
    sizes = pd.DataFrame({f"size_{number}": [1.5] for number in range(150)})
    pd.concat([trials, sizes], axis="columns").to_csv(job / "trials.csv", index=False)
    write_mlflow(read_evidence([job.parent]), uri)
    run = runs(uri)[f"{job.name}/0"]
    assert len(history(uri, run, "epoch/val_log_loss")) == 300
    assert len(run.data.params) == 4 + 3 + 150


def test_whole_numbers_beside_missing_ones(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "study"
    first = write_job(study, CHOICES, trials=1)
    second = write_job(study, {**CHOICES, "schedule": "constant"}, trials=1)
    pd.read_csv(study / first / "trials.csv").drop(columns="unfreeze_depth").to_csv(
        study / first / "trials.csv", index=False
    )
    write_mlflow(read_evidence([study]), uri)
    read = runs(uri)
    assert "unfreeze_depth" not in read[f"{first}/0"].data.params
    assert read[f"{second}/0"].data.params["unfreeze_depth"] in ("0", "10", "30")


HOSTILE = [
    "<script>alert(1)</script>",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 10_000,
    "..",
    "/root",
    "a/../../b",
    "a//b/",
    "quote'\"`\n\t\0\\ = ",
    "un\udcffreadable",
]


def test_hostile_names_and_values(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "study"
    for number in range(len(HOSTILE)):
        write_job(study, {**CHOICES, "augmentation": "light"}, trials=1, name=f"job{number}")
    evidence = read_evidence([study])
    texts = pd.Series(HOSTILE, dtype=object)
    jobs = {
        label: dataclasses.replace(job, result={**job.result, "versions": {text: text}, "error": text})
        for (label, job), text in zip(evidence.jobs.items(), HOSTILE, strict=True)
    }
    # pandas itself takes no such name of a column.
    names = HOSTILE[:-1]
    columns = dict.fromkeys(names, texts)
    board, trials = (
        table.sort_values("label", ignore_index=True).assign(
            augmentation=texts, error=texts, study=HOSTILE[0], **columns
        )
        for table in (evidence.board, evidence.trials)
    )
    hostile = dataclasses.replace(
        evidence, jobs=jobs, board=board, trials=trials, choices=(*evidence.choices, *names), epochs=pd.DataFrame()
    )
    assert write_mlflow(hostile, uri) == 2 * len(HOSTILE)
    assert write_mlflow(hostile, uri) == 2 * len(HOSTILE)
    read = runs(uri, HOSTILE[0])
    assert len(read) == 2 * len(HOSTILE)
    assert read["job0/0"].data.params["augmentation"] == HOSTILE[0]
    assert len(read["job3/0"].data.params["augmentation"]) == 500
    assert read["job9/0"].data.tags["error"] == "un?readable"
    # No two names became one.
    assert len(read["job0/0"].data.params) == 4 + 3 + len(names)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:////dev/null/mlflow.db", "Not a directory|File exists"),
        ("sqlite:///{folder}", "unable to open"),
        ("sqlite:///{folder}/text", "not a database"),
        ("{folder}/mlruns", "maintenance mode"),
        ("nonsense://there", "unsupported URI"),
    ],
)
def test_a_store_that_cannot_be_written_is_told_at_once(
    evidence: Evidence, tmp_path: Path, uri: str, reason: str
) -> None:
    (tmp_path / "text").write_text("no database\n" * 100)
    before = sorted(tmp_path.rglob("*"))
    began = time.monotonic()
    with pytest.raises(UserError, match=f"(?s)--mlflow=.*({reason}).*such as --mlflow=sqlite:///mlflow.db"):
        write_mlflow(evidence, uri.format(folder=tmp_path))
    assert time.monotonic() - began < 10
    assert sorted(tmp_path.rglob("*")) == before


def test_a_password_is_not_told(evidence: Evidence, monkeypatch: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=r"me:\*\*\*@127.0.0.1") as told:
            write_mlflow(evidence, f"http://me:tresure@127.0.0.1:{free.getsockname()[1]}")
    assert "tresure" not in str(told.value)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_without_mlflow_the_remedy_is_told(evidence: Evidence, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"pip install 'catsdogs\[mlflow\]'"):
        write_mlflow(evidence, "sqlite:///mlflow.db")


def test_a_folder_that_no_address_can_name(tmp_path: Path) -> None:
    assert local_store(tmp_path / "with space#") == f"sqlite:///{tmp_path}/with space#/mlflow.db"
    with pytest.raises(UserError, match="cannot hold its % or"):
        local_store(tmp_path / "100%")


def test_nothing_is_sent_said_or_left_behind(study: Path, tmp_path: Path) -> None:
    """In a process of its own: MLflow sends nothing while pytest runs."""
    program = """
import os, socket, sys
from pathlib import Path

asked = []
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, lambda self, *told: asked.append(told))
socket.getaddrinfo = lambda *told, **named: asked.append(told)
from catsdogs.comparison.evidence import read_evidence
from catsdogs.comparison.to_mlflow import local_store, write_mlflow

before = dict(os.environ)
evidence = read_evidence([Path(sys.argv[1])])
print(write_mlflow(evidence, local_store(Path(sys.argv[1]))))
print(asked, before == dict(os.environ), [name for name in ("tensorflow", "keras") if name in sys.modules])
"""
    (tmp_path / "empty").mkdir()
    (tmp_path / "home").mkdir()
    hidden = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(study)],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "21\n[] True []\n"
    assert list((tmp_path / "empty").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []
    assert sorted(path.name for path in study.iterdir() if path.is_file()) == ["mlflow.db", "study.json"]


@pytest.mark.slow
def test_the_server_shows_what_was_written(study: Path, evidence: Evidence, tmp_path: Path) -> None:
    """`mlflow server` on a file that was written here, and written once more through the server."""
    uri = local_store(study)
    write_mlflow(evidence, uri)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]

    def ask(path: str, request: dict[str, Any] | None = None) -> Any:
        data = None if request is None else json.dumps(request).encode()
        asked = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read()

    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT) as server,
    ):
        try:
            for _ in range(120):
                try:
                    assert ask("health") == b"OK"
                    break
                except OSError:
                    time.sleep(0.5)
            found = json.loads(ask("api/2.0/mlflow/experiments/search", {"max_results": 10}))["experiments"]
            experiment = next(each for each in found if each["name"] == "study")["experiment_id"]
            asked = {"experiment_ids": [experiment], "max_results": 100, "order_by": ["metrics.val_log_loss ASC"]}
            shown = json.loads(ask("api/2.0/mlflow/runs/search", asked))["runs"]
            assert len(shown) == 21
            best = {metric["key"]: metric["value"] for metric in shown[0]["data"]["metrics"]}
            assert best["val_log_loss"] == evidence.board["val_log_loss"].min()
            assert b"<html" in ask("").lower()

            # Through the server the runs that are there are found again, and a new job is added.
            write_job(study, {**CHOICES, "schedule": "constant"}, trials=2)
            assert write_mlflow(read_evidence([study]), address) == 24
            assert len(runs(address)) == 24
        finally:
            server.terminate()


def test_damaged_results(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "study"
    name = write_job(study, CHOICES, trials=2)
    write_job(study, {**CHOICES, "schedule": "constant"}, trials=0, status="failed", error="no memory", name="failed")
    (study / "broken").mkdir()
    (study / "broken" / "result.json").write_text("{")
    write_json(study / "empty" / "result.json", {"versions": 3, "choices": [], "data": "none", "status": "running"})
    (study / name / "trials.csv").write_text("nonsense")
    write_final(study)
    write_json(
        study / "best" / "metrics.json", {"details": {"log_loss": 3}, "seconds": "long", "tta": 1, "log_loss": 0.5}
    )
    assert write_mlflow(read_evidence([study]), uri) == 5
    read = runs(uri)
    assert read["broken"].info.status == read["failed"].info.status == "FAILED"
    assert read["empty"].info.status == "RUNNING"
    # What its result tells of the best trial is there without its trials.
    assert read[name].data.metrics["val_log_loss"] > 0
