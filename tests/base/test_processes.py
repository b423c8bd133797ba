"""Shares of a simulated machine with eight processors."""

import os
import subprocess
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from catsdogs.base import processes
from catsdogs.launching.application import JobTask


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight processors; GPUs as `nvidia-smi` lists them."""
    for name in (*processes._SET_BY_OTHERS, *processes._READ_BY_LIBRARIES, *processes._SHARED_GPU):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "processors", lambda: 8)

    def make(gpus, visible=None):
        program = tmp_path / "nvidia-smi"
        lines = "".join(f"GPU {number}: NVIDIA X (UUID: GPU-{number})\n  MIG\n" for number in range(gpus))
        program.write_text(f"#!/bin/sh\ncat <<END\n{lines}END\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize("name", processes._SET_BY_OTHERS)
def test_a_single_process_uses_all_processors_or_the_thread_limit_of_the_environment(machine, monkeypatch, name):
    machine(2)
    assert processes.share_of_machine(1, 0, None) == {}
    assert (processes.thread_limit(), processes.threads()) == (None, 8)
    for value, expected in (("6", 6), ("all", 8)):
        monkeypatch.setenv(name, value)
        assert processes.threads() == expected


@pytest.mark.parametrize(
    ("gpus", "visible", "slots"),
    [(2, None, ["0", "1", "0"]), (4, "2, GPU-b", ["2", "GPU-b", "2"]), (1, None, ["0"] * 3), (2, "", [None] * 3)],
)
def test_processes_are_spread_over_the_gpus(machine, gpus, visible, slots):
    machine(gpus, visible)
    shares = [processes.share_of_machine(3, slot, None) for slot in range(3)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in shares] == slots


def test_a_worker_of_another_launcher_sets_its_share_once(machine, monkeypatch):
    machine(2)
    loaded = {name: module for name, module in sys.modules.items() if name not in ("tensorflow", "jax")}
    monkeypatch.setattr(sys, "modules", loaded)
    monkeypatch.setattr(os, "environ", {**os.environ, "OMP_NUM_THREADS": "4"})
    hydra = OmegaConf.create({"mode": RunMode.MULTIRUN, "launcher": {"n_jobs": 2}, "job": {"num": 1, "chdir": False}})
    hydra.runtime = {"output_dir": "a-job"}
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    job = JobTask(lambda config: 0.5, tracebacks=False)
    assert job(OmegaConf.create()) == 0.5
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == os.environ["OPENCV_FOR_THREADS_NUM"] == "4"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    # The next job has another number, but the libraries already use that GPU.
    loaded["tensorflow"] = sys
    hydra.job.num = 2
    job(OmegaConf.create())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(("limit", "expected"), [(3, "3 3"), (0, "1 1")])
def test_a_process_uses_its_share_and_at_least_one_thread(limit, expected):
    code = "import cv2; from catsdogs.base.processes import threads; print(cv2.getNumThreads(), threads())"
    environment = {**os.environ, **processes.share_of_machine(2, 0, limit)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == expected
