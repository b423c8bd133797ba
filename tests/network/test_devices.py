from __future__ import annotations

import contextlib
from unittest.mock import Mock

import keras
import numpy as np
import pytest

from catsdogs.config.hyperparameters import with_values
from catsdogs.network import devices
from catsdogs.training.execution import train


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices, on this backend; what is distributed over is noted."""
    devices._warn_once.cache_clear()

    def make(found, backend):
        parallel = Mock()
        parallel.return_value.scope = contextlib.nullcontext
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: found)
        monkeypatch.setattr(keras.backend, "backend", lambda: backend)
        monkeypatch.setattr(keras.distribution, "DataParallel", parallel)
        return parallel

    return make


def test_an_accelerator_is_anything_but_a_processor(machine):
    machine(["cpu:0", "CPU:1", "gpu:0", "tpu:0"], "jax")
    assert devices.accelerators() == ["gpu:0", "tpu:0"]


@pytest.mark.parametrize(
    ("found", "backend", "batches", "expected", "told"),
    [
        (["cpu:0", "cpu:1"], "jax", [32], [], ""),
        (["gpu:0"], "jax", [32], [], ""),
        (["gpu:0", "gpu:1"], "jax", [8, 32], [["gpu:0", "gpu:1"]], ""),
        (["gpu:0", "gpu:1"], "jax", [9, 32], [], "do not divide a batch of 9 images"),
        (["gpu:0", "gpu:1"], "tensorflow", [32], [], "KERAS_BACKEND=jax uses all"),
    ],
)
def test_batches_are_divided_among_several_gpus_where_keras_can(
    machine, caplog, found, backend, batches, expected, told
):
    parallel = machine(found, backend)
    for _ in range(2):
        with devices.distributed(batches):
            pass
    assert [call.kwargs["devices"] for call in parallel.call_args_list] == expected * 2
    assert caplog.text.count(told) == (1 if told else len(caplog.text) + 1)


@pytest.mark.parametrize(
    ("batch_size", "counts", "expected"),
    [(32, (1000, 250), [8, 26, 32]), (32, (64, 32), [32]), (32, (20, 10), [10, 20]), (8, (12,), [4, 8])],
)
def test_the_sizes_of_batches_are_those_that_come(batch_size, counts, expected):
    assert devices.batch_sizes(batch_size, *counts) == expected


@pytest.mark.skipif(
    len(keras.distribution.list_devices()) < 2, reason="tests/whole/test_jax.py runs it with two devices"
)
def test_two_devices_train_what_one_trains(config, prepared, monkeypatch):
    job = config("fit.epochs=2", "fit.batch_size=20", "features.mode=stored")
    histories = []
    for found in (["cpu:0"], ["cpu:0", "cpu:1"]):
        monkeypatch.setattr(devices, "accelerators", lambda found=found: found)
        data, models = prepared(job)
        with devices.distributed([20]):
            trial = models.new_trial(with_values(job, {"unfreeze_depth": 2}), seed=4)
            training = train(trial.model, data.features.at_cut(trial.cut), data.labels, data.folds[0], job.fit, seed=4)
        histories.append(training.history.drop(columns="seconds"))
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
