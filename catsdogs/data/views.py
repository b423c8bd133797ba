"""Interface between pixels and training: model inputs by rows and view.

Training only calls `Views.read`. `LiveViews` augments pixels on request; `features` returns activations of the frozen
prefix of a backbone instead.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from catsdogs.config.schema import MOST_VIEWS, AugmentationConfig, FeaturesConfig
from catsdogs.data.augment import augment, crops


@dataclass(frozen=True)
class View:
    """Deterministic version of every image.

    `plain` is the original image, `mirrored` its horizontal flip. `crop` and `mirrored crop` are crops at position
    `number` (`augment.crops`). `train` and `tta` are seeded augmentations with separate random numbers.
    """

    kind: Literal["plain", "mirrored", "crop", "mirrored crop", "train", "tta"]
    number: int = 0


ORIGINAL = View("plain")
MIRRORED = View("mirrored")


class Views(Protocol):
    """Source of model inputs for training, scoring and prediction."""

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """Return the inputs (B, ...) of these rows (B,) int in this view, in the order of `rows`."""


def distinct_views(features: FeaturesConfig, augmentation: AugmentationConfig, epochs: int) -> int:
    """Return the number of different training views; epoch e reads view `e % distinct_views`."""
    if augmentation.is_identity:
        return 1
    return min(epochs, MOST_VIEWS if features.views is None else features.views)


@dataclass(frozen=True, eq=False)
class LiveViews:
    """Pixels, augmented on request."""

    pixels: np.ndarray  # uint8 (N, S, S, 3), RGB; may be memory-mapped
    keys: np.ndarray  # uint64 (N,), seed of the random numbers of each image (`augment.view_keys`)
    augmentation: AugmentationConfig
    seed: int  # of the views; equal seeds produce equal views in every job

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """Return uint8 (B, S, S, 3)."""
        images = np.asarray(self.pixels[rows])
        if view.kind in ("crop", "mirrored crop"):
            images = crops(images, view.number)
        if view.kind in ("plain", "crop"):
            return images
        if view.kind in ("mirrored", "mirrored crop"):
            return np.ascontiguousarray(images[:, :, ::-1])
        return augment(images, self.keys[rows], self.augmentation, self.seed, view.number, stream=view.kind)
