"""Hydra launcher that runs every job in its own process: a crash affects only that job, and its memory is freed.

`hydra/launcher=isolated`, the default of `catsdogs.search -m`. `hydra.launcher.jobs=2` runs two jobs at a time.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from hydra import version
from hydra.core import utils
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from catsdogs.base.errors import UserError, exit_status_of
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
_PATIENCE_SECONDS = 1.0  # after Ctrl-C; the message about waiting is for jobs that take longer to stop

_log = logging.getLogger(__name__)


def register_launcher() -> None:
    """Register the launcher of `hydra/launcher=isolated` with Hydra; may be called repeatedly."""
    plugins = Plugins.instance()
    plugins.register(IsolatedLauncher)
    plugins.class_name_to_class[_TARGET] = IsolatedLauncher


@dataclass(frozen=True)
class _Child:
    """A running job: its index in this launch, and its slot among the jobs that run at the same time."""

    index: int
    slot: int
    config: DictConfig
    process: SpawnProcess
    connection: Connection


class IsolatedLauncher(Launcher):
    """Launcher that runs every job in a spawned process, and continues if one is killed."""

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
                        child = self._start(index, config, slots.pop(0))
                        running[child.connection] = child
                for connection in wait(list(running), _POLL_SECONDS):
                    child = running[connection]  # type: ignore[index]
                    returns[child.index] = self._finish(child)
                    del running[child.connection]
                    slots.append(child.slot)
        except BaseException:
            _stop(running.values())
            raise
        return [returns[index] for index in range(len(job_overrides))]

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _start(self, index: int, config: DictConfig, slot: int) -> _Child:
        name = f"job {job_folder(config).name}"
        _log.info("starting %s: %s", name, " ".join(utils.filter_overrides(list(config.hydra.overrides.task))))
        receiver, sender = _SPAWN.Pipe(duplex=False)
        arguments = (sender, self._context, self._task, config)
        process = _SPAWN.Process(target=_run_in_child, args=arguments, name=name)
        # Otherwise buffered lines are printed after those of the job.
        sys.stdout.flush()
        sys.stderr.flush()
        # Libraries read these variables when they are imported.
        limit = threads() // self._jobs if self._jobs > 1 else None
        with utils.env_override(share_of_machine(self._jobs, slot, limit)):
            process.start()
        sender.close()
        return _Child(index, slot, config, process, receiver)

    def _finish(self, child: _Child) -> utils.JobReturn:
        """Return the result of the job; if its process was killed, record the failure in its folder."""
        try:
            status, value = child.connection.recv()
        except (EOFError, OSError):
            # OSError: it was killed while it sent the result.
            child.process.join()
            status, value = record_crash(child.config, _describe_exit(child.process.exitcode))
        child.connection.close()
        child.process.join(_EXIT_SECONDS)
        if child.process.is_alive():
            _log.warning("%s finished, but its process did not exit; killing it", child.process.name)
            child.process.kill()
            child.process.join()
        if child.process.exitcode in (1, 2, 141):  # of `exit_status_of`, after the result was sent or without one
            lost_output(child.process.exitcode)
        overrides = list(child.config.hydra.overrides.task)
        return utils.JobReturn(cfg=child.config, overrides=overrides, status=status, _return_value=value)


def _run_in_child(connection: Connection, context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
    from catsdogs.config.compose import VERSION_BASE
    from catsdogs.launching.registration import register

    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def run() -> int:
        register()
        utils.setup_globals()
        version.setbase(VERSION_BASE)
        utils.JobRuntime.instance().set("name", config.hydra.job.name)
        returned = utils.run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context=context)
        connection.send((returned.status, returned._return_value))
        return 0

    sys.exit(exit_status_of(run, in_job=True))


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


def _stop(children: Iterable[_Child]) -> None:
    """Stop the jobs as after Ctrl-C; a second Ctrl-C kills them, see `interrupts.end_at_once`."""
    alive = [child.process for child in children if child.process.is_alive()]
    for process in alive:
        # Not SIGINT: a background job may ignore it.
        process.terminate()
    if alive:
        alive[0].join(_PATIENCE_SECONDS)
    if any(process.is_alive() for process in alive):
        print("Waiting for running jobs to stop; press Ctrl-C again to kill them", file=sys.stderr, flush=True)
    for process in alive:
        process.join()
