"""Export to TensorBoard: learning curves in its Scalars tab, a table of trials in its HParams tab.

    tensorboard --logdir FOLDER

    FOLDER                      columns of the HParams tab: choices that vary, hyperparameters, metrics
    FOLDER/<job>/trial_<id>/    a trial: its choices, hyperparameters and status, a scalar per metric and epoch

Curves are from the first execution. `trial/val_log_loss`, by which trials are ranked, is the value of the best epoch,
averaged over executions. TensorBoard's `EventFileWriter` would import TensorFlow, which takes seconds.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, RealInterval, hparams_config_pb, hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from catsdogs.base.errors import UserError
from catsdogs.comparison.exports.timeline import curves, ended_at, epoch_rows
from catsdogs.comparison.study_data import StudyData

# Suffix of every written file, which distinguishes it from files of the user.
_SUFFIX = ".catsdogs"

_TRIAL_METRICS = ("val_log_loss", "val_accuracy")


def write_tensorboard(study_data: StudyData, folder: Path) -> int:
    """Write the trials of these studies into a folder, replacing an earlier export, and return their number.

    Raise a `UserError` if the folder contains other files (nothing is changed), or is not writable.
    """
    names = [name for name in ("study", *study_data.choices) if study_data.trials[name].nunique() > 1]
    columns = {name: _uniform(study_data.trials[name]) for name in [*names, *study_data.hyperparameters]}
    trials = study_data.trials.assign(**columns).to_dict("records")
    epochs = curves(study_data.epochs)
    for path in folder.rglob("*"):
        if path.is_symlink() or (not path.is_dir() and not path.name.endswith(_SUFFIX)):
            problem = f"contains {path.relative_to(folder)}, which catsdogs did not write"
            raise UserError(f"--tensorboard={folder}: {problem}; set an empty folder with --tensorboard=FOLDER")
    try:
        if folder.exists():
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if trials:
            _write(folder, [Event(summary=_columns(columns))])
        for trial in trials:
            run = folder / trial["label"] / f"trial_{trial['trial']}"
            _write(run, list(_events(trial, list(columns), epochs.get((trial["label"], trial["trial"])))))
    except OSError as error:
        problem = f"--tensorboard={folder}: cannot write ({error.strerror})"
        raise UserError(f"{problem}; set another folder with --tensorboard=FOLDER") from error
    return len(trials)


def _write(run: Path, events: list[Event]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    with (run / f"events.out.tfevents.0{_SUFFIX}").open("wb") as file:
        writer = RecordWriter(file)
        for event in (Event(wall_time=events[0].wall_time, file_version="brain.Event:2"), *events):
            writer.write(event.SerializeToString())


def _uniform(values: pd.Series) -> pd.Series:
    """Convert a column to booleans, floats or strings: TensorBoard requires one type per column."""
    kind = pd.api.types.infer_dtype(values)
    if kind in ("integer", "floating", "mixed-integer-float"):
        return values.astype(float)
    return values if kind == "boolean" else values.map(str, na_action="ignore")


def _columns(columns: Mapping[str, pd.Series]) -> Summary:
    hparams = []
    for name, values in columns.items():
        discrete = values.dtype != float
        domain = Discrete(values.dropna().unique().tolist()) if discrete else RealInterval(values.min(), values.max())
        hparams.append(HParam(name, domain))
    return hparams_config_pb(hparams, [Metric(f"trial/{name}", display_name=name) for name in _TRIAL_METRICS])


def _events(trial: Mapping[Any, Any], columns: list[str], epochs: pd.DataFrame | None) -> Iterator[Event]:
    ended = ended_at(trial)
    started = ended - trial["seconds"]
    values = {name: trial[name] for name in columns if not pd.isna(trial[name])}
    # The number is first because TensorBoard shows only the first 17 characters of a name.
    name = f"trial {trial['trial']}, {trial['label']}"
    yield Event(wall_time=started, summary=hparams_pb(values, trial_id=name, start_time_secs=started))
    for time, epoch, metrics in epoch_rows(epochs, ended):
        yield _scalars(time, epoch, metrics)
    yield _scalars(ended, int(trial["best_epoch"]), {f"trial/{name}": trial[name] for name in _TRIAL_METRICS})
    status = api_pb2.STATUS_SUCCESS if np.isfinite(trial["val_log_loss"]) else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end)),
        tensor=metadata.NULL_TENSOR,
    )
    yield Event(wall_time=ended, summary=Summary(value=[value]))


def _scalars(time: float, step: int, values: Mapping[Any, Any]) -> Event:
    """Return the finite values as scalars; TensorBoard's tables cannot show others."""
    finite = [Summary.Value(tag=str(name), simple_value=value) for name, value in values.items() if np.isfinite(value)]
    return Event(wall_time=time, step=step, summary=Summary(value=finite))
