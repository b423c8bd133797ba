"""Images + (augmentation, seed, view number) -> augmented images.

A view is a pure function of (augmentation, seed, view number, image, stream). Its random numbers come from a generator
seeded by these, never from one that is passed along, so a view is the same in every job, subset, order and process. The
numbers are the same everywhere; the last bit of a warped pixel may differ between builds of OpenCV.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from catsdogs.config.schema import AugmentationConfig

# Of the side, that a crop shows: 224 of 256 pixels, as networks for ImageNet were tested with.
CROP_FRACTION = 7 / 8

# Where a crop lies, as steps from the centre to the right and down: the centre, then the corners.
_CROPS = ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))
CROPS = len(_CROPS)

CACHE_VERSION = 2  # of what a view is; part of the key of stored activations, to be counted up when it changes

_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "replicate": cv2.BORDER_REPLICATE, "black": cv2.BORDER_CONSTANT}

# ITU-R BT.601, as in Pillow's "L" mode: what a picture keeps when its saturation is 0.
_LUMA = np.array([0.299, 0.587, 0.114])
_MID_GREY = 127.5


@dataclass(frozen=True)
class TransformParams:
    """What happens to every image of a view; each array is (N,).

    Rotation is counter-clockwise, shifts go right and down as a fraction of the side, zoom above 1 enlarges, shear
    moves the lower half to the right, and brightness, contrast and saturation are factors.
    """

    flip: np.ndarray  # bool
    rotation_degrees: np.ndarray
    shift_x_fraction: np.ndarray
    shift_y_fraction: np.ndarray
    zoom: np.ndarray
    shear_degrees: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray


def view_keys(sha256: Iterable[str]) -> np.ndarray:
    """(N,) uint64: the first 16 of each image's hexadecimal digits, which choose its random numbers."""
    return np.array([int(text[:16], 16) for text in sha256], dtype=np.uint64)


def is_identity(augmentation: AugmentationConfig) -> bool:
    """Whether every view is the image as it is."""
    return not any(value for name, value in vars(augmentation).items() if name != "border")


def augment(
    images: np.ndarray,
    keys: np.ndarray,
    augmentation: AugmentationConfig,
    seed: int,
    view: int,
    stream: str = "training",
) -> np.ndarray:
    """View number `view` of every image.

    Runs on the calling thread, plus OpenCV's own; OpenCV releases the interpreter's lock, so callers may also call from
    several threads. About 3,000 images/s at 224 px on two cores with every change on, 2,000 on one.

    Args:
        images: (N, S, S, 3) uint8, RGB; only read, so a read-only memory map will do.
        keys: (N,) uint64 from `view_keys`.
        stream: keeps views of different use apart: test-time view 3 is not training view 3.

    Returns:
        (N, S, S, 3) uint8, newly made.
    """
    return apply_transforms(images, sample_transforms(keys, augmentation, seed, view, stream), augmentation.border)


def sample_transforms(
    keys: np.ndarray, augmentation: AugmentationConfig, seed: int, view: int, stream: str = "training"
) -> TransformParams:
    """What `augment` does to the images of these keys; arguments as there."""
    # Numbers are drawn whether they are used or not: a change that is switched off, or appended here, leaves the others
    # as they were, so two augmentations share their random numbers.
    flip, *others = uniforms(keys, seed, view, stream).T
    rotation, shift_x, shift_y, zoom, shear, brightness, contrast, saturation = (2 * number - 1 for number in others)
    return TransformParams(
        flip=flip < augmentation.flip_probability,
        rotation_degrees=rotation * augmentation.rotation_degrees,
        shift_x_fraction=shift_x * augmentation.shift_fraction,
        shift_y_fraction=shift_y * augmentation.shift_fraction,
        zoom=1 + zoom * augmentation.zoom_fraction,
        shear_degrees=shear * augmentation.shear_degrees,
        brightness=1 + brightness * augmentation.brightness_fraction,
        contrast=1 + contrast * augmentation.contrast_fraction,
        saturation=1 + saturation * augmentation.saturation_fraction,
    )


def apply_transforms(images: np.ndarray, drawn: TransformParams, border: str) -> np.ndarray:
    """The images after their changes.

    Flip, zoom, shear, rotation and shift, in this order and about the image's centre, are one warp with bilinear
    interpolation (without antialiasing, which zooms of ordinary size do not need); brightness, contrast (about 127.5)
    and saturation (about the luma), in this order, are one matrix on the colours, rounded and clipped once. A flip and
    whole-pixel shifts lose nothing, and an image without changes keeps its pixels.

    Args:
        images: (N, S, S, 3) uint8, RGB.

    Returns:
        (N, S, S, 3) uint8, newly made.
    """
    side = images.shape[1]
    matrices, colours = _warp_matrices(drawn, side), _color_matrices(drawn)
    # Whether pixels move by more than a flip, and whether they change their colours.
    warped = (drawn.shift_x_fraction != 0) | (drawn.shift_y_fraction != 0) | (drawn.rotation_degrees != 0)
    warped |= (drawn.zoom != 1) | (drawn.shear_degrees != 0)
    coloured = (drawn.brightness != 1) | (drawn.contrast != 1) | (drawn.saturation != 1)
    out = np.empty(images.shape, np.uint8)
    for i in range(len(images)):
        source, target = images[i], out[i]
        if warped[i]:
            cv2.warpAffine(
                source, matrices[i], (side, side), dst=target, flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border]
            )
        elif drawn.flip[i]:
            cv2.flip(source, 1, dst=target)
        else:
            target[:] = source
        if coloured[i] and drawn.saturation[i] == 1:
            # Exact for every level, where cv2.transform works with 10 bits after the point and may be off by one.
            levels = np.arange(256) * colours[i, 0, 0] + colours[i, 0, 3]
            cv2.LUT(target, np.clip(np.rint(levels), 0, 255).astype(np.uint8), dst=target)
        elif coloured[i]:
            cv2.transform(target, colours[i], dst=target)
    return out


def crops(images: np.ndarray, place: int) -> np.ndarray:
    """A part of every image, CROP_FRACTION of its side, enlarged to the whole.

    The outermost pixels of a corner's crop are those of the image, so that nothing from beyond its border is seen.

    Args:
        images: (N, S, S, 3) uint8, RGB.
        place: 0, the centre, or 1 to 4, the corners top left, top right, bottom left and bottom right.

    Returns:
        (N, S, S, 3) uint8, newly made.
    """
    right, down = _CROPS[place]
    side, zoom = images.shape[1], 1 / CROP_FRACTION
    # From the zoomed image's outermost pixels, whose centers are (S - 1) / 2 from the middle, to the border.
    beyond = (zoom - 1) * (side - 1) / 2
    matrix = np.array([[zoom, 0, -beyond * (1 + right)], [0, zoom, -beyond * (1 + down)]])
    out = np.empty(images.shape, np.uint8)
    for source, target in zip(images, out, strict=True):
        cv2.warpAffine(source, matrix, (side, side), dst=target, borderMode=cv2.BORDER_REPLICATE)
    return out


def uniforms(keys: np.ndarray, seed: int, view: int, stream: str) -> np.ndarray:
    """The random numbers of a view: (N, 9) float64 in [0, 1), a column per change in the order of `Changes`.

    A generator of its own for every image, so that neither order nor batch matters.
    """
    word = zlib.crc32(stream.encode())
    drawn = [np.random.default_rng([seed, word, view, key]).random(9) for key in keys.tolist()]
    return np.array(drawn).reshape(len(keys), 9)


def _warp_matrices(drawn: TransformParams, side: int) -> np.ndarray:
    """(N, 2, 3) float64: where pixel (x, y, 1) of an image goes, y downwards, about the centre ((S-1)/2, (S-1)/2)."""
    angle = np.deg2rad(drawn.rotation_degrees)
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(np.deg2rad(drawn.shear_degrees))
    mirror = np.where(drawn.flip, -1.0, 1.0)
    # rotation @ shear @ zoom @ flip = [[cos, sin], [-sin, cos]] @ [[1, tan], [0, 1]] @ zoom I @ [[mirror, 0], [0, 1]]
    linear = np.empty((len(angle), 2, 2))
    linear[:, 0, 0] = cos * mirror
    linear[:, 0, 1] = cos * tan + sin
    linear[:, 1, 0] = -sin * mirror
    linear[:, 1, 1] = cos - sin * tan
    linear *= drawn.zoom[:, None, None]
    centre = (side - 1) / 2
    shift = side * np.stack([drawn.shift_x_fraction, drawn.shift_y_fraction], axis=1)
    offset = centre + shift - linear.sum(axis=2) * centre
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def _color_matrices(drawn: TransformParams) -> np.ndarray:
    """(N, 3, 4) float64: new RGB = matrix @ (R, G, B, 1), before rounding and clipping to 0..255."""
    s = drawn.saturation[:, None, None]
    gain = (drawn.brightness * drawn.contrast)[:, None, None]
    linear = gain * (s * np.eye(3) + (1 - s) * _LUMA)
    # Saturation leaves grey as it is, so contrast's offset needs no change for it.
    offset = np.repeat((_MID_GREY * (1 - drawn.contrast))[:, None, None], 3, axis=1)
    return np.concatenate([linear, offset], axis=2)
