"""Model + views -> probabilities, averaged over test-time views; what every kind says -> the kind that is best."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from catsdogs.config.schema import AugmentationConfig, TtaConfig
from catsdogs.data.augment import CROPS, is_identity
from catsdogs.data.images import in_threads
from catsdogs.data.views import MIRRORED, ORIGINAL, View, Views
from catsdogs.scoring.intervals import gains_over
from catsdogs.scoring.scores import TIE_TOLERANCE, clip, log_loss_per_image

log = logging.getLogger(__name__)

# Images that go through the model at a time.
CHUNK = 64

# Kinds of test-time augmentation that `auto` chooses from.
KINDS = ("none", "flip", "crops", "views")


def tta_views(kind: str, views: int, augmentation: AugmentationConfig) -> list[View]:
    """The views that a kind of KINDS averages.

    The image itself; itself and its mirror image; the crops of `augment.crops`, each with its mirror image; or seeded
    augmentations, so many `views`.
    """
    if kind == "none":
        return [ORIGINAL]
    if kind == "flip":
        return [ORIGINAL, MIRRORED]
    if kind == "crops":
        return [View(which, number) for number in range(CROPS) for which in ("crop", "mirrored crop")]
    if is_identity(augmentation):
        log.warning("the augmentation of the job changes nothing, so its %d views are the image itself", views)
        return [ORIGINAL]
    return [View("tta", number) for number in range(views)]


def views_by_kind(tta: TtaConfig, augmentation: AugmentationConfig) -> dict[str, list[View]]:
    """The views of the image itself and of what is asked for; of auto of all kinds that differ, cheapest first."""
    kinds: list[str] = ["none", tta.kind]
    if tta.kind == "auto":
        kinds = [kind for kind in KINDS if kind != "views" or not is_identity(augmentation)]
    return {kind: tta_views(kind, tta.views, augmentation) for kind in kinds}


def averaged(p_dog: np.ndarray, average: str) -> np.ndarray:
    """The mean over views, or over models.

    Args:
        p_dog: (V, N) in [0, 1].
        average: of probabilities, or of their logits after `scores.clip`.

    Returns:
        (N,) float64 in [0, 1].
    """
    if average == "logit":
        return expit(logit(clip(p_dog)).mean(axis=0))
    return np.asarray(p_dog, dtype=np.float64).mean(axis=0)


def choose_tta(labels: np.ndarray, by_kind: dict[str, np.ndarray]) -> tuple[str, str, pd.DataFrame]:
    """Choose how to average test-time views: the cheapest with a log loss within TIE_TOLERANCE of the lowest.

    What is chosen is flattered a little by these images, by less the more there are.

    Args:
        labels: (N,), 0.0 = cat, 1.0 = dog; of images that the model was not trained on.
        by_kind: kind -> (V, N) p_dog of its views; `none` is among them.

    Returns:
        The kind, the average, and a table with a row for every kind and average: kind, average, views, those of
        `gains_over` none, chosen.
    """
    # The averages of a single view are the same but for rounding.
    ways = [(kind, how) for kind, p in by_kind.items() for how in ("probability", "logit")[: 2 if len(p) > 1 else 1]]
    losses = np.stack([log_loss_per_image(labels, averaged(by_kind[kind], how)) for kind, how in ways])
    table = pd.DataFrame(ways, columns=["kind", "average"]).assign(views=[len(by_kind[kind]) for kind, _ in ways])
    table = table.join(gains_over(losses, ways.index(("none", "probability"))))
    equal = table[table["log_loss"] <= table["log_loss"].min() + TIE_TOLERANCE]
    chosen = equal.sort_values(["views", "log_loss"], kind="stable").index[0]
    table["chosen"] = table.index == chosen
    return *ways[chosen], table


def predict_views(
    forward: Callable[[np.ndarray], list[np.ndarray]], views: Views, rows: np.ndarray, over: list[View], what: str = ""
) -> np.ndarray:
    """Probabilities of dog, view by view.

    Args:
        forward: pixels (B, S, S, 3) -> a list of p_dog (B, 1) alone, as `engine.fastest_forward` makes of a model.
        rows: int (N,).
        over: the V views.
        what: the images, for the log; empty logs nothing.

    Returns:
        (V, N) float64 in [0, 1].
    """
    p_dog = np.zeros((len(over), len(rows)))
    chunks = [(place, start) for place in range(len(over)) for start in range(0, len(rows), CHUNK)]

    def read(chunk: tuple[int, int]) -> np.ndarray:
        place, start = chunk
        return views.read(rows[start : start + CHUNK], over[place])

    # Threads decode and augment the chunks ahead while the model runs.
    for (place, start), images in zip(chunks, in_threads(read, chunks, what, ahead=4), strict=True):
        p_dog[place, start : start + CHUNK] = forward(images)[0].reshape(-1)
    return p_dog
