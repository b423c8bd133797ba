"""The launcher for Slurm. What needs a cluster is marked: it starts one (tests/slurm_cluster.sh)."""

from __future__ import annotations

import json
import os
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
from catsdogs.launching import application as launch
from catsdogs.launching.registration import register

slurm = pytest.importorskip("catsdogs.launching.slurm", reason="needs the extra slurm")

CLUSTER = Path(__file__).parents[1] / "slurm_cluster.sh"

# So many that a job with one of them finished still runs when the kill reaches it: scancel asks first, and kills a job
# that goes on after KillWait (slurm_cluster.sh).
TRIALS = 24


def composed(*overrides):
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("search", overrides=["study=s", *overrides], return_hydra_config=True)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Only these programs are on PATH; each is a shell script."""

    def only(**scripts):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return only


def test_the_presets_differ_in_what_they_ask_for_and_ask_for_nothing_that_the_plugin_does_not_know():
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    cpu, gpu = (composed(f"hydra/launcher={name}").hydra.launcher for name in ("slurm_cpu", "slurm_gpu"))
    assert cpu.gpus_per_node is None
    assert gpu.gpus_per_node == 1
    assert set(cpu) == set(gpu)
    assert cpu._target_ == gpu._target_ == slurm._TARGET
    assert set(cpu) <= set(SlurmQueueConf.__dataclass_fields__)


@pytest.mark.parametrize(
    ("scripts", "told"),
    [
        ({}, "there is no sbatch"),
        ({"sbatch": "exit 0"}, "no squeue"),
        ({"sbatch": "exit 0", "squeue": "echo down >&2; echo 'squeue: error: no host' >&2; exit 1"}, "no host"),
    ],
)
def test_without_slurm_nothing_is_submitted_and_other_launchers_need_nothing(commands, scripts, told):
    commands(**scripts)
    launch._check_launcher(composed("hydra/launcher=basic"))
    with pytest.raises(UserError, match=told) as error:
        launch._check_launcher(composed("hydra/launcher=slurm_gpu"))
    assert "\n" not in str(error.value)
    assert "hydra/launcher=slurm_gpu" in str(error.value)


def test_the_plugins_own_launcher_is_refused_as_it_may_wait_for_ever():
    with pytest.raises(UserError, match="use hydra/launcher=slurm_cpu"):
        launch._check_launcher(composed("hydra/launcher=submitit_slurm"))


def test_without_the_plugin_the_package_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "catsdogs.launching.slurm")
    monkeypatch.delattr("catsdogs.launching.slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'catsdogs\[slurm\]'"):
        launch._check_launcher(composed("hydra/launcher=slurm_cpu"))


def test_a_job_has_ended_when_slurm_says_so_or_knows_it_no_more(commands):
    watcher = slurm.QueueWatcher()
    for job in ("7_0", "7_1", "7_2", "7_3", "8", "9"):
        watcher.register_job(job)
    told = b"7_0 RUNNING\n7_1 CANCELLED\n7_2 REQUEUE_HOLD\n8_N/A OUT_OF_MEMORY\n3_1 FAILED\n"
    watcher._info_dict.update(watcher.read_info(told))
    ended = {job for job in ("7_0", "7_1", "7_2", "7_3", "8", "9") if watcher.is_done(job, mode="cache")}
    assert ended == {"7_1", "7_3", "8", "9"}
    assert watcher.get_state("8", mode="cache") == "OUT_OF_MEMORY"
    # A controller that does not answer ends no job.
    commands(squeue="exit 1")
    assert not watcher.is_done("7_0", mode="force")


def test_what_sbatch_refuses_is_told_in_one_sentence(commands, tmp_path):
    commands(srun="exit 0", sbatch="echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1", touch="")
    settings = composed("hydra/launcher=slurm_cpu").hydra.launcher
    parameters = {key: value for key, value in settings.items() if key not in ("_target_", "submitit_folder", "name")}
    launcher = slurm.SlurmLauncher(**parameters, name="s", submitit_folder=str(tmp_path / "%j"))
    with pytest.raises(UserError, match="invalid partition specified: nowhere") as error:
        launcher._submitted([["seed=1"]], 0)
    assert "\n" not in str(error.value)


def test_an_interrupted_study_takes_back_what_waits_and_interrupts_what_runs(commands, tmp_path):
    @dataclass
    class Job:
        job_id: str
        looks: int = 0

        def done(self, force_check):
            self.looks += 1
            return self.looks > 1

    told = tmp_path / "told"
    commands(scancel=f'echo "$@" >>{told}')
    slurm._end([Job("7_0"), Job("7_1")])
    assert told.read_text().splitlines() == ["--state=PENDING 7_0 7_1", "--signal=INT 7_0 7_1"]


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
def test_a_study_on_a_cluster_of_which_a_job_fails_and_one_is_killed(cluster, tmp_path):
    """The jobs that end well are told; the same command finishes the one that was killed."""
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
    ]
    names = [f"small_cnn-{kind}-cosine-none-backbone.builder-tiny_backbone.build" for kind in ("none", "flip")]
    log = tmp_path / "log"
    with log.open("w") as out:
        study = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out)
        try:
            victim = first_with_a_trial(root, names)
            (submitted,) = (
                file.parent.name for file in (root / ".submitit").glob("*/*.out") if victim in file.read_text()
            )
            subprocess.run(["scancel", "--signal=KILL", submitted], env=cluster, check=True)
            assert study.wait(timeout=600) == 1, log.read_text()
        finally:
            study.kill()
    (other,) = set(names) - {victim}
    board = pd.read_csv(root / "leaderboard.csv").set_index("job")
    assert board["status"].value_counts().to_dict() == {"failed": 3, "ok": 1}
    assert board.loc[other, "trials_completed"] == TRIALS
    assert "ended without a result (state CANCELLED)" in str(board.loc[victim, "error"])
    assert (root / "report.html").is_file()
    assert "error: job " in log.read_text()
    finished = pd.read_csv(root / victim / "trials.csv")

    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    # What cannot be built fails again.
    assert again.returncode == 1, again.stdout + again.stderr
    result = json.loads((root / victim / "result.json").read_text())
    assert result["status"] == "ok"
    trials = pd.read_csv(root / victim / "trials.csv")
    pd.testing.assert_frame_equal(trials.head(len(finished)), finished)


def first_with_a_trial(root: Path, names: list[str]) -> str:
    """The first job that has finished a trial and has more to do."""
    for _ in range(1200):
        for name in names:
            file = root / name / "trials.csv"
            if file.is_file() and len(pd.read_csv(file)) < TRIALS / 4:
                return name
        time.sleep(0.1)
    raise TimeoutError("no job finished a trial in two minutes")
