"""Hydra launcher: every job in a process of its own, so that none takes the study down, and memory stays flat.

`hydra/launcher=isolated`, the default of `catsdogs.search -m`. `hydra.launcher.jobs=2` runs two jobs at a time.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    configure_log,
    env_override,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from catsdogs.base.errors import UserError
from catsdogs.base.processes import share_of_machine, threads
from catsdogs.launching.failures import job_folder, record_crash

# Hydra instantiates only launchers of this package; the class is handed to it under this name.
_TARGET = "hydra_plugins.catsdogs.IsolatedLauncher"

# Spawned: a process that was forked after TensorFlow has started hangs.
_SPAWN = multiprocessing.get_context("spawn")

# What asks a process to end. Held back while a job's process starts, until it can take it.
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130  # exit status

# A process whose job has ended is given so long to go.
_EXIT_SECONDS = 60.0

# Longer than most jobs take to end after Ctrl-C, so that nothing is said of them.
_PATIENCE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass
class IsolatedLauncherConf:
    """Its configuration: `hydra.launcher`."""

    _target_: str = _TARGET
    jobs: int = 1  # that run at the same time


def register_launcher() -> None:
    """Make `hydra/launcher=isolated` known to Hydra. May be called again."""
    ConfigStore.instance().store(group="hydra/launcher", name="isolated", node=IsolatedLauncherConf)
    plugins = Plugins.instance()
    plugins.register(IsolatedLauncher)
    plugins.class_name_to_class[_TARGET] = IsolatedLauncher


class IsolatedLauncher(Launcher):
    """Runs every job in a spawned process, and goes on when one dies."""

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise UserError(f"hydra.launcher.jobs={jobs}: must be at least 1")
        self._jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; those that fail or die give NaN to a sweeper that lists jobs, and an error to others."""
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        waiting = deque(enumerate(job_overrides))
        slots = list(range(self._jobs))
        running: dict[Connection, _Child] = {}
        returns: dict[int, JobReturn] = {}
        try:
            while waiting or running:
                while waiting and slots:
                    place, overrides = waiting[0]
                    config = self._composed(overrides, initial_job_idx + place)
                    if job_folder(config) in [job_folder(child.config) for child in running.values()]:
                        # A sweeper that decides as it goes may choose the same twice; the second finds it finished.
                        break
                    waiting.popleft()
                    child = self._started(place, config, slots.pop(0))
                    running[child.connection] = child
                for connection in wait(list(running)):
                    child = running.pop(connection)  # type: ignore[call-overload]
                    returns[child.place] = self._ended(child)
                    slots.append(child.slot)
        except BaseException:
            _end(running.values())
            raise
        return [returns[place] for place in range(len(job_overrides))]

    def _composed(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _started(self, place: int, config: DictConfig, slot: int) -> _Child:
        number = config.hydra.job.num
        _log.info("job #%d: %s", number, " ".join(filter_overrides(list(config.hydra.overrides.task))))
        ours, theirs = _SPAWN.Pipe(duplex=False)
        arguments = (theirs, self._context, self._task, config)
        process = _SPAWN.Process(target=_run_in_child, args=arguments, name=f"job {number}")
        # What is still buffered would come after the lines of the job.
        sys.stdout.flush()
        sys.stderr.flush()
        # In the environment before it starts, because libraries read it when they are imported.
        limit = threads() // self._jobs if self._jobs > 1 else None
        with env_override(share_of_machine(self._jobs, slot, limit)), _held_back():
            process.start()
        theirs.close()
        return _Child(place, slot, config, process, ours)

    def _ended(self, child: _Child) -> JobReturn:
        """What the job returned, or that it failed, recorded in its folder."""
        try:
            status, value = child.connection.recv()
        except (EOFError, OSError):
            # OSError: it was killed while it told.
            child.process.join()
            status, value = record_crash(child.config, _death(child.process.exitcode))
        child.connection.close()
        child.process.join(_EXIT_SECONDS)
        if child.process.is_alive():
            _log.warning("%s: it has ended, and its process has not; it is killed", child.process.name)
            child.process.kill()
            child.process.join()
        overrides = list(child.config.hydra.overrides.task)
        return JobReturn(cfg=child.config, overrides=overrides, status=status, _return_value=value)


@dataclass(frozen=True)
class _Child:
    """A job that runs: its place among those of this launch, its slot among those that run at the same time."""

    place: int
    slot: int
    config: DictConfig
    process: SpawnProcess
    connection: Connection


def _run_in_child(connection: Connection, context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
    """Run one job of Hydra in this process, which was made for it, and send what it returned."""
    from catsdogs.config.compose import VERSION_BASE
    from catsdogs.launching.registration import register

    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in _STOPPING:
        # What the study was started to ignore, as Ctrl-C in the background of a script, its jobs ignore too.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    try:
        register()
        setup_globals()
        version.setbase(VERSION_BASE)
        JobRuntime.instance().set("name", config.hydra.job.name)
        returned = run_job(
            hydra_context=context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        connection.send((returned.status, returned._return_value))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt_once(number: int, frame: Any) -> None:
    """Ctrl-C reaches this process from the terminal and from the parent, and must not disturb its own end."""
    for stopping in _STOPPING:
        signal.signal(stopping, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A job that nobody waits for any more would hold its folder, and its share of the machine."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _death(exit_code: int | None) -> str:
    """Why a process ended that did not say what its job returned."""
    if exit_code is None or exit_code >= 0:
        return "interrupted" if exit_code == _INTERRUPTED else f"its process ended with status {exit_code}"
    name = next((f" ({one.name})" for one in signal.Signals if one == -exit_code), "")
    # What Linux does to the largest process when memory is used up.
    guess = "; out of memory?" if -exit_code == signal.SIGKILL else ""
    return f"killed by signal {-exit_code}{name}{guess}"


def _end(children: Iterable[_Child]) -> None:
    """Let the jobs end well, as after Ctrl-C; kill them at the next one."""
    alive = [child.process for child in children if child.process.is_alive()]
    try:
        for process in alive:
            # Not SIGINT, which it may have been started to ignore.
            process.terminate()
        if alive:
            alive[0].join(_PATIENCE_SECONDS)
        if any(process.is_alive() for process in alive):
            print("waiting for the running job to end; Ctrl-C again kills it", file=sys.stderr, flush=True)
        for process in alive:
            process.join()
    except KeyboardInterrupt:
        for process in alive:
            process.kill()
            process.join()
        raise
