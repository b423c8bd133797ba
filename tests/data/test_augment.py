"""Augmented views depend only on image, seed, view number, stream and configuration."""

import dataclasses
import hashlib
import zlib
from typing import Any

import numpy as np
import pytest

from catsdogs.config.schema import AugmentationConfig
from catsdogs.data.augment import TransformParams, apply_transforms, augment, sample_transforms, uniforms, view_keys

pytestmark = pytest.mark.lowest

SIDE = 48


def augmentation(**values):
    """Return an augmentation with only these transforms."""
    numbers = {item.name: 0.0 for item in dataclasses.fields(AugmentationConfig) if item.name != "border"}
    return AugmentationConfig(**{**numbers, "border": "reflect", **values})


STRONG = AugmentationConfig(0.5, 30, 0.2, 0.3, 15, 0.3, 0.3, 0.5, "reflect")


def smooth_images(count, side=SIDE, seed=0):
    """Return (N, S, S, 3) smooth, asymmetric, distinct images that use all of 0..255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * (fx * x + fy * y + p)) for fx, fy, p in rng.random((count * 3, 3)) * [1.5, 1, 1]]
    smooth = 127.5 + 127.5 * np.stack(waves).reshape(count, 3, side, side)
    return np.rint(smooth.transpose(0, 2, 3, 1)).astype(np.uint8)


def noise(count, side=SIDE):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def some_keys(count):
    return view_keys(hashlib.sha256(str(i).encode()).hexdigest() for i in range(count))


def only(**values):
    """Return the parameters of one image, neutral except for these."""
    neutral = {item.name: 0.0 for item in dataclasses.fields(TransformParams)}
    neutral |= {"zoom": 1.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
    arrays = {name: np.full(1, value) for name, value in (neutral | values).items()}
    return TransformParams(**{**arrays, "flip": arrays["flip"].astype(bool)})


def test_identity_and_flip_are_exact_and_return_a_new_array():
    images = noise(4)
    for probability, expected in ((0, images), (1, images[:, :, ::-1])):
        out = augment(images, some_keys(4), augmentation(flip_probability=probability), seed=3, view=4)
        np.testing.assert_array_equal(out, expected)
        assert not np.shares_memory(out, images)


@pytest.mark.parametrize("side", [SIDE, SIDE + 1])
def test_integer_shifts_are_exact_for_every_border(side):
    images = noise(1, side)
    shift = only(shift_x_fraction=3 / side, shift_y_fraction=-2 / side)
    black, rows = np.zeros((side - 2, 3, 3)), images[0][2:]
    for border, expected in (("black", black), ("replicate", rows[:, [0] * 3]), ("reflect", rows[:, [3, 2, 1]])):
        out = apply_transforms(images, shift, border)[0]
        np.testing.assert_array_equal(out[:-2, 3:], rows[:, :-3])
        np.testing.assert_array_equal(out[:-2, :3], expected)


def reference(image, params):
    """Return the warped image and a mask of pixels from inside; shift, rotation, shear, zoom and flip are inverted."""
    side = image.shape[0]
    center = (side - 1) / 2
    y, x = np.mgrid[0:side, 0:side].astype(float)
    x = x - center - params.shift_x_fraction[0] * side
    y = y - center - params.shift_y_fraction[0] * side
    angle = np.deg2rad(params.rotation_degrees[0])
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    x = x - np.tan(np.deg2rad(params.shear_degrees[0])) * y
    x, y = x / params.zoom[0], y / params.zoom[0]
    x = np.where(params.flip[0], -x, x)
    x, y = x + center, y + center
    inside = (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
    left, top = np.clip(np.floor([x, y]), 0, side - 2).astype(int)
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    pixels = image.astype(float)
    upper = (1 - fx) * pixels[top, left] + fx * pixels[top, left + 1]
    lower = (1 - fx) * pixels[top + 1, left] + fx * pixels[top + 1, left + 1]
    return (1 - fy) * upper + fy * lower, inside


MOVES = {"rotation_degrees": -33, "shear_degrees": -12, "shift_x_fraction": -0.09, "shift_y_fraction": 0.13}
SINGLE = [{"rotation_degrees": 20}, {"zoom": 0.7}, {"shear_degrees": 25}, {"shift_x_fraction": 0.11}]


@pytest.mark.parametrize("side", [SIDE, SIDE + 1])
@pytest.mark.parametrize("values", [*SINGLE, MOVES, {**MOVES, "flip": 1, "zoom": 1.2}])
def test_fused_warp_equals_separate_transforms(values, side):
    images = smooth_images(1, side)
    params = only(**values)
    expected, inside = reference(images[0], params)
    out = apply_transforms(images, params, "black")[0]
    assert inside.mean() > 0.4
    # OpenCV rounds positions to 1/32 pixel.
    np.testing.assert_allclose(out[inside].astype(float), expected[inside], atol=2)


@pytest.mark.parametrize(
    ("b", "c", "s"), [(0.7, 1, 1), (1.25, 1, 1), (1, 0.5, 1), (1.3, 1.3, 1), (1, 1, 0.6), (1, 1, 0), (1.1, 0.8, 1.4)]
)
def test_color_transforms_apply_in_order_and_round_once(b, c, s):
    images = noise(1)
    out = apply_transforms(images, only(brightness=b, contrast=c, saturation=s), "reflect")
    expected = (images * b - 127.5) * c + 127.5
    luma = (expected @ [0.299, 0.587, 0.114])[..., None]
    # Tolerance: rounding, and OpenCV's 10-bit weights for saturation.
    np.testing.assert_allclose(out, np.clip(luma + s * (expected - luma), 0, 255), atol=0.5 + 1e-9 if s == 1 else 1.5)


def test_random_numbers_are_pinned():
    """Stored activations and reported results depend on them."""
    u = uniforms(view_keys(["00112233445566778899aabbccddeeff" * 2, "f" * 64]), seed=1, view=2, stream="training")
    np.testing.assert_array_equal(u[0, :3], [0.5369306380564245, 0.9681418796617285, 0.47422833296670397])
    last = np.random.default_rng([1, zlib.crc32(b"training"), 2, 2**64 - 1]).random(9)
    np.testing.assert_array_equal(u[1], last)


def test_transforms_use_separate_random_numbers():
    u = uniforms(some_keys(9), seed=1, view=2, stream="tta")
    names = [item.name for item in dataclasses.fields(TransformParams)][1:]
    middles, limits = (0, 0, 0, 1, 0, 1, 1, 1), (30, 0.2, 0.2, 0.3, 15, 0.3, 0.3, 0.5)
    changes: tuple[dict[str, Any], ...] = ({}, {"flip_probability": 0.2}, {"rotation_degrees": 0.0})
    for without in changes:
        params = sample_transforms(some_keys(9), dataclasses.replace(STRONG, **without), seed=1, view=2, stream="tta")
        np.testing.assert_array_equal(params.flip, u[:, 0] < without.get("flip_probability", 0.5))
        for name, middle, limit, column in zip(names, middles, limits, u.T[1:], strict=True):
            if name not in without:
                np.testing.assert_allclose(getattr(params, name), middle + limit * (2 * column - 1), rtol=1e-12)


def test_view_is_independent_of_batch_and_order(tmp_path):
    images, keys = smooth_images(32), some_keys(32)
    np.save(tmp_path / "pixels.npy", images)
    stored = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    together = augment(stored, keys, STRONG, seed=1, view=2)
    order = np.random.default_rng(0).permutation(32)[:20]
    np.testing.assert_array_equal(augment(images[order], keys[order], STRONG, seed=1, view=2), together[order])
    single = [augment(images[i : i + 1], keys[i : i + 1], STRONG, seed=1, view=2) for i in range(32)]
    np.testing.assert_array_equal(np.concatenate(single), together)
    assert augment(images[:0], keys[:0], STRONG, seed=1, view=2).shape == (0, SIDE, SIDE, 3)
    np.testing.assert_array_equal(images, stored)
    # Another image, stream or view has other random numbers.
    image = np.repeat(smooth_images(1), 2, axis=0)
    base, *others = (augment(image, keys[:2], STRONG, 1, *view) for view in ((2,), (2, "tta"), (3,)))
    assert all((base != other).mean() > 0.5 for other in (base[::-1], *others))


def test_is_identity_checks_every_transform():
    assert augmentation(border="black").is_identity
    for item in dataclasses.fields(AugmentationConfig):
        if item.name != "border":
            assert not augmentation(**{item.name: 0.1}).is_identity, item.name
