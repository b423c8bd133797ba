"""Network + images + view + cut -> the key of stored activations, and what tells people about them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from typing import Any

import cv2
import keras

from catsdogs.augment import RULES, is_identity
from catsdogs.backbones import Network
from catsdogs.cut import Cut
from catsdogs.views import LiveViews, View

_FORMAT = 1  # to be counted up when what is stored under a key changes


def identity(network: Network, pixels: LiveViews, pixels_key: str, view: View) -> dict[str, Any]:
    """All that decides the activations of a view, apart from the cut, as plain JSON.

    Not the engine, which agrees with Keras to rounding.

    Args:
        pixels_key: `images.pixels_key` of the images that are stored together.
        view: training views of images that are not augmented are the images as they are.
    """
    settings = network.settings
    found: dict[str, Any] = {
        "format": _FORMAT,
        "preprocessing": settings.preprocessing,
        "image_size": settings.image_size,
        "network": network.digest,
        "keras": keras.__version__,
        "pixels": pixels_key,
        "view": ["plain", 0],
    }
    if view.kind == "train" and not is_identity(pixels.augmentation):
        found["view"] = [view.kind, view.number]
        found["augmentation"] = dataclasses.asdict(pixels.augmentation)
        found["seed"] = pixels.seed
        found["augment"] = [RULES, cv2.__version__]
    return found


def about(network: Network, pixels: LiveViews, cut: Cut, view: View, images: int, engine: str) -> dict[str, Any]:
    """What is stored, for people."""
    settings = network.settings
    arguments = [f"{key}={value}" for key, value in settings.arguments.items()]
    drawn = dataclasses.asdict(pixels.augmentation)
    changes = [f"{key.split('_')[0]} {value:g}" for key, value in drawn.items() if key != "border" and value]
    return {
        "backbone": " ".join([settings.builder.rpartition(".")[2], *arguments]),
        "cut": cut.layer,
        "view": f"train {view.number}" if view.kind == "train" else "plain",
        "augmentation": ", ".join(changes) if view.kind == "train" else "",
        "images": images,
        "image_size": settings.image_size,
        "engine": engine,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def digest(value: Any) -> str:
    """64 hexadecimal digits of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
