"""Time and memory at 100 classes of 100 drawn images beside 2 classes of 5,000, by the commands of a user.

python benchmarks/many_classes.py [--rounds 3] [--output benchmarks/results/many_classes.json]

Both have 10,000 training images. A round runs search, retrain and report of each, alternately; cold, because each has
a cache of its own that is removed before it. The network is small, so that the work that depends on classes (tables,
scores, intervals, page) is not hidden by its training.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine, versions

from catsdogs.base.files import write_json

CLASSES = (2, 100)
IMAGES = 10_000
SETTINGS: tuple[str, ...] = ("backbone=small_cnn", "space=small_cnn", "backbone.image_size=32", "augmentation=none")
SETTINGS += ("fit.epochs=3", "tuner.max_trials=2", "data=sample", "data.sample.test_images=1000", "cache=cache")


def measure(classes: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return seconds and peak memory (MiB) of each command."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sample = (f"data.sample.classes={classes}", f"data.sample.images_per_class={IMAGES // classes}")
    commands = {
        "search": ("search", "study=s", *SETTINGS, *sample),
        "retrain": ("retrain", "study=s", "cache=cache"),
        "report": ("report", "multirun/s"),
    }
    return {name: _run(folder, *command) for name, command in commands.items()}


def _run(folder: Path, command: str, *arguments: str) -> dict[str, float]:
    # In a process of its own, because the peak of the children only grows.
    script = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode"
    )
    script += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    words = [sys.executable, "-c", script, sys.executable, "-m", f"catsdogs.{command}", *arguments]
    started = time.monotonic()
    process = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.monotonic() - started
    peak = float(process.stdout) / 1024
    print(f"{command}: {seconds:.1f} s, {peak:.0f} MiB", flush=True)
    return {"seconds": round(seconds, 1), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rounds: dict[int, list[dict[str, dict[str, float]]]] = {classes: [] for classes in CLASSES}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for classes in CLASSES:
                print(f"round {number + 1}/{options.rounds}, {classes} classes", flush=True)
                rounds[classes].append(measure(classes, Path(folder) / "study"))
    medians: dict[str, dict[str, Any]] = {
        f"{classes} classes": {
            command: {key: statistics.median(one[command][key] for one in measured) for key in ("seconds", "peak_mib")}
            for command in measured[0]
        }
        for classes, measured in rounds.items()
    }
    result = {"images": IMAGES, "medians": medians, "rounds": {str(key): value for key, value in rounds.items()}}
    print(medians)
    if options.output:
        write_json(options.output, {**result, "versions": versions(), "machine": machine()})


if __name__ == "__main__":
    main()
