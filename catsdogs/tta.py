"""Model + views -> probabilities, averaged over test-time views."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from catsdogs.augment import is_identity
from catsdogs.images import in_threads
from catsdogs.progress import duration
from catsdogs.schema import Augmentation, Tta
from catsdogs.views import MIRRORED, PLAIN, View, Views

log = logging.getLogger(__name__)

# Images that go through the model at a time.
CHUNK = 64

PROGRESS_SECONDS = 10.0


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
    forward: Callable[[np.ndarray], list[np.ndarray]],
    views: Views,
    rows: np.ndarray,
    over: list[View] | None = None,
    what: str = "",
) -> np.ndarray:
    """Probabilities of dog, the mean over views.

    Args:
        forward: pixels (B, S, S, 3) -> a list of p_dog (B, 1) alone, as `engine.fastest_forward` makes of a model.
        rows: int (N,).
        over: views to average; the plain image if None.
        what: the images, for the log; empty logs nothing.

    Returns:
        (N,) float64 in [0, 1].
    """
    over = [PLAIN] if over is None else over
    if len(rows) == 0:
        return np.zeros(0)
    began = said = time.monotonic()
    total = np.zeros(len(rows))
    chunks = [(start, view) for view in over for start in range(0, len(rows), CHUNK)]
    # Threads decode and augment the chunks ahead while the model runs.
    inputs = in_threads(lambda chunk: views.read(rows[chunk[0] : chunk[0] + CHUNK], chunk[1]), chunks, ahead=4)
    for number, ((start, _), images) in enumerate(zip(chunks, inputs, strict=True), start=1):
        total[start : start + CHUNK] += forward(images)[0].reshape(-1)
        now = time.monotonic()
        if what and (number == len(chunks) or now - said >= PROGRESS_SECONDS):
            said = now
            left = duration((now - began) / number * (len(chunks) - number))
            log.info("%s: %.0f %% of %d views predicted, %s left", what, 100 * number / len(chunks), len(over), left)
    return total / len(over)
