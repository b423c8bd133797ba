"""Kill a study repeatedly, and check that no finished trial is lost or repeated.

python tests/soak.py --kills 50 --tuner random grid --output benchmarks/results/soak.json

Runs a study of 3 jobs x 4 trials once without interruption. Then runs the same study in other folders: sends SIGKILL to
all its processes at a random time, and repeats the command until it finishes; starts new studies until the number of
kills is reached. Compares every table with that of the uninterrupted study. tests/crashes/ tries every file operation.

    lost_trials      in trials.csv when the study was killed, and missing later
    repeated_trials  in trials.csv when the study was killed, and trained again; or trained twice by one command
    different_rows   of all tables of the study, apart from times
    refusals         commands that exited with another status than 0
    tracebacks       commands that printed a traceback
    temporaries      partial files that kills left next to the study's own
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from catsdogs.base.files import write_json
from catsdogs.base.provenance import utc_timestamp

TESTS = Path(__file__).resolve().parent

STUDY = (
    "study=soak",
    "augmentation=none,flip,light",
    "tuner.max_trials=4",
    "fit.epochs=2",
    "fit.batch_size=8",
    "data=sample",
    "data.sample.images_per_class=12",
    "data.sample.test_images=4",
    "backbone=small_cnn",
    "backbone.builder=tiny_backbone.build",
    "~backbone.arguments.filters",
    "backbone.image_size=32",
    "space=small_cnn",
    "space.unfreeze_depth.values=[2,5]",
    "model.dense_units=8",
    "features.engine=tensorflow",
)

# Settings of launchers for jobs this small.
SETTINGS = {
    "joblib": ("hydra.launcher.n_jobs=2",),
    "ray": ("+hydra.launcher.ray.remote.num_cpus=1",),
    "slurm_cpu": ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"),
}

LONGEST_SECONDS = 1800  # a longer command is considered hung
COUNTS = ("kills", "lost_trials", "repeated_trials", "different_rows", "refusals", "tracebacks", "temporaries")
TIMES = ("seconds", "ended", "started", "finished")  # columns of times and durations


class Study:
    """A study with its own folder and cache, and the command that runs it."""

    def __init__(self, folder: Path, tuner: str, launcher: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.commands = folder, 0
        self._ledger = folder / "ledger.txt"
        self._slurm = launcher.startswith("slurm")
        self._command = [sys.executable, "-m", "catsdogs.search", "-m", *STUDY, f"tuner={tuner}"]
        self._command += [f"hydra/launcher={launcher}", *SETTINGS.get(launcher, ())]

    @property
    def log(self) -> Path:
        return self.folder / f"command-{self.commands}.log"

    def run(self, seconds: float | None = None) -> int | None:
        """Run the command; kill it after `seconds`. Return its status, or None if killed."""
        self.commands += 1
        path = os.pathsep.join(filter(None, [str(TESTS / "soak_patch"), str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "CATSDOGS_CACHE": str(self.folder / "cache")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "SOAK_LEDGER": str(self._ledger)}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                self._command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                return process.wait(LONGEST_SECONDS if seconds is None else seconds)
            except subprocess.TimeoutExpired:
                if seconds is None:
                    raise
                return None
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
        left = [other for other in others if (other.info["environ"] or {}).get("SOAK_LEDGER") == str(self._ledger)]
        for other in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(left, timeout=30)
        while self._slurm and subprocess.check_output(["squeue", "--me", "--noheader"]).strip():
            time.sleep(0.5)

    def finished(self) -> set[str]:
        """Return "JOB TRIAL" of every trial in a `trials.csv`."""
        files = self.folder.glob("multirun/soak/*-*/trials.csv")
        return {f"{file.parent.name} {trial}" for file in files for trial in pd.read_csv(file, dtype=str)["trial"]}

    def trained(self) -> Counter[str]:
        """Return how often "JOB TRIAL" started to train."""
        return Counter(self._ledger.read_text().splitlines() if self._ledger.exists() else ())

    def temporaries(self) -> list[Path]:
        """Return partial files that a kill left."""
        patterns = (f"multirun/soak/{folder}.*-*.{kind}" for folder in ("", "*/") for kind in ("json", "csv", "html"))
        return [file for pattern in patterns for file in self.folder.glob(pattern)]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return every table below a folder, and the scores of the final model, without times and the folder's name."""
    found = {}
    for file in folder.rglob("*.csv"):
        if not {"cache", ".retrain", "best.1"} & set(file.parts):
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


def soak(folder: Path, tuner: str, launcher: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill studies of one tuner under one launcher `kills` times."""
    started = time.monotonic()
    outcome: dict[str, Any] = {"tuner": tuner, "launcher": launcher, "studies": 0, "commands": 0}
    outcome |= dict.fromkeys(COUNTS, 0)
    rng = random.Random(f"{seed} {tuner} {launcher}")
    reference = Study(folder / "reference", tuner, launcher)
    if reference.run() != 0:
        raise SystemExit(f"the uninterrupted study failed; see {reference.log}")
    duration, expected = time.monotonic() - started, tables(reference.folder)
    print(f"{tuner}, {launcher}: uninterrupted in {duration:.0f} s, {len(reference.finished())} trials", flush=True)
    while outcome["kills"] < kills:
        outcome["studies"] += 1
        study = Study(folder / f"study-{outcome['studies']}", tuner, launcher)
        while _killed(study, outcome, rng.uniform(0, duration) if outcome["kills"] < kills else None) != 0:
            if outcome["refusals"] > 5:
                raise SystemExit(f"the study does not resume; see {study.log}")
        outcome["commands"] += study.commands
        outcome["different_rows"] += different_rows(expected, tables(study.folder))
        outcome["temporaries"] += len(study.temporaries())
    outcome["seconds"] = round(time.monotonic() - started, 1)
    return outcome


def _killed(study: Study, outcome: dict[str, Any], seconds: float | None) -> int | None:
    """Run a study, kill it after `seconds`, and count its faults; return its status, or None if killed."""
    finished, before = study.finished(), study.trained()
    status = study.run(seconds)
    trained, now_finished = study.trained() - before, study.finished()
    faults = {
        "lost_trials": finished - now_finished,
        "repeated_trials": {trial for trial, times in trained.items() if times > 1 or trial in finished},
        "tracebacks": re.findall(r"Traceback \(most recent", study.log.read_text(errors="replace"))[:1],
        "refusals": [status] if status else [],
    }
    outcome["kills"] += status is None
    for name, found in faults.items():
        outcome[name] += len(found)
    where = f"{seconds:.1f} s" if seconds is not None else "to its end"
    print(f"  {outcome['kills']}: {where}: status {status}, {len(now_finished)} trials finished", flush=True)
    if any(faults.values()):
        print(f"    LOOK: {faults}; {study.log}", flush=True)
    return status


def record(output: Path, outcomes: list[dict[str, Any]]) -> None:
    """Write JSON; runs of other tuners and launchers in the file, and its key `states`, are kept."""
    # The machine record of the benchmarks includes commit and load.
    sys.path.insert(0, str(TESTS.parent / "benchmarks"))
    from machine import machine, versions

    before = json.loads(output.read_text()) if output.exists() else {}
    runs = {(run["tuner"], run["launcher"]): run for run in before.get("runs", [])}
    for outcome in outcomes:
        more = {"ended": utc_timestamp(), "versions": versions()}
        runs[outcome["tuner"], outcome["launcher"]] = outcome | more
    totals = {name: sum(run[name] for run in runs.values()) for name in COUNTS}
    write_json(output, {**before, **totals, "runs": list(runs.values()), "machine": machine()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="minimum number, for each tuner and launcher")
    parser.add_argument("--tuner", nargs="+", default=["random", "grid"])
    parser.add_argument("--launcher", nargs="+", default=["isolated"], help="options of hydra/launcher")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random times")
    parser.add_argument("--output", type=Path, help="JSON file; runs of other tuners and launchers in it are kept")
    parser.add_argument("--folder", type=Path, help="folder to keep the studies in (default: they are removed)")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        for tuner, launcher in itertools.product(arguments.tuner, arguments.launcher):
            folder = (arguments.folder or Path(temporary)).absolute() / f"{tuner}-{launcher}"
            outcomes.append(soak(folder, tuner, launcher, arguments.kills, arguments.seed))
            if arguments.output:
                record(arguments.output, outcomes)
    for outcome in outcomes:
        print(json.dumps(outcome))
    return int(any(outcome[name] for outcome in outcomes for name in COUNTS[1:-1]))


if __name__ == "__main__":
    sys.exit(main())
