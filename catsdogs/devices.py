"""The accelerators that Keras sees."""

from __future__ import annotations

import logging

import keras

log = logging.getLogger(__name__)


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or a TPU."""
    return bool(_accelerators())


def use_all() -> None:
    """Divide every batch among the GPUs, where there are several, by Keras' own data parallelism.

    Keras 3 offers it on JAX. On TensorFlow one GPU is used, which the log tells.
    """
    found = _accelerators()
    if len(found) < 2:
        return
    if keras.backend.backend() != "jax":
        log.warning("%d GPUs, of which one is used: KERAS_BACKEND=jax uses all of them", len(found))
        return
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=found))
    log.info("every batch is divided among %d devices", len(found))


def _accelerators() -> list[str]:
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]
