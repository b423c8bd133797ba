"""Failed jobs, for the job folder and for Hydra's sweeper; exits of Hydra's hooks."""

import logging
import math
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobStatus
from omegaconf import DictConfig

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.base.provenance import utc_timestamp
from catsdogs.config.compose import CONFIG_ERRORS, format_config_error, job_choices, raised_by_hydra

log = logging.getLogger(__name__)


def exit_from_hook(status: int) -> NoReturn:
    """End the process. Hydra reports an Exception of a hook as a warning; SystemExit passes."""
    sys.stdout.flush()
    raise SystemExit(status)


def user_message(error: Exception) -> str | None:
    """Return the message of an error of the user, of Hydra or of the disk; None for a programming error."""
    from catsdogs.base.resources import as_out_of_resources

    if isinstance(error, CONFIG_ERRORS) or (isinstance(error, ValueError) and raised_by_hydra(error)):
        # Hydra wraps the errors of a launcher's constructor.
        cause = None if isinstance(error, UserError) else error.__cause__
        return format_config_error(cause if isinstance(cause, UserError) else error)
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return "the current folder was removed; change to another folder"
    ran_out = as_out_of_resources(error)
    return None if ran_out is None else str(ran_out)


def job_folder(config: DictConfig) -> Path:
    """Return the folder of the job with this Hydra configuration."""
    return Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)


def record_crash(config: DictConfig, error: str) -> tuple[JobStatus, Any]:
    """Record that a job's process exited without a result, and return the status and value for Hydra."""
    from catsdogs.study.jobs import State, read_job  # imports pandas, which `--help` need not wait for

    folder = job_folder(config)
    job = read_job(folder)
    if job is not None and job.state is State.DONE:
        return JobStatus.COMPLETED, job.objective
    log.error("%s: %s", folder.name, error)
    # An interrupted job that recorded so is resumed, not failed.
    if job is None or job.state is not State.INTERRUPTED:
        record_failure(config.hydra, folder, error)
    # FAILED would keep BasicSweeper from the other jobs, and Hydra from calling on_multirun_end.
    return JobStatus.COMPLETED, math.nan


def record_failure(hydra: Any, folder: Path, error: str | Exception) -> None:
    """Record a failed job in its folder and leaderboard; `error` is its exception, or how its process was killed."""
    from catsdogs.study.jobs import FAILED, OK, RESULT, RUNNING, read_job
    from catsdogs.study.leaderboard import write_leaderboard

    job = read_job(folder)
    raised = isinstance(error, Exception)
    if job is not None and (job.status == OK or (raised and job.status == RUNNING)):
        # Never overwrite the result of another run that finished or is running; a job records its own errors.
        return
    known = {} if job is None else {key: value for key, value in job.result.items() if value not in (None, {})}
    known.pop("traceback", None)
    result: dict[str, Any] = {"job": folder.name, "study": folder.parent.name, "choices": job_choices(hydra)}
    result |= dict.fromkeys(("best_trial", "objective", "seconds")) | known | {"status": FAILED, "error": str(error)}
    result |= {"error_type": type(error).__name__ if raised else "Killed", "finished": utc_timestamp()}
    if isinstance(error, Exception):
        result["traceback"] = "".join(traceback.format_exception(error))
    write_json(folder / RESULT, result)
    write_leaderboard(folder.parent)
