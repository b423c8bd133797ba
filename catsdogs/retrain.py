"""Command `retrain`: train the best trial of a study again as the final model, score it and write a submission.

python -m catsdogs.retrain multirun/NAME [job=JOB] [trial=TRIAL] [fit_on=all] [tta=none] [ensemble=folds]
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_links, check_writable
from catsdogs.base.text import escape_interpolations, quoted
from catsdogs.config.checks import validated
from catsdogs.config.compose import parse_overrides, resolved
from catsdogs.config.effects import check_retrain
from catsdogs.config.locations import expanded, typed_study
from catsdogs.config.saved_config import check_builder, is_trusted, named_builders, saved_config
from catsdogs.config.schema import RetrainConfig
from catsdogs.launching.application import hydra_application
from catsdogs.network.startup import start_keras

if TYPE_CHECKING:
    from catsdogs.study.jobs import JobRecord


def task(config: DictConfig) -> None:
    """Train the final model and print its scores."""
    # Keras takes seconds to import; user errors are reported before that.
    try:
        settings = validated(resolved(config), RetrainConfig)
    except UserError as error:
        typed = tuple(re.split("[=@]", word)[0].lstrip("+~") for word in HydraConfig.get().overrides.task)
        if str(error).startswith(typed):
            raise
        raise UserError(f"{Path(config.studies_dir) / config.study / config.job}/result.json: {error}") from error

    from catsdogs.study.jobs import best_jobs, chosen_trial, read_job, read_jobs

    study = Path(settings.studies_dir) / settings.study
    job = read_job(study / str(settings.job))
    assert job is not None
    trial = chosen_trial(job, settings.trial)
    check_retrain(settings, HydraConfig.get().overrides.task, trial.trial, trial.hyperparameters)
    start_keras()

    from catsdogs.comparison.reporting import write_page
    from catsdogs.final.metrics import format_scores
    from catsdogs.final.retraining import make_final

    ensemble = settings.ensemble
    jobs = best_jobs(study, read_jobs(study), job, None if ensemble.kind == "trials" else ensemble.num_jobs)
    _check_builders(settings, jobs)
    metrics = make_final(settings, jobs, trial, study)
    print()
    for line in format_scores(metrics):
        print(line)
    print(f"Written: {study / 'best'}")
    if settings.data.test is None and settings.data.sample is None:
        print("No submission.csv written: data.test is not set")
    write_page(study)


def _check_builders(config: RetrainConfig, jobs: list[JobRecord]) -> None:
    builders = {jobs[0].name: config.backbone.builder}
    for job in jobs[1:]:
        backbone = job.result["config"].get("backbone", {})
        if "builder" not in backbone:
            problem = "its result.json contains no configuration; set a smaller ensemble.num_jobs"
            raise UserError(f"job {job.folder}: {problem}")
        builders[job.name] = str(backbone["builder"])
    if all(map(is_trusted, builders.values())):
        return  # reading every file of a large --config-dir is slow
    hydra = HydraConfig.get()
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    trusted = named_builders(hydra.overrides.task, folders, Path(config.studies_dir))
    for name, builder in builders.items():
        check_builder(builder, name, trusted)


def _complete(parsed: Any, arguments: list[str]) -> list[str]:
    """Find the job, and pass its configuration to Hydra as the one that the command line overrides."""
    from catsdogs.study.jobs import chosen_trial

    overrides = [*parsed.overrides]
    if overrides and not re.search(r"=|\A[~+]", overrides[0]) and ("/" in overrides[0] or os.path.isdir(overrides[0])):
        overrides[0] = f"study={quoted(os.path.join('.', typed_study(overrides[0])))}"
    given = {
        override.key_or_group: str(override.value())
        for override in parse_overrides(overrides)
        if override.key_or_group in ("study", "studies_dir", "job", "trial") and override.value() is not None
    }
    if parsed.multirun:
        raise UserError("-m: retrain does not support multirun; remove -m")
    about = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    added = []
    saved: Any = {}
    if "study" in given:
        studies, study = expanded(given.get("studies_dir", "multirun")), expanded(given["study"]).rstrip("/")
        if "studies_dir" not in given and "/" in study:
            # `report` and `predict` also accept the path of a study.
            studies, study = str(Path(study).parent), Path(study).name
            added.append(f"studies_dir={quoted(studies)}")
        if study != given["study"]:
            added.append(f"study={quoted(study)}")
        check_links(Path(studies) / study)
        job = _chosen_job(Path(studies) / study, given.get("job"))
        if not about:
            check_writable(job.folder.parent, "study", "copy it to a writable folder, or ask its owner for permission")
        chosen_trial(job, given.get("trial"))
        saved = OmegaConf.create(escape_interpolations(saved_config(job.result["config"])))
        if "job" not in given:
            added.append(f"job={quoted(job.name)}")
    elif not about:
        raise UserError("study: not set; pass the folder of a study first, for example multirun/NAME")
    ConfigStore.instance().store(name="chosen_job", node=saved)
    return [*overrides, *added, *arguments[len(overrides) :]]


def _chosen_job(study: Path, name: str | None) -> JobRecord:
    from catsdogs.study.jobs import best_job, read_jobs

    jobs = read_jobs(study)
    named = {job.name: job for job in jobs}
    if name is not None and name not in named:
        raise UserError(f"job={name}: not found in study {study}; use one of {', '.join(named)}")
    job = best_job(study, jobs) if name is None else named[name]
    if not job.result["config"]:
        problem = job.result.get("error") or "its result.json contains no configuration"
        raise UserError(f"job {job.folder}: {problem}; set another job=NAME")
    return job


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(lambda: hydra_application("retrain", task, _complete))


if __name__ == "__main__":
    sys.exit(main())
