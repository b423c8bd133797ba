"""Entry point: best trial of a study -> final model, scores, TTA, submission.

python -m catsdogs.retrain study=NAME [job=JOB] [trial=TRIAL] [fit_on=all] [tta=auto] [ensemble=folds]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.base.text import escape_interpolations, quoted
from catsdogs.config.checks import validated
from catsdogs.config.compose import resolved, with_overrides
from catsdogs.config.saved_config import check_builder, is_trusted, named_builders, saved_config
from catsdogs.config.schema import RetrainConfig
from catsdogs.launching.application import hydra_application

if TYPE_CHECKING:
    from catsdogs.study.jobs import JobRecord


def task(config: DictConfig) -> None:
    """Retrain one trial, or several, and tell the scores."""
    # Keras and TensorFlow take seconds to import, and a mistake should be told before.
    plain = validated(resolved(config), RetrainConfig)

    from catsdogs.comparison.reporting import write_page
    from catsdogs.final.metrics import format_scores
    from catsdogs.final.retraining import make_final
    from catsdogs.study.jobs import best_jobs, chosen_trial, read_job, read_jobs

    study = Path(plain.studies_dir) / plain.study
    job = read_job(study / str(plain.job))
    assert job is not None
    jobs = best_jobs(study, read_jobs(study), job, plain.ensemble.num_jobs)
    _check_builders(plain, jobs)
    metrics = make_final(plain, jobs, chosen_trial(job, plain.trial), study)
    print()
    for line in format_scores(metrics):
        print(line)
    print(f"Written: {study / 'best'}")
    if plain.data.test is None and plain.data.sample is None:
        print("No submission.csv: data.test is not given")
    write_page(study)


def _check_builders(config: RetrainConfig, jobs: list[JobRecord]) -> None:
    builders = {jobs[0].name: config.backbone.builder}
    for job in jobs[1:]:
        backbone = job.result["config"].get("backbone", {})
        if "builder" not in backbone:
            raise UserError(
                f"job {job.folder}: its result.json contains no configuration; set a smaller ensemble.num_jobs"
            )
        builders[job.name] = str(backbone["builder"])
    if all(map(is_trusted, builders.values())):
        return  # folders of the user's may be large
    hydra = HydraConfig.get()
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    named = named_builders(hydra.overrides.task, folders, Path(config.studies_dir))
    for name, builder in builders.items():
        check_builder(builder, name, named)


def _complete(parsed: Any, arguments: list[str]) -> list[str]:
    """Find the job, and hand its configuration to Hydra as the one that the command line overrides."""
    from catsdogs.study.jobs import chosen_trial

    wanted = {
        override.key_or_group: str(override.value())
        for override in OverridesParser.create().parse_overrides(parsed.overrides)
        if override.key_or_group in ("study", "studies_dir", "job", "trial") and override.value() is not None
    }
    if parsed.multirun:
        raise UserError("retrain trains one model; leave -m out")
    added = []
    saved: Any = {}
    if "study" in wanted:
        studies, study = wanted.get("studies_dir", "multirun"), wanted["study"].rstrip("/")
        if "studies_dir" not in wanted and "/" in study:
            # As `report` and `predict` take it: the folder.
            studies, study = str(Path(study).parent), Path(study).name
            added.append(f"studies_dir={quoted(studies)}")
        if study != wanted["study"]:
            added.append(f"study={quoted(study)}")
        job = _chosen_job(Path(studies) / study, wanted.get("job"))
        chosen_trial(job, wanted.get("trial"))
        saved = OmegaConf.create(escape_interpolations(saved_config(job.result["config"])))
        if "job" not in wanted:
            added.append(f"job={quoted(job.name)}")
    elif not (parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion):
        raise UserError("study is not given; pass study=NAME, the name of a folder in multirun/")
    ConfigStore.instance().store(name="chosen_job", node=saved)
    return with_overrides(arguments, parsed.overrides, added)


def _chosen_job(study: Path, name: str | None) -> JobRecord:
    """The named job of a study, or its best one."""
    from catsdogs.study.jobs import best_job, read_jobs

    jobs = read_jobs(study)
    if name is None:
        job = best_job(study, jobs)
    else:
        named = [job for job in jobs if job.name == name]
        if not named:
            raise UserError(f"job={name}: study {study} has no such job; it has {', '.join(job.name for job in jobs)}")
        job = named[0]
    if not job.result["config"]:
        raise UserError(
            f"job {job.folder}: its result.json does not tell what it was run with; choose another job=NAME"
        )
    return job


def main() -> int:
    return hydra_application("retrain", task, _complete)


if __name__ == "__main__":
    sys.exit(main())
