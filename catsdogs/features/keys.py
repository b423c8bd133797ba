"""Keys of stored activations, computed from everything that determines their values."""

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

_FORMAT = 1  # increment when the meaning of stored values changes


def identity(network: LoadedBackbone, pixels: LiveViews, pixels_key: str, view: View) -> dict[str, Any]:
    """Return everything that determines the activations of a view, apart from the cut, as plain JSON.

    The engine is omitted, because all engines agree with Keras up to rounding. `pixels_key`: `images.pixels_key` of the
    images that are stored together.
    """
    settings = network.settings
    inputs: dict[str, Any] = {
        "format": _FORMAT,
        "preprocessing": settings.preprocessing,
        "image_size": settings.image_size,
        "network": network.digest,
        "keras": keras.__version__,
        "pixels": pixels_key,
        "view": ["plain", 0],
    }
    # Without augmentation, training views are the original images.
    if view.kind == "train" and not is_identity(pixels.augmentation):
        inputs["view"] = [view.kind, view.number]
        inputs["augmentation"] = dataclasses.asdict(pixels.augmentation)
        inputs["seed"] = pixels.seed
        inputs["augment"] = [CACHE_VERSION, cv2.__version__]
    return inputs


def digest(value: Any) -> str:
    """Return the SHA-256 of plain JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
