"""The accelerators that Keras sees, and how a training is divided among several."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras

log = logging.getLogger(__name__)


def accelerators() -> list[str]:
    """Keras' names of the GPUs and TPUs: `gpu:0`."""
    return [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]


def distributed(batches: Sequence[int]) -> AbstractContextManager[Any]:
    """Divide every batch of a training among the GPUs, where there are several, by Keras' own data parallelism.

    Models must be built inside. Keras offers it on JAX, for batches that the number of GPUs divides; else one GPU is
    used, and the log tells why.

    Args:
        batches: the sizes of the batches that will come.
    """
    found = accelerators()
    odd = [size for size in batches if size % max(1, len(found))]
    if len(found) < 2:
        pass
    elif keras.backend.backend() != "jax":
        _warn_once(f"{len(found)} GPUs, of which one is used: KERAS_BACKEND=jax uses all of them")
    elif odd:
        _warn_once(
            f"{len(found)} GPUs, of which one is used: they do not divide a batch of {odd[0]} images; choose "
            "data.limit and fit.batch_size so that they divide every batch, also the last one of an epoch"
        )
    else:
        return keras.distribution.DataParallel(devices=found, auto_shard_dataset=False).scope()
    return nullcontext()


@contextmanager
def without_distribution() -> Iterator[None]:
    """Inside `distributed`, for work on batches of any size, which is not divided."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def batch_sizes(batch_size: int, *counts: int) -> list[int]:
    """The sizes of batches of so many images: the usual one, and those that are left at the end."""
    whole = {batch_size} if any(count >= batch_size for count in counts) else set()
    return sorted(whole | {count % batch_size for count in counts if count % batch_size})


@functools.cache
def _warn_once(text: str) -> None:
    """Once, and not for every trial."""
    log.warning(text)
