"""Animal + random numbers -> a photograph: surroundings, what stands in front, light and lens."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from catsdogs.sample_animals import BLACK, WHITE, Colour, Pen, draw_animal, mixed, near, rgb, traits_of

_FINE = 2  # drawn this many times larger, then reduced, which smooths the edges


def photograph(animal: str, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """A picture of 90 to 160 pixels on its longer side, and the JPEG quality to store it with."""
    longer, aspect = rng.uniform(90, 160), np.exp(rng.uniform(-0.35, 0.35))
    width, height = int(longer * min(1, aspect)), int(longer / max(1, aspect))
    fine = (width * _FINE, height * _FINE)
    scene = _surroundings(fine, rng)
    layer = Image.new("RGBA", fine)
    draw_animal(layer, traits_of(animal, rng), rng)
    scene = _into_scene(scene, layer, rng)
    if rng.random() < 0.25:
        _draw_in_front(scene, rng)
    picture = scene.resize((width, height), Image.Resampling.LANCZOS)
    return _through_a_lens(picture, rng), int(rng.integers(72, 94))


def _into_scene(scene: Image.Image, layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side, a trace of fur and a soft shadow join the animal to its surroundings."""
    height, width = layer.height, layer.width
    turn, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.25)
    across = np.linspace(-strength, strength, width, dtype=np.float32) * np.float32(np.cos(turn))
    down = np.linspace(-strength, strength, height, dtype=np.float32) * np.float32(np.sin(turn))
    fur = rng.normal(1, rng.uniform(0.01, 0.06), (height // 5, width // 2)).astype(np.float32)
    light = np.asarray(Image.fromarray(fur).resize((width, height), Image.Resampling.BILINEAR)) + across + down[:, None]
    lit = np.clip(np.asarray(layer.convert("RGB"), np.float32) * light[..., None], 0, 255).astype(np.uint8)
    alpha = layer.getchannel("A")
    shadow = alpha.reduce(4).filter(ImageFilter.GaussianBlur(4)).resize(layer.size, Image.Resampling.BILINEAR)
    shadow = shadow.point([level // 2 for level in range(256)])
    shift = (int(-8 * np.cos(turn)), int(-8 * np.sin(turn)) + 6)
    scene.paste(Image.new("RGB", scene.size, (20, 18, 24)), shift, shadow)
    scene.paste(Image.fromarray(lit), (0, 0), alpha)
    return scene


def _through_a_lens(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, exposure, a tint and sensor noise."""
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.4)))
    pixels = (np.asarray(picture) - 127.5) * rng.uniform(0.8, 1.15) + 127.5
    pixels *= rng.uniform(0.8, 1.15) * rng.uniform(0.92, 1.08, 3)
    pixels += rng.uniform(1, 7) * rng.standard_normal(pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


# Surroundings


def _surroundings(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    kind = rng.choice(("gradient", "room", "meadow", "haze", "tiles"))
    one, other = _any_colour(rng), _any_colour(rng)
    width, height = size
    if kind == "haze":
        shape = (*rng.integers(3, 9, 2), 1)
        small = np.asarray(one) + rng.uniform(0, 1, shape) * (np.asarray(other) - one) + rng.uniform(-40, 40, shape)
        scene = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    elif kind == "tiles":
        scene = Image.new("RGB", size, one)
        draw, step = ImageDraw.Draw(scene), int(rng.integers(14, 60))
        for row, top in enumerate(range(0, height, step)):
            for column in range(step * (row % 2), width, 2 * step):
                draw.rectangle((column, top, column + step - 1, top + step - 1), fill=mixed(one, other, 0.5))
    else:
        scene = _gradient(size, one, mixed(one, other, 0.6), rng.uniform(0, 2 * np.pi))
    draw = ImageDraw.Draw(scene)
    horizon = int(height * rng.uniform(0.45, 0.8))
    if kind == "room":
        draw.rectangle((0, horizon, width, height), fill=mixed(other, (70, 50, 40), 0.4))
        draw.rectangle((0, horizon, width, horizon + 5), fill=mixed(one, WHITE, 0.6))
        x, y = width * rng.uniform(-0.1, 0.8), height * rng.uniform(-0.1, 0.3)
        picture = (x, y, x + width * rng.uniform(0.15, 0.4), y + height * rng.uniform(0.15, 0.35))
        draw.rectangle(picture, fill=_any_colour(rng), outline=mixed(one, BLACK, 0.4), width=4)
    elif kind == "meadow":
        sky = _gradient(size, (120, 170, 220), (220, 232, 240), np.pi / 2)
        scene.paste(sky)
        green = near((104, 148, 70), 30, rng)
        pen = Pen(scene, width * rng.random(), horizon, width)
        pen.blob(0, 0.9, 1.3, 1.0, mixed(green, (160, 190, 150), 0.5))
        draw.rectangle((0, horizon + height // 10, width, height), fill=green)
        _draw_blades(scene, rng, int(rng.integers(10, 40)), horizon + height // 8)
    for _ in range(int(rng.integers(0, 4))):
        _draw_thing(scene, rng, 0.22)
    if rng.random() < 0.5:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 5)))
    return scene


def _gradient(size: tuple[int, int], one: Colour, other: Colour, turn: float) -> Image.Image:
    line = np.linspace(-0.5, 0.5, 16)
    share = np.clip(0.5 + 0.7 * (np.cos(turn) * line + np.sin(turn) * line[:, None]), 0, 1)[..., None]
    small = Image.fromarray(((1 - share) * np.asarray(one) + share * np.asarray(other)).astype(np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def _any_colour(rng: np.random.Generator) -> Colour:
    grey, tint = rng.uniform(60, 205), rng.uniform(-30, 30, 3)
    return rgb(grey + tint)


def _draw_thing(scene: Image.Image, rng: np.random.Generator, largest: float) -> None:
    """A ball, a box, a cone or a stick anywhere: round and pointed things that are no heads and no ears."""
    x, y = rng.uniform(0, scene.width), rng.uniform(0, scene.height)
    pen = Pen(scene, x, y, rng.uniform(0.05, largest) * min(scene.size), rng.uniform(0, 2 * np.pi))
    colour = _any_colour(rng)
    kind = rng.choice(("ball", "box", "cone", "stick"))
    if kind == "ball":
        pen.blob(0, 0, 1, rng.uniform(0.6, 1), colour, edge=True)
        pen.blob(-0.3, -0.3, 0.25, 0.25, mixed(colour, WHITE, 0.5))
    elif kind == "box":
        pen.shape(np.array([(-1, -0.7), (1, -0.7), (1, 0.7), (-1, 0.7)]), colour, edge=True)
    elif kind == "cone":
        pen.shape(np.array([(-0.6, 0.7), (0, -1), (0.6, 0.7)]), colour, edge=True)
    else:
        pen.line([(-1.5, 0), (0, 0.2), (1.5, 0)], colour, 0.25)


def _draw_blades(scene: Image.Image, rng: np.random.Generator, count: int, ground: float) -> None:
    draw = ImageDraw.Draw(scene)
    for _ in range(count):
        x, y = rng.uniform(0, scene.width), rng.uniform(ground, scene.height * 1.05)
        lean, tall = rng.normal(0, 8), rng.uniform(0.06, 0.22) * scene.height
        draw.polygon([(x - 3, y), (x + lean, y - tall), (x + 3, y)], fill=near((86, 130, 60), 35, rng))


def _draw_in_front(scene: Image.Image, rng: np.random.Generator) -> None:
    """What hides a part of the animal."""
    width, height = scene.size
    draw = ImageDraw.Draw(scene)
    colour = _any_colour(rng)
    kind = rng.choice(("grass", "fence", "things", "ground"))
    if kind == "grass":
        _draw_blades(scene, rng, int(rng.integers(15, 50)), height * 0.9)
    elif kind == "fence":
        step, wide, top = int(rng.integers(36, 80)), int(rng.integers(8, 18)), height * rng.uniform(0.3, 0.7)
        draw.rectangle((0, top + 14, width, top + 22), fill=mixed(colour, BLACK, 0.25))
        for x in range(int(rng.integers(step)), width, step):
            draw.polygon([(x, height), (x, top), (x + wide / 2, top - 8), (x + wide, top), (x + wide, height)], colour)
    elif kind == "things":
        for _ in range(int(rng.integers(1, 4))):
            _draw_thing(scene, rng, 0.25)
    else:
        top, slope = height * rng.uniform(0.6, 0.85), height * rng.uniform(-0.2, 0.2)
        draw.polygon([(0, top), (width, top + slope), (width, height), (0, height)], fill=colour)
