"""Model + views -> probabilities, averaged over test-time views."""

from __future__ import annotations

import logging
import time

import keras
import numpy as np

from catsdogs.augment import is_identity
from catsdogs.batches import PlainBatches
from catsdogs.progress import duration
from catsdogs.schema import Augmentation, Tta
from catsdogs.views import MIRRORED, PLAIN, View, Views

log = logging.getLogger(__name__)


def tta_views(tta: Tta, augmentation: Augmentation) -> list[View]:
    """The views that are averaged: the image itself, itself and its mirror image, or seeded augmentations."""
    if tta.kind == "none":
        return [PLAIN]
    if tta.kind == "flip":
        return [PLAIN, MIRRORED]
    if is_identity(augmentation):
        log.warning("the augmentation of the job changes nothing, so its %d views are the image itself", tta.views)
        return [PLAIN]
    return [View("tta", number) for number in range(tta.views)]


def predict(
    model: keras.Model, views: Views, rows: np.ndarray, batch_size: int, over: list[View] | None = None, what: str = ""
) -> np.ndarray:
    """Probabilities of dog, the mean over views.

    Args:
        rows: int (N,).
        over: views to average; the plain image if None.
        what: the images, for the log; empty logs nothing.

    Returns:
        (N,) float64 in [0, 1].
    """
    over = [PLAIN] if over is None else over
    if len(rows) == 0:
        return np.zeros(0)
    began = time.monotonic()
    total = np.zeros(len(rows))
    for number, view in enumerate(over, start=1):
        total += model.predict(PlainBatches(views, rows, view, batch_size), verbose=0).reshape(-1)
        if what:
            left = (time.monotonic() - began) / number * (len(over) - number)
            log.info("%s: view %d of %d predicted, %s left", what, number, len(over), duration(left))
    return total / len(over)
