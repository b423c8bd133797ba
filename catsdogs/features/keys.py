"""Network + images + view -> what the key of stored activations covers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import cv2
import keras

from catsdogs.data.augment import CACHE_VERSION, is_identity
from catsdogs.data.views import LiveViews, View
from catsdogs.network.backbones import LoadedBackbone

_FORMAT = 1  # to be counted up when what is stored under a key changes


def identity(network: LoadedBackbone, pixels: LiveViews, pixels_key: str, view: View) -> dict[str, Any]:
    """All that decides the activations of a view, apart from the cut, as plain JSON.

    Not the engine, which agrees with Keras to rounding.

    Args:
        pixels_key: `images.pixels_key` of the images that are stored together.
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
    # Training views of images that are not augmented are the images as they are.
    if view.kind == "train" and not is_identity(pixels.augmentation):
        found["view"] = [view.kind, view.number]
        found["augmentation"] = dataclasses.asdict(pixels.augmentation)
        found["seed"] = pixels.seed
        found["augment"] = [CACHE_VERSION, cv2.__version__]
    return found


def digest(value: Any) -> str:
    """64 hexadecimal digits of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
