import contextlib
import os
from unittest.mock import Mock

import keras
import numpy as np
import pytest

from catsdogs.config.hyperparameters import with_values
from catsdogs.network import devices
from catsdogs.training.batches import EpochPlan
from catsdogs.training.execution import train


@pytest.fixture
def machine(monkeypatch):
    """Simulate devices and a backend; return the mock of `DataParallel`."""
    devices._warn_once.cache_clear()

    def simulate(names, backend):
        parallel = Mock()
        parallel.return_value.scope = contextlib.nullcontext
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: names)
        monkeypatch.setattr(keras.backend, "backend", lambda: backend)
        monkeypatch.setattr(keras.distribution, "DataParallel", parallel)
        return parallel

    return simulate


@pytest.mark.parametrize(
    ("names", "backend", "batches", "expected", "message"),
    [
        (["cpu:0", "CPU:1"], "jax", [32], [], ""),
        (["gpu:0"], "jax", [32], [], ""),
        (["cpu:0", "gpu:0", "tpu:0"], "jax", [8, 32], [["gpu:0", "tpu:0"]], ""),
        (["gpu:0", "gpu:1"], "jax", [9, 32], [], "fit.batch_size"),
        (["gpu:0", "gpu:1"], "tensorflow", [32], [], "KERAS_BACKEND=jax"),
    ],
)
def test_batches_are_divided_among_gpus_if_keras_can(machine, caplog, names, backend, batches, expected, message):
    parallel = machine(names, backend)
    for _ in range(2):
        with devices.distributed(batches):
            pass
    assert [call.kwargs["devices"] for call in parallel.call_args_list] == expected * 2
    assert caplog.text.count(message) == (1 if message else len(caplog.text) + 1)


@pytest.mark.parametrize(
    ("batch_size", "counts", "expected"),
    [(32, (1000, 250), [8, 26, 32]), (32, (64, 32), [32]), (32, (20, 10), [10, 20]), (8, (12,), [4, 8])],
)
def test_batch_sizes_include_the_last_batch(batch_size, counts, expected):
    assert devices.batch_sizes(batch_size, *counts) == expected


@pytest.mark.skipif("device_count" not in os.environ.get("XLA_FLAGS", ""), reason="`nox -s jax` sets two devices")
def test_two_devices_train_the_same_model_as_one(config, prepared, monkeypatch):
    job = config("fit.epochs=2", "fit.batch_size=20", "features.mode=stored")
    histories = []
    for names in (["cpu:0"], ["cpu:0", "cpu:1"]):
        monkeypatch.setattr(devices, "accelerators", lambda names=names: names)
        data, models = prepared(job)
        with devices.distributed([20]):
            trial = models.new_trial(with_values(job, {"unfreeze_depth": 2}), seed=4)
            views = data.features.at_cut(trial.cut)
            training = train(trial.model, views, data.targets, data.folds[0], job.fit, EpochPlan(4, job.fit.epochs))
        histories.append(training.history.drop(columns="seconds"))
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)
