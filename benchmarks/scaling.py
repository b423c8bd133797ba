"""Time, memory and disk by number of trials, images and jobs, with fitted lines and an ideal.

python benchmarks/scaling.py --train train.zip --weights mobilenet_v2_1.0_224_no_top.weights.h5

Every point is a complete process of `catsdogs.search`, with decoded images and an empty activation store. Only one
quantity varies at a time. All trials unfreeze the same layers, so they take equally long. Run nothing else on the
machine. Results and plot are in the same folder: `scaling.json`, `scaling.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, versions
from sides import Run, Sides

from catsdogs.base.files import write_json

UNFREEZE_DEPTH = 10
# The depth determines the time of a trial, so only dropout and L2 are sampled.
OVERRIDES = [f"model.unfreeze_depth={UNFREEZE_DEPTH}", "~space.unfreeze_depth", "features.mode=stored"]
# Jobs with the same augmentation share all stored activations.
JOBS = {
    1: [],
    2: ["label_smoothing=none,mild", "-m"],
    4: ["label_smoothing=none,mild", "schedule=cosine,constant", "-m"],
}
TRIALS_OF_IMAGES = 2  # trials of every point in the series over images
VALIDATION_FRACTION = 0.2
QUANTITIES = ("seconds", "cpu_seconds", "peak_rss_mib", "store_mib")
NO_PLOT = "no plot: matplotlib is not installed; run pip install 'matplotlib>=3.9,<4'"
MEANINGS = {
    "trials": "ideal: mean seconds of the trials after the first, which also fills views and traces. Ratio 1: another "
    "trial takes only its suffix training; above 1: the rest is spent between trials.",
    "images": "ideal: time proportional to the images, at the seconds per image of the largest point. Ratio 1: all "
    "time grows with the images; below 1: the rest is constant startup time; above 1: time grows faster than images.",
    "jobs": "ideal: mean over the jobs after the first of the sum of their trials' seconds. Ratio 1: another job takes "
    "only its trials; above 1: the rest is composing, building the model and running a test step. strict_ratio: "
    "relative to as many trials at the ideal of the trials, so also without tracing.",
}

_STARTED = time.monotonic()
_FILLED = re.compile(r"activations of .*: (\d+) images in .* \((\d+)/s\)")


@dataclass(frozen=True)
class Work:
    """Size of one process; `images` is the number of training images."""

    jobs: int
    trials: int
    images: int

    @property
    def name(self) -> str:
        return f"{self.jobs}_jobs_{self.trials}_trials_{self.images}_images"

    @property
    def limit(self) -> str:
        return f"data.limit={math.ceil(self.images / (1 - VALIDATION_FRACTION) - 1e-9)}"


def numbers(text: str) -> list[int]:
    values = sorted({int(part) for part in text.split(",")})
    if len(values) < 2 or values[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be two or more different numbers, all at least 1")
    return values


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--train", type=Path, required=True, help="zip or folder of labeled photographs")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 without top, .weights.h5 or .h5")
    parser.add_argument("--trials", type=numbers, default="1,5,20", help="trials of one job (default: %(default)s)")
    parser.add_argument(
        "--images", type=numbers, default="500,1000,2000,8000", help="training images (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=numbers, default="1,2,4", help="jobs: 1, 2 or 4 (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs per trial (default: %(default)s)")
    parser.add_argument("--base-trials", type=int, default=5, help="trials, if jobs vary (default: %(default)s)")
    parser.add_argument("--base-images", type=int, default=1000, help="images, unless they vary (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results" / "scaling.json")
    parser.add_argument("--keep", type=Path, help="empty folder for all files (default: a temporary one)")
    arguments = parser.parse_args()
    for path in (arguments.train, arguments.weights):
        if not path.exists():
            parser.error(f"{path}: file not found")
    if not set(arguments.jobs) <= set(JOBS):
        parser.error(f"--jobs {arguments.jobs}: must be among {', '.join(map(str, JOBS))}")
    return arguments


def planned(arguments: argparse.Namespace) -> dict[str, dict[int, Work]]:
    """Return the processes of every series by the varying number; two series may share one."""
    trials, images = arguments.base_trials, arguments.base_images
    return {
        "trials": {number: Work(1, number, images) for number in arguments.trials},
        "images": {number: Work(1, TRIALS_OF_IMAGES, number) for number in arguments.images},
        "jobs": {number: Work(number, trials, images) for number in arguments.jobs},
    }


def benchmark(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all processes and return the results; write them to `--output` after every point."""
    sides = Sides(
        work,
        [
            f"data.train={arguments.train.resolve()}",
            f"data.validation_fraction={VALIDATION_FRACTION}",
            f"backbone.weights={arguments.weights.resolve()}",
            *OVERRIDES,
        ],
    )
    series = planned(arguments)
    points: dict[Work, dict[str, Any]] = {}
    results: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "epochs": arguments.epochs,
            "base_trials": arguments.base_trials,
            "base_images": arguments.base_images,
            "trials_of_images": TRIALS_OF_IMAGES,
            "overrides": OVERRIDES,
            "jobs": JOBS,
        },
    }
    processes = list(dict.fromkeys(each for works in series.values() for each in works.values()))
    _log("unpacking and decoding (not measured)")
    for each in processes:
        _, dataset, _ = sides.decode([each.limit])
        train_images = int((dataset.rows["split"] == "train").sum())
        # An archive may contain a few corrupted files.
        if train_images < 0.99 * each.images:
            raise SystemExit(
                f"--images {each.images}: {arguments.train} has only {train_images} training images, not counting "
                f"those for validation"
            )
    _log("warm-up")
    sides.catsdogs("rehearsal", 1, 1, [min(processes, key=lambda each: each.images).limit])
    for each in processes:
        sides.empty_store()
        run = sides.catsdogs(each.name, each.trials, arguments.epochs, [each.limit, *JOBS[each.jobs]])
        points[each] = point(each, run, work / f"{each.name}.log", sides.store_bytes())
        _log(f"{each.name.replace('_', ' ')}: {run.seconds:.1f} s")
        results["points"] = list(points.values())
        write_json(arguments.output, results)
    results["series"] = {
        name: line(name, {x: points[each] for x, each in works.items()}) for name, works in series.items()
    }
    strict = arguments.base_trials * results["series"]["trials"]["ideal"]["slope"]
    jobs = results["series"]["jobs"]
    jobs.update(strict_ideal_slope=strict, strict_ratio=jobs["fits"]["seconds"]["slope"] / strict)
    write_json(arguments.output, results)
    return results


def point(work: Work, run: Run, log: Path, store_bytes: int) -> dict[str, Any]:
    """Return the measurements of one process. Filling overlaps with the first trial and is part of its time."""
    jobs = dict.fromkeys(trial["job"] for trial in run.trials)
    seconds = [[trial["seconds"] for trial in run.trials if trial["job"] == job] for job in jobs]
    if [len(trials) for trials in seconds] != [work.trials] * work.jobs or not all(t["trained"] for t in run.trials):
        raise SystemExit(f"{work.name}: not every trial completed; see {log.name}")
    text = log.read_text(encoding="utf-8", errors="replace")
    if "for every batch" in text:
        raise SystemExit(f"{work.name}: not enough disk space for the activations; see {log.name}")
    filled = _FILLED.findall(text)
    return {
        **asdict(work),
        "seconds": round(run.seconds, 3),
        "cpu_seconds": round(run.cpu_seconds, 3),
        "peak_rss_mib": round(run.peak_rss_mib, 1),
        "store_mib": round(store_bytes / 2**20, 1),
        "store_bytes": store_bytes,
        "fill_seconds": round(sum(int(images) / max(1, int(rate)) for images, rate in filled), 1),
        "trial_seconds_by_job": seconds,
    }


def line(name: str, points: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Fit straight lines to a series, and compute the ideal line of its seconds."""
    numbers = list(points)
    fits = {quantity: fit(numbers, [each[quantity] for each in points.values()]) for quantity in QUANTITIES}
    smallest, largest = points[numbers[0]], points[numbers[-1]]
    if name == "images":
        slope, intercept = largest["seconds"] / numbers[-1], 0.0
    else:
        by_job = largest["trial_seconds_by_job"]
        further = by_job[0][1:] if name == "trials" else [sum(trials) for trials in by_job[1:]]
        slope = statistics.fmean(further)
        intercept = smallest["seconds"] - slope * numbers[0]
    return {
        "numbers": numbers,
        "measured": {quantity: [each[quantity] for each in points.values()] for quantity in QUANTITIES},
        "fits": fits,
        "ideal": {"slope": slope, "intercept": intercept},
        "ratio": fits["seconds"]["slope"] / slope,
        "ratio_means": MEANINGS[name],
    }


def fit(x: list[int], y: list[float]) -> dict[str, float]:
    slope, intercept = np.polyfit(x, y, 1)
    residuals = np.abs(np.polyval([slope, intercept], x) - y)
    return {"slope": float(slope), "intercept": float(intercept), "largest_residual": float(residuals.max())}


def plot(results: dict[str, Any], path: Path) -> None:
    """Plot seconds over trials, images and jobs: measured, fitted and ideal."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = results["settings"]
    trials, images = settings["base_trials"], settings["base_images"]
    labels = {
        "trials": f"trials (1 job, {images:,} images)",
        "images": f"training images (1 job, {settings['trials_of_images']} trials)",
        "jobs": f"jobs ({trials} trials each, {images:,} images)",
    }
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(
        f"Duration of a search: MobileNetV2, {UNFREEZE_DEPTH} layers unfrozen, "
        f"epochs: {settings['epochs']}, CPU cores: {results['machine']['cores']}"
    )
    for axes, (name, series) in zip(figure.subplots(1, 3), results["series"].items(), strict=True):
        ends = np.array([0, series["numbers"][-1] * 1.05])
        for kind, fitted, style in (("fit", series["fits"]["seconds"], "-"), ("ideal", series["ideal"], "--")):
            label = f"{kind}: {fitted['slope']:.3g} s per {name[:-1]}"
            axes.plot(ends, fitted["intercept"] + fitted["slope"] * ends, style, label=label)
        axes.plot(series["numbers"], series["measured"]["seconds"], "o", color="black", label="measured")
        axes.set(xlabel=labels[name], ylabel="wall time in seconds", xlim=(0, ends[1]))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.legend(title=f"fit / ideal = {series['ratio']:.2f}", loc="lower right")
    figure.savefig(path, dpi=120)


def table(results: dict[str, Any]) -> str:
    """Format the results for the terminal."""
    lines = []
    for name, series in results["series"].items():
        lines.append(f"{name:>8}{'wall s':>10}{'CPU s':>10}{'peak MiB':>10}{'store MiB':>11}")
        for index, number in enumerate(series["numbers"]):
            wall, cpu, rss, store = (series["measured"][quantity][index] for quantity in QUANTITIES)
            lines.append(f"{number:>8}{wall:>10.1f}{cpu:>10.1f}{rss:>10.0f}{store:>11.1f}")
        wall, cpu, rss, store = (series["fits"][quantity]["slope"] for quantity in QUANTITIES)
        lines.append(f"{'slope':>8}{wall:>10.4f}{cpu:>10.4f}{rss:>10.3f}{store:>11.3f}   per {name[:-1]}")
        lines.append(f"{'ideal':>8}{series['ideal']['slope']:>10.4f}   slope / ideal = {series['ratio']:.2f}")
        if "strict_ratio" in series:
            lines.append(f"{'strict':>8}{series['strict_ideal_slope']:>10.4f}   = {series['strict_ratio']:.2f}")
        lines += [f"  {part}" for part in series["ratio_means"].split(". ")] + [""]
    return "\n".join(lines)


def _log(text: str) -> None:
    print(f"{time.monotonic() - _STARTED:7.0f} s  {text}", flush=True)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="catsdogs-scaling-") as folder:
            yield Path(folder)
        return
    if keep.exists() and any(keep.iterdir()):
        raise SystemExit(f"--keep {keep}: not empty; pass an empty folder, since stored files change the times")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def main() -> int:
    arguments = parse_arguments()
    can_plot = importlib.util.find_spec("matplotlib") is not None
    if not can_plot:
        _log(NO_PLOT)
    with _folder(arguments.keep) as work:
        results = benchmark(arguments, work)
    print(table(results))
    if can_plot:
        plot(results, arguments.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
