"""Deterministic augmentation of images.

A view is a pure function of (augmentation, seed, view number, image, stream). Every image has its own generator, seeded
by these, so a view is the same in every job, subset, order and process. Random numbers are the same on all machines;
the last bit of a warped pixel may differ between builds of OpenCV.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from catsdogs.config.schema import AugmentationConfig

# Crop side relative to the image side: 224 of 256 pixels, the usual evaluation of ImageNet networks.
CROP_FRACTION = 7 / 8

# Crop positions as steps right and down from the center: the center, then the corners.
_CROPS = ((0, 0), (-1, -1), (1, -1), (-1, 1), (1, 1))
CROPS = len(_CROPS)

CACHE_VERSION = 2  # part of the key of stored activations; increment when views change

_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "replicate": cv2.BORDER_REPLICATE, "black": cv2.BORDER_CONSTANT}

# Weights of gray at saturation 0: ITU-R BT.601, as in Pillow's "L" mode.
_LUMA = np.array([0.299, 0.587, 0.114])
_MID_GRAY = 127.5


@dataclass(frozen=True)
class TransformParams:
    """Parameters of one view; each array is (N,).

    Rotation is counterclockwise. Shifts go right and down, as fractions of the side. Zoom above 1 enlarges. Shear moves
    the lower half to the right. Brightness, contrast and saturation are factors.
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
    """Return the seeds of the images' random numbers, from their first 16 hexadecimal digits; (N,) uint64."""
    return np.array([int(text[:16], 16) for text in sha256], dtype=np.uint64)


def augment(
    images: np.ndarray,
    keys: np.ndarray,
    augmentation: AugmentationConfig,
    seed: int,
    view: int,
    stream: str = "training",
) -> np.ndarray:
    """Return view number `view` of every image.

    Runs on the calling thread and OpenCV's own. OpenCV releases the interpreter's lock, so several threads may call it.
    With all transforms, it processes about 3,000 images/s at 224 px on two cores, 2,000 on one.

    `images` are (N, S, S, 3) uint8, RGB, and so is the result, a new array. `keys` are (N,) uint64 from `view_keys`.
    `stream` is the purpose of the view; test-time view 3 differs from training view 3.
    """
    return apply_transforms(images, sample_transforms(keys, augmentation, seed, view, stream), augmentation.border)


def sample_transforms(
    keys: np.ndarray, augmentation: AugmentationConfig, seed: int, view: int, stream: str = "training"
) -> TransformParams:
    """Return the parameters of a view; arguments as in `augment`."""
    # All numbers are sampled, used or not. A transform that is turned off, or appended here, leaves the others
    # unchanged, so two augmentations share their random numbers.
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


def apply_transforms(images: np.ndarray, params: TransformParams, border: str) -> np.ndarray:
    """Return the transformed images.

    Flip, zoom, shear, rotation and shift, in this order and about the image center, are one bilinear warp (without
    antialiasing, which moderate zooms do not need). Brightness, contrast (about 127.5) and saturation (about the luma),
    in this order, are one color matrix, rounded and clipped once. Flips and shifts by integer pixels are exact, and an
    image without transforms is unchanged. `images` are (N, S, S, 3) uint8, RGB, and so is the result, a new array.
    """
    side = images.shape[1]
    matrices, colors = _warp_matrices(params, side), _color_matrices(params)
    # A flip alone needs no warp.
    warped = (params.shift_x_fraction != 0) | (params.shift_y_fraction != 0) | (params.rotation_degrees != 0)
    warped |= (params.zoom != 1) | (params.shear_degrees != 0)
    colored = (params.brightness != 1) | (params.contrast != 1) | (params.saturation != 1)
    out = np.empty(images.shape, np.uint8)
    for i in range(len(images)):
        source, target = images[i], out[i]
        if warped[i]:
            cv2.warpAffine(
                source, matrices[i], (side, side), dst=target, flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border]
            )
        elif params.flip[i]:
            cv2.flip(source, 1, dst=target)
        else:
            target[:] = source
        if colored[i] and params.saturation[i] == 1:
            # Exact for every level; cv2.transform uses 10 fractional bits and may be off by one.
            levels = np.arange(256) * colors[i, 0, 0] + colors[i, 0, 3]
            cv2.LUT(target, np.clip(np.rint(levels), 0, 255).astype(np.uint8), dst=target)
        elif colored[i]:
            cv2.transform(target, colors[i], dst=target)
    return out


def crops(images: np.ndarray, position: int) -> np.ndarray:
    """Return a crop of every image, CROP_FRACTION of its side, enlarged to the original size.

    Corner crops end at the outermost pixels of the image and show nothing beyond its border. `images` are (N, S, S, 3)
    uint8, RGB, and so is the result, a new array. Position 0 is the center; 1 to 4 are the corners top left, top right,
    bottom left and bottom right.
    """
    right, down = _CROPS[position]
    side, zoom = images.shape[1], 1 / CROP_FRACTION
    # Centers of the outermost pixels are (S - 1) / 2 from the middle; zoom moves them by this much.
    margin = (zoom - 1) * (side - 1) / 2
    matrix = np.array([[zoom, 0, -margin * (1 + right)], [0, zoom, -margin * (1 + down)]])
    out = np.empty(images.shape, np.uint8)
    for source, target in zip(images, out, strict=True):
        cv2.warpAffine(source, matrix, (side, side), dst=target, borderMode=cv2.BORDER_REPLICATE)
    return out


def uniforms(keys: np.ndarray, seed: int, view: int, stream: str) -> np.ndarray:
    """Return the random numbers of a view: (N, 9) float64 in [0, 1), with columns in the order of `TransformParams`.

    Every image has its own generator, so neither order nor batch size matters.
    """
    word = zlib.crc32(stream.encode())
    samples = [np.random.default_rng([seed, word, view, key]).random(9) for key in keys.tolist()]
    return np.array(samples).reshape(len(keys), 9)


def _warp_matrices(params: TransformParams, side: int) -> np.ndarray:
    """Return (N, 2, 3) float64: maps pixel (x, y, 1) to its new position, y downward, about ((S-1)/2, (S-1)/2)."""
    angle = np.deg2rad(params.rotation_degrees)
    cos, sin, tan = np.cos(angle), np.sin(angle), np.tan(np.deg2rad(params.shear_degrees))
    mirror = np.where(params.flip, -1.0, 1.0)
    # rotation @ shear @ zoom @ flip = [[cos, sin], [-sin, cos]] @ [[1, tan], [0, 1]] @ zoom I @ [[mirror, 0], [0, 1]]
    linear = np.empty((len(angle), 2, 2))
    linear[:, 0, 0] = cos * mirror
    linear[:, 0, 1] = cos * tan + sin
    linear[:, 1, 0] = -sin * mirror
    linear[:, 1, 1] = cos - sin * tan
    linear *= params.zoom[:, None, None]
    center = (side - 1) / 2
    shift = side * np.stack([params.shift_x_fraction, params.shift_y_fraction], axis=1)
    offset = center + shift - linear.sum(axis=2) * center
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def _color_matrices(params: TransformParams) -> np.ndarray:
    """Return (N, 3, 4) float64: new RGB = matrix @ (R, G, B, 1), before rounding and clipping to 0..255."""
    s = params.saturation[:, None, None]
    gain = (params.brightness * params.contrast)[:, None, None]
    linear = gain * (s * np.eye(3) + (1 - s) * _LUMA)
    # Saturation does not change gray, so the offset of contrast is the same with it.
    offset = np.repeat((_MID_GRAY * (1 - params.contrast))[:, None, None], 3, axis=1)
    return np.concatenate([linear, offset], axis=2)
