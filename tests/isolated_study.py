"""Jobs with behavior set by `seed`, run by the isolated launcher; imported by its tests, and a command."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode

from catsdogs.base.errors import exit_status_of
from catsdogs.base.files import write_json
from catsdogs.config.locations import conf_dir
from catsdogs.launching.application import JobTask
from catsdogs.launching.isolated import IsolatedLauncher
from catsdogs.launching.registration import register
from catsdogs.study.jobs import FAILED, INTERRUPTED, OK, RESULT, RUNNING

SUCCEED, RAISE, BE_KILLED, EXIT, WAIT, WAIT_FOREVER, BE_INTERRUPTED, GROW, BE_STOPPED, KILLED_IDLE, SLOW = range(11)

_kept: list[bytes] = []


def task(config):
    """Record the environment, then behave as `config.seed` specifies."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.seed == RAISE:
        raise ZeroDivisionError("no such number")
    write_json(folder / RESULT, {"status": RUNNING, "threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()})
    if config.seed == BE_KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == BE_INTERRUPTED:
        write_json(folder / RESULT, {"status": FAILED, "error_type": INTERRUPTED})
        raise KeyboardInterrupt
    if config.seed == EXIT:
        os._exit(3)
    if config.seed in (WAIT, WAIT_FOREVER):
        (folder / "waits").touch()
    try:
        while config.seed in (WAIT, WAIT_FOREVER):
            time.sleep(0.05)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        while config.seed == WAIT_FOREVER:
            time.sleep(0.05)
        # A second interrupt must not cut this short.
        time.sleep(1)
        (folder / "ended").touch()
        raise
    if config.seed == GROW:
        _kept.append(bytes(range(256)) * (1 << 20))
    if config.seed == SLOW:
        time.sleep(2)
    if config.seed == KILLED_IDLE:  # after the job
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
    result = {"status": OK, "threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}
    result |= {"stopped": "timeout"} if config.seed == BE_STOPPED else {}
    write_json(folder / RESULT, {**result, "best_trial": {"trial": "0", "val_log_loss": 0.5}})
    return 0.5


def launched(study: Path, seeds: list[int], jobs: int = 1):
    """Run the jobs and return their results; job folders are named after the seeds."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        shared = ["hydra.mode=MULTIRUN", f"studies_dir={study.parent}", f"study={study.name}"]
        shared += ["hydra.sweep.subdir=${seed}"]
        config = hydra.compose_config("search", shared, RunMode.MULTIRUN, with_log_configuration=False)
        launcher = IsolatedLauncher(jobs)
        context = HydraContext(hydra.config_loader, Callbacks())
        launcher.setup(hydra_context=context, task_function=JobTask(task, False), config=config)
        return launcher.launch([[*shared, f"seed={seed}"] for seed in seeds], 0)


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: len(launched(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]]))))
