"""The launcher for Slurm. Tests marked `slurm` start a cluster (tests/slurm_cluster.sh)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from catsdogs.base.errors import UserError
from catsdogs.config.locations import conf_dir
from catsdogs.launching import study_hooks
from catsdogs.launching.registration import register

slurm = pytest.importorskip("catsdogs.launching.slurm", reason="needs the extra slurm")

CLUSTER = Path(__file__).parents[1] / "slurm_cluster.sh"
# A job with one finished trial still runs when the kill reaches it.
TRIALS = 24


def composed(*overrides):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("search", overrides=["study=s", *overrides], return_hydra_config=True)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Put only these programs on PATH, each a shell script."""

    def only(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def test_presets_have_the_same_settings_and_only_settings_of_the_plugin():
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    cpu, gpu = (composed(f"hydra/launcher={name}").hydra.launcher for name in ("slurm_cpu", "slurm_gpu"))
    assert cpu.gpus_per_node is None
    assert gpu.gpus_per_node == 1
    assert set(cpu) == set(gpu)
    assert cpu._target_ == gpu._target_ == slurm._TARGET
    assert set(cpu) <= set(SlurmQueueConf.__dataclass_fields__)


@pytest.mark.parametrize(
    ("scripts", "problem"),
    [
        ({}, "sbatch or squeue not found"),
        ({"sbatch": "exit 0"}, "squeue not found"),
        ({"sbatch": "exit 0", "squeue": "echo down >&2; echo 'squeue: error: no host' >&2; exit 1"}, "no host"),
    ],
)
def test_missing_slurm_is_a_user_error_for_its_launchers_only(commands, scripts, problem):
    commands(**scripts)
    study_hooks._check_launcher(composed("hydra/launcher=basic"))
    with pytest.raises(UserError, match=problem) as error:
        study_hooks._check_launcher(composed("hydra/launcher=slurm_gpu"))
    assert "\n" not in str(error.value)
    assert "hydra/launcher=slurm_gpu" in str(error.value)


def test_the_plugins_own_launcher_is_refused():
    with pytest.raises(UserError, match="use hydra/launcher=slurm_cpu"):
        study_hooks._check_launcher(composed("hydra/launcher=submitit_slurm"))


def test_missing_plugin_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "catsdogs.launching.slurm")
    monkeypatch.delattr("catsdogs.launching.slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'catsdogs\[slurm\]'"):
        study_hooks._check_launcher(composed("hydra/launcher=slurm_cpu"))


def test_a_job_has_ended_in_a_final_state_or_if_squeue_no_longer_lists_it(commands):
    watcher = slurm.QueueWatcher()
    for job in ("7_0", "7_1", "7_2", "7_3", "8", "9"):
        watcher.register_job(job)
    listed = b"7_0 RUNNING\n7_1 CANCELLED\n7_2 REQUEUE_HOLD\n8_N/A OUT_OF_MEMORY\n3_1 FAILED\n"
    watcher._info_dict.update(watcher.read_info(listed))
    ended = {job for job in ("7_0", "7_1", "7_2", "7_3", "8", "9") if watcher.is_done(job, mode="cache")}
    assert ended == {"7_1", "7_3", "8", "9"}
    assert watcher.get_state("8", mode="cache") == "OUT_OF_MEMORY"
    # If squeue fails, no job counts as ended.
    commands(squeue="exit 1")
    assert not watcher.is_done("7_0", mode="force")


def test_a_study_that_sbatch_rejects_is_a_one_line_error(commands, tmp_path):
    commands(srun="exit 0", sbatch="echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1", touch="")
    settings = composed("hydra/launcher=slurm_cpu").hydra.launcher
    parameters = {key: value for key, value in settings.items() if key not in ("_target_", "submitit_folder", "name")}
    launcher = slurm.SlurmLauncher(**parameters, name="s", submitit_folder=str(tmp_path / "%j"))
    with pytest.raises(UserError, match="invalid partition specified: nowhere") as error:
        launcher._submit([["seed=1"]], 0)
    assert "\n" not in str(error.value)


def test_an_interrupted_study_cancels_pending_and_interrupts_running_jobs(commands, tmp_path):
    @dataclass
    class Job:
        job_id: str
        checks: int = 0

        def done(self, force_check):
            self.checks += 1
            return self.checks > 1

    calls = tmp_path / "calls"
    commands(scancel=f'echo "$@" >>{calls}')
    slurm._stop([Job("7_0"), Job("7_1")])
    assert calls.read_text().splitlines() == ["--state=PENDING 7_0 7_1", "--signal=INT 7_0 7_1"]


@pytest.fixture
def cluster(tmp_path):
    subprocess.run([CLUSTER, "install"], check=True, timeout=300)
    folder = tmp_path / "cluster"
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=120)
    try:
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True, timeout=60)


@pytest.mark.slurm
def test_a_cluster_study_with_a_failed_and_a_killed_job_is_summarized_and_resumed(cluster, tmp_path):
    """The summary contains the finished job; the same command finishes the killed one."""
    root = tmp_path / "multirun" / "s"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**cluster, "PYTHONPATH": path, "CATSDOGS_CACHE": str(tmp_path / "cache")}
    command = [
        *(sys.executable, "-m", "catsdogs.search", "-m", "study=s", "hydra/launcher=slurm_cpu"),
        *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"),
        *("backbone.builder=tiny_backbone.build,builtins.dict", "augmentation=none,flip"),
        *("data=sample", "data.sample.images_per_class=12", "data.sample.test_images=4"),
        *("backbone=small_cnn", "~backbone.arguments.filters", "backbone.image_size=32", "features.engine=tensorflow"),
        *("space=small_cnn", "space.unfreeze_depth.values=[2,5]", f"tuner.max_trials={TRIALS}", "fit.epochs=2"),
        "split.folds=1",
    ]
    names = [f"small_cnn-{kind}-cosine-none-backbone.builder-tiny_backbone.build" for kind in ("none", "flip")]
    log = tmp_path / "log"
    with log.open("w") as out:
        study = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
        try:
            victim = first_with_a_trial(root, names)
            # scancel would send SIGTERM first, and the job may have the time to record that it was interrupted.
            os.kill(json.loads((root / victim / ".holder.json").read_text())["pid"], signal.SIGKILL)
            assert study.wait(timeout=600) == 1, log.read_text()
        finally:
            study.kill()
    (other,) = set(names) - {victim}
    board = pd.read_csv(root / "leaderboard.csv").set_index("job")
    assert board["status"].value_counts().to_dict() == {"failed": 3, "ok": 1}
    assert board.loc[other, "trials_completed"] == TRIALS
    assert "ended without a result (state FAILED)" in str(board.loc[victim, "error"])
    assert (root / "report.html").is_file()
    assert "error: job " in log.read_text()
    finished = pd.read_csv(root / victim / "trials.csv")

    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    # The job with the broken builder fails again.
    assert again.returncode == 1, again.stdout + again.stderr
    result = json.loads((root / victim / "result.json").read_text())
    assert result["status"] == "ok"
    trials = pd.read_csv(root / victim / "trials.csv")
    pd.testing.assert_frame_equal(trials.head(len(finished)), finished)


def first_with_a_trial(root, names):
    """Return the first job that has finished a trial and has more to run."""
    for _ in range(1200):
        for name in names:
            file = root / name / "trials.csv"
            if file.is_file() and len(pd.read_csv(file)) < TRIALS / 4:
                return name
        time.sleep(0.1)
    raise TimeoutError("no job finished a trial in two minutes")
