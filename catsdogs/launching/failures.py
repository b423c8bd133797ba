"""A job that failed outside of its search -> what its folder and Hydra's sweeper are told. No Keras."""

from __future__ import annotations

import logging
import math
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from catsdogs.base.provenance import utc_timestamp
from catsdogs.config.compose import job_choices

log = logging.getLogger(__name__)


class JobFailed(Exception):
    """What a sweeper that decides as it goes is told of a failed job: it takes no NaN."""


def knows_all_jobs(hydra: Any) -> bool:
    """Whether the sweeper knows all jobs before the first one starts."""
    return str(hydra.sweeper._target_).endswith(".BasicSweeper")


def job_folder(config: DictConfig) -> Path:
    """Folder of the job that this configuration of Hydra describes."""
    return Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)


def record_crash(config: DictConfig, error: str) -> tuple[JobStatus, Any]:
    """Record that the process of a job ended without telling what the job returned; give what Hydra is told of it."""
    # Not at the top: pandas takes a second that `--help` need not wait for.
    from catsdogs.study.jobs import State, read_job

    folder = job_folder(config)
    job = read_job(folder)
    state = None if job is None else job.state
    if job is not None and state is State.DONE:
        return JobStatus.COMPLETED, job.objective
    log.error("%s: %s", folder.name, error)
    # A job that had the time to say that it was interrupted is one that goes on, not one that failed.
    if state is not State.INTERRUPTED:
        record_failure(config.hydra, folder, error)
    if knows_all_jobs(config.hydra):
        # FAILED would keep BasicSweeper from the other jobs, and Hydra from calling on_multirun_end.
        return JobStatus.COMPLETED, math.nan
    return JobStatus.FAILED, JobFailed(error)


def record_failure(hydra: Any, folder: Path, error: str | Exception) -> None:
    """Write into a job's folder that it failed, and into the leaderboard of its study.

    Args:
        hydra: the job's `hydra` node.
        error: what it raised, or what killed it.
    """
    # Not at the top: pandas takes a second that `--help` need not wait for.
    from catsdogs.study.jobs import FAILED, OK, RUNNING, read_job, write_leaderboard, write_result

    job = read_job(folder)
    raised = isinstance(error, Exception)
    if job is not None and (job.status == OK or (raised and job.status == RUNNING)):
        # What another run finished here, or has under way, is not ours to overwrite; a job records its own errors.
        return
    known = {} if job is None else {key: told for key, told in job.result.items() if told not in (None, {})}
    known.pop("traceback", None)
    result = {
        "job": folder.name,
        "study": folder.parent.name,
        "choices": job_choices(hydra),
        "best_trial": None,
        "objective": None,
        "seconds": None,
        **known,
        "status": FAILED,
        "error": str(error),
        "error_type": type(error).__name__ if raised else "Killed",
        "finished": utc_timestamp(),
    }
    if isinstance(error, Exception):
        result["traceback"] = "".join(traceback.format_exception(error))
    write_result(folder, result)
    write_leaderboard(folder.parent)
