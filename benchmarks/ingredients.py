"""Effect of each ingredient: jobs scored on the same images, each compared with the first one image by image.

python benchmarks/ingredients.py multirun/size/JOB multirun/lr multirun/mixing ...

Arguments are folders of jobs, or of studies for all of their jobs. Prints a table in Markdown and writes
benchmarks/results/ingredients.json. Log losses come from `validation.csv`, so they are out of sample; calibrated ones
are cross-fitted (`calibration.cross_fitted`). Intervals are 95% confidence intervals over images, not over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
from machine import machine, versions
from omegaconf import OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.scoring.calibration import cross_fitted, fit
from catsdogs.scoring.classes import DEFAULT, Classes
from catsdogs.scoring.intervals import METHOD, Estimate, ImageScores, mean_intervals, paired_intervals
from catsdogs.scoring.scores import score_images
from catsdogs.study.jobs import RESULT, read_jobs

BOOKKEEPING = ("study=", "varied=")  # overrides without effect on results

RESULTS = Path(__file__).parent / "results" / "ingredients.json"


@dataclasses.dataclass(frozen=True)
class ScoredJob:
    """A job and the scores of its N images, in the order of ids."""

    name: str
    ids: list[str]
    overrides: list[str]
    seconds: float
    plain: ImageScores
    calibrated: ImageScores
    temperature: float


def read_losses(folder: Path) -> ScoredJob:
    """Return the losses of a job's best trial on its validation images."""
    table = pd.read_csv(folder / "validation.csv", dtype={"id": str}).sort_values("id")
    result = read_json(folder / RESULT)
    labels, p = table["label"].to_numpy(int), Classes(tuple(result.get("classes", DEFAULT.names))).read(table)
    return ScoredJob(
        name=f"{folder.parent.name}/{folder.name}",
        ids=table["id"].tolist(),
        overrides=list(OmegaConf.load(folder / ".hydra" / "overrides.yaml")),
        seconds=float(result["seconds"]),
        plain=score_images(labels, p),
        calibrated=score_images(labels, cross_fitted(labels, p)),
        temperature=fit(labels, p).temperature,
    )


def jobs_of(folder: Path) -> list[Path]:
    """Return the folder itself if it is a job, otherwise the folders of its jobs."""
    return [folder] if (folder / RESULT).is_file() else [job.folder for job in read_jobs(folder)]


def compare(jobs: list[ScoredJob]) -> list[dict[str, Any]]:
    """Return a row per job; a negative `minus_first` is better than the first job."""
    first = jobs[0]
    rows = []
    for job in jobs:
        if job.ids != first.ids:
            raise UserError(
                f"{job.name}: validation images differ from those of {first.name}; compare jobs with the same split"
            )
        added = sorted(set(job.overrides) - set(first.overrides))
        row: dict[str, Any] = {"job": job.name, "changed": [text for text in added if not text.startswith(BOOKKEEPING)]}
        for kind in ("plain", "calibrated"):
            scores = ImageScores(*(part[None] for part in getattr(job, kind)))
            row[kind] = dataclasses.asdict(mean_intervals(scores.losses, scores.wrong.sum(axis=1))[0])
            row[f"{kind}_minus_first"] = dataclasses.asdict(paired_intervals(scores, getattr(first, kind))[0])
        rows.append(row | {"temperature": job.temperature, "seconds": job.seconds})
    return rows


def format_estimate(record: dict[str, Any], sign: str = "") -> str:
    """Format a value with its interval: `0.0384 (0.0330 to 0.0440)`."""
    estimate = Estimate(**record)
    return f"{estimate.value:{sign}.4f} ({estimate.low:{sign}.4f} to {estimate.high:{sign}.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="jobs or studies; the first job is the reference")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    jobs = [read_losses(job) for job in dict.fromkeys(job for folder in arguments.folders for job in jobs_of(folder))]
    rows = compare(jobs)
    print("| changed | log loss | minus the first | calibrated | minus the first |\n|---|---|---|---|---|")
    for row in rows:
        cells = [" ".join(row["changed"]) or row["job"]]
        for kind in ("plain", "calibrated"):
            cells += [format_estimate(row[kind]), format_estimate(row[f"{kind}_minus_first"], "+")]
        print(f"| {' | '.join(cells)} |")
    record = {"interval": METHOD, "images": len(jobs[0].ids), "jobs": rows}
    write_json(arguments.output, record | {"machine": machine(), "versions": versions()})


if __name__ == "__main__":
    main()
