"""Hydra launcher that runs every job as a Slurm job, through hydra-submitit-launcher.

`hydra/launcher=slurm_cpu` and `slurm_gpu`. The plugin's own launcher reads job states from Slurm's accounting. Without
accounting, it waits forever for a killed job; with it, the first killed job stops the study without a summary. This
launcher reads Slurm's queue, and records killed jobs as failed.
"""

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

# Hydra instantiates only launchers of this package, so the class is registered under this name.
_TARGET = "hydra_plugins.catsdogs.SlurmLauncher"

# Lists every job of this user that the controller remembers, by default including those of the last five minutes.
_SQUEUE = ("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%F_%K %T")

# Longest time between two queries of the queue, well below those five minutes.
_POLL_SECONDS = 60

# An interrupted study waits this long for its jobs, to include their results in its summary.
_STOP_SECONDS = 20

# squeue's names of final states, and FORGOTTEN: the job is no longer listed. A job leaves other states, such as
# REQUEUED or SUSPENDED.
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"),
    "FORGOTTEN",
}


def prepare(choice: str, target: str) -> None:
    """Register the launcher; raise a `UserError` if `target` is another one for Slurm, or Slurm cannot be reached."""
    if target != _TARGET:
        fix = "use hydra/launcher=slurm_cpu or slurm_gpu, which accept the same settings"
        raise UserError(f"hydra/launcher={choice}: not supported, because it cannot handle killed jobs; {fix}")
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        fix = "run this on a node with Slurm's commands, or use another launcher"
        raise UserError(f"hydra/launcher={choice}: sbatch or squeue not found; {fix}")
    queue = subprocess.run(_SQUEUE, capture_output=True, text=True, check=False)
    if queue.returncode != 0:
        reason = _last_line(queue.stderr)
        raise UserError(f"hydra/launcher={choice}: squeue failed; ask the cluster's administrator ({reason})")
    Plugins.instance().class_name_to_class[_TARGET] = SlurmLauncher


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Launcher that submits the jobs as one array, waits for all of them, and records killed jobs as failed."""

    def __call__(self, *arguments: Any, **settings: Any) -> JobReturn:
        """Run one job on its node."""
        register()
        return super().__call__(*arguments, **settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs and wait for all of them; after Ctrl-C, stop them."""
        submitit.SlurmJob.watcher = QueueWatcher(delay_s=_POLL_SECONDS)
        jobs = self._submit(job_overrides, initial_job_idx)
        logs = Path(str(self.params["submitit_folder"])).parent
        log.info("submitted %d jobs to Slurm, starting with %s; logs: %s", len(jobs), jobs[0].job_id, logs)
        try:
            return [self._wait_for(job, list(overrides)) for job, overrides in zip(jobs, job_overrides, strict=True)]
        except BaseException:
            _stop(jobs)
            raise

    def _submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[submitit.Job[JobReturn]]:
        settings = dict(self.params)
        folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
        shared = {field.name for field in fields(BaseQueueConf)}
        parameters = {name if name in shared else f"slurm_{name}": value for name, value in settings.items()}
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        overrides = [list(words) for words in job_overrides]
        ids = [f"job_id_for_{number}" for number in numbers]
        folders = ["hydra.sweep.dir"] * len(numbers)
        states = [Singleton.get_state()] * len(numbers)
        try:
            executor.update_parameters(**parameters)
            return executor.map_array(self, overrides, folders, numbers, ids, states)
        except FailedJobError as error:
            reason = _last_line(str(error))
            raise UserError(f"hydra.launcher: sbatch rejected the study; fix its settings ({reason})") from error

    def _wait_for(self, job: submitit.Job[JobReturn], overrides: list[str]) -> JobReturn:
        """Return the result of the job; if Slurm killed it, record the failure in its folder."""
        try:
            return job.results()[0]
        except UncompletedJobError as error:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            end = f"ended without a result (state {job.watcher.get_state(job.job_id, mode='cache')})"
            killed = f"Slurm job {job.job_id} {end}; see its log {job.paths.stdout}"
            reason = _last_line(str(error)) if isinstance(error, FailedJobError) else killed
            status, value = record_crash(config, reason)
            return JobReturn(cfg=config, overrides=overrides, status=status, _return_value=value)


class QueueWatcher(SlurmInfoWatcher):
    """Job states for submitit, from squeue instead of sacct."""

    def _make_command(self) -> list[str] | None:
        return list(_SQUEUE) if self._registered - self._finished else None

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """Return the state of every registered job; RUNNING for all states that are not final."""
        text = string if isinstance(string, str) else string.decode()
        states = dict(line.split() for line in text.splitlines())
        listed = {job: states.get(job if "_" in job else f"{job}_N/A", "FORGOTTEN") for job in self._registered}
        return {job: {"JobID": job, "State": one if one in _ENDED else "RUNNING"} for job, one in listed.items()}


def _stop(jobs: list[submitit.Job[JobReturn]]) -> None:
    """Cancel pending jobs, and interrupt running jobs as Ctrl-C does; their finished trials are saved."""
    names = [job.job_id for job in jobs]
    for which in ("--state=PENDING", "--signal=INT"):
        # scancel fails for jobs that have ended.
        subprocess.run(["scancel", which, *names], capture_output=True, check=False)
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline and not all(job.done(force_check=True) for job in jobs):
        time.sleep(1)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
