"""Cat or dog + random numbers -> its traits, and the animal drawn by them."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

# Colour, and how often it is seen in 100 cats and in 100 dogs.
_FURS: tuple[tuple[Colour, int, int], ...] = (
    ((52, 48, 50), 15, 12),
    ((92, 90, 96), 15, 6),
    ((154, 156, 162), 16, 5),
    ((234, 230, 222), 12, 10),
    ((224, 200, 162), 7, 13),
    ((214, 138, 70), 16, 6),
    ((204, 160, 96), 4, 16),
    ((134, 92, 60), 6, 12),
    ((92, 62, 46), 4, 9),
    ((186, 148, 114), 5, 11),
)
PINK: Colour = (232, 150, 150)
DARK: Colour = (38, 32, 34)
WHITE: Colour = (250, 248, 244)
BLACK: Colour = (0, 0, 0)


# What the animal looks like


@dataclasses.dataclass(frozen=True)
class Traits:
    """Lengths are in radii of the head."""

    ears: str  # pointed | folded | floppy
    ear_length: float
    head_width: float
    head_height: float
    muzzle_width: float
    muzzle_length: float
    nose: float
    pink_nose: bool
    eyes: str  # slit | round | closed
    eye_size: float
    iris: Colour
    whiskers: bool
    tongue: bool
    stripes: bool
    patch: bool
    blaze: bool
    collar: bool
    slim_tail: bool
    fur: Colour
    second_fur: Colour


def traits_of(animal: str, rng: np.random.Generator) -> Traits:
    """Every trait occurs in both animals; what differs is how often or how strongly."""
    cat = animal == "cat"

    def either(in_cats: float, in_dogs: float) -> bool:
        return bool(rng.random() < (in_cats if cat else in_dogs))

    def around(in_cats: float, in_dogs: float, spread: float) -> float:
        return float((in_cats if cat else in_dogs) + spread * np.clip(rng.normal(), -2, 2))

    def one_of(options: tuple[str, ...], in_cats: tuple[float, ...], in_dogs: tuple[float, ...]) -> str:
        return str(rng.choice(options, p=in_cats if cat else in_dogs))

    greens: tuple[Colour, ...] = ((126, 190, 80), (232, 190, 56), (96, 176, 206))
    browns: tuple[Colour, ...] = ((104, 66, 38), (140, 92, 48), (70, 50, 40))
    shares = np.array([in_cats if cat else in_dogs for _, in_cats, in_dogs in _FURS]) / 100
    fur = near(_FURS[int(rng.choice(len(_FURS), p=shares))][0], 14, rng)
    others = (mixed(fur, WHITE, 0.55), mixed(fur, WHITE, 0.85), mixed(fur, BLACK, 0.45), (200, 140, 84))
    second_fur = others[int(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1)))]
    irises = greens if either(0.93, 0.1) else browns
    return Traits(
        ears=one_of(("pointed", "folded", "floppy"), (0.92, 0.05, 0.03), (0.08, 0.16, 0.76)),
        ear_length=around(0.85, 0.95, 0.14),
        head_width=around(1.06, 0.94, 0.06),
        head_height=around(0.92, 1.02, 0.06),
        muzzle_width=around(0.32, 0.48, 0.06),
        muzzle_length=around(0.26, 0.56, 0.13),
        nose=around(0.09, 0.22, 0.03),
        pink_nose=either(0.7, 0.12),
        eyes=one_of(("slit", "round", "closed"), (0.7, 0.2, 0.1), (0.06, 0.84, 0.1)),
        eye_size=around(0.25, 0.15, 0.03),
        iris=irises[int(rng.integers(len(irises)))],
        whiskers=either(0.9, 0.15),
        tongue=either(0.06, 0.45),
        stripes=either(0.4, 0.12),
        patch=either(0.15, 0.3),
        blaze=either(0.25, 0.3),
        collar=either(0.25, 0.4),
        slim_tail=either(0.85, 0.3),
        fur=fur,
        second_fur=near(second_fur, 14, rng),
    )


def near(colour: Colour, spread: float, rng: np.random.Generator) -> Colour:
    return rgb(np.asarray(colour) + rng.uniform(-spread, spread) + rng.uniform(-spread, spread, 3) / 2)


def rgb(values: np.ndarray) -> Colour:
    red, green, blue = values.tolist()
    return min(255, max(0, int(red))), min(255, max(0, int(green))), min(255, max(0, int(blue)))


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour, the rest of the one."""
    red, green, blue = (int((1 - share) * a + share * b) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _shade(fur: Colour) -> Colour:
    """What sets a part of the animal off from the rest; lighter on black fur."""
    return mixed(fur, BLACK, 0.22) if sum(fur) > 200 else mixed(fur, WHITE, 0.12)


# Drawing


class Pen:
    """Draws in units of its own: a place on the canvas, a radius in pixels, and a tilt."""

    def __init__(self, image: Image.Image, x: float, y: float, radius: float, tilt: float = 0.0) -> None:
        """`tilt` in radians, clockwise."""
        self.draw = ImageDraw.Draw(image)
        self.place, self.radius = np.array([x, y]), radius
        cos, sin = np.cos(tilt), np.sin(tilt)
        self.matrix = radius * np.array([[cos, sin], [-sin, cos]])

    def pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (np.asarray(points) @ self.matrix + self.place).tolist()]

    def shape(self, points: np.ndarray, colour: Colour, edge: bool = False) -> None:
        """Fill a closed outline; with a darker edge if asked for."""
        pixels = self.pixels(points)
        self.draw.polygon(pixels, fill=colour)
        if edge:
            width = max(1, round(0.05 * self.radius))
            self.draw.line([*pixels, pixels[0]], fill=mixed(colour, BLACK, 0.35), width=width, joint="curve")

    def blob(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0, edge: bool = False
    ) -> None:
        self.shape(_oval(x, y, rx, ry, turn), colour, edge)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        pixels = self.pixels(np.asarray(points))
        self.draw.line(pixels, fill=colour, width=max(1, round(width * self.radius)), joint="curve")


def _oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """(28, 2) points; `turn` in radians, clockwise."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    across, down = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + cos * across - sin * down, y + sin * across + cos * down], axis=1)


def _curve(points: list[tuple[float, float]]) -> np.ndarray:
    """A closed smooth line through the points (Catmull-Rom, 8 steps each)."""
    p1 = np.asarray(points, float)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[:, None, None]
    square, cube = 2 * p0 - 5 * p1 + 4 * p2 - p3, 3 * p1 - p0 - 3 * p2 + p3
    spline = p1 + 0.5 * ((p2 - p0) * t + square * t**2 + cube * t**3)
    return spline.transpose(1, 0, 2).reshape(-1, 2)


def draw_animal(layer: Image.Image, traits: Traits, rng: np.random.Generator) -> None:
    side = min(layer.size)
    sitting = rng.random() < 0.33
    radius = side * (rng.uniform(0.19, 0.24) if sitting else rng.uniform(0.26, 0.36))
    x = layer.width * rng.uniform(0.34, 0.66)
    y = layer.height * (rng.uniform(0.33, 0.45) if sitting else rng.uniform(0.43, 0.6))
    if sitting:
        _draw_body(Pen(layer, x, y, radius, rng.normal(0, 0.06)), traits, rng)
    elif rng.random() < 0.6:
        _draw_shoulders(Pen(layer, x, y, radius), traits)
    _draw_head(Pen(layer, x, y, radius, float(np.clip(rng.normal(0, 0.18), -0.5, 0.5))), traits, rng)


def _draw_shoulders(pen: Pen, traits: Traits) -> None:
    pen.blob(0, 2.2, 1.35, 1.6, traits.fur, edge=True)
    pen.blob(0, 2.3, 0.6, 1.2, traits.second_fur)
    if traits.collar:
        pen.blob(0, 0.98, 0.72, 0.26, (180, 50, 60))


def _draw_body(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    """Sitting, seen from the front: tail, body, hind legs, front legs."""
    side = 1 if rng.random() < 0.5 else -1
    lift = rng.uniform(-0.4, 1.2)
    width = 0.3 if traits.slim_tail else 0.46
    tail = [(0.8 * side, 3.2), (1.7 * side, 3.1), (2.1 * side, 2.5 - 0.4 * lift), (1.9 * side, 2.0 - lift)]
    pen.line(tail, mixed(traits.fur, BLACK, 0.12), width)
    pen.blob(*tail[-1], width / 2, width / 2, mixed(traits.fur, BLACK, 0.12))
    pen.blob(0, 2.1, 1.15, 1.55, traits.fur, edge=True)
    for x in (-0.95, 0.95):
        pen.blob(x, 3.05, 0.5, 0.62, traits.fur, edge=True)
    pen.blob(0, 1.75, 0.55, 0.95, traits.second_fur)
    for x in (-0.42, 0.42):
        pen.blob(x, 2.85, 0.26, 0.85, traits.fur, edge=True)
        pen.blob(x, 3.6, 0.34, 0.22, mixed(traits.fur, WHITE, 0.3), edge=True)
    if traits.stripes:
        for y in (1.6, 2.0, 2.4):
            for x in (-1, 1):
                pen.line([(x * 1.08, y), (x * 0.7, y + 0.12)], mixed(traits.fur, BLACK, 0.4), 0.12)
    if traits.collar:
        pen.blob(0, 0.98, 0.66, 0.24, (60, 90, 170))


def _draw_head(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    """From back to front; x is moved by `look` the more, the nearer a part is to the viewer."""
    look = rng.uniform(-1, 1)
    fur, w, h = traits.fur, traits.head_width, traits.head_height
    if traits.ears != "floppy":
        _draw_ears(pen, traits, rng)
    cheeks = [(0, -h), (0.72 * w, -0.66 * h), (w, 0.1 * h), (0.62 * w, 0.78 * h), (0, h)]
    head = _curve([*cheeks, *((-x, y) for x, y in cheeks[-2:0:-1])])
    pen.shape(head, fur, edge=True)
    if traits.patch:
        left = 1 if rng.random() < 0.5 else -1
        pen.blob(0.45 * left * w + 0.1 * look, -0.16, 0.34, 0.4, traits.second_fur, turn=0.3 * left)
    if traits.blaze:
        middle = 0.15 * look
        blaze = [(0.8 * middle, -0.85 * h), (middle + 0.14, -0.1), (1.3 * middle, 0.4), (middle - 0.14, -0.1)]
        pen.shape(_curve(blaze), WHITE)
    if traits.stripes:
        dark = mixed(fur, BLACK, 0.45)
        for x in (-0.26, 0, 0.26):
            pen.line([(x + 0.08 * look, -0.86 * h), (0.8 * x + 0.12 * look, -0.45 * h)], dark, 0.09)
        for side in (-1, 1):
            for y in (0.1, 0.34):
                pen.line([(side * 0.93 * w, y), (side * 0.62 * w, y + 0.06)], dark, 0.08)
    if traits.ears == "floppy":
        _draw_ears(pen, traits, rng)
    _draw_muzzle(pen, traits, look)
    _draw_eyes(pen, traits, look)


def _draw_ears(pen: Pen, traits: Traits, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        spread = rng.normal(0, 0.06)
        if traits.ears == "floppy":
            _draw_floppy_ear(pen, traits, side, spread)
        else:
            _draw_raised_ear(pen, traits, side, spread)


def _draw_floppy_ear(pen: Pen, traits: Traits, side: int, spread: float) -> None:
    x, y, drop = 0.62 * traits.head_width, -0.72 * traits.head_height, 1.3 * traits.ear_length
    back = [(x - 0.12, y - 0.06), (x + 0.42 + spread, y + 0.1), (x + 0.62 + spread, y + 0.65 * drop)]
    front = [(x + 0.42 + spread, y + drop), (x + 0.16, y + 0.75 * drop), (x + 0.06, y + 0.3)]
    pen.shape(_curve([*back, *front]) * (side, 1), _shade(traits.fur), edge=True)


def _draw_raised_ear(pen: Pen, traits: Traits, side: int, spread: float) -> None:
    """A triangle with pink inside, or one whose upper half is folded down."""
    w, h = traits.head_width, traits.head_height
    ear = np.array([(0.16 * w, -0.86 * h), (0.78 * w + spread, -0.62 * h - traits.ear_length), (0.96 * w, -0.2 * h)])
    ear *= (side, 1)
    if traits.ears == "pointed":
        pen.shape(ear, traits.fur, edge=True)
        centre = ear.mean(axis=0)
        pen.shape(centre + 0.6 * (ear - centre), mixed(PINK, traits.fur, 0.2))
        return
    inner, tip, outer = ear
    inner_fold, outer_fold = (inner + tip) / 2, (outer + tip) / 2
    pen.shape(np.array([inner, inner_fold, outer_fold, outer]), traits.fur, edge=True)
    flap = (inner + outer) / 2 + (0.12 * side, -0.02)
    pen.shape(np.array([inner_fold, outer_fold, flap]), _shade(traits.fur), edge=True)


def _draw_muzzle(pen: Pen, traits: Traits, look: float) -> None:
    light = mixed(traits.second_fur, WHITE, 0.35)
    long, wide, nose = max(0.15, traits.muzzle_length), traits.muzzle_width, max(0.06, traits.nose)
    x, top = 0.22 * look * (0.5 + long), 0.12
    mouth = top + 0.32 + 0.55 * long
    if traits.tongue:
        pen.blob(x + 0.05, mouth + 0.2, 0.13, 0.26, (226, 104, 116), edge=True)
    pen.blob(x, top + 0.1 + 0.5 * long, wide * 0.8, 0.2 + 0.5 * long, light)
    for side in (-1, 1):
        pen.blob(x + side * 0.45 * wide, mouth - 0.1, 0.58 * wide, 0.16 + 0.12 * long, light)
    y = top + 0.22 * long + 0.06
    dark = mixed(traits.fur, BLACK, 0.65)
    pen.line([(x, y), (x, mouth - 0.02)], dark, 0.045)
    for side in (-1, 1):
        smile = [(0, -0.02), (0.25, 0.06), (0.55, 0.05), (0.8, -0.06)]
        pen.line([(x + side * along * wide, mouth + down) for along, down in smile], dark, 0.045)
    nose_colour = PINK if traits.pink_nose else DARK
    triangle = [(x - nose, y - 0.6 * nose), (x + nose, y - 0.6 * nose), (x, y + 0.8 * nose)]
    pen.shape(_curve(triangle), nose_colour, edge=True)
    pen.blob(x - 0.35 * nose, y - 0.4 * nose, 0.25 * nose, 0.15 * nose, mixed(nose_colour, WHITE, 0.6))
    if traits.whiskers:
        for side in (-1, 1):
            for slope in (-0.16, 0.02, 0.2):
                start = (x + side * 0.6 * wide, mouth - 0.12 + 0.3 * slope)
                end = (x + side * (wide + 0.75), mouth - 0.12 + 1.3 * slope)
                pen.line([start, end], mixed(light, WHITE, 0.6) if sum(light) > 330 else WHITE, 0.025)


def _draw_eyes(pen: Pen, traits: Traits, look: float) -> None:
    size = traits.eye_size
    for side in (-1, 1):
        x, y = side * 0.4 * traits.head_width + 0.14 * look, -0.16
        if traits.eyes == "closed":
            lid = [(-1, 0), (-0.4, 0.4), (0.4, 0.4), (1, 0)]
            pen.line([(x + across * size, y + down * size) for across, down in lid], DARK, 0.06)
            continue
        if traits.eyes == "slit":
            pen.blob(x, y, 1.15 * size, 0.95 * size, DARK, turn=-0.25 * side)
            pen.blob(x, y, 0.98 * size, 0.8 * size, traits.iris, turn=-0.25 * side)
            pen.blob(x + 0.1 * look * size, y, 0.22 * size, 0.76 * size, (12, 12, 14))
        else:
            pen.blob(x, y, 1.1 * size, 1.1 * size, DARK)
            pen.blob(x, y, 0.92 * size, 0.92 * size, traits.iris)
            pen.blob(x + 0.15 * look * size, y, 0.6 * size, 0.6 * size, (12, 12, 14))
        pen.blob(x - 0.3 * size, y - 0.35 * size, 0.24 * size, 0.24 * size, WHITE)
