"""Kill a study repeatedly, and check that no finished trial is lost or repeated.

python tests/soak.py --kills 50 --tuner random grid --output benchmarks/results/soak.json

Runs a study of 3 jobs x 4 trials once without interruption. Then runs the same study in other folders: sends SIGKILL to
all its processes at a random time, and repeats the command until it finishes; starts new studies until the number of
kills is reached. Compares every table with that of the uninterrupted study. tests/crashes/ tries every file operation.

    lost_trials      in trials.csv when the study was killed, and missing later
    repeated_trials  in trials.csv when the study was killed, and trained again; or trained twice by one command
    different_rows   of trials.csv, history.csv, validation.csv and leaderboard.csv, apart from times
    refusals         commands that exited with another status than 0
    tracebacks       commands that printed a traceback
    temporaries      partial files that kills left next to the study's own
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
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
AFTER_EVERY_TRIAL = ("history.csv", "trials.csv", "validation.csv")
COUNTS = ("kills", "lost_trials", "repeated_trials", "different_rows", "refusals", "tracebacks", "temporaries")
TIMES = ("seconds", "ended", "started", "finished")  # columns of times and durations


class Study:
    """A study with its own folder and cache, and the command that runs it."""

    def __init__(self, folder: Path, tuner: str, launcher: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.root = folder / "multirun" / "soak"
        self._mark = uuid.uuid4().hex
        self._ledger = folder / "ledger.jsonl"
        self._slurm = launcher.startswith("slurm")
        self._command = [sys.executable, "-m", "catsdogs.search", "-m", *STUDY, f"tuner={tuner}"]
        self._command += [f"hydra/launcher={launcher}", *SETTINGS.get(launcher, ())]
        self.commands = 0

    def run(self, seconds: float | None = None) -> int | None:
        """Run the command; kill it after `seconds`. Return its status, or None if killed."""
        self.commands += 1
        path = os.pathsep.join(filter(None, [str(TESTS / "soak_patch"), str(TESTS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "CATSDOGS_CACHE": str(self.folder / "cache")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "SOAK_MARK": self._mark, "SOAK_LEDGER": str(self._ledger)}
        with self.log.open("w") as log:
            process = subprocess.Popen(
                self._command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                self._wait(process, seconds)
            finally:
                self._end(process)
        return None if process.returncode == -signal.SIGKILL else process.returncode

    @property
    def log(self) -> Path:
        return self.folder / f"command-{self.commands}.log"

    def _wait(self, process: subprocess.Popen[bytes], seconds: float | None) -> None:
        """Wait until the command exits, or `seconds` have passed."""
        started = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - started > (LONGEST_SECONDS if seconds is None else seconds):
                if seconds is None:
                    raise TimeoutError(f"the command still runs after {LONGEST_SECONDS} s; see {self.log}")
                return
            time.sleep(0.02)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill all processes of the command, including those in other process groups."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._slurm and process.returncode != 0:
            subprocess.run(["scancel", "--me", "--state=PENDING"], check=True)
        left = [other for other in psutil.process_iter() if self._is_own(other)]
        for other in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(left, timeout=30)
        while self._slurm and subprocess.check_output(["squeue", "--me", "--noheader"]).strip():
            time.sleep(0.5)

    def _is_own(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SOAK_MARK") == self._mark and process.pid != os.getpid()
        except psutil.Error:
            return False

    def finished(self) -> set[tuple[str, str]]:
        """Return (job, trial) of every trial in a `trials.csv`."""
        tables = {file.parent.name: pd.read_csv(file, dtype={"trial": str}) for file in self._job_files("trials.csv")}
        return {(job, trial) for job, table in tables.items() for trial in table["trial"]}

    def trained(self) -> Counter[tuple[str, str]]:
        """Return how often (job, trial) started to train."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return Counter((entry["job"], entry["trial"]) for entry in map(json.loads, lines))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return every table that must not depend on the kills."""
        files = [self.root / "leaderboard.csv"]
        files += [file for name in AFTER_EVERY_TRIAL for file in self._job_files(name)]
        frames = {str(file.relative_to(self.root)): pd.read_csv(file, dtype=str) for file in files}
        return {name: table.drop(columns=[c for c in TIMES if c in table]) for name, table in frames.items()}

    def temporaries(self) -> list[Path]:
        """Return partial files that a kill left."""
        files = [*self.root.glob(".*-*.*"), *self.root.glob("*/.*-*.*")]
        return sorted(file for file in files if file.suffix in (".json", ".csv", ".html"))

    def _job_files(self, name: str) -> list[Path]:
        return sorted(file for file in self.root.glob(f"*/{name}") if file.parent.name != "report")


def different_rows(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> int:
    """Count the rows that differ, or that only one of two studies has."""
    count = 0
    for name in sorted(name for name in {*one, *other} if one.get(name) is not other.get(name)):
        rows = [table.fillna("").to_dict("records") for table in (one.get(name), other.get(name)) if table is not None]
        pairs = itertools.zip_longest(*rows) if len(rows) == 2 else ((row, None) for row in rows[0])
        different = sum(a != b for a, b in pairs)
        if different:
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
    duration, expected = time.monotonic() - started, reference.tables()
    print(f"{tuner}, {launcher}: uninterrupted in {duration:.0f} s, {len(reference.finished())} trials", flush=True)
    while outcome["kills"] < kills:
        outcome["studies"] += 1
        study = Study(folder / f"study-{outcome['studies']}", tuner, launcher)
        killed_study(study, outcome, kills, duration, rng)
        outcome["commands"] += study.commands
        outcome["different_rows"] += different_rows(expected, study.tables())
        outcome["temporaries"] += len(study.temporaries())
    outcome["seconds"] = round(time.monotonic() - started, 1)
    return outcome


def killed_study(study: Study, outcome: dict[str, Any], kills: int, duration: float, rng: random.Random) -> None:
    """Run a study until it finishes, and kill it until `kills` is reached."""
    finished: set[tuple[str, str]] = set()
    while True:
        moment = rng.uniform(0, duration) if outcome["kills"] < kills else None
        before = study.trained()
        status = study.run(moment)
        trained = study.trained() - before
        again = sorted(trial for trial, times in trained.items() if times > 1 or trial in finished)
        now_finished = study.finished()
        lost = sorted(finished - now_finished)
        outcome["repeated_trials"] += len(again)
        outcome["lost_trials"] += len(lost)
        text = study.log.read_text(errors="replace")
        outcome["tracebacks"] += "Traceback (most recent call last)" in text
        if status is None:
            outcome["kills"] += 1
        where = f"{moment:.1f} s" if moment is not None else "to its end"
        result = "killed" if status is None else f"status {status}"
        print(f"  {outcome['kills']}: {where}: {result}, {len(now_finished)} trials finished", flush=True)
        if lost or again or status not in (None, 0) or "Traceback (most" in text:
            print(f"    LOOK: lost {lost}, repeated {again}; {study.log}", flush=True)
        finished |= now_finished
        if status == 0:
            return
        if status is not None:
            outcome["refusals"] += 1
            if outcome["refusals"] > 5:
                raise SystemExit(f"the study does not resume: {text[-2000:]}")


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
