from __future__ import annotations

import keras
import pytest

from catsdogs import devices


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices, on this backend; what is distributed over is noted."""

    def make(found, backend):
        used = []
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: found)
        monkeypatch.setattr(keras.backend, "backend", lambda: backend)
        monkeypatch.setattr(keras.distribution, "DataParallel", lambda devices: devices)
        monkeypatch.setattr(keras.distribution, "set_distribution", used.append)
        return used

    return make


@pytest.mark.parametrize(("found", "expected"), [(["cpu:0"], False), (["gpu:0"], True), (["tpu:0", "tpu:1"], True)])
def test_an_accelerator_is_anything_but_a_processor(machine, found, expected):
    machine(found, "jax")
    assert devices.has_accelerator() is expected


@pytest.mark.parametrize(
    ("found", "backend", "expected"),
    [
        (["cpu:0", "cpu:1"], "jax", []),
        (["gpu:0"], "jax", []),
        (["gpu:0", "gpu:1"], "jax", [["gpu:0", "gpu:1"]]),
        (["gpu:0", "gpu:1"], "tensorflow", []),
    ],
)
def test_batches_are_divided_among_several_gpus_where_keras_can(machine, caplog, found, backend, expected):
    used = machine(found, backend)
    devices.use_all()
    assert used == expected
    assert ("KERAS_BACKEND=jax uses all" in caplog.text) == (backend == "tensorflow")
