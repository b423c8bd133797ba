"""Resume a small study from the state of its files after each file operation; training is a stub.

python tests/crashes/run.py --output benchmarks/results/soak.json

    operations   on files of the study and the cache, recorded with strace
    states       four for every operation, see `states`; `distinct` ones are tried, each in a fork of this process
    lost         trials that were durable and are missing in a state; files that are not durable when the command ends
    repeated     trials that a state lists as finished, or models that it keeps, and that are trained again
    different    rows of tables, values of JSON files and arrays that differ from those of the uninterrupted study
    refused      commands that exited with another status than 0
    tracebacks   commands that printed a traceback
    temporaries  temporary files, and kept models, that are left after the resumed command
    read         files that were read although states that differ only in them count as equal
"""

import argparse
import functools
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}

import pandas as pd
import stubbed
from recording import Operation, record
from soak import TIMES, different_rows
from states import KEPT, NEVER_READ, Files, Folder, State, read_files, readable, states, write_files

from catsdogs.base.files import write_json
from catsdogs.base.provenance import utc_timestamp

FAULTS = ("lost", "repeated", "different", "refused", "tracebacks", "temporaries", "read")
COUNTS = ("operations", "states", "distinct", "tried", *FAULTS, "seconds")

_LONGEST_SECONDS = 600  # a longer command is considered hung
_AGE_SECONDS = 2 * 86400  # of the files of a state: younger temporary files may belong to another process
# Columns and keys that depend on the run; engines: of activations computed in it; planned: jobs it had to run.
_VARYING = {*TIMES, "ended_seconds", "fill_seconds", "pid", "command", "planned", "resumed_after", "engines"}
_NOT_KEPT = re.compile(rf"{NEVER_READ.pattern}|/[.]")  # files that a finished study does without
_LEFT = re.compile(r"(^|/)[.](?!(hydra|retrain|lock|locks)$)[^/]*$|/[.]retrain/kept$")
_attempt: dict[str, Any] = {}  # what `_resume` tries, in the processes forked from this one

_DATA = ("data=sample", "data.sample.images_per_class=8", "data.sample.test_images=1", "cache=cache")
_NETWORK = ("backbone=small_cnn", "backbone.builder=tiny_backbone.build", "~backbone.arguments.filters")
_SPACE: tuple[str, ...] = ("backbone.image_size=32", "space=small_cnn", "~space.l2", "space.dropout.step=0.2")
_SPACE += ("model.dense_units=8", "model.head_batch_norm=true")
_STUDY: tuple[str, ...] = ("-m", "study=crash", "tuner.max_trials=4", "fit.epochs=3")
_STUDY += ("split.folds=1", "fit.batch_size=32")
_STUDY += ("space.unfreeze_depth.values=[2,5]", *_DATA, *_NETWORK, *_SPACE)
_JOB: tuple[str, ...] = ("study=crash", "tuner.max_trials=1", "fit.epochs=2", "split.folds=2", "fit.batch_size=32")
_JOB += ("features.dtype=float16", "features.engine=tensorflow", "space.unfreeze_depth.values=[2]", "tta=flip")
_JOB += (*_DATA, *_NETWORK, *_SPACE)

# By name: stub, command with its arguments, and the scenario that leaves the files with which it starts.
SCENARIOS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "activations": (stubbed.REAL, ("search", *_JOB), ""),
    "final model": (stubbed.REAL, ("retrain", "study=crash", "ensemble=folds", _NETWORK[1]), "activations"),
    "two jobs at a time": (stubbed.FAKE, ("search", *_STUDY, "tuner=random,hyperband", "hydra.launcher.jobs=2"), ""),
    "study": (stubbed.FAKE, ("search", *_STUDY, "tuner=race,hyperband,grid"), ""),
}


@dataclass(frozen=True)
class Recording:
    """The operations of a command in a folder, and the files before and after them."""

    command: tuple[str, ...]  # arguments of `stubbed.run`
    folder: Path
    before: Files
    operations: list[Operation]
    after: Files


@functools.cache
def recorded(name: str, folder: Path) -> Recording:
    """Run a scenario, and those before it, in a folder below `folder`; check that no write is missing in the record."""
    kind, words, earlier = SCENARIOS[name]
    before: Files = recorded(earlier, folder).after if earlier else {}
    study = folder.resolve() / name.replace(" ", "-")
    write_files(study, before)
    path = os.pathsep.join(str(Path(__file__).parents[number]) for number in range(3))
    command = [sys.executable, "-c", "import stubbed, sys; sys.exit(stubbed.run(*sys.argv[1:]))", kind, *words]
    operations = record(command, study, {**os.environ, "PYTHONPATH": path})
    rebuilt = Folder(before)
    for operation in operations:
        rebuilt.apply(operation)
    one, other = rebuilt.files(), read_files(study)
    if one != other:
        raise RuntimeError(f"not recorded: {[path for path in {*one, *other} if one.get(path) != other.get(path)]}")
    return Recording((kind, *words), study, before, operations, other)


def try_states(recording: Recording, folder: Path, sampled: int) -> Counter[str]:
    """Resume from every distinct state of a recording, or from `sampled` of them; return the counts."""
    started, counts = time.monotonic(), Counter(operations=len(recording.operations))
    chosen = _distinct(recording, counts)
    chosen = chosen[:: max(1, len(chosen) // sampled)] if sampled else chosen
    write_files(folder, {"first": None} | {f"first/{path}": content for path, content in recording.before.items()})
    stubbed.remember(recording.command, folder / "first")
    _attempt.update(recording=recording, folder=folder, states=chosen)
    _attempt["expected"] = _tables(recording.after, recording.folder)
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        results = pool.imap_unordered(_resume, range(len(chosen)))
        for _ in chosen:
            number, faults = results.next(_LONGEST_SECONDS)
            counts.update(faults, tried=1)
            if any(faults.values()):
                print(f"  LOOK: {chosen[number]}: {faults}; see {folder}/{number}.log", flush=True)
            if counts["tried"] % 50 == 0:
                left = (time.monotonic() - started) / counts["tried"] * (len(chosen) - counts["tried"]) / 60
                print(f"  {counts['tried']}/{len(chosen)} states, {left:.0f} min left: {dict(counts)}", flush=True)
    counts["seconds"] = round(time.monotonic() - started)
    return counts


def _distinct(recording: Recording, counts: Counter[str]) -> list[State]:
    """Return the distinct states; count what a state lost."""
    distinct: dict[Any, State] = {}
    durable: set[tuple[str, str]] = set()
    ending: dict[str, Files] = {}
    for state in states(recording.before, recording.operations):
        counts["states"] += 1
        operation, ending[state.variant] = state.operation, state.files
        if state.variant == KEPT and operation.kind == "sync":
            durable |= {trial for trial in _finished(state.files, operation.path) if trial[0] != stubbed.RETRAIN}
        if lost := durable - _finished(state.files):
            counts["lost"] += len(lost)
            print(f"  LOOK: {state}: lost {sorted(lost)}", flush=True)
        distinct.setdefault(readable(state.files), state)
    counts["distinct"] = len(distinct)
    for path, content in recording.after.items():
        durable_file = all(files.get(path) == content for files in ending.values())
        if content and path.startswith("multirun/") and not _NOT_KEPT.search(path) and not durable_file:
            counts["lost"] += 1
            print(f"  LOOK: {path} is not durable when the command ends", flush=True)
    return list(distinct.values())


def _moved(files: Files, old: Path, new: Path) -> Files:
    """Replace the folder of the study in all files: result.json has the absolute path of the cache."""
    pair = os.fsencode(old), os.fsencode(new)
    return {name: content.replace(*pair) if isinstance(content, bytes) else content for name, content in files.items()}


def _finished(files: Files, folder: str = "") -> set[tuple[str, str]]:
    """Return (job, trial) of every `trials.csv` of a job, and the models that `retrain` keeps; or those in a folder."""
    finished: set[tuple[str, str]] = set()
    for path, content in files.items():
        parent, name = os.path.split(path)
        if isinstance(content, bytes) and folder in ("", parent) and name == "trials.csv":
            finished |= {(os.path.basename(parent), trial) for trial in _trials(content)}
        elif "/.retrain/kept/" in path and name.endswith(".json") and content and files.get(path[:-4] + "bin"):
            finished.add((stubbed.RETRAIN, name.removesuffix(".json")))
    return finished


@functools.cache
def _trials(table: bytes) -> list[str]:
    return list(pd.read_csv(io.BytesIO(table), dtype=str).get("trial", ())) if table.startswith(b"trial,") else []


def _tables(files: Files, folder: Path) -> dict[str, pd.DataFrame]:
    """Return all tables, JSON files and arrays, without times; their paths start with `folder`."""
    tables = {}
    for path, content in files.items():
        name = Path(path)
        hidden = any(part.startswith((".", "best.", "tuner")) for part in name.parts)
        if isinstance(content, bytes) and not hidden and name.suffix in (".csv", ".json", ".npy"):
            tables[path] = _table(name.suffix, content.replace(os.fsencode(folder), b"FOLDER"))
    return tables


@functools.cache
def _table(suffix: str, content: bytes) -> pd.DataFrame:
    if suffix == ".csv":
        table = pd.read_csv(io.BytesIO(content), dtype=str)
        return table.drop(columns=[column for column in _VARYING if column in table])
    if suffix == ".npy":
        return pd.DataFrame({"sha256": [hashlib.sha256(content).hexdigest()]})
    values = pd.json_normalize(json.loads(content)).iloc[0]
    return pd.DataFrame([(k, str(v)) for k, v in values.items() if not _VARYING & set(str(k).split("."))])


def _resume(number: int) -> tuple[int, dict[str, int]]:
    """Resume from a state, and return its number and its faults; called in a process of its own."""
    recording, state = _attempt["recording"], _attempt["states"][number]
    study, log = _attempt["folder"] / f"state-{number}", _attempt["folder"] / f"{number}.log"
    write_files(study, _moved(state.files, recording.folder, study))
    old = time.time() - _AGE_SECONDS
    for path in study.rglob("*"):
        os.utime(path, (old, old), follow_symlinks=False)
    os.chdir(study)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    opened: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])

    sys.addaudithook(hook)
    try:
        status = stubbed.run(*recording.command)
    except Exception:
        traceback.print_exc()
        status = 1
    read = [path for path in opened if path.startswith(f"{study}/") and NEVER_READ.search(path)]
    files = read_files(study)
    left, repeated = list(filter(_LEFT.search, files)), sorted(_finished(state.files) & set(stubbed.trained))
    print(f"status {status}, temporaries {left}, repeated {repeated}, read {read}", flush=True)
    tables = _tables(files, study)
    # A finished job does not fill the cache again.
    expected = {name: table for name, table in _attempt["expected"].items() if name in tables or "cache/" not in name}
    faults = {"repeated": len(repeated), "different": different_rows(expected, tables), "refused": int(status != 0)}
    faults["tracebacks"] = int("Traceback (most recent call last)" in log.read_text(errors="replace"))
    shutil.rmtree(study)
    return number, faults | {"temporaries": len(left), "read": len(read)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--sample", type=int, default=0, help="number of states to try in each scenario (default: all)")
    parser.add_argument("--folder", type=Path, help="new folder to keep the logs in (default: they are removed)")
    parser.add_argument("--output", type=Path, help="JSON file; other keys in it are kept")
    arguments = parser.parse_args()
    scenarios: dict[str, dict[str, int]] = {}
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # faster than a disk
    with tempfile.TemporaryDirectory(prefix="crashes-", dir=memory) as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        stubbed.warm_up()
        for name in arguments.scenario:
            states_folder = folder / f"{name.replace(' ', '-')}-states"
            counts = try_states(recorded(name, folder), states_folder, arguments.sample)
            scenarios[name] = {key: counts[key] for key in COUNTS}
            print(f"{name}: {scenarios[name]}", flush=True)
            totals = {key: sum(one[key] for one in scenarios.values()) for key in COUNTS}
            if arguments.output:
                before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
                ended = {**totals, "ended": utc_timestamp(), "scenarios": scenarios}
                write_json(arguments.output, {**before, "states": ended})
    print(json.dumps(totals))
    return int(any(totals[name] for name in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
