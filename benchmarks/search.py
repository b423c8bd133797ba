"""Benchmark of the same search in a plain Keras Tuner script and in catsdogs: time and validation log loss.

python benchmarks/search.py --train train.zip --weights mobilenet_v2_1.0_224_no_top.weights.h5

Both sides use the same decoded pixels, views, order of images, hyperparameters, epochs and seeds. The wall time of
complete processes is measured, and the sides alternate. Run nothing else on the machine. The plain side of a long study
is extrapolated from complete trials, one per depth; `plain_extrapolated` records this.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import depths, study_record
from machine import machine, versions
from sides import Run, Sides

# For every catsdogs run: a distinct view per epoch, as on the plain side.
FEATURES = ["features.views={epochs}"]
# For studies with the suffix _fast; `max_val_log_loss_difference` contains its effect on the scores.
FAST = ["features.dtype=float16"]

_STARTED = time.monotonic()


@dataclass(frozen=True)
class Study:
    """Size of a study: `6x3` has 6 trials of 3 epochs; the suffix `_fast` adds the overrides of FAST."""

    name: str
    trials: int
    epochs: int
    fast: bool

    @property
    def size(self) -> str:
        return f"{self.trials}x{self.epochs}"


def parse_study(name: str) -> Study:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(_fast)?", name)
    if match is None:
        raise argparse.ArgumentTypeError(f"{name}: unknown format; use TRIALSxEPOCHS or TRIALSxEPOCHS_fast")
    return Study(name, int(match[1]), int(match[2]), match[3] is not None)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--train", type=Path, required=True, help="zip or folder of labeled photographs")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 without top, .weights.h5 or .h5")
    parser.add_argument(
        "--studies",
        type=lambda text: [parse_study(name) for name in text.split(",")],
        default="6x3,20x10,20x10_fast",
        help="comma-separated list of TRIALSxEPOCHS[_fast] (default: %(default)s)",
    )
    parser.add_argument("--images", type=int, default=1250, help="a fifth is for validation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="rounds per study; times are medians (default: 1)")
    parser.add_argument(
        "--full-epochs",
        type=int,
        default=18,
        help="above this many epochs in total, the plain side trains one trial per depth (default: %(default)s)",
    )
    parser.add_argument(
        "--plain-epochs", type=int, help="maximum epochs of a plain trial; the rest is extrapolated (default: all)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results" / "search.json")
    parser.add_argument("--keep", type=Path, help="empty folder for all files (default: a temporary one)")
    parser.add_argument(
        "--catsdogs", default=shlex.join(FEATURES), help="overrides for catsdogs runs (default: %(default)s)"
    )
    parser.add_argument("--fast", default=shlex.join(FAST), help="overrides added by _fast (default: %(default)s)")
    parser.add_argument("--skip-layers", action="store_true", help="do not measure Keras' augmentation layers")
    arguments = parser.parse_args()
    for path in (arguments.train, arguments.weights):
        if not path.exists():
            parser.error(f"{path}: file not found")
    return arguments


def benchmark(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all studies and return the results; write them to `--output` after every study."""
    sides = Sides(
        work,
        [
            f"data.train={arguments.train.resolve()}",
            f"data.limit={arguments.images}",
            f"backbone.weights={arguments.weights.resolve()}",
            f"seed={arguments.seed}",
            "model.dense_units=256",
            "model.head_batch_norm=true",
        ],
    )
    results: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
    _log("unpacking and decoding (not measured)")
    results["settings"] = sides.prepare()
    _log("warm-up of both sides; choosing tf.data with or without autotune")
    results["plain_input"] = sides.faster_input()
    sides.catsdogs("rehearsal", 1, 1, [*_overrides(arguments, fast=False, epochs=1), "data.limit=40"])
    if not arguments.skip_layers:
        results["augmentation_layers"] = measure_layers(sides)
    results["studies"] = {}
    plain_runs: dict[str, list[Run]] = {}
    for study in arguments.studies:
        record = run_study(sides, study, arguments, plain_runs)
        results["studies"][study.name] = record
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        _log(f"{study.name}: {record['ratio_cold']:.2f} times as fast cold, {record['ratio_warm']:.2f} warm")
    return results


def run_study(
    sides: Sides, study: Study, arguments: argparse.Namespace, plain_runs: dict[str, list[Run]]
) -> dict[str, Any]:
    """Run plain, cold and warm in every round; studies of the same size share `plain_runs`."""
    overrides = _overrides(arguments, study.fast, study.epochs)
    plain = plain_runs.setdefault(study.size, [])
    cold: list[Run] = []
    warm: list[Run] = []
    store_bytes = 0
    for number in range(1, arguments.rounds + 1):
        if len(plain) < number:
            plain.append(_plain(sides, study, arguments, number))
        _log(f"{study.name}, round {number}: catsdogs, empty store")
        sides.empty_store()
        cold.append(sides.catsdogs(f"{study.name}_cold_{number}", study.trials, study.epochs, overrides))
        store_bytes = sides.store_bytes()
        _log(f"{study.name}, round {number}: catsdogs, full store ({cold[-1].seconds:.1f} s with empty store)")
        warm.append(sides.catsdogs(f"{study.name}_warm_{number}", study.trials, study.epochs, overrides))
    return study_record(study.trials, study.epochs, overrides, plain, cold, warm, store_bytes)


def measure_layers(sides: Sides) -> dict[str, Any]:
    """Measure one epoch of every depth, with views and with Keras' augmentation layers."""
    by_source = {}
    for source in ("views", "layers"):
        _log(f"plain, one epoch of every depth, augmented by {source}")
        run = sides.plain(f"{source}_once", 20, 1, all_trials=False, augmentation_source=source)
        by_source[source] = depths(run.trials)
    return by_source


def _plain(sides: Sides, study: Study, arguments: argparse.Namespace, number: int) -> Run:
    every_trial = study.trials * study.epochs <= arguments.full_epochs
    epochs_run = min(study.epochs, arguments.plain_epochs or study.epochs)
    _log(f"{study.size}, round {number}: plain, {'every trial' if every_trial else 'the first trial of each depth'}")
    name = f"{study.size}_plain_{number}"
    return sides.plain(name, study.trials, study.epochs, epochs_run=epochs_run, all_trials=every_trial)


def _overrides(arguments: argparse.Namespace, fast: bool, epochs: int) -> list[str]:
    added = shlex.split(arguments.catsdogs) + (shlex.split(arguments.fast) if fast else [])
    return [override.format(epochs=epochs) for override in added]


def table(results: dict[str, Any]) -> str:
    """Format the results for the terminal."""
    head = (
        f"{'study':<12}{'plain s':>10}{'cold s':>9}{'warm s':>9}{'cold':>8}{'warm':>8}{'difference':>12}{'store':>10}"
    )
    lines = [head]
    for name, study in results["studies"].items():
        seconds = study["seconds"]
        plain = f"{seconds['plain']:.1f}{'*' if study['plain_extrapolated'] else ' '}"
        lines.append(
            f"{name:<12}{plain:>10}{seconds['cold']:>9.1f}{seconds['warm']:>9.1f}"
            f"{study['ratio_cold']:>7.2f}x{study['ratio_warm']:>7.2f}x"
            f"{study['max_val_log_loss_difference']:>12.5f}{study['store_bytes'] / 2**20:>6.0f} MiB"
        )
    if any(study["plain_extrapolated"] for study in results["studies"].values()):
        lines.append("* extrapolated from complete trials or epochs of each depth")
    return "\n".join(lines)


def _log(text: str) -> None:
    print(f"{time.monotonic() - _STARTED:7.0f} s  {text}", flush=True)


def main() -> int:
    arguments = parse_arguments()
    if arguments.keep is None:
        with tempfile.TemporaryDirectory(prefix="catsdogs-benchmark-") as folder:
            results = benchmark(arguments, Path(folder))
    else:
        if arguments.keep.exists() and any(arguments.keep.iterdir()):
            raise SystemExit(f"--keep {arguments.keep}: not empty; pass an empty folder, as files change the times")
        arguments.keep.mkdir(parents=True, exist_ok=True)
        results = benchmark(arguments, arguments.keep.resolve())
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
