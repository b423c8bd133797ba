"""What an ingredient adds: jobs that were scored on the same images, each compared with the first one image by image.

python benchmarks/ingredients.py multirun/size/JOB multirun/lr multirun/mixing ...

Arguments are folders of jobs, or of studies for all of their jobs. Prints a table in Markdown and writes
benchmarks/results/ingredients.json. Log losses are of `validation.csv`, of images that the model was not trained on;
calibrated ones are cross-fitted (`calibration.cross_fitted`). Intervals are 95 % ones over images, and tell nothing
about other seeds of a training.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import machine, versions
from omegaconf import OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.scoring.calibration import cross_fitted, fit
from catsdogs.scoring.intervals import Estimate, mean_intervals
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import RESULT, read_jobs

BOOKKEEPING = ("study=", "varied=")  # overrides that change no number

RESULTS = Path(__file__).parent / "results" / "ingredients.json"


@dataclasses.dataclass(frozen=True)
class Scored:
    """A job, and the losses of its images; float64 (N,), in the order of ids."""

    name: str
    ids: list[str]
    overrides: list[str]
    seconds: float
    plain: np.ndarray
    calibrated: np.ndarray
    temperature: float


def scored(folder: Path) -> Scored:
    """What a job's best trial said of the images that it had not seen."""
    table = pd.read_csv(folder / "validation.csv", dtype={"id": str}).sort_values("id")
    labels, p_dog = table["label"].to_numpy(np.float64), table["p_dog"].to_numpy(np.float64)
    return Scored(
        name=f"{folder.parent.name}/{folder.name}",
        ids=table["id"].tolist(),
        overrides=list(OmegaConf.load(folder / ".hydra" / "overrides.yaml")),
        seconds=float(read_json(folder / RESULT)["seconds"]),
        plain=log_loss_per_image(labels, p_dog),
        calibrated=log_loss_per_image(labels, cross_fitted(labels, p_dog)),
        temperature=fit(labels, p_dog).temperature,
    )


def jobs_of(folder: Path) -> list[Path]:
    """The folder itself if it is a job, else the jobs in it."""
    return [folder] if (folder / RESULT).is_file() else [job.folder for job in read_jobs(folder)]


def compared(jobs: list[Scored]) -> list[dict[str, Any]]:
    """A row for every job; `minus_first` is below 0 where it is better than the first one."""
    first = jobs[0]
    rows = []
    for job in jobs:
        if job.ids != first.ids:
            raise UserError(
                f"{job.name}: it was not scored on the same images as {first.name}; compare within one split"
            )
        changed = sorted(set(job.overrides) - set(first.overrides))
        row: dict[str, Any] = {"job": job.name, "changed": [one for one in changed if not one.startswith(BOOKKEEPING)]}
        for kind in ("plain", "calibrated"):
            loss, base = getattr(job, kind), getattr(first, kind)
            own, difference = mean_intervals(np.stack([loss, loss - base]))
            row[kind] = dataclasses.asdict(own)
            row[f"{kind}_minus_first"] = dataclasses.asdict(difference)
        rows.append(row | {"temperature": job.temperature, "seconds": job.seconds})
    return rows


def told(interval: dict[str, Any], sign: str = "") -> str:
    """`0.0384 (0.0330 to 0.0440)`."""
    found = Estimate(**interval)
    return f"{found.value:{sign}.4f} ({found.low:{sign}.4f} to {found.high:{sign}.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="the first job is what the others are compared with")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    jobs = [scored(job) for job in dict.fromkeys(job for folder in arguments.folders for job in jobs_of(folder))]
    rows = compared(jobs)
    print("| changed | log loss | minus the first | calibrated | minus the first |\n|---|---|---|---|---|")
    for row in rows:
        cells = [" ".join(row["changed"]) or row["job"], told(row["plain"]), told(row["plain_minus_first"], "+")]
        cells += [told(row["calibrated"]), told(row["calibrated_minus_first"], "+")]
        print(f"| {' | '.join(cells)} |")
    record = {"images": len(jobs[0].ids), "jobs": rows, "machine": machine(), "versions": versions()}
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
