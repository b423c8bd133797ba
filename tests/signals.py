"""Interrupt the commands at random moments, and check that nothing is lost or different.

python tests/signals.py --signals 60 --output benchmarks/results/signals.json

Sends SIGINT (to all processes of a command, as a terminal) or SIGTERM (to the command alone) after a random line of its
output, and repeats the command until it finishes. Checks status, output, partial files, that it ends within 30 seconds,
and that its tables equal those of an uninterrupted run.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from soak import STUDY, TESTS, different_rows, tables

from catsdogs.base.files import write_json

JOB = [word for word in STUDY if not word.startswith("augmentation=")]
SEARCH = ("search", "-m", *JOB, "tuner=random", "tuner.max_trials=2", "augmentation=none,flip")
ENSEMBLE = ("ensemble=jobs", "ensemble.num_jobs=2")
COMMANDS = {
    "single": ("search", *JOB, "augmentation=flip"),
    "isolated": SEARCH,
    "isolated-2": (*SEARCH, "hydra.launcher.jobs=2"),
    "basic": (*SEARCH, "hydra/launcher=basic"),
    "retrain": ("retrain", "study=soak", "backbone.builder=tiny_backbone.build", *ENSEMBLE),
    "predict": ("predict", "multirun/soak/best", "images.zip", "--output", "predicted.csv"),
    "audit": ("audit", "images.zip", "--study", "multirun/soak", "--output", "audit.html"),
}
LONGEST_SECONDS = 30.0
PAUSES = (0.0, 0.05, 0.3, 1.0)  # seconds between a line and the signal


def run(folder: Path, name: str, after: int = -1, number: int = 0, pause: float = 0.0) -> tuple[int, str, float]:
    """Run a command; send a signal after its line `after` and a pause. Return status, output, seconds since then."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "CATSDOGS_CACHE": str(folder / "cache")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", f"catsdogs.{COMMANDS[name][0]}", *COMMANDS[name][1:]]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    printed: list[str] = []
    sent = math.inf  # the command may print fewer lines
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:
        while True:
            if len(printed) == after:
                time.sleep(pause)
                sent = time.monotonic()
                (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            if not (line := process.stdout.readline()):
                break
            printed.append(line)
    return process.returncode, "".join(printed), max(0.0, time.monotonic() - sent)


def interrupted(name: str, source: Path, folder: Path, count: int, rng: random.Random) -> dict[str, Any]:
    """Interrupt a command `count` times, at most three times before it may finish, and return the counts."""
    reference = shutil.copytree(source, folder / "reference")
    status, printed, _ = run(reference, name)
    assert status == 0, printed
    lines, expected = printed.count("\n"), tables(reference)
    result: dict[str, Any] = {"command": name, "signals": 0, "longest_seconds": 0.0, "problems": []}
    while result["signals"] < count:
        own = shutil.copytree(source, folder / f"after-{result['signals']}")
        for last in (False, False, False, True):
            number, after, pause = rng.choice((2, 15)), rng.randrange(1, lines), rng.choice(PAUSES)
            status, printed, seconds = run(own, name, -1 if last else after, number, pause)
            result["signals"] += seconds > 0
            result["longest_seconds"] = max(result["longest_seconds"], round(seconds, 1))
            wrong = [text for text in ("Traceback (most recent", "Exception ignored", "Error:") if text in printed]
            wrong += [str(path) for path in own.rglob(".*-*.*") if path.is_file() and "cache" not in path.parts]
            # -number: Python itself resets the handlers when it has almost ended.
            good = status == 0 or (status in (128 + number, -number) and not last and seconds <= LONGEST_SECONDS)
            about = f"{name}: signal {number} {pause} s after line {after}/{lines}: {status}, {seconds:.1f} s"
            print(about, wrong, flush=True)
            if wrong or not good:
                result["problems"].append(f"{about}, {wrong}\n{printed}")
            if status == 0:
                break
        if different := different_rows(expected, tables(own)):
            result["problems"].append(f"{name}: {different} rows differ")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=60, help="minimum number, of all commands together")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file of the counts")
    options = parser.parse_args()
    # A background shell ignores SIGINT, and so do the processes that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    results = []
    with tempfile.TemporaryDirectory(prefix="signals-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        empty, best = folder / "empty", folder / "best"
        empty.mkdir()
        sources = dict.fromkeys(COMMANDS, empty)
        if {"retrain", "predict", "audit"} & set(options.commands):
            study = shutil.copytree(empty, folder / "study")
            assert run(study, "basic")[0] == 0
            shutil.copytree(study, best)
            assert run(best, "retrain")[0] == 0
            shutil.copy(next(best.glob("cache/sample/*/train.zip")), best / "images.zip")
            sources |= {"retrain": study, "predict": best, "audit": best}
        for name in options.commands:
            count, rng = -(-options.signals // len(options.commands)), random.Random(f"{options.seed} {name}")
            results.append(interrupted(name, sources[name], folder / name, count, rng))
            print(json.dumps(results[-1]), flush=True)
    if options.output:
        write_json(options.output, results)
    return int(any(result["problems"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
