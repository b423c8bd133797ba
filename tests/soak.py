"""Interrupt commands at random times, and check that no finished trial is lost or repeated, and no table differs.

python tests/soak.py --count 50 --output benchmarks/results/soak.json
python tests/soak.py --count 10 --signal stop --commands single two-jobs random-basic retrain predict audit

Runs each command once without interruption. Then runs it in other folders: sends a signal at a random time, and repeats
the command until it finishes; starts again in new folders until the number of signals is reached. kill: SIGKILL to all
processes. stop: SIGINT to all processes, as a terminal, or SIGTERM to the command alone, which must then end within 30
seconds, without a partial file. Compares every table with that of the uninterrupted command. tests/crashes/ tries every
file operation.

    kills            signals sent before the command finished
    lost_trials      in trials.csv before a command, and missing after it
    repeated_trials  in trials.csv before a command, and with another time of the end after it
    different_rows   of all tables, apart from times
    refusals         commands that exited with another status than 0, or than that of the signal
    tracebacks       commands that printed a traceback, or an error after a stop
    late             commands that ran for more than 30 seconds after a stop
    temporaries      partial files that are left next to the study's own; they are no fault after a kill
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from catsdogs.base.files import write_json
from catsdogs.base.provenance import utc_timestamp

TESTS = Path(__file__).resolve().parent

JOB: tuple[str, ...] = ("study=soak", "data=sample", "data.sample.images_per_class=12", "data.sample.test_images=4")
JOB += ("backbone=small_cnn", "backbone.builder=tiny_backbone.build", "~backbone.arguments.filters")
JOB += ("backbone.image_size=32", "space=small_cnn", "space.unfreeze_depth.values=[2,5]", "model.dense_units=8")
JOB += ("tuner.max_trials=4", "fit.epochs=2", "fit.batch_size=8", "split.folds=1", "features.engine=tensorflow")
STUDY = ("search", "-m", *JOB, "augmentation=none,flip,light")
# Settings of launchers for jobs this small.
LAUNCHERS = {
    "isolated": (),
    "basic": (),
    "joblib": ("hydra.launcher.n_jobs=2",),
    "ray": ("+hydra.launcher.ray.remote.num_cpus=1",),
    "slurm_cpu": ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    f"{tuner}-{launcher}": (*STUDY, f"tuner={tuner}", f"hydra/launcher={launcher}", *settings)
    for tuner in ("random", "bayesian", "grid", "hyperband")
    for launcher, settings in LAUNCHERS.items()
}
COMMANDS |= {"single": ("search", *JOB, "augmentation=flip"), "two-jobs": (*STUDY, "hydra.launcher.jobs=2")}
ENSEMBLE = ("ensemble=jobs", "ensemble.num_jobs=2")
AFTER_A_STUDY = {
    "retrain": ("retrain", "study=soak", "backbone.builder=tiny_backbone.build", *ENSEMBLE),
    "predict": ("predict", "multirun/soak/best", "images.zip", "--output", "predicted.csv"),
    "audit": ("audit", "images.zip", "--study", "multirun/soak", "--output", "audit.html"),
}
COMMANDS |= AFTER_A_STUDY

LONGEST_SECONDS = 1800  # a longer command is considered hung
STOP_SECONDS = 30
SIGNALS = {"kill": (signal.SIGKILL,), "stop": (signal.SIGINT, signal.SIGTERM)}
STARTED_SECONDS = 1.0  # earlier, Python itself may not have started, and prints a traceback after SIGINT
FAULTS = ("lost_trials", "repeated_trials", "different_rows", "refusals", "tracebacks", "late")
COUNTS = ("kills", *FAULTS, "temporaries")
TIMES = ("seconds", "ended", "started", "finished")  # columns of times and durations


class Study:
    """A folder with its own cache, and the command that runs in it."""

    def __init__(self, folder: Path, name: str, source: Path) -> None:
        self.folder, self.commands = shutil.copytree(source, folder), 0
        self._cache = str(folder / "cache")  # marks the processes of this study
        self._slurm = "slurm" in name
        self._command = [sys.executable, "-m", f"catsdogs.{COMMANDS[name][0]}", *COMMANDS[name][1:]]

    def run(self, seconds: float | None = None, number: int = signal.SIGKILL) -> tuple[int, float]:
        """Run the command; send it a signal after `seconds`. Return its status, and the seconds since the signal."""
        self.commands += 1
        self.log = self.folder / f"command-{self.commands}.log"
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "CATSDOGS_CACHE": self._cache, "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                self._command, cwd=self.folder, env=os.environ | own, stdout=log, stderr=log, start_new_session=True
            )
            try:
                return process.wait(LONGEST_SECONDS if seconds is None else seconds), 0.0
            except subprocess.TimeoutExpired:
                if seconds is None:
                    raise
                sent = time.monotonic()
                (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
                return process.wait(LONGEST_SECONDS), time.monotonic() - sent
            finally:
                self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill all processes of the command, including those in other process groups."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._slurm and process.returncode != 0:
            subprocess.run(["scancel", "--me", "--state=PENDING"], check=True)
        others = psutil.process_iter(["environ"])
        left = [other for other in others if (other.info["environ"] or {}).get("CATSDOGS_CACHE") == self._cache]
        for other in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(left, timeout=30)
        while self._slurm and subprocess.check_output(["squeue", "--me", "--noheader"]).strip():
            time.sleep(0.5)

    def finished(self) -> dict[tuple[str, str], str]:
        """Return (job, trial) of every trial in a `trials.csv`, with the time of its end."""
        tables = {f.parent.name: pd.read_csv(f, dtype=str) for f in self.folder.glob("multirun/soak/*-*/trials.csv")}
        return {(job, row["trial"]): row["ended"] for job, table in tables.items() for _, row in table.iterrows()}


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return every table below a folder, and the scores of the final model, without times and the folder's name."""
    found = {}
    for file in folder.rglob("*.csv"):
        parts = file.relative_to(folder).parts
        if not {"cache", "best.1"} & set(parts) and not any(part.startswith(".") for part in parts):
            table = pd.read_csv(io.StringIO(file.read_text().replace(str(folder), "")), dtype=str)
            times = [name for name in table if name in TIMES or "seconds" in str(name)]
            found[str(file.relative_to(folder))] = table.drop(columns=times)
    for file in folder.glob("multirun/*/best/metrics.json"):
        found[file.name] = pd.DataFrame([json.loads(file.read_text()) | {"seconds": None}]).astype(str)
    return found


def different_rows(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> int:
    """Count the rows that differ, or that only one of two studies has."""
    count, empty = 0, pd.DataFrame()
    for name in sorted({*one, *other}):
        a, b = one.get(name, empty), other.get(name, empty)
        if a is not b:
            rows = itertools.zip_longest(a.fillna("").to_dict("records"), b.fillna("").to_dict("records"))
            if different := sum(before != after for before, after in rows):
                print(f"  {name}: {different} rows differ", flush=True)
                count += different
    return count


def soak(folder: Path, name: str, source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Interrupt a command, which starts with the files of `source`, in folders below `folder`."""
    started, (tuner, _, launcher) = time.monotonic(), name.partition("-")
    outcome: dict[str, Any] = {"tuner": tuner, "launcher": launcher, "studies": 0, "commands": 0}
    outcome |= dict.fromkeys(COUNTS, 0)
    rng, numbers = random.Random(f"{options.seed} {name}"), SIGNALS[options.signal]
    folder.mkdir(parents=True)
    reference = Study(folder / "reference", name, source)
    if reference.run()[0] != 0:
        raise SystemExit(f"the uninterrupted command failed; see {reference.log}")
    duration, expected = time.monotonic() - started, tables(reference.folder)
    print(f"{name}: uninterrupted in {duration:.0f} s, {len(reference.finished())} trials", flush=True)
    while outcome["kills"] < options.count:
        outcome["studies"] += 1
        study = Study(folder / f"study-{outcome['studies']}", name, source)
        status = None
        while status != 0:
            seconds = rng.uniform(STARTED_SECONDS, duration) if outcome["kills"] < options.count else None
            status = _interrupted(study, outcome, seconds, rng.choice(numbers))
            if outcome["refusals"] > 5:
                raise SystemExit(f"the command does not continue; see {study.log}")
        outcome["commands"] += study.commands
        outcome["different_rows"] += different_rows(expected, tables(study.folder))
    outcome["seconds"] = round(time.monotonic() - started, 1)
    return outcome


def _interrupted(study: Study, outcome: dict[str, Any], seconds: float | None, number: int) -> int:
    """Run a command, send it a signal after `seconds`, and count its faults; return its status."""
    before, killed = study.finished(), number == signal.SIGKILL
    status, waited = study.run(seconds, number)
    after, hidden = study.finished(), study.folder.rglob(".*-*.*")
    partial = [path for path in hidden if path.is_file() and "cache" not in path.parts]
    errors = r"Traceback \(most recent" if killed else r"Traceback \(most recent|Exception ignored|Error:"
    # -number: Python itself resets the handlers when it has almost ended.
    good = (0,) if seconds is None else (0, 128 + number, -number)
    faults = {
        "lost_trials": before.keys() - after.keys(),
        "repeated_trials": {trial for trial in before.keys() & after.keys() if before[trial] != after[trial]},
        "tracebacks": re.findall(errors, study.log.read_text(errors="replace"))[:1],
        "refusals": [status] if status not in good else [],
        "late": [waited] if waited > STOP_SECONDS else [],
        "temporaries": partial if not killed or status == 0 else [],
    }
    outcome["kills"] += status != 0 and status in good
    for name, found in faults.items():
        outcome[name] += len(found)
    where = f"signal {number} after {seconds:.1f} s" if seconds is not None else "to its end"
    print(f"  {outcome['kills']}: {where}: status {status}, {len(after)} trials finished", flush=True)
    if any(faults.values()):
        print(f"    LOOK: {faults}; {study.log}", flush=True)
    return status


def record(output: Path, outcomes: list[dict[str, Any]]) -> None:
    """Write JSON; runs of other commands in the file, and its key `states`, are kept."""
    # The machine record of the benchmarks includes commit and load.
    sys.path.insert(0, str(TESTS.parent / "benchmarks"))
    from machine import machine, versions

    before = json.loads(output.read_text()) if output.exists() else {}
    runs = {(run["tuner"], run["launcher"]): run for run in before.get("runs", [])}
    for outcome in outcomes:
        more = {"ended": utc_timestamp(), "versions": versions()}
        runs[outcome["tuner"], outcome["launcher"]] = outcome | more
    totals = {name: sum(run.get(name, 0) for run in runs.values()) for name in COUNTS}
    write_json(output, {**before, **totals, "runs": list(runs.values()), "machine": machine()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="minimum number of signals, for each command")
    parser.add_argument("--signal", choices=SIGNALS, default="kill")
    names = ["random-isolated", "grid-isolated"]
    parser.add_argument("--commands", nargs="+", default=names, choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random times")
    parser.add_argument("--output", type=Path, help="JSON file; runs of other commands in it are kept")
    parser.add_argument("--folder", type=Path, help="folder to keep the studies in (default: they are removed)")
    options = parser.parse_args()
    # A background shell ignores SIGINT, and so do the processes that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        (folder / "empty").mkdir(parents=True)
        sources = dict.fromkeys(COMMANDS, folder / "empty")
        if {*AFTER_A_STUDY} & {*options.commands}:
            searched = Study(folder / "searched", "random-basic", folder / "empty")
            assert searched.run()[0] == 0, searched.log
            best = Study(folder / "best", "retrain", searched.folder)
            assert best.run()[0] == 0, best.log
            shutil.copy(next(best.folder.glob("cache/sample/*/train.zip")), best.folder / "images.zip")
            sources |= {"retrain": searched.folder, "predict": best.folder, "audit": best.folder}
        for name in options.commands:
            outcomes.append(soak(folder / name, name, sources[name], options))
            print(json.dumps(outcomes[-1]), flush=True)
            if options.output:
                record(options.output, outcomes)
    faults = FAULTS if options.signal == "kill" else (*FAULTS, "temporaries")
    return int(any(outcome[name] for outcome in outcomes for name in faults))


if __name__ == "__main__":
    sys.exit(main())
