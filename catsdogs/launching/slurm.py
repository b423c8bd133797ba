"""Hydra launcher: every job of a study is a job of a Slurm cluster, through hydra-submitit-launcher.

`hydra/launcher=slurm_cpu` and `slurm_gpu`. That plugin's own launcher asks Slurm's accounting how a job ended. Where
there is none, it waits for ever for a job that was killed; where there is one, the first such job ends the study
without a summary. This one asks Slurm's queue, and records the job as failed.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import submitit
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.slurm.slurm import SlurmInfoWatcher

from catsdogs.base.errors import UserError
from catsdogs.launching.failures import record_crash
from catsdogs.launching.registration import register

log = logging.getLogger(__name__)

# Hydra instantiates only launchers of this package; the class is handed to it under this name.
_TARGET = "hydra_plugins.catsdogs.SlurmLauncher"

# Every job of this user that the controller remembers: by default those that ended in the last five minutes, too.
_SQUEUE = ("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%F_%K %T")

# Longest time between two looks at the queue, well within those five minutes.
_SECONDS_BETWEEN_LOOKS = 60

# So long an interrupted study waits for its jobs, so that its summary says how they ended.
_SECONDS_TO_END = 20

# squeue's names of states in which a job will not run again. Others it will leave: it is requeued, suspended, ...
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
    "FORGOTTEN",  # ours: it is not in the queue any more
}


def prepare(choice: str, target: str) -> None:
    """Make the launcher of this option of `hydra/launcher`, which is Hydra's for this target, known to Hydra.

    Raises:
        UserError: it is another launcher for Slurm, or Slurm does not answer.
    """
    if target != _TARGET:
        raise UserError(
            f"hydra/launcher={choice}: it waits for ever for a job that is killed, or ends without a summary; use "
            "hydra/launcher=slurm_cpu or slurm_gpu, which take the same settings"
        )
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise UserError(
            f"hydra/launcher={choice}: there is no sbatch or no squeue here; run this where Slurm's commands are, "
            "or choose another launcher"
        )
    asked = subprocess.run(_SQUEUE, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise UserError(f"hydra/launcher={choice}: Slurm does not answer ({_last_line(asked.stderr)}); ask who runs it")
    Plugins.instance().class_name_to_class[_TARGET] = SlurmLauncher


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Submits the jobs as one array, waits for all of them, and records those that Slurm ended as failed."""

    def __call__(self, *arguments: Any, **settings: Any) -> JobReturn:
        """Run one job, on its node."""
        register()
        return super().__call__(*arguments, **settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        submitit.SlurmJob.watcher = QueueWatcher(delay_s=_SECONDS_BETWEEN_LOOKS)
        jobs = self._submitted(job_overrides, initial_job_idx)
        logs = Path(str(self.params["submitit_folder"])).parent
        log.info("%d jobs are Slurm's now, from %s; their logs are in %s", len(jobs), jobs[0].job_id, logs)
        try:
            return [self._ended(job, list(overrides)) for job, overrides in zip(jobs, job_overrides, strict=True)]
        except BaseException:
            _end(jobs)
            raise

    def _submitted(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[submitit.Job[JobReturn]]:
        settings = dict(self.params)
        executor = submitit.AutoExecutor(
            folder=settings.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=settings.pop("max_num_timeout"),
        )
        shared = {field.name for field in fields(BaseQueueConf)}
        state = Singleton.get_state()
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        try:
            executor.update_parameters(
                **{name if name in shared else f"slurm_{name}": value for name, value in settings.items()}
            )
            return executor.map_array(
                self,
                [list(overrides) for overrides in job_overrides],
                ["hydra.sweep.dir"] * len(numbers),
                numbers,
                [f"job_id_for_{number}" for number in numbers],
                [state] * len(numbers),
            )
        except FailedJobError as error:
            raise UserError(f"hydra/launcher: sbatch refuses the study ({_last_line(str(error))})") from error

    def _ended(self, job: submitit.Job[JobReturn], overrides: list[str]) -> JobReturn:
        """What the job returned; where it died, that it failed, recorded in its folder."""
        try:
            return job.results()[0]
        except UncompletedJobError as error:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            told = _last_line(str(error)) if isinstance(error, FailedJobError) else _death(job)
            status, value = record_crash(config, told)
            return JobReturn(cfg=config, overrides=overrides, status=status, _return_value=value)


class QueueWatcher(SlurmInfoWatcher):
    """What submitit asks for the states of its jobs, by squeue instead of sacct."""

    def _make_command(self) -> list[str] | None:
        return list(_SQUEUE) if self._registered - self._finished else None

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        text = string if isinstance(string, str) else string.decode()
        states = dict(line.split() for line in text.splitlines())
        told = {}
        for job in self._registered:
            state = states.get(job if "_" in job else f"{job}_N/A", "FORGOTTEN")
            told[job] = {"JobID": job, "State": state if state in _ENDED else "RUNNING"}
        return told


def _death(job: submitit.Job[Any]) -> str:
    state = job.watcher.get_state(job.job_id, mode="cache")
    return f"Slurm's job {job.job_id} ended without a result (state {state}); its log is {job.paths.stdout}"


def _end(jobs: list[submitit.Job[JobReturn]]) -> None:
    """Take back what waits, and interrupt what runs as Ctrl-C would; every job keeps what it finished."""
    names = [job.job_id for job in jobs]
    for which in ("--state=PENDING", "--signal=INT"):
        # It complains of those that have ended.
        subprocess.run(["scancel", which, *names], capture_output=True, check=False)
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline and not all(job.done(force_check=True) for job in jobs):
        time.sleep(1)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[-1]
