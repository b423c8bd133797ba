"""Event files, read back by TensorBoard itself."""

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, write_job, write_study
from synthetic_images import folder_of
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from catsdogs.base.errors import UserError
from catsdogs.comparison.exports.to_tensorboard import write_tensorboard
from catsdogs.comparison.study_data import read_study_data

pytestmark = pytest.mark.lowest

CURVES = {
    "accuracy",
    "log_loss",
    "loss",
    "val_accuracy",
    "val_log_loss",
    "val_loss",
    "learning_rate",
    "max_learning_rate",
}
STATUSES = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "events"


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", failed_trials=1)


def scalars(run):
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


def hparams(folder):
    """Return the data of TensorBoard's HParams tab: the columns, and the trials by the name of their run."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)), logdir=str(folder)))
    columns = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=STATUSES, start_index=0, slice_size=10_000)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert all(len(group.sessions) == 1 for group in groups)
    return columns, {group.sessions[0].name: group for group in groups}


def values(group):
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}


def metrics(group):
    return {metric.name.tag: metric.value for metric in group.sessions[0].metric_values}


def test_trials_are_read_back(study, folder):
    study_data = read_study_data([study])
    assert write_tensorboard(study_data, folder) == 16
    columns, groups = hparams(folder)
    domains = {info.name: info for info in columns.hparam_infos}
    assert set(domains) == {"augmentation", "label_smoothing", "dropout", "l2", "unfreeze_depth"}
    assert list(domains["augmentation"].domain_discrete) == ["light", "none"]
    interval, dropout = domains["dropout"].domain_interval, study_data.trials["dropout"]
    assert (interval.min_value, interval.max_value) == (dropout.min(), dropout.max())
    assert [metric.display_name for metric in columns.metric_infos] == ["val_log_loss", "val_accuracy"]
    assert len({group.name for group in groups.values()}) == 16
    for trial in study_data.trials.to_dict("records"):
        run = f"{trial['label']}/trial_{trial['trial']}"
        assert values(groups[run]) == {name: trial[name] for name in domains}
        failed = np.isnan(trial["val_log_loss"])
        scores = {f"trial/{name}": trial[name] for name in ("val_log_loss", "val_accuracy") if not failed}
        assert metrics(groups[run]) == pytest.approx(scores, rel=1e-6)
        session = groups[run].sessions[0]
        assert session.status == (api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
        assert session.end_time_secs == pytest.approx(trial["ended"].timestamp())
        assert session.end_time_secs - session.start_time_secs == pytest.approx(trial["seconds"])
        history = pd.read_csv(study / trial["job"] / "history.csv", dtype={"trial": str})
        expected = history[history["trial"] == trial["trial"]]
        read = scalars(folder / run)
        assert set(read) == CURVES | set(scores)
        for name in CURVES:
            assert [event.step for event in read[name]] == list(expected["epoch"])
            assert [event.value for event in read[name]] == pytest.approx(list(expected[name]), rel=1e-6)
        times = [event.wall_time for event in read["val_log_loss"]]
        assert times[-1] == pytest.approx(trial["ended"].timestamp())
        assert np.diff(times) == pytest.approx(5.0)


def test_a_trial_shows_its_own_score_and_the_curve_of_its_first_execution(tmp_path, folder):
    job = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=1)
    history = pd.read_csv(job / "history.csv")
    last = history.tail(1).assign(epoch=lambda row: row["epoch"] + 1, val_log_loss=9.0)
    second = history.assign(execution=1, val_log_loss=7.0)
    # The rows are not in the order of the epochs.
    pd.concat([second, last, history]).to_csv(job / "history.csv", index=False)
    study_data = read_study_data([job.parent])
    write_tensorboard(study_data, folder)
    ((run, group),) = hparams(folder)[1].items()
    assert metrics(group)["trial/val_log_loss"] == pytest.approx(study_data.trials["val_log_loss"][0])
    curve = [event.value for event in scalars(folder / run)["val_log_loss"]]
    assert curve == pytest.approx([*history["val_log_loss"], 9.0], rel=1e-6)


def test_a_second_export_replaces_the_first(study, folder):
    write_tensorboard(read_study_data([study]), folder)
    before = sorted(folder.rglob("*"))
    # Version 0.2 used this name.
    folder_of(folder, {"hparams-0123abcd/events.out.tfevents.0123.catsdogs": b""})
    assert write_tensorboard(read_study_data([study]), folder) == 16
    assert sorted(folder.rglob("*")) == before


def test_a_file_or_a_folder_with_other_files_is_refused_unchanged(study, folder):
    study_data = read_study_data([study])
    folder.touch()
    for path in (folder, folder / "below"):
        with pytest.raises(UserError, match=r"cannot write.*--tensorboard=FOLDER"):
            write_tensorboard(study_data, path)
    folder.unlink()
    folder_of(folder, {"events.catsdogs": b"", "mine/x.catsdogs": b""})
    for name in ("mine/events.out.tfevents.1.host", "link"):
        path = folder / name
        path.symlink_to(study) if name == "link" else path.touch()
        before = sorted(folder.rglob("*"))
        with pytest.raises(UserError, match=f"contains {name}.*--tensorboard=FOLDER"):
            write_tensorboard(study_data, folder)
        assert sorted(folder.rglob("*")) == before
        path.unlink()


def test_several_studies_and_values_of_all_types(tmp_path, folder):
    first, second = (tmp_path / study / "job" / "trials.csv" for study in ("first", "second"))
    for file in (first, second):
        write_job(file.parents[1], CHOICES, trials=2, name="job")
    table = pd.read_csv(first).drop(columns="unfreeze_depth").assign(nesterov=[True, False], mixed=["none", "0.5"])
    table.to_csv(first, index=False)
    pd.read_csv(second).assign(mixed=0.25).to_csv(second, index=False)
    assert write_tensorboard(read_study_data([tmp_path / "first", tmp_path / "second"]), folder) == 4
    columns, groups = hparams(folder)
    assert {"study", "nesterov", "mixed", "unfreeze_depth"} <= {info.name for info in columns.hparam_infos}
    one, other = (values(groups[f"{study}/job/trial_1"]) for study in ("first", "second"))
    assert (one["study"], one["nesterov"], one["mixed"]) == ("first", False, "0.5")
    assert (other["study"], other["mixed"], type(other["unfreeze_depth"])) == ("second", "0.25", float)
    assert "unfreeze_depth" not in one
    assert "nesterov" not in other


def test_names_of_trials_cannot_leave_the_folder(tmp_path, folder):
    file = tmp_path / "study" / write_job(tmp_path / "study", CHOICES, trials=3) / "trials.csv"
    pd.read_csv(file).assign(trial=["../../out", "/root", "2"]).to_csv(file, index=False)
    assert write_tensorboard(read_study_data([tmp_path / "study"]), folder) == 0
