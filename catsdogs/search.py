"""Command `search`: every Hydra job is one Keras Tuner search of many trials.

python -m catsdogs.search                                one job
python -m catsdogs.search -m                             the default study
python -m catsdogs.search -m sweeps=label_smoothing      a declared study
python -m catsdogs.search -m experiment=quickstart       minutes, offline, on synthetic images
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from catsdogs.base.errors import exit_status_of
from catsdogs.config.compose import job_choices, to_search_config, with_default_study
from catsdogs.launching.application import hydra_application


def task(config: DictConfig) -> float:
    """Run one job, and return its objective for sweepers that optimize it."""
    from catsdogs.study.plan import read_plan
    from catsdogs.tuning.job import JobLocation, run_job

    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    names = read_plan(folder.parent).run
    # Sweepers that choose jobs one by one plan no names; a single job has no number.
    planned, is_multirun = folder.name in names, settings.mode == RunMode.MULTIRUN
    index = names.index(folder.name) if planned else int(settings.job.num) if is_multirun else 0
    location = JobLocation(folder, folder.parent, index + 1, len(names) if planned else None)
    return run_job(to_search_config(config), location, job_choices(settings, config.varied))


def _complete(parsed: Any, arguments: list[str]) -> list[str]:
    return with_default_study(arguments, parsed.overrides, parsed.multirun)


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(lambda: hydra_application("search", task, _complete))


if __name__ == "__main__":
    sys.exit(main())
