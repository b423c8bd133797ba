"""Hooks around the jobs of a study: checks before the first job, summary and exit status after the last one."""

from __future__ import annotations

import dataclasses
import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from catsdogs.base.errors import UserError, first_line, print_error
from catsdogs.base.interrupts import stoppable
from catsdogs.base.text import counted, listed
from catsdogs.config.compose import (
    CONFIG_ERRORS,
    SHARED_KEYS,
    as_typed,
    format_config_error,
    to_search_config,
    with_value,
)
from catsdogs.config.effects import check_search, different, effective
from catsdogs.config.schema import DataConfig, SearchConfig
from catsdogs.launching.failures import exit_from_hook, user_message
from catsdogs.network.startup import check_backend

if TYPE_CHECKING:
    from catsdogs.data.dataset import Dataset
    from catsdogs.study.decision import JobDecision

# Files that several processes rewrite.
_REWRITTEN = ("study.json", "leaderboard.csv")
# Files of a job that Hydra opens without a check; a FIFO would block it forever.
_WRITTEN_BY_HYDRA = ("search.log", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")


def _exiting(hook: Callable[..., None]) -> Callable[..., None]:
    """Let errors of a hook end the process with status 1; Hydra would print a warning and exit with status 0."""

    @functools.wraps(hook)
    def run(*arguments: Any, **keywords: Any) -> None:
        try:
            with stoppable():
                hook(*arguments, **keywords)
        except Exception as error:
            if message := user_message(error):
                exit_from_hook(print_error(message))
            traceback.print_exc()
            exit_from_hook(1)

    return run


class StudyCallback(Callback):
    """Hydra's hooks before and after the jobs of a study."""

    # The study that runs: Hydra calls no hook after Ctrl-C.
    _running: ClassVar[Path | None] = None

    @classmethod
    def report_interrupted(cls) -> Path | None:
        """Print the results of the interrupted study. Return its folder, or None if no study was running."""
        from catsdogs.comparison.reporting import report_study
        from catsdogs.study.plan import record_ended

        study, cls._running = cls._running, None
        if study is not None:
            record_ended(study, [file.parent.name for file in study.glob("*/result.json")])
        if study is None or not any(study.glob("*/result.json")):
            return study
        try:
            report_study(study)
        except (KeyboardInterrupt, SystemExit):
            print("Interrupted again", file=sys.stderr)
        return study

    @classmethod
    def report_stopped(cls) -> bool:
        """Print why the study stopped early and its results so far. Return False if no study was running."""
        from catsdogs.study.leaderboard import write_leaderboard

        if cls._running is None:
            return False
        traceback.print_exc()
        print_error("the study stopped before all jobs finished; completed trials are saved")
        if any(cls._running.glob("*/result.json")):
            write_leaderboard(cls._running)
        cls.report_interrupted()
        return True

    @_exiting
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single job before it starts."""
        unused = ("hydra.launcher", "hydra/launcher", "hydra.sweeper", "hydra/sweeper")
        for word in config.hydra.overrides.hydra:
            if word.lstrip("+~").startswith(unused):
                raise UserError(f"{word}: no effect, because only -m has launchers and sweepers; remove it, or add -m")
        self._prepare([config], Path(config.hydra.run.dir).parent, [Path(config.hydra.run.dir).name])

    @_exiting
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every job, and read the images once, before the first job starts."""
        params = config.hydra.sweeper.params or {}
        if named := {*SHARED_KEYS} & {key.lstrip("+") for key in params}:
            problem = "cannot be swept, because all jobs of a study share it; set it on the command line"
            raise UserError(f"hydra.sweeper.params.{min(named)}: {problem}")
        with read_write(config.hydra):
            params.update({key: as_typed(f"{key}={value}").partition("=")[2] for key, value in params.items()})
        try:
            _check_launcher(config)
            jobs = _planned_jobs(config)
        except CONFIG_ERRORS as error:
            raise UserError(with_value(format_config_error(error), config.hydra.overrides.task)) from error
        names = [str(job.hydra.sweep.subdir) for job in jobs]
        self._prepare(jobs or [config], Path(config.hydra.sweep.dir), names)

    @_exiting
    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the summary of a single job."""
        self._finish(Path(config.hydra.run.dir).parent)

    @_exiting
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the summary of a study."""
        self._finish(Path(config.hydra.sweep.dir))

    def _prepare(self, jobs: list[DictConfig], study: Path, names: list[str]) -> None:
        # Imported here because pandas, scikit-learn and Pillow take a second, which `--help` need not wait for.
        from catsdogs.base.files import check_links, check_writable, remove_temporaries
        from catsdogs.base.resources import check_free_space
        from catsdogs.study.identity import activations
        from catsdogs.study.jobs import check_job_names
        from catsdogs.study.plan import write_plan

        check_backend()
        self._names = names
        keys = sorted({str(key) for job in jobs for key in job} - {"hydra"})
        configs = [to_search_config(OmegaConf.masked_copy(job, keys)) for job in jobs]
        typed = [_typed(job, bool(names)) for job in jobs]
        check_search(list(zip(configs, typed, strict=True)))
        check_links(study)
        for file in (study / name / written for name in names for written in _WRITTEN_BY_HYDRA):
            if file.exists() and not file.is_file():
                raise UserError(f"{file}: is not a regular file; remove it")
        check_writable(study, "study folder", "set another with study=NAME studies_dir=FOLDER")
        check_job_names(study)
        configs, decisions = _inspect_jobs(configs, study, names, typed)
        if any(decision.runs for decision in decisions) or not names:
            check_free_space(study, Path(configs[0].cache))
        study.mkdir(parents=True, exist_ok=True)
        jobs_to_run = [job for job in zip(names, configs, decisions, strict=False) if job[2].runs]
        planned = {name: (decision.planned, activations(config)) for name, config, decision in jobs_to_run}
        write_plan(study, names, sys.argv[1:], planned)
        remove_temporaries(study, _REWRITTEN)
        _print_start(configs[0], study, names, decisions)
        StudyCallback._running = study

    def _finish(self, study: Path) -> None:
        from catsdogs.comparison.reporting import report_study
        from catsdogs.study.jobs import State, read_jobs
        from catsdogs.study.leaderboard import write_leaderboard
        from catsdogs.study.locking import lock_message
        from catsdogs.study.plan import record_ended

        StudyCallback._running = None
        record_ended(study, self._names)
        try:
            write_leaderboard(study)
            jobs = read_jobs(study)
        except (UserError, OSError) as error:
            print_error(str(error))
            exit_from_hook(1)
        ended = (State.FAILED, State.INTERRUPTED)
        failed = [job for job in jobs if job.state in ended and (job.name in self._names or not self._names)]
        for job in failed:
            print_error(f"job {job.name}: {first_line(job.result.get('error') or 'unknown error')}")
        # Killed, or unable to write its result to a full disk.
        states = {job.name: job.state for job in jobs}
        silent = [name for name in self._names if states.get(name, State.KILLED) in (State.RUNNING, State.KILLED)]
        for name in silent:
            killed = f"job {name} exited without reporting a result (it was probably killed);"
            problem = f"{lock_message(study / name)}, then" if states.get(name) is State.RUNNING else killed
            print_error(f"{problem} run the same command again to resume")
        report_study(study)
        if silent:
            exit_from_hook(1)
        if failed:
            exit_from_hook(2 if all(job.result.get("error_type") == "UserError" for job in failed) else 1)


def _check_different(configs: list[SearchConfig], names: list[str], typed: list[list[str]], images: list[str]) -> None:
    """Raise a `UserError` if two jobs would train the same trials; `images` are the digests of images and split."""
    jobs: dict[str, tuple[str, SearchConfig, list[str]]] = {}
    for config, name, words, digest in zip(configs, names, typed, images, strict=False):
        same, other, others = jobs.setdefault(digest + repr(effective(config)), (name, config, words))
        if names.count(name) > 1:
            raise UserError(f"job {name}: two jobs of this study have these settings; remove the repeated value")
        if same != name:
            swept = tuple(f"{word.partition('=')[0]}." for word in words if word not in others)
            replacing = [word for word in words if word.lstrip("+").startswith(swept)]
            reason = f"{listed(replacing)} replaces that of the swept groups" if replacing else "no swept value differs"
            reason = f"their settings are equal, because {reason}"
            if keys := different(config, other):
                reason = f"because the difference in {listed(keys)} has no effect on them"
            problem = f"trains the same trials as job {same}"
            raise UserError(f"job {name}: {problem}, {reason}; remove one of the values")


def _typed(config: DictConfig, planned: bool) -> list[str]:
    """Return the overrides of a job; of jobs that a sweeper chooses one by one, only those of searched settings."""
    words = [str(word) for word in config.hydra.overrides.task]
    if planned:
        return words
    words += [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    if any(word.lstrip("+").startswith("space") for word in words):
        return []
    return [word for word in words if word.partition("=")[0].rpartition(".")[2] in config.space]


def _inspect_jobs(
    configs: list[SearchConfig], study: Path, names: list[str], typed: list[list[str]]
) -> tuple[list[SearchConfig], list[JobDecision]]:
    """Read and check the images of every job; return the configurations that fit them, and decisions on named jobs."""
    from catsdogs.data.dataset import load_dataset
    from catsdogs.data.fitting import fit_to_data
    from catsdogs.study.decision import inspect_job, with_values_of_job
    from catsdogs.study.identity import fingerprint
    from catsdogs.study.locking import is_locked, lock_message

    sources: dict[str, DataConfig] = {}
    notes: dict[str, None] = {}
    folders = [study / name for name in names] or [study]
    configs = [with_values_of_job(config, folder) for config, folder in zip(configs, folders, strict=True)]
    # Jobs with the same images and split read them once.
    images = [repr((config.data, config.split)) for config in configs]
    datasets: dict[str, Dataset] = {}
    for key, config in dict(zip(images, configs, strict=True)).items():
        datasets[key] = dataset = load_dataset(config.data, Path(config.cache), config.split)
        notes |= dict.fromkeys(dataset.notes)
        # A validation part of data.train has the effect of data.validation.
        own = config.data.validation or (config.data.train if dataset.own_validation else None)
        sources[key] = dataclasses.replace(config.data, validation=own)
    fitted = [fit_to_data(config, datasets[key]) for config, key in zip(configs, images, strict=True)]
    for note in notes | dict.fromkeys(note for _, note in fitted if note):
        print(note)
    configs = [config for config, _ in fitted]
    known = [dataclasses.replace(config, data=sources[key]) for config, key in zip(configs, images, strict=True)]
    check_search(list(zip(known, typed, strict=True)))
    _check_different(configs, names, typed, [datasets[key].digest for key in images])
    decisions = []
    for config, key, name in zip(configs, images, names, strict=False):
        if (locked := is_locked(study / name)) is not False:
            raise UserError(lock_message(study / name, locked))
        decisions.append(inspect_job(config, study / name, fingerprint(config, datasets[key].digest)))
    return configs, decisions


def _print_start(config: SearchConfig, study: Path, names: list[str], decisions: list[JobDecision]) -> None:
    from catsdogs.study.decision import summary

    trials = config.tuner.max_trials
    jobs = counted(len(names), "job") if names else "jobs chosen by the sweeper"
    per_job = "all trials of the tuner" if trials is None else f"{counted(trials, 'trial')} per job"
    epochs = f"up to {counted(config.fit.epochs, 'epoch')} per trial"
    print(f"Study {study.name}: {jobs}, {per_job}, {epochs}")
    lines = summary(study.name, names, decisions)
    # A single line only counts new jobs.
    for line in lines if len(lines) > 1 else []:
        print(line)


def _check_launcher(config: DictConfig) -> None:
    """Check and register the Slurm launcher, if it is chosen."""
    target = str(config.hydra.launcher._target_)
    if not target.endswith(".SlurmLauncher"):
        return
    choice = str(config.hydra.runtime.choices["hydra/launcher"])
    try:
        from catsdogs.launching import slurm
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed; run pip install 'catsdogs[slurm]'"
        raise UserError(f"hydra/launcher={choice}: {problem}") from error
    slurm.prepare(choice, target)


def _planned_jobs(config: DictConfig) -> list[DictConfig]:
    """Return the configuration of every job of a multirun; empty if another sweeper chooses them one by one."""
    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return []
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(params + list(config.hydra.overrides.task))
    return [loader.load_sweep_config(config, job) for job in BasicSweeper.split_arguments(overrides, None)[0]]
