"""Accelerators that Keras detects, and data parallelism across several of them."""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras

log = logging.getLogger(__name__)


def accelerators() -> list[str]:
    """Return Keras' names of the GPUs and TPUs, such as `gpu:0`."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


def distributed(batches: Sequence[int]) -> AbstractContextManager[Any]:
    """Divide every training batch among several GPUs by Keras' data parallelism.

    Models must be built inside this context. Keras supports it on JAX, if the number of GPUs divides all `batches`
    (their sizes). Otherwise one GPU is used and the reason is logged.
    """
    devices = accelerators()
    uneven = [size for size in batches if size % max(1, len(devices))]
    if len(devices) < 2:
        return nullcontext()
    if keras.backend.backend() != "jax":
        _warn_once(f"using 1 of {len(devices)} GPUs; set KERAS_BACKEND=jax to use all of them")
    elif uneven:
        _warn_once(
            f"using 1 of {len(devices)} GPUs because {uneven[0]} images do not divide evenly; set data.limit and "
            f"fit.batch_size so that every batch, including the last of an epoch, is a multiple of {len(devices)}"
        )
    else:
        return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope()
    return nullcontext()


@contextmanager
def without_distribution() -> Iterator[None]:
    """Suspend `distributed`, for batches of any size on one device."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def batch_sizes(batch_size: int, *counts: int) -> list[int]:
    """Return the distinct batch sizes when each of these image counts is split into batches, ascending."""
    full = {batch_size} if any(count >= batch_size for count in counts) else set()
    return sorted(full | {count % batch_size for count in counts if count % batch_size})


@functools.cache
def _warn_once(text: str) -> None:
    log.warning(text)
