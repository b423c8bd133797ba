"""Draws the images of docs/tutorial.md into the folder shapes/: circles, squares and triangles of 64 x 64 pixels.

python examples/draw_shapes.py

shapes/train has a folder for each class, shapes/test images without labels. As in real images, there are problems: one
file cannot be decoded, one image is there twice, and one square has the label of a circle.
"""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = {  # corners of the polygon, and mean color
    "circle": (24, (190, 70, 70)),
    "square": (4, (70, 190, 70)),
    "triangle": (3, (70, 70, 190)),
}


def draw(name: str, seed: int) -> Image.Image:
    """Return a shape of random color, size, place and rotation on a colored background."""
    rng = np.random.default_rng(seed)
    background = rng.integers(80, 180, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(background).resize((64, 64), Image.Resampling.BICUBIC)
    corners, mean = CLASSES[name]
    size, rotation = rng.uniform(12, 26), rng.integers(360)
    x, y = rng.uniform(size, 64 - size, 2)
    color = tuple(np.clip(rng.normal(mean, 35), 0, 255).astype(int).tolist())
    ImageDraw.Draw(image).regular_polygon((x, y, size), corners, int(rotation), fill=color)
    return image.filter(ImageFilter.GaussianBlur(1))


def main() -> None:
    """Write the folders."""
    train, test = Path("shapes/train"), Path("shapes/test")
    test.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(CLASSES):
        (train / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, 101):
            draw(name, seed=1000 * place + number).save(train / name / f"{number}.png")
        for number in range(20):
            draw(name, seed=1000 * place + 500 + number).save(test / f"{20 * place + number + 1}.png")
    (train / "circle" / "broken.png").write_bytes(b"not an image")
    shutil.copy(train / "circle" / "1.png", train / "circle" / "copy.png")
    draw("square", seed=9999).save(train / "circle" / "wrong.png")


if __name__ == "__main__":
    main()
