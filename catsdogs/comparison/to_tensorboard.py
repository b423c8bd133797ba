"""Evidence -> TensorBoard event files: learning curves in its Scalars tab, trials side by side in its HParams tab.

    tensorboard --logdir FOLDER

    FOLDER/hparams-<hash>/      the columns of the HParams tab: hyperparameters and choices that vary, metrics
    FOLDER/<job>/trial_<id>/    a trial: its hyperparameters and choices, a scalar per metric and epoch, how it ended
    .../execution_<number>/     the curves of its executions after the first

`val_log_loss` of an epoch is the scalar `val_log_loss`; `val_log_loss` of the trial, which the HParams tab shows and by
which trials are compared, is `trial/val_log_loss`: that of the best epoch, averaged over executions.

Records are written by TensorBoard's own `RecordWriter`. Its `EventFileWriter` and the functions of
`tensorboard.plugins.hparams.summary` would import TensorFlow where it is installed, which takes seconds.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.timeline import curves, ended_at, epochs_ended_at, metric_names
from catsdogs.errors import UserError
from catsdogs.trials import COMPLETED

# Ends the name of every file that we write, and so tells ours from a user's.
_SUFFIX = ".catsdogs"

# Of a file name; file systems take 255, and a hash may follow.
_MOST_NAME_BYTES = 200

_TRIAL_METRICS = ("val_log_loss", "val_accuracy")


def write_tensorboard(evidence: Evidence, folder: Path) -> int:
    """Bring a folder up to date with the trials of these studies; files that say the same already stay as they are.

    Every run is one file that is replaced as a whole, so a TensorBoard that watches the folder never reads half of one.

    Args:
        folder: of event files; made if it is not there.

    Returns:
        Number of trials in it.

    Raises:
        UserError: the folder holds something that was not written here, and nothing is touched; or it is read-only.
    """
    before = _our_files(folder)
    kinds = _kinds(evidence)
    wanted: dict[Path, bytes] = {}
    runs: set[Path] = set()
    trials = evidence.trials.to_dict("records")
    if trials:
        experiment = _records(_experiment(evidence, kinds))
        # TensorBoard keeps the first columns that it reads of a run, so those of a study that went on are another run.
        wanted[folder / f"hparams-{hashlib.sha256(experiment).hexdigest()[:8]}"] = experiment
    its_epochs = curves(evidence.epochs)
    for trial in trials:
        run = folder.joinpath(*map(_file_name, trial["label"].split("/")), _file_name(f"trial_{trial['trial']}"))
        runs.add(run)
        executions = its_epochs.get((trial["label"], str(trial["trial"])), {})
        first = min(executions, default=0)
        wanted[run] = _records(_trial_events(trial, kinds, executions.get(first)))
        for execution, epochs in executions.items():
            if execution != first:
                wanted[run / f"execution_{execution}"] = _records(_epoch_events(epochs, ended_at(trial)))
    try:
        kept = {_write(run, content) for run, content in wanted.items()}
        for file in before - kept:
            _remove(file, folder)
    except OSError as error:
        raise UserError(
            f"TensorBoard's folder {folder}: it cannot be written ({error.strerror}); name another with "
            "--tensorboard=FOLDER"
        ) from error
    return len(runs)


def _our_files(folder: Path) -> set[Path]:
    """Files in a folder that an earlier call wrote.

    Raises:
        UserError: there is anything else in it.
    """
    remedy = "give a folder of its own with --tensorboard=FOLDER"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"TensorBoard's folder {folder}: it is a file; {remedy}")
    found: set[Path] = set()
    for parent, folders, files in os.walk(folder):
        for name in sorted(files) + sorted(folders):
            path = Path(parent, name)
            if path.is_symlink() or (name in files and not name.endswith(_SUFFIX)):
                other = path.relative_to(folder)
                raise UserError(f"TensorBoard's folder {folder}: it holds {other}, not from here; {remedy}")
        found.update(Path(parent, name) for name in files)
    return found


def _write(run: Path, content: bytes) -> Path:
    """Write a run's only file, unless it is there; give its path.

    Its name has a hash of what is in it: TensorBoard goes on reading a file that it has open, and so would not see that
    another has taken its name. Until then the name must not have `tfevents` in it, by which TensorBoard finds files.
    """
    digest = hashlib.sha256(content).hexdigest()[:16]
    file = run / f"events.out.tfevents.{digest}{_SUFFIX}"
    if not file.exists():
        run.mkdir(parents=True, exist_ok=True)
        temporary = run / f".{digest}.{os.getpid()}{_SUFFIX}"
        temporary.write_bytes(content)
        os.replace(temporary, file)
    return file


def _remove(file: Path, root: Path) -> None:
    """A file, and the folders that are then empty."""
    file.unlink(missing_ok=True)
    for parent in file.parents:
        if parent == root or any(parent.iterdir()):
            return
        parent.rmdir()


def _file_name(name: str) -> str:
    """The name itself if it is one that every file system takes, else one that looks like it, with a hash of it."""
    safe = re.sub(r"[^\w.,=+@-]|^\.", "_", name)
    if safe == name and 0 < len(name.encode()) <= _MOST_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{safe.encode()[:_MOST_NAME_BYTES].decode(errors='ignore')}-{digest}"


def _trial_events(trial: Mapping[Any, Any], kinds: dict[str, Any], epochs: pd.DataFrame | None) -> Iterator[Event]:
    """How it began, its epochs, its result, how it ended; in seconds since 1970."""
    ended = ended_at(trial)
    started = ended - trial["seconds"]
    # The table shows its first 17 characters, so the number comes first.
    group = f"trial {trial['trial']}, {trial['label']}"
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=started, group_name=_text(group))
    for name, kind in kinds.items():
        value = trial[name]
        if pd.isna(value):
            continue
        if kind == api_pb2.DATA_TYPE_BOOL:
            info.hparams[_text(name)].bool_value = bool(value)
        elif kind == api_pb2.DATA_TYPE_FLOAT64:
            info.hparams[_text(name)].number_value = float(value)
        else:
            info.hparams[_text(name)].string_value = _text(value)
    start = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    yield Event(wall_time=started, summary=_of_plugin(metadata.SESSION_START_INFO_TAG, start))
    if epochs is not None:
        yield from _epoch_events(epochs, ended)
    scores = {f"trial/{name}": trial[name] for name in _TRIAL_METRICS}
    yield _scalars(ended, int(trial["best_epoch"]), scores)
    if trial["status"] == "RUNNING":
        return
    success = trial["status"] == COMPLETED and np.isfinite(trial["val_log_loss"])
    status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.HParamsPluginData(
        session_end_info=plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    )
    yield Event(wall_time=ended, summary=_of_plugin(metadata.SESSION_END_INFO_TAG, end))


def _epoch_events(epochs: pd.DataFrame, ended: float) -> Iterator[Event]:
    """An event per epoch; the last of them was over at `ended`."""
    values = epochs[metric_names(epochs)].to_dict("records")
    for time, epoch, metrics in zip(epochs_ended_at(epochs, ended), epochs["epoch"], values, strict=True):
        yield _scalars(time, int(epoch), metrics)


def _scalars(time: float, step: int, values: Mapping[Any, Any]) -> Event:
    """Those of them that are finite: TensorBoard's tables cannot show others."""
    finite = {name: float(value) for name, value in values.items() if np.isfinite(value)}
    summary = Summary(value=[Summary.Value(tag=_text(name), simple_value=value) for name, value in finite.items()])
    return Event(wall_time=time, step=step, summary=summary)


def _kinds(evidence: Evidence) -> dict[str, Any]:
    """TensorBoard's type of every choice and hyperparameter.

    Also of choices that do not vary yet: a trial's file is then the same when a later job varies them.
    """
    names = dict.fromkeys(["study", *evidence.choices, *evidence.hyperparameters])
    return {name: _kind(evidence.trials[name].dropna()) for name in names}


def _kind(values: pd.Series) -> Any:
    if all(isinstance(value, (bool, np.bool_)) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    if all(isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_)) for value in values):
        return api_pb2.DATA_TYPE_FLOAT64
    return api_pb2.DATA_TYPE_STRING


def _experiment(evidence: Evidence, kinds: dict[str, Any]) -> Iterator[Event]:
    """What the HParams tab shows of all trials: the columns, the range of each, the metrics."""
    infos = []
    for name, kind in kinds.items():
        values = evidence.trials[name].dropna()
        varies = values.nunique() > 1
        if not (varies or name in evidence.hyperparameters):
            continue
        info = api_pb2.HParamInfo(name=_text(name), type=kind, differs=varies)
        if kind == api_pb2.DATA_TYPE_FLOAT64:
            info.domain_interval.min_value, info.domain_interval.max_value = float(values.min()), float(values.max())
        else:
            distinct = sorted({bool(v) if kind == api_pb2.DATA_TYPE_BOOL else _text(v) for v in values})
            info.domain_discrete.extend(distinct)
        infos.append(info)
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"trial/{name}"), display_name=name) for name in _TRIAL_METRICS
    ]
    first = min(ended_at(trial) - trial["seconds"] for trial in evidence.trials.to_dict("records"))
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics, time_created_secs=first)
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    yield Event(wall_time=first, summary=_of_plugin(metadata.EXPERIMENT_TAG, data))


def _of_plugin(tag: str, data: Any) -> Summary:
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])


def _text(value: Any) -> str:
    """Protocol buffers take valid Unicode only; a folder's name need not be."""
    return str(value).encode("utf-8", "replace").decode()


def _records(events: Iterable[Event]) -> bytes:
    """The bytes of an event file."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for number, event in enumerate(events):
        if number == 0:
            writer.write(Event(wall_time=event.wall_time, file_version="brain.Event:2").SerializeToString())
        if event.summary.value:
            writer.write(event.SerializeToString())
    return buffer.getvalue()
