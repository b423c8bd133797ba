"""What more trials, more images and more jobs cost: time, memory and disk, a straight line through each, and the ideal.

python benchmarks/scaling.py --train train.zip --weights mobilenet_v2_1.0_224_no_top.weights.h5

Every point is one whole process of `catsdogs.search` that finds its images decoded and the store of activations empty.
One thing varies at a time, and every trial unfreezes the same layers, so that all trials are equally long. Nothing else
should run on the machine. Results and plot lie beside each other: `scaling.json`, `scaling.png`.
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
# A trial's depth decides its cost, and the random oracle draws it: here it draws dropout and L2 only.
OVERRIDES = [f"model.unfreeze_depth={UNFREEZE_DEPTH}", "~space.unfreeze_depth", "features.mode=stored"]
# Jobs with one augmentation share all that is stored.
JOBS = {
    1: [],
    2: ["label_smoothing=none,mild", "-m"],
    4: ["label_smoothing=none,mild", "schedule=cosine,constant", "-m"],
}
TRIALS_OF_IMAGES = 2  # of every point of the series over images
VALIDATION_FRACTION = 0.2
QUANTITIES = ("seconds", "cpu_seconds", "peak_rss_mib", "store_mib")
NO_PLOT = "there will be no plot, because matplotlib is missing: pip install 'matplotlib>=3.9,<4'"
MEANINGS = {
    "trials": "ideal: the mean seconds of the trials after the first, which also fills views and traces. Ratio 1: "
    "a further trial costs its suffix training and nothing else; above 1: the surplus is spent between trials.",
    "images": "ideal: time in proportion to the images, at the seconds per image of the largest point. Ratio 1: all "
    "time grows with the images; below 1: the rest is start-up that does not; above 1: time grows faster than images.",
    "jobs": "ideal: the mean over the jobs after the first of the sum of their trials' seconds. Ratio 1: a further job "
    "costs its trials and nothing else; above 1: the surplus is composing, building the model and trying one step. "
    "strict_ratio: against as many trials as a job has at the ideal of the trials, so without tracing them either.",
}

_STARTED = time.monotonic()
_FILLED = re.compile(r"activations of .*: (\d+) images in .* \((\d+)/s\)")


@dataclass(frozen=True)
class Work:
    """What one process has to do; `images` are those that are trained on."""

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
    found = sorted({int(part) for part in text.split(",")})
    if len(found) < 2 or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: a line needs two different numbers, 1 or more")
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--train", type=Path, required=True, help="zip or folder of labelled photographs")
    parser.add_argument("--weights", type=Path, required=True, help="of MobileNetV2 without top, .weights.h5 or .h5")
    parser.add_argument("--trials", type=numbers, default="1,5,20", help="of one job (%(default)s)")
    parser.add_argument("--images", type=numbers, default="500,1000,2000,8000", help="trained on (%(default)s)")
    parser.add_argument("--jobs", type=numbers, default="1,2,4", help="of one augmentation: 1, 2 or 4 (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of every trial (%(default)s)")
    parser.add_argument("--base-trials", type=int, default=5, help="of each job where jobs vary (%(default)s)")
    parser.add_argument("--base-images", type=int, default=1000, help="where images do not vary (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results" / "scaling.json")
    parser.add_argument("--keep", type=Path, help="an empty folder for everything that is written (a temporary one)")
    arguments = parser.parse_args()
    for path in (arguments.train, arguments.weights):
        if not path.exists():
            parser.error(f"{path}: there is no such file")
    if not set(arguments.jobs) <= set(JOBS):
        parser.error(f"--jobs: must be among {', '.join(map(str, JOBS))}")
    return arguments


def planned(arguments: argparse.Namespace) -> dict[str, dict[int, Work]]:
    """The processes of every series by the number that varies; two series may share one."""
    trials, images = arguments.base_trials, arguments.base_images
    return {
        "trials": {number: Work(1, number, images) for number in arguments.trials},
        "images": {number: Work(1, TRIALS_OF_IMAGES, number) for number in arguments.images},
        "jobs": {number: Work(number, trials, images) for number in arguments.jobs},
    }


def benchmark(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything, written to `--output` after every point."""
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
    wanted = list(dict.fromkeys(each for works in series.values() for each in works.values()))
    _say("unpacking and decoding, in nobody's time")
    for each in wanted:
        _, dataset, _ = sides.decode([each.limit])
        train_images = int((dataset.rows["split"] == "train").sum())
        # A few files of an archive may not decode.
        if train_images < 0.99 * each.images:
            raise SystemExit(
                f"--images: {each.images} were asked for, but {arguments.train} leaves {train_images} to train on "
                f"beside those for validation"
            )
    _say("rehearsal")
    sides.catsdogs("rehearsal", 1, 1, [min(wanted, key=lambda each: each.images).limit])
    for each in wanted:
        sides.empty_store()
        run = sides.catsdogs(each.name, each.trials, arguments.epochs, [each.limit, *JOBS[each.jobs]])
        points[each] = point(each, run, work / f"{each.name}.log", sides.store_bytes())
        _say(f"{each.name.replace('_', ' ')}: {run.seconds:.1f} s")
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
    """What one process took. Views after the first are filled while the first trial runs, and count in both seconds."""
    jobs = dict.fromkeys(trial["job"] for trial in run.trials)
    seconds = [[trial["seconds"] for trial in run.trials if trial["job"] == job] for job in jobs]
    if [len(trials) for trials in seconds] != [work.trials] * work.jobs or not all(t["trained"] for t in run.trials):
        raise SystemExit(f"{work.name}: not every trial was trained, so it cannot be compared; see {log.name}")
    text = log.read_text(encoding="utf-8", errors="replace")
    if "computed anew for every batch" in text:
        raise SystemExit(f"{work.name}: there was no room for the activations; see {log.name}")
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
    """Straight lines through a series, and the ideal one of its seconds."""
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
    off = np.abs(np.polyval([slope, intercept], x) - y)
    return {"slope": float(slope), "intercept": float(intercept), "largest_residual": float(off.max())}


def draw(results: dict[str, Any], path: Path) -> None:
    """Seconds over trials, images and jobs: as measured, the fitted line, the ideal one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = results["settings"]
    trials, images = settings["base_trials"], settings["base_images"]
    labels = {
        "trials": f"trials (1 job, {images:,} images)",
        "images": f"images trained on (1 job, {settings['trials_of_images']} trials)",
        "jobs": f"jobs ({trials} trials each, {images:,} images)",
    }
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(
        f"Seconds of a whole search as work grows: MobileNetV2, {UNFREEZE_DEPTH} layers unfrozen, "
        f"epochs: {settings['epochs']}, processor cores: {results['machine']['cores']}"
    )
    for axes, (name, series) in zip(figure.subplots(1, 3), results["series"].items(), strict=True):
        ends = np.array([0, series["numbers"][-1] * 1.05])
        for kind, its, style in (("fit", series["fits"]["seconds"], "-"), ("ideal", series["ideal"], "--")):
            label = f"{kind}: {its['slope']:.3g} s per {name[:-1]}"
            axes.plot(ends, its["intercept"] + its["slope"] * ends, style, label=label)
        axes.plot(series["numbers"], series["measured"]["seconds"], "o", color="black", label="measured")
        axes.set(xlabel=labels[name], ylabel="wall time in seconds", xlim=(0, ends[1]))
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.legend(title=f"fit / ideal = {series['ratio']:.2f}", loc="lower right")
    figure.savefig(path, dpi=120)


def table(results: dict[str, Any]) -> str:
    """The results for a terminal."""
    lines = []
    for name, series in results["series"].items():
        lines.append(f"{name:>8}{'wall s':>10}{'CPU s':>10}{'peak MiB':>10}{'store MiB':>11}")
        for place, number in enumerate(series["numbers"]):
            wall, cpu, rss, store = (series["measured"][quantity][place] for quantity in QUANTITIES)
            lines.append(f"{number:>8}{wall:>10.1f}{cpu:>10.1f}{rss:>10.0f}{store:>11.1f}")
        wall, cpu, rss, store = (series["fits"][quantity]["slope"] for quantity in QUANTITIES)
        lines.append(f"{'slope':>8}{wall:>10.4f}{cpu:>10.4f}{rss:>10.3f}{store:>11.3f}   per {name[:-1]}")
        lines.append(f"{'ideal':>8}{series['ideal']['slope']:>10.4f}   slope / ideal = {series['ratio']:.2f}")
        if "strict_ratio" in series:
            lines.append(f"{'strict':>8}{series['strict_ideal_slope']:>10.4f}   = {series['strict_ratio']:.2f}")
        lines += [f"  {part}" for part in series["ratio_means"].split(". ")] + [""]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(f"{time.monotonic() - _STARTED:7.0f} s  {text}", flush=True)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="catsdogs-scaling-") as folder:
            yield Path(folder)
        return
    if keep.exists() and any(keep.iterdir()):
        raise SystemExit(f"{keep}: is not empty, and what is in the store decides the times")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def main() -> int:
    arguments = parse_arguments()
    can_draw = importlib.util.find_spec("matplotlib") is not None
    if not can_draw:
        _say(NO_PLOT)
    with _folder(arguments.keep) as work:
        results = benchmark(arguments, work)
    print(table(results))
    if can_draw:
        draw(results, arguments.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
