"""Commands that run through Hydra: the command line, the jobs in their processes, and the exit status."""

import logging
import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from catsdogs.base.bar import progress_bar
from catsdogs.base.errors import print_error
from catsdogs.base.interrupts import acknowledge, exit_status, stoppable
from catsdogs.base.output import continue_without_output
from catsdogs.base.processes import processors, share_of_machine, thread_limit
from catsdogs.config.compose import VERSION_BASE, as_typed, resume_command, with_value
from catsdogs.config.locations import conf_dir
from catsdogs.launching.failures import exit_from_hook, record_failure, user_message
from catsdogs.launching.registration import register
from catsdogs.launching.study_hooks import StudyCallback

log = logging.getLogger(__name__)


def hydra_application(
    config_name: str, task: Callable[[DictConfig], Any], complete: Callable[[Any, list[str]], list[str]]
) -> int:
    """Run a command through Hydra, print user errors as one line, and return the exit status.

    The status is 0, 2 for a user error, 130 for Ctrl-C, or 143 for SIGTERM. A study with failed jobs exits from its
    hook. `config_name` is the primary configuration in `conf/`, and `task` runs every job. `complete` gets Hydra's
    parsed command line and the arguments, and returns these completed.
    """
    register()
    # Hydra's own variable: if the user sets it, configuration errors keep their traceback.
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra then raises its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv
    words = [as_typed(word) for word in arguments[1:]]
    try:
        parsed = get_args_parser().parse_intermixed_args(words)
        with stoppable():
            # Hydra's own parser requires the overrides in one place.
            options = [*words]
            for override in parsed.overrides:
                options.remove(override)
            sys.argv = [arguments[0], *complete(parsed, [*parsed.overrides, *options])]
            application = hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=config_name)
            application(JobTask(task, tracebacks))()
    except KeyboardInterrupt as stop:
        acknowledge()
        print("\nInterrupted; finished trials and models are saved", file=sys.stderr)
        study = StudyCallback.report_interrupted()
        if config_name == "retrain":
            print(f"To continue: python -m catsdogs.retrain {shlex.join(arguments[1:])}")
        elif study is not None:
            print(f"To resume: {resume_command(words, parsed.overrides, study.name)}")
        return exit_status(stop)
    except Exception as error:
        message = None if tracebacks else user_message(error)
        if message is not None:
            return print_error(with_value(message, parsed.overrides))
        # A launcher or sweeper failed: joblib if a worker was killed.
        if not StudyCallback.report_stopped():
            raise
        return 1
    finally:
        sys.argv = arguments
        if not tracebacks:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0


@dataclass(frozen=True)
class JobTask:
    """The function that Hydra calls for every job; picklable, because launchers send it to other processes.

    An error in `task` fails only this job.
    """

    task: Callable[[DictConfig], Any]
    tracebacks: bool

    def __call__(self, config: DictConfig) -> Any:
        """Run one job; return its objective, or NaN if it failed."""
        continue_without_output()
        hydra_node = HydraConfig.get()
        if hydra_node.job.chdir:  # paths are relative to the folder where the command was given
            os.chdir(hydra_node.runtime.cwd)
        multirun = hydra_node.mode == RunMode.MULTIRUN
        # Threads and GPU are fixed once a worker has loaded one of these libraries.
        if multirun and not {"tensorflow", "jax"} & set(sys.modules):
            # Other launchers limit the threads of their workers by variables that not every library reads.
            jobs = int(hydra_node.launcher.get("n_jobs", 1))  # joblib's
            jobs = jobs if jobs > 0 else processors()
            os.environ.update(share_of_machine(jobs, int(hydra_node.job.num), thread_limit()))
        folder = Path(hydra_node.runtime.output_dir)
        try:
            jobs_at_a_time = hydra_node.launcher.get("jobs", hydra_node.launcher.get("n_jobs", 1)) if multirun else 1
            with stoppable(in_job=multirun), progress_bar(jobs_at_a_time == 1):
                objective = self.task(config)
        except Exception as error:
            message = user_message(error)
            if not multirun:
                if message is None or self.tracebacks:
                    raise
                exit_from_hook(print_error(message))
            log.error("job %s failed: %s", folder.name, message or error, exc_info=message is None)
            record_failure(hydra_node, folder, error)
            objective = math.nan
        return objective
