"""The seam between pixels and training: rows + view -> inputs of the model.

Training asks `Views.read` and neither knows nor cares how an input comes about. Here pixels are augmented when they are
asked for; `features` gives what the frozen part of a backbone makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from catsdogs.config.schema import MOST_VIEWS, AugmentationConfig, FeaturesConfig
from catsdogs.data.augment import augment, crops, is_identity


@dataclass(frozen=True)
class View:
    """One deterministic version of every image.

    `plain` is the image as it is, `mirrored` its horizontal flip; `crop` and `mirrored crop` are the crops of that
    number (`augment.crops`); `train` and `tta` are numbered, seeded augmentations, with random numbers that do not
    overlap.
    """

    kind: Literal["plain", "mirrored", "crop", "mirrored crop", "train", "tta"]
    number: int = 0


ORIGINAL = View("plain")
MIRRORED = View("mirrored")


class Views(Protocol):
    """What training, scoring and prediction read their inputs from."""

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """Inputs of the model for these rows (B,) int, seen through this view; (B, ...), in the order of `rows`."""


def distinct_views(features: FeaturesConfig, augmentation: AugmentationConfig, epochs: int) -> int:
    """How many different training views there are: epoch e reads view `e % distinct_views`."""
    if is_identity(augmentation):
        return 1
    return min(epochs, MOST_VIEWS if features.views is None else features.views)


class LiveViews:
    """Pixels, augmented when they are asked for.

    Args:
        pixels: uint8 (N, S, S, 3), RGB; may be memory-mapped.
        keys: uint64 (N,), the random stream of every image (`augment.view_keys`).
        seed: of the views; the same one gives the same views in every job.
    """

    def __init__(self, pixels: np.ndarray, keys: np.ndarray, augmentation: AugmentationConfig, seed: int) -> None:
        self._pixels = pixels
        self._keys = keys
        self.augmentation = augmentation
        self.seed = seed

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """uint8 (B, S, S, 3)."""
        images = np.asarray(self._pixels[rows])
        if view.kind in ("crop", "mirrored crop"):
            images = crops(images, view.number)
        if view.kind in ("plain", "crop"):
            return images
        if view.kind in ("mirrored", "mirrored crop"):
            return np.ascontiguousarray(images[:, :, ::-1])
        return augment(images, self._keys[rows], self.augmentation, self.seed, view.number, stream=view.kind)
