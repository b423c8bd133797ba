"""Synthetic images of a class: a head with ears, eyes, muzzle and nose on a blurred background.

Classes differ only in the distribution of shapes; every shape occurs in every class. Color, light, position and size
are uninformative.
"""

import numpy as np
from PIL import Image, ImageDraw

# Minimum, maximum, class 0 (cat) and class 1 (dog) of each trait; lengths in radii of the head.
_TRAITS = {
    "ear_turn": (0.2, 2.8, 0.45, 2.6),  # radians outward from upright
    "ear_length": (0.6, 1.3, 0.95, 1.2),
    "ear_width": (0.25, 0.6, 0.48, 0.4),
    "ear_roundness": (0.0, 1.0, 0.05, 0.9),  # from a triangle to an oval
    "head_width": (0.8, 1.2, 1.08, 0.92),
    "eye": (0.1, 0.28, 0.25, 0.15),
    "pupil": (0.2, 0.8, 0.25, 0.7),  # its width as a fraction of the eye's
    "muzzle_width": (0.25, 0.6, 0.32, 0.48),
    "muzzle_length": (0.2, 0.6, 0.26, 0.52),
    "nose": (0.07, 0.24, 0.1, 0.22),
    "whiskers": (0.0, 0.9, 0.8, 0.1),
}
_LOWEST, _HIGHEST, *_KNOWN = np.array(list(_TRAITS.values())).T
_SPREAD = 0.15  # standard deviation within a class, of the range of a trait
_ANYTHING = 0.12  # probability of a trait that is independent of the class
_FINE = 2  # supersampling factor, for smooth edges


def synthetic_photo(number: int, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """Return an image of class `number`, 90 to 160 pixels on its longer side, and its JPEG quality."""
    longer, aspect = rng.uniform(90, 160), np.exp(rng.uniform(-0.35, 0.35))
    width, height = int(longer * min(1, aspect)), int(longer / max(1, aspect))
    coarse = rng.uniform(50, 205) + rng.uniform(-50, 50, (*rng.integers(2, 7, 2), 3))
    scene = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    scene = scene.resize((_FINE * width, _FINE * height), Image.Resampling.BICUBIC)
    _draw_head(scene, _traits(number, rng), rng)
    pixels = np.asarray(scene.resize((width, height), Image.Resampling.LANCZOS), float)
    across, down = rng.uniform(-0.2, 0.2, 2)  # light from one side
    light = 1 + across * np.linspace(-1, 1, width) + down * np.linspace(-1, 1, height)[:, None]
    pixels = pixels * light[..., None] * rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    pixels += rng.uniform(1, 9) * rng.standard_normal(pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), int(rng.integers(72, 94))


def _traits(number: int, rng: np.random.Generator) -> dict[str, float]:
    """Sample the traits of an image; the usual traits of classes above 1 are random, seeded by `number`."""
    usual = _KNOWN[number] if number < len(_KNOWN) else np.random.default_rng(number).uniform(_LOWEST, _HIGHEST)
    traits = usual + _SPREAD * (_HIGHEST - _LOWEST) * np.clip(rng.normal(size=len(usual)), -2, 2)
    traits = np.where(rng.random(len(usual)) < _ANYTHING, rng.uniform(_LOWEST, _HIGHEST), traits)
    return dict(zip(_TRAITS, np.clip(traits, _LOWEST, _HIGHEST).tolist(), strict=True))


def _draw_head(scene: Image.Image, traits: dict[str, float], rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(scene)
    radius = min(scene.size) * rng.uniform(0.25, 0.36)
    middle = np.array(scene.size) * rng.uniform(0.42, 0.58, 2)
    tilt = rng.normal(0, 0.18)
    fur, second = rng.uniform(35, 235) + rng.uniform(-35, 35, (2, 3))
    iris = rng.uniform(60, 220, 3)

    def shape(x: float, y: float, points: np.ndarray, color: np.ndarray, turn: float = 0.0) -> None:
        """Fill an outline at a position on the head; x goes right, y down, `turn` clockwise."""
        at = (points @ _rotation(turn) + (x, y)) @ _rotation(tilt) * radius + middle
        fill, edge = (tuple(np.clip(c * color, 0, 255).astype(int).tolist()) for c in (1, 0.6))
        draw.polygon([*map(tuple, at.tolist())], fill, edge, max(1, round(0.04 * radius)))

    look = rng.uniform(-0.12, 0.12)  # sideways; closer parts move more
    upright_ears = traits["ear_turn"] < 1.6

    def ears() -> None:
        for side in (-1, 1):
            turn = side * (traits["ear_turn"] + rng.normal(0, 0.1))
            for size, color in ((1.0, 0.85 * fur), (0.6, second)):
                shape(side * 0.62 * traits["head_width"], -0.6, size * _ear(traits), color, turn)

    if upright_ears:
        ears()
    shape(0, 0, _oval(traits["head_width"], 0.95), fur)
    if not upright_ears:
        ears()
    nose, eye = traits["nose"], traits["eye"]
    shape(look, 0.42, _oval(traits["muzzle_width"], traits["muzzle_length"]), second)
    shape(1.3 * look, 0.42 - 0.5 * traits["muzzle_length"], _oval(nose, 0.75 * nose), np.array([60, 45, 50]))
    for side in (-1, 1):
        x = side * 0.42 + look
        shape(x, -0.15, _oval(eye, eye), iris)
        shape(x, -0.15, _oval(traits["pupil"] * eye, 0.9 * eye), np.array([20, 18, 20]))
        for angle in (-0.15, 0.05, 0.25) if rng.random() < traits["whiskers"] else ():
            shape(side * 0.75 + look, 0.45 + angle, _oval(0.5, 0.01), np.full(3, 235.0), side * angle)


def _rotation(turn: float) -> np.ndarray:
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _oval(width: float, height: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)


def _ear(traits: dict[str, float]) -> np.ndarray:
    """Return the outline of an ear, upward from (0, 0)."""
    along = np.linspace(0, 1, 16)
    oval, triangle = np.sqrt(1 - (2 * along - 1) ** 2), 1 - along
    half = traits["ear_width"] * (traits["ear_roundness"] * oval + (1 - traits["ear_roundness"]) * triangle)
    y = -traits["ear_length"] * along
    return np.concatenate([np.stack([half, y], axis=1), np.stack([-half, y], axis=1)[::-1]])
