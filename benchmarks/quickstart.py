"""Benchmark of the quick start in two checkouts, alternately: search of four jobs, retrain and submission.

python benchmarks/quickstart.py OLD NEW --output benchmarks/results/quickstart.json

Every run is two processes in an empty folder with an empty cache, measured from start to exit. Both checkouts use the
packages of the Python that runs this. One run of each, not counted, fills the disk cache. Run nothing else on the
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine, versions

COMMANDS = {"search": ["-m", "experiment=quickstart"], "retrain": ["study=quickstart"]}


def measure(checkout: Path) -> dict[str, Any]:
    """Run the quick start; return its wall and CPU seconds, and those of each command."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment["CATSDOGS_CACHE"] = str(Path(folder, "cache"))
        for command, arguments in COMMANDS.items():
            words = [sys.executable, "-m", f"catsdogs.{command}", *arguments]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode:
                sys.exit(f"{checkout}: {command} failed\n{done.stderr[-2000:]}")
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            record[command] = {"seconds": round(seconds, 2), "cpu_seconds": round(used, 2)}
        best = Path(folder, "multirun", "quickstart", "best")
        record["submission_rows"] = len((best / "submission.csv").read_text().splitlines()) - 1
        record["log_loss"] = json.loads((best / "metrics.json").read_text())["log_loss"]
    for key in ("seconds", "cpu_seconds"):
        record[key] = round(sum(record[command][key] for command in COMMANDS), 2)
    return record


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure, and write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="checkout of the earlier commit")
    parser.add_argument("new", type=Path, help="checkout of the later commit")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--no-warm-up", action="store_true", help="count the first run of each")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    sides = {"old": arguments.old.resolve(), "new": arguments.new.resolve()}
    result: dict[str, Any] = {"machine": machine(), "versions": versions()}
    result |= {name: {"commit": _commit(checkout), "runs": []} for name, checkout in sides.items()}
    for number in range(0 if arguments.no_warm_up else -1, arguments.repeats):
        for name, checkout in sides.items():
            run = measure(checkout)
            print(
                f"{name} {number + 1}/{arguments.repeats}: {run['seconds']} s, CPU {run['cpu_seconds']} s", flush=True
            )
            if number >= 0:
                result[name]["runs"].append(run)
    for key in ("seconds", "cpu_seconds"):
        for name in sides:
            values = [run[key] for run in result[name]["runs"]]
            result[name] |= {f"median_{key}": statistics.median(values), f"least_{key}": min(values)}
        result[f"ratio_of_median_{key}"] = round(result["new"][f"median_{key}"] / result["old"][f"median_{key}"], 3)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
