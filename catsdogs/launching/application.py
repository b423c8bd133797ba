"""What happens around Hydra's jobs: checks before the first, the summary after the last, the exit status."""

from __future__ import annotations

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.interrupts import exit_status, terminable
from catsdogs.base.processes import processors, share_of_machine, thread_limit
from catsdogs.config.compose import (
    CONFIG_ERRORS,
    VERSION_BASE,
    as_typed,
    format_config_error,
    raised_by_hydra,
    resume_command,
    to_search_config,
)
from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import SearchConfig
from catsdogs.config.setting_names import check_overrides
from catsdogs.launching.failures import JobFailed, knows_all_jobs, record_failure
from catsdogs.launching.registration import register

log = logging.getLogger(__name__)

# Files of a study that several processes write again and again; a temporary one so old is what a kill left.
_REWRITTEN = ("study.json", "leaderboard.csv", "report.html")
_ABANDONED_SECONDS = 600.0


def hydra_application(
    config_name: str, task: Callable[[DictConfig], Any], complete: Callable[[Any, list[str]], list[str]]
) -> int:
    """Run a Hydra application whose mistakes are told in one sentence.

    Args:
        config_name: of the primary configuration in `conf/`.
        task: what runs in every job.
        complete: gets Hydra's view of the command line and the command line, and gives the completed one; may raise
            UserError.

    Returns:
        The exit status: 0, 2 for a mistake of the user, 130 for Ctrl-C, or 143 for SIGTERM. A study in which
        a job failed exits from its callback.
    """
    register()
    # Hydra's own switch: errors of the configuration keep their traceback.
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # With this Hydra raises what went wrong instead of printing its own account of it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv
    words = [as_typed(word) for word in arguments[1:]]
    try:
        parsed = get_args_parser().parse_args(words)
        check_overrides(parsed.overrides)
        sys.argv = [arguments[0], *complete(parsed, words)]
        application = hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=config_name)
        with terminable():
            application(JobTask(task, tracebacks))()
    except CONFIG_ERRORS as error:
        if tracebacks:
            raise
        return _tell(format_config_error(error))
    except KeyboardInterrupt as stop:
        print("\ninterrupted: what was finished is kept", file=sys.stderr)
        study = StudyCallback.interrupted()
        if study is not None:
            print(f"To go on: {resume_command(words, parsed.overrides, study.name)}")
        return exit_status(stop)
    except Exception as error:
        from catsdogs.base.resources import as_out_of_resources

        if isinstance(error, ValueError) and not tracebacks and raised_by_hydra(error):
            return _tell(format_config_error(error))
        ran_out = as_out_of_resources(error) if isinstance(error, OSError) and not tracebacks else None
        if ran_out is not None:
            return _tell(str(ran_out))
        # A launcher or a sweeper gave up: joblib when a worker was killed, Optuna when no job succeeded.
        if not StudyCallback.gave_up():
            raise
        return 1
    finally:
        sys.argv = arguments
        if not tracebacks:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0


@dataclass(frozen=True)
class JobTask:
    """What Hydra calls for every job, wherever its launcher runs it: launchers hand it to other processes.

    An error that `task` lets through ends this job and no other.
    """

    task: Callable[[DictConfig], Any]
    tracebacks: bool

    def __call__(self, config: DictConfig) -> Any:
        # TensorFlow's account of its own start, and of tracing a new model per trial, would stand between our lines.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        hydra_node = HydraConfig.get()
        if hydra_node.mode != RunMode.MULTIRUN:
            return self._alone(config)
        # A worker that has computed before keeps the threads and the GPU that it has.
        if not {"tensorflow", "jax"} & set(sys.modules):
            # Launchers that are not ours tell their workers the number of threads, and not every library reads theirs.
            jobs = int(hydra_node.launcher.get("n_jobs", 1))  # joblib's
            share = share_of_machine(jobs if jobs > 0 else processors(), int(hydra_node.job.num), thread_limit())
            os.environ.update(share)
        folder = Path(hydra_node.runtime.output_dir)
        try:
            objective = self.task(config)
        except Exception as error:
            log.error("job %s failed: %s", folder.name, error, exc_info=not isinstance(error, UserError))
            record_failure(hydra_node, folder, error)
            objective = math.nan
        if math.isnan(objective) and not knows_all_jobs(hydra_node):
            raise JobFailed(f"job {folder.name} failed")
        return objective

    def _alone(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except UserError as error:
            if self.tracebacks:
                raise
            _exit(_tell(str(error)))


def _tell(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def _exit(status: int) -> NoReturn:
    # Hydra turns an Exception of a callback into a warning; SystemExit passes.
    sys.stdout.flush()
    raise SystemExit(status)


class StudyCallback(Callback):
    """Hydra's hooks before and after the jobs of a study."""

    # The study whose jobs run: Hydra calls no hook when the user interrupts them.
    _at_hand: ClassVar[Path | None] = None

    @classmethod
    def interrupted(cls) -> Path | None:
        """Tell what the study has found so far; give its folder, if its jobs had begun."""
        from catsdogs.comparison.reporting import report_study

        study, cls._at_hand = cls._at_hand, None
        if study is None or not any(study.glob("*/result.json")):
            return study
        try:
            report_study(study)
        except KeyboardInterrupt:
            print("interrupted again: the report is not written", file=sys.stderr)
        return study

    @classmethod
    def gave_up(cls) -> bool:
        """Tell what ended a study before its end, and what it has found so far; whether a study was at hand."""
        from catsdogs.study.jobs import write_leaderboard

        if cls._at_hand is None:
            return False
        traceback.print_exc()
        print("error: the study ended before its end; what was finished is kept", file=sys.stderr)
        if any(cls._at_hand.glob("*/result.json")):
            write_leaderboard(cls._at_hand)
        cls.interrupted()
        return True

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single job before it starts."""
        self._before([config], Path(config.hydra.run.dir).parent, [Path(config.hydra.run.dir).name])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Compose and check every job, and read the archives once, before the first job starts."""
        try:
            _check_launcher(config)
            jobs = _planned_jobs(config)
        except CONFIG_ERRORS as error:
            _exit(_tell(format_config_error(error)))
        names = [str(job.hydra.sweep.subdir) for job in jobs]
        self._before(jobs or [config], Path(config.hydra.sweep.dir), names)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._after(Path(config.hydra.run.dir).parent)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._after(Path(config.hydra.sweep.dir))

    def _before(self, jobs: list[DictConfig], study: Path, names: list[str]) -> None:
        # Not at the top: pandas, scikit-learn and Pillow take a second that `--help` need not wait for.
        from catsdogs.base.files import remove_temporaries
        from catsdogs.base.resources import check_free_space
        from catsdogs.data.dataset import load_dataset
        from catsdogs.study.decision import inspect_job, summary
        from catsdogs.study.identity import fingerprint
        from catsdogs.study.jobs import check_job_names, write_plan
        from catsdogs.study.locking import is_locked, lock_message

        self._names = names
        try:
            configs = [
                to_search_config(OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"]))
                for job in jobs
            ]
            check_job_names(study)
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise UserError(f"two jobs of this study would share the folder {min(twice)}: they choose the same")
            digests = {
                _images(plain): load_dataset(plain.data, Path(plain.cache), plain.split).digest
                for plain in {_images(plain): plain for plain in configs}.values()
            }
            standings = []
            for plain, name in zip(configs, names, strict=False):
                if is_locked(study / name):
                    raise UserError(lock_message(study / name))
                standings.append(inspect_job(plain, study / name, fingerprint(plain, digests[_images(plain)])))
            if any(standing.runs for standing in standings) or not names:
                check_free_space(study, Path(configs[0].cache))
            study.mkdir(parents=True, exist_ok=True)
            write_plan(study, names, sys.argv[1:])
            remove_temporaries(study, _REWRITTEN, _ABANDONED_SECONDS)
        except UserError as error:
            _exit(_tell(str(error)))
        except OSError as error:
            _exit(_tell(f"study folder {study}: {error.strerror}; choose another with study=NAME studies_dir=FOLDER"))
        trials, epochs = configs[0].tuner.max_trials or "all", configs[0].fit.epochs
        count = f"{len(names)} job{'s' if len(names) > 1 else ''}" if names else "jobs as the sweeper decides"
        print(f"study {study.name}: {count}, {trials} trials each, at most {epochs} epochs a trial")
        lines = summary(study.name, names, standings)
        # Where nothing was done before, the line above says it all.
        for line in lines if len(lines) > 1 else []:
            print(line)
        StudyCallback._at_hand = study

    def _after(self, study: Path) -> None:
        from catsdogs.comparison.reporting import report_study
        from catsdogs.study.jobs import State, read_jobs, write_leaderboard
        from catsdogs.study.locking import lock_message

        StudyCallback._at_hand = None
        try:
            write_leaderboard(study)
            jobs = read_jobs(study)
        except (UserError, OSError) as error:
            _tell(str(error))
            _exit(1)
        except Exception:
            # Hydra would make a warning of it, and a study with failed jobs would end with status 0.
            traceback.print_exc()
            _exit(1)
        ended = (State.FAILED, State.INTERRUPTED)
        failed = [job for job in jobs if job.state in ended and (job.name in self._names or not self._names)]
        for job in failed:
            print(f"error: job {job.name}: {first_line(job.result.get('error') or '?')}", file=sys.stderr)
        # Killed, or on a disk too full to say so.
        silent = [job for job in jobs if job.state in (State.RUNNING, State.KILLED) and job.name in self._names]
        for job in silent:
            killed = f"job {job.name}: it ended without a word of how"
            how = killed if job.state is State.KILLED else lock_message(job.folder)
            print(f"error: {how}; the same command goes on", file=sys.stderr)
        report_study(study)
        if silent:
            _exit(1)
        if failed:
            _exit(2 if all(job.result.get("error_type") == "UserError" for job in failed) else 1)


def _images(config: SearchConfig) -> str:
    """The same text for jobs that share their images and how these are divided."""
    return repr((config.data, config.split))


def _check_launcher(config: DictConfig) -> None:
    """Prepare what the chosen launcher needs, where it needs something."""
    target = str(config.hydra.launcher._target_)
    if not target.endswith(".SlurmLauncher"):
        return
    choice = str(config.hydra.runtime.choices["hydra/launcher"])
    try:
        from catsdogs.launching import slurm
    except ModuleNotFoundError as error:
        raise UserError(f"hydra/launcher={choice}: {error.name} is missing; pip install 'catsdogs[slurm]'") from error
    slurm.prepare(choice, target)


def _planned_jobs(config: DictConfig) -> list[DictConfig]:
    """The configuration of every job of a multirun; empty where another sweeper decides as it goes."""
    if not knows_all_jobs(config.hydra):
        return []
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(params + list(config.hydra.overrides.task))
    return [loader.load_sweep_config(config, job) for job in BasicSweeper.split_arguments(overrides, None)[0]]
