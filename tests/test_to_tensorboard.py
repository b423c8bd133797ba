"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

import dataclasses
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

import numpy as np
import pandas as pd
import pytest
from studies import STARTED, write_job, write_study
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from catsdogs.comparison.evidence import Evidence, read_evidence
from catsdogs.comparison.to_tensorboard import write_tensorboard
from catsdogs.errors import UserError

CHOICES = {"backbone": "mobilenet_v2", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}
CURVES = {"accuracy", "log_loss", "loss", "val_accuracy", "val_log_loss", "val_loss", "learning_rate"}
STATUSES = [
    api_pb2.STATUS_UNKNOWN,
    api_pb2.STATUS_SUCCESS,
    api_pb2.STATUS_FAILURE,
    api_pb2.STATUS_RUNNING,
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


@pytest.fixture
def evidence(study: Path) -> Evidence:
    return read_evidence([study])


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """By tag, by step, as TensorBoard reads them; no step is there twice."""
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    read = {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}
    assert all(len({event.step for event in events}) == len(events) for events in read.values())
    return {tag: {event.step: event.value for event in events} for tag, events in read.items()}


def hparams(folder: Path) -> tuple[Any, dict[str, Any]]:
    """What TensorBoard's HParams tab asks its server for: the columns, and the trials by the name of their run."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = Context(TBContext(data_provider=provider, logdir=str(folder)))
    columns = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=STATUSES, start_index=0, slice_size=10_000)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert all(len(group.sessions) == 1 for group in groups)
    return columns, {group.sessions[0].name: group for group in groups}


def value(values: Any, name: str) -> Any:
    told = values[name]
    return getattr(told, told.WhichOneof("kind"))


def metrics(group: Any) -> dict[str, float]:
    return {metric.name.tag: metric.value for metric in group.sessions[0].metric_values}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Of every file its inode and when it was written."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_curves(study: Path, evidence: Evidence, tmp_path: Path) -> None:
    assert write_tensorboard(evidence, tmp_path / "events") == 16
    for job in evidence.jobs:
        history = pd.read_csv(study / job / "history.csv", dtype={"trial": str})
        for trial in ("0", "3"):
            read = scalars(tmp_path / "events" / job / f"trial_{trial}")
            expected = history[history["trial"] == trial].set_index("epoch")
            assert set(read) == CURVES | {"trial/val_log_loss", "trial/val_accuracy"}
            for name in CURVES:
                assert read[name] == pytest.approx(expected[name].to_dict(), rel=1e-6)


def test_trials_in_the_hparams_tab(evidence: Evidence, tmp_path: Path) -> None:
    write_tensorboard(evidence, tmp_path / "events")
    columns, groups = hparams(tmp_path / "events")
    kinds = {info.name: info.type for info in columns.hparam_infos}
    assert kinds == {
        "augmentation": api_pb2.DATA_TYPE_STRING,
        "label_smoothing": api_pb2.DATA_TYPE_STRING,
        "dropout": api_pb2.DATA_TYPE_FLOAT64,
        "l2": api_pb2.DATA_TYPE_FLOAT64,
        "unfreeze_depth": api_pb2.DATA_TYPE_FLOAT64,
    }
    domains = {info.name: info for info in columns.hparam_infos}
    assert list(domains["augmentation"].domain_discrete) == ["light", "none"]
    assert domains["dropout"].domain_interval.max_value == evidence.trials["dropout"].max()
    assert [metric.display_name for metric in columns.metric_infos] == ["val_log_loss", "val_accuracy"]

    assert len(groups) == 16
    assert len({group.name for group in groups.values()}) == 16
    for trial in evidence.trials.to_dict("records"):
        group = groups[f"{trial['label']}/trial_{trial['trial']}"]
        for name in kinds:
            assert value(group.hparams, name) == trial[name]
        expected = {f"trial/{name}": trial[name] for name in ("val_log_loss", "val_accuracy")}
        assert metrics(group) == pytest.approx(expected, rel=1e-6)
        session = group.sessions[0]
        assert session.status == api_pb2.STATUS_SUCCESS
        assert session.end_time_secs == pytest.approx(trial["ended"].timestamp())
        assert session.end_time_secs - session.start_time_secs == pytest.approx(trial["seconds"])


def test_a_trial_shows_its_own_score_and_not_its_last_epoch(tmp_path: Path) -> None:
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=1)
    history = pd.read_csv(job / "history.csv")
    last = history.tail(1).assign(epoch=lambda row: row["epoch"] + 1, val_log_loss=9.0)
    pd.concat([history, last]).to_csv(job / "history.csv", index=False)
    evidence = read_evidence([job.parent])
    write_tensorboard(evidence, tmp_path / "events")
    (group,) = hparams(tmp_path / "events")[1].values()
    assert metrics(group)["trial/val_log_loss"] == pytest.approx(evidence.trials["val_log_loss"][0])
    assert 9.0 in scalars(tmp_path / "events" / job.name / "trial_0")["val_log_loss"].values()


def test_times_of_epochs_lead_to_the_end_of_the_trial(evidence: Evidence, tmp_path: Path) -> None:
    trial = evidence.trials.sort_values("epochs").iloc[-1]
    assert trial["epochs"] > 1
    write_tensorboard(evidence, tmp_path / "events")
    accumulator = EventAccumulator(str(tmp_path / "events" / trial["label"] / f"trial_{trial['trial']}"))
    accumulator.Reload()
    times = [event.wall_time for event in accumulator.Scalars("val_log_loss")]
    assert times[-1] == pytest.approx(trial["ended"].timestamp())
    assert np.diff(times) == pytest.approx(5.0)
    assert times[0] > STARTED.timestamp()


def test_executions_are_runs_of_their_own(tmp_path: Path) -> None:
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=2)
    history = pd.read_csv(job / "history.csv")
    second = history.assign(execution=1, val_log_loss=history["val_log_loss"] + 1)
    pd.concat([history, second]).to_csv(job / "history.csv", index=False)
    assert write_tensorboard(read_evidence([job.parent]), tmp_path / "events") == 2
    run = tmp_path / "events" / job.name / "trial_1"
    first, second = scalars(run)["val_log_loss"], scalars(run / "execution_1")["val_log_loss"]
    assert second == pytest.approx({epoch: loss + 1 for epoch, loss in first.items()})
    _, groups = hparams(tmp_path / "events")
    assert set(groups) == {f"{job.name}/trial_0", f"{job.name}/trial_1"}


def test_written_again_nothing_changes(evidence: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    write_tensorboard(evidence, folder)
    before = files(folder)
    assert len(before) == 17
    assert write_tensorboard(evidence, folder) == 16
    assert files(folder) == before


def test_a_study_that_goes_on_only_gets_more(study: Path, evidence: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    write_tensorboard(evidence, folder)
    before = {name: told for name, told in files(folder).items() if not name.startswith("hparams-")}
    write_job(study, {**CHOICES, "schedule": "constant"}, trials=2, seed=9)
    assert write_tensorboard(read_evidence([study]), folder) == 18
    # What TensorBoard has read of a run it does not forget, so runs that are there must not change.
    assert before.items() <= files(folder).items()
    columns, groups = hparams(folder)
    assert "schedule" in {info.name for info in columns.hparam_infos}
    assert {value(group.hparams, "schedule") for group in groups.values()} == {"cosine", "constant"}
    assert len(groups) == 18


def test_what_is_gone_goes(study: Path, evidence: Evidence, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    write_tensorboard(evidence, folder)
    gone, stays = sorted(evidence.jobs)[:2]
    shutil.rmtree(study / gone)
    trials = pd.read_csv(study / stays / "trials.csv")
    trials.assign(val_log_loss=0.125).head(1).to_csv(study / stays / "trials.csv", index=False)
    assert write_tensorboard(read_evidence([study]), folder) == 9
    assert not (folder / gone).exists()
    assert [path.name for path in (folder / stays).iterdir()] == ["trial_0"]
    assert scalars(folder / stays / "trial_0")["trial/val_log_loss"] == {int(trials["best_epoch"][0]): 0.125}
    assert len(list(folder.glob("hparams-*"))) == 1


@pytest.mark.parametrize("name", ["notes.txt", "mine/events.out.tfevents.1.host", "a/b/c.py"])
def test_a_folder_with_something_else_is_refused(evidence: Evidence, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "events"
    write_tensorboard(evidence, folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    before = files(folder)
    with pytest.raises(UserError, match=f"{name}.*--tensorboard=FOLDER"):
        write_tensorboard(dataclasses.replace(evidence, trials=evidence.trials.head(3)), folder)
    assert files(folder) == before


def test_links_are_not_followed(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events.out.tfevents.1.catsdogs").touch()
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="it holds link"):
        write_tensorboard(evidence, tmp_path / "events")


def test_a_file_or_no_place_for_a_folder_is_told(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="it is a file; give a folder"):
        write_tensorboard(evidence, tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        write_tensorboard(evidence, tmp_path / "file" / "events")


def test_failed_trials_and_running_jobs(tmp_path: Path) -> None:
    study = tmp_path / "study"
    failed = write_job(study, CHOICES, trials=3, failed_trials=1)
    running = write_job(study, {**CHOICES, "schedule": "constant"}, trials=1, status="running", planned=5)
    write_job(study, {**CHOICES, "schedule": "none"}, trials=0, status="failed", error="no memory")
    assert write_tensorboard(read_evidence([study]), tmp_path / "events") == 4
    _, groups = hparams(tmp_path / "events")
    assert groups[f"{failed}/trial_2"].sessions[0].status == api_pb2.STATUS_FAILURE
    assert metrics(groups[f"{failed}/trial_2"]) == {}
    assert "dropout" in groups[f"{failed}/trial_2"].hparams
    assert groups[f"{running}/trial_0"].sessions[0].status == api_pb2.STATUS_SUCCESS
    assert metrics(groups[f"{running}/trial_0"])


def test_no_trials_yet(tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_job(study, CHOICES, trials=0, status="running")
    assert write_tensorboard(read_evidence([study]), tmp_path / "events") == 0
    assert files(tmp_path / "events") == {}


def test_several_studies(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_job(tmp_path / name, CHOICES, trials=2, name="a_job")
    assert write_tensorboard(read_evidence([tmp_path / "first", tmp_path / "second"]), tmp_path / "events") == 4
    columns, groups = hparams(tmp_path / "events")
    assert set(groups) == {f"{study}/a_job/trial_{n}" for study in ("first", "second") for n in (0, 1)}
    assert value(groups["second/a_job/trial_1"].hparams, "study") == "second"
    assert "study" in {info.name for info in columns.hparam_infos}


def test_hyperparameters_of_all_types_and_missing_ones(tmp_path: Path) -> None:
    study = tmp_path / "study"
    first = write_job(study, CHOICES, trials=2)
    second = write_job(study, {**CHOICES, "schedule": "constant"}, trials=2)
    table = pd.read_csv(study / first / "trials.csv")
    table.insert(8, "nesterov", [True, False])
    table.insert(8, "mixed", ["none", "0.5"])
    table.drop(columns="unfreeze_depth").to_csv(study / first / "trials.csv", index=False)
    write_tensorboard(read_evidence([study]), tmp_path / "events")
    columns, groups = hparams(tmp_path / "events")
    kinds = {info.name: info.type for info in columns.hparam_infos}
    assert kinds["nesterov"] == api_pb2.DATA_TYPE_BOOL
    assert kinds["mixed"] == api_pb2.DATA_TYPE_STRING
    with_them = groups[f"{first}/trial_1"].hparams
    assert (value(with_them, "nesterov"), value(with_them, "mixed")) == (False, "0.5")
    assert "unfreeze_depth" not in with_them
    assert "mixed" not in groups[f"{second}/trial_1"].hparams
    assert isinstance(value(groups[f"{second}/trial_1"].hparams, "unfreeze_depth"), float)


HOSTILE = [
    "<script>alert(1)<.script>",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 200,
    "..",
    "a/../../b",
    "a/./c",
    "//",
    "quote'\"\n\t\0\\",
    ".hidden",
    "un\udcffreadable",
    "",
    "C:con|?*",
]


def test_hostile_names_stay_inside_the_folder(tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_job(study, {**CHOICES, "augmentation": "<script>alert(1)</script>"}, trials=len(HOSTILE), name="job")
    evidence = read_evidence([study])
    names = pd.Series(HOSTILE, dtype=object)
    trials = evidence.trials.assign(label=names, schedule=names, trial=names)
    hostile = dataclasses.replace(evidence, trials=trials, epochs=evidence.epochs.iloc[:0])
    folder = tmp_path / "out" / "events"
    assert write_tensorboard(hostile, folder) == len(HOSTILE)
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(paths) == len(HOSTILE) + 1
    assert all(folder in path.parents for path in paths)
    parts = [part for path in paths for part in path.relative_to(folder).parts]
    assert max(len(os.fsencode(part)) for part in parts) <= 255
    assert not any(set(part) & set("<>:\"|?*\\\n\t\0'") or part.startswith(".") for part in parts)
    _, groups = hparams(folder)
    assert len(groups) == len(HOSTILE)
    told = {value(group.hparams, "schedule") for group in groups.values()}
    assert "<script>alert(1)<.script>" in told
    assert "un?readable" in told


def test_tensorflow_is_not_imported(study: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from catsdogs.comparison.evidence import read_evidence\n"
        "from catsdogs.comparison.to_tensorboard import write_tensorboard\n"
        "print(write_tensorboard(read_evidence([Path(sys.argv[1])]), Path(sys.argv[2])))\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(study), str(tmp_path / "events")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("16\n[]\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["true", "false"])
def test_tensorboard_follows_a_study(study: Path, evidence: Evidence, tmp_path: Path, loader: str) -> None:
    """The command itself, with each of its two ways to load, while the folder is written again."""
    folder = tmp_path / "events"
    write_tensorboard(evidence, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--reload_interval", "1", f"--load_fast={loader}"]

    def ask(path: str, request: dict[str, Any] | None = None) -> Any:
        data = None if request is None else json.dumps(request).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.load(answer)

    def wait_for_runs(runs: int) -> None:
        for _ in range(120):
            try:
                if len(ask("data/runs")) == runs:
                    return
            except OSError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"TensorBoard does not show {runs} runs")

    plugin = "experiment/defaultExperimentId/data/plugin"
    every = {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_UNKNOWN"], "startIndex": 0}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server,
    ):
        try:
            wait_for_runs(17)
            write_job(study, {**CHOICES, "schedule": "constant"}, trials=2, seed=9)
            more = read_evidence([study])
            write_tensorboard(more, folder)
            wait_for_runs(19)
            columns = ask(f"{plugin}/hparams/experiment", {})
            assert "schedule" in {info["name"] for info in columns["hparamInfos"]}
            groups = ask(f"{plugin}/hparams/session_groups", {**every, "sliceSize": 100, "colParams": []})
            assert groups["totalSize"] == 18
            shown = {
                group["sessions"][0]["name"]: group["metricValues"][0]["value"] for group in groups["sessionGroups"]
            }
            for trial in more.trials.to_dict("records"):
                name = f"{trial['label']}/trial_{trial['trial']}"
                assert shown[name] == pytest.approx(trial["val_log_loss"], rel=1e-6)
            run = next(iter(shown))
            points = ask(f"data/plugin/scalars/scalars?run={run}&tag=val_log_loss")
            assert [step for _, step, _ in points] == list(range(1, len(points) + 1))
        finally:
            server.terminate()
