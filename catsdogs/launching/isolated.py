"""Hydra launcher that runs jobs in other processes: a crash affects only that job.

`hydra/launcher=isolated`, the default of `catsdogs.search -m`. `hydra.launcher.jobs=2` runs two jobs at a time. After a
job that ended as planned, its process runs the next one, which saves the start of TensorFlow; see `_ended_well`.
"""

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from hydra import version
from hydra.core import utils
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import read_json
from catsdogs.base.interrupts import held, stoppable
from catsdogs.base.output import lost_output
from catsdogs.base.processes import share_of_machine, threads
from catsdogs.launching.failures import job_folder, record_crash

# Hydra instantiates only launchers of this package, so the class is registered under this name.
_TARGET = "hydra_plugins.catsdogs.IsolatedLauncher"

# A process that is forked after TensorFlow has started hangs.
_SPAWN = multiprocessing.get_context("spawn")

_INTERRUPTED = (130, 143)  # exit statuses

_POLL_SECONDS = 1.0  # a signal may arrive just before the wait
_EXIT_SECONDS = 60.0  # for a process to exit after its job
_MEMORY_GROWTH = 1.5  # of a process since the end of its first job; above it, the next job gets a new process
_PATIENCE_SECONDS = 1.0  # after Ctrl-C; the message about waiting is for jobs that take longer to stop

_log = logging.getLogger(__name__)


def register_launcher() -> None:
    """Register the launcher of `hydra/launcher=isolated` with Hydra; may be called repeatedly."""
    plugins = Plugins.instance()
    plugins.register(IsolatedLauncher)
    plugins.class_name_to_class[_TARGET] = IsolatedLauncher


@dataclass(frozen=True)
class _Worker:
    """A process that runs jobs of one slot, and so with the threads and the GPU of that slot, one after another."""

    slot: int  # among the jobs that run at the same time
    process: SpawnProcess
    connection: Connection


@dataclass(frozen=True)
class _Child:
    """A running job, with its index in this launch."""

    index: int
    config: DictConfig
    worker: _Worker


class IsolatedLauncher(Launcher):
    """Launcher that runs jobs in spawned processes, and continues if one is killed."""

    def __init__(self, jobs: int = 1) -> None:
        if not isinstance(jobs, int) or jobs < 1:
            raise UserError(f"hydra.launcher.jobs={jobs}: must be an integer of at least 1; use hydra.launcher.jobs=1")
        self._jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the context, task and configuration for `launch`."""
        self._context, self._task, self._config = hydra_context, task_function, config

    @stoppable()
    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[utils.JobReturn]:
        """Run the jobs. A failed job returns NaN, with which every sweeper continues."""
        utils.setup_globals()
        utils.configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        waiting = deque(enumerate(job_overrides))
        slots = list(range(self._jobs))
        running: dict[Connection, _Child] = {}
        idle: dict[int, _Worker] = {}  # by slot
        returns: dict[int, utils.JobReturn] = {}
        try:
            while waiting or running:
                while waiting and slots:
                    index, overrides = waiting[0]
                    config = self._compose(overrides, initial_job_idx + index)
                    if job_folder(config) in [job_folder(child.config) for child in running.values()]:
                        # Some sweepers propose a job twice; the second one then finds it finished.
                        break
                    waiting.popleft()
                    # The process must be known to `_stop`, and have its own handlers, before a signal arrives.
                    with held():
                        slot = slots.pop(0)
                        child = self._start(index, config, idle.pop(slot) if slot in idle else self._spawn(slot))
                        running[child.worker.connection] = child
                for connection in wait(list(running), _POLL_SECONDS):
                    child = running[connection]  # type: ignore[index]
                    returns[child.index], reusable = self._finish(child)
                    del running[child.worker.connection]
                    slots.append(child.worker.slot)
                    if reusable and waiting:
                        idle[child.worker.slot] = child.worker
                    else:
                        _close(child.worker)
            for worker in idle.values():
                _close(worker)
        except BaseException:
            _stop([*(child.worker.process for child in running.values()), *(one.process for one in idle.values())])
            raise
        return [returns[index] for index in range(len(job_overrides))]

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _spawn(self, slot: int) -> _Worker:
        connection, of_worker = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_run_jobs, args=(of_worker, self._context, self._task), name=f"slot {slot}")
        # Libraries read these variables when they are imported.
        limit = threads() // self._jobs if self._jobs > 1 else None
        with utils.env_override(share_of_machine(self._jobs, slot, limit)):
            process.start()
        of_worker.close()
        return _Worker(slot, process, connection)

    def _start(self, index: int, config: DictConfig, worker: _Worker) -> _Child:
        worker.process.name = f"job {job_folder(config).name}"
        task_overrides = utils.filter_overrides(list(config.hydra.overrides.task))
        _log.info("starting %s: %s", worker.process.name, " ".join(task_overrides))
        # Otherwise buffered lines are printed after those of the job.
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            worker.connection.send(config)
        except OSError:  # killed while it was idle
            _close(worker)
            worker = self._spawn(worker.slot)
            worker.connection.send(config)
        return _Child(index, config, worker)

    def _finish(self, child: _Child) -> tuple[utils.JobReturn, bool]:
        """Return the result of the job, and whether its process can run another one.

        If the process was killed, record the failure in the folder of the job.
        """
        try:
            status, value, reusable = child.worker.connection.recv()
        except (EOFError, OSError):
            # OSError: it was killed while it sent the result.
            child.worker.process.join()
            status, value = record_crash(child.config, _describe_exit(child.worker.process.exitcode))
            reusable = False
        overrides = list(child.config.hydra.overrides.task)
        returned = utils.JobReturn(cfg=child.config, overrides=overrides, status=status, _return_value=value)
        return returned, reusable and _ended_well(child.config)


def _ended_well(config: DictConfig) -> bool:
    """Return whether a job was searched to its end: not after an error, an interrupt or the time limit."""
    from catsdogs.study.jobs import OK, RESULT  # imports pandas, which `--help` need not wait for

    with suppress(OSError, ValueError):
        result = read_json(job_folder(config) / RESULT)
        return result.get("status") == OK and "stopped" not in result
    return False


def _close(worker: _Worker) -> None:
    """Let an idle process exit."""
    worker.connection.close()
    worker.process.join(_EXIT_SECONDS)
    if worker.process.is_alive():
        _log.warning("%s finished, but its process did not exit; killing it", worker.process.name)
        worker.process.kill()
        worker.process.join()
    if worker.process.exitcode in (1, 2, 141):  # of `exit_status_of`, after the result was sent or without one
        lost_output(worker.process.exitcode)


def _run_jobs(connection: Connection, context: HydraContext, task: TaskFunction) -> None:
    from catsdogs.config.compose import VERSION_BASE
    from catsdogs.launching.registration import register

    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def run() -> int:
        register()
        utils.setup_globals()
        version.setbase(VERSION_BASE)
        first_memory: dict[bool, int] = {}
        with suppress(EOFError):  # the launcher has no other job
            while True:
                config = connection.recv()
                utils.JobRuntime.instance().set("name", config.hydra.job.name)
                returned = utils.run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context=context)
                memory = _memory()
                # A job that is already finished does not load them.
                loaded = bool({"tensorflow", "jax"} & set(sys.modules))
                reusable = memory < _MEMORY_GROWTH * first_memory.setdefault(loaded, memory) and not lost_output()
                connection.send((returned.status, returned._return_value, reusable))
        return 0

    sys.exit(exit_status_of(run, in_job=True))


def _memory() -> int:
    """Return the memory of this process in a unit of the system: resident on Linux, elsewhere the peak.

    On Linux, the peak includes that of the parent before the start of this process.
    """
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _exit_with_parent() -> None:
    """Exit when the parent process dies; an orphaned job would keep its folder locked and use CPU."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return "interrupted" if exit_code in _INTERRUPTED else f"its process exited with status {exit_code}"
    name = next((f" ({one.name})" for one in signal.Signals if one == -exit_code), "")
    # Linux kills the largest process if memory runs out.
    guess = "; out of memory?" if -exit_code == signal.SIGKILL else ""
    return f"killed by signal {-exit_code}{name}{guess}"


def _stop(processes: Iterable[SpawnProcess]) -> None:
    """Stop the jobs as after Ctrl-C; a second Ctrl-C kills them, see `interrupts.end_at_once`."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        # Not SIGINT: a background job may ignore it.
        process.terminate()
    if alive:
        alive[0].join(_PATIENCE_SECONDS)
    if any(process.is_alive() for process in alive):
        print("Waiting for running jobs to stop; press Ctrl-C again to kill them", file=sys.stderr, flush=True)
    for process in alive:
        process.join()
