"""A training batch + random numbers -> the same batch with pairs of its images mixed, and their labels likewise.

What is mixed is what the trained part of the network reads: activations at its cut, pixels where nothing is frozen.
"""

from __future__ import annotations

import math

import numpy as np

from catsdogs.errors import UserError
from catsdogs.schema import Mixing

# Without it (seed, epoch, 0) would be the random numbers of (seed, epoch), which order the images: NumPy fills entropy
# up with zeros.
_STREAM = 1


def mixes(mixing: Mixing | None) -> bool:
    return mixing is not None and mixing.kind != "none"


def check_cut(mixing: Mixing, depth: int, shape: tuple[int, ...]) -> None:
    """Refuse what cannot be mixed.

    Args:
        depth: of unfreezing.
        shape: of one image's activation at the cut of this depth.

    Raises:
        UserError: cutmix of an activation without height and width.
    """
    if mixing.kind == "cutmix" and not _has_area(shape):
        raise UserError(
            f"mixing.kind=cutmix: with unfreeze_depth={depth} the trained part of this backbone reads one vector of "
            f"{math.prod(shape)} values per image, from which no rectangle can be cut; unfreeze more layers, or take "
            f"mixing=mixup"
        )


def mixed(
    inputs: np.ndarray, targets: np.ndarray, mixing: Mixing, seed: int, epoch: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """The batch of this step, mixed with a permutation of itself, or as it is.

    Whether it is mixed, the weight, the permutation and the rectangle are drawn from (seed, epoch, step), once for the
    whole batch as both papers do. The weight of an image in its own place is lambda of Beta(alpha, alpha) for mixup.
    For cutmix it is the share of its area that stays: a rectangle of sides sqrt(1 - lambda), rounded to whole positions
    and clipped at the border, comes from the other image.

    Args:
        inputs: (B, ...); (B, H, W, C) for cutmix.
        targets: float32 (B, 1) in [0, 1].
        mixing: of kind mixup or cutmix.

    Returns:
        float32, of the same shapes; not those that were given.
    """
    rng = np.random.default_rng([seed, epoch, step, _STREAM])
    inputs = inputs.astype(np.float32)
    if rng.random() >= mixing.probability:
        return inputs, targets.copy()
    share = float(rng.beta(mixing.alpha, mixing.alpha))
    others = rng.permutation(len(inputs))
    if mixing.kind == "mixup":
        return _blend(inputs, inputs[others], share), _blend(targets, targets[others], share)
    height, width = inputs.shape[1:3]
    rows, columns = _side(rng, height, share), _side(rng, width, share)
    inputs[:, rows, columns] = inputs[others, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return inputs, _blend(targets, targets[others], 1 - pasted / (height * width))


def _has_area(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] * shape[1] > 1


def _blend(own: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return np.float32(share) * own + np.float32(1 - share) * other


def _side(rng: np.random.Generator, length: int, share: float) -> slice:
    """Where a rectangle that leaves this share of the area lies on an axis: its middle anywhere, its ends inside."""
    extent = round(length * math.sqrt(1 - share))
    start = int(rng.integers(length)) - extent // 2
    return slice(max(0, start), min(length, start + extent))
