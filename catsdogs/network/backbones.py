"""`backbone` configuration -> a frozen Keras network with its weights, and the preprocessing in front of it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catsdogs.base.errors import UserError, first_line
from catsdogs.config.schema import BackboneConfig

# Means and standard deviations of ImageNet, RGB, from keras.applications.imagenet_utils.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def build_backbone(backbone: BackboneConfig) -> keras.Model:
    """Build the network without its top, load its weights and freeze it.

    Returns:
        A functional model from preprocessed float32 (B, S, S, 3) to float32 (B, h, w, C), every layer of it with
        `trainable = False`.

    Raises:
        UserError: no such builder, weights that cannot be had, or weights of another network.
    """
    network = _build(backbone)
    if backbone.weights not in (None, "imagenet"):
        _load_weights(network, backbone)
    network.trainable = False
    return network


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights, to be cut, copied and told from others.

    Attributes:
        settings: what it was built from.
        backbone: float32, every layer of it frozen; not to be changed.
        digest: of its layers and of the values of its weights.
    """

    settings: BackboneConfig
    backbone: keras.Model
    weights: list[np.ndarray]
    digest: str

    def copy(self) -> keras.Model:
        """The same network with variables of its own, under Keras' present dtype policy."""
        backbone = build_backbone(dataclasses.replace(self.settings, weights=None))
        backbone.set_weights(self.weights)
        return backbone


def load_network(backbone: BackboneConfig, seed: int) -> LoadedBackbone:
    """Build the network once, as the trials of a job share it.

    Args:
        seed: of its initial weights where it has no pretrained ones.

    Raises:
        UserError: as `build_backbone`.
    """
    if backbone.weights is None:
        keras.utils.set_random_seed(seed)
    network = build_backbone(backbone)
    weights = network.get_weights()
    digest = hashlib.sha256(structure(network).encode())
    for weight in weights:
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return LoadedBackbone(backbone, network, weights, digest.hexdigest())


def structure(network: keras.Model) -> str:
    """What every operation of a network is, in order, but for names: Keras numbers some of them by process."""
    told = []
    for operation in network.operations:
        config = operation.get_config() if isinstance(operation, keras.layers.Layer) else {}
        settings = {key: value for key, value in config.items() if key not in ("layers", "input_layers")}
        told.append([type(operation).__name__, _nameless(settings), str(operation.output.shape)])
    return json.dumps(told, sort_keys=True, default=lambda value: type(value).__name__)


def _nameless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nameless(one) for key, one in value.items() if key != "name"}
    return [_nameless(one) for one in value] if isinstance(value, list | tuple) else value


def preprocess(images: Any, preprocessing: str) -> Any:
    """Turn symbolic pixels 0..255 (B, S, S, 3) RGB into what the family of the backbone was trained on.

    The layers are plain Keras layers, so the saved model needs none of our code.
    Source of the numbers: keras.applications.imagenet_utils.preprocess_input, modes tf, caffe and torch.
    """
    if preprocessing == "minus_one_to_one":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")(images)
    if preprocessing == "bgr_minus_mean":
        bgr = images[..., ::-1]
        return keras.layers.Rescaling(1.0, offset=[-103.939, -116.779, -123.68], name="preprocessing")(bgr)
    if preprocessing == "imagenet_standardized":
        scale = [1 / (255 * std) for std in _STD]
        offset = [-mean / std for mean, std in zip(_MEAN, _STD, strict=True)]
        return keras.layers.Rescaling(scale, offset=offset, name="preprocessing")(images)
    return images


def small_cnn(
    include_top: bool = False, weights: None = None, input_shape: tuple[int, int, int] = (64, 64, 3), filters: int = 16
) -> keras.Model:
    """Four blocks of convolution, group normalisation, ReLU and pooling, for drawn images rather than photographs.

    Group normalisation and not batch normalisation: it has no statistics that would have to be trained first, so the
    network behaves the same frozen, half frozen and free.
    """
    if weights is not None:
        raise ValueError("small_cnn has no pretrained weights; pass backbone.weights=null or a file of your own")
    inputs = keras.Input(input_shape)
    x = inputs
    for block, width in enumerate((filters, 2 * filters, 4 * filters, 4 * filters), start=1):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"block_{block}_conv")(x)
        x = keras.layers.GroupNormalization(groups=8 if width % 8 == 0 else 1, name=f"block_{block}_norm")(x)
        x = keras.layers.ReLU(name=f"block_{block}_relu")(x)
        if block < 4:
            x = keras.layers.MaxPooling2D(name=f"block_{block}_pool")(x)
    return keras.Model(inputs, x, name="small_cnn")


def _builder(name: str) -> Any:
    module_name, _, attribute = name.rpartition(".")
    try:
        # keras.applications is an attribute of keras and not always an importable module of its own.
        module = keras.applications if module_name == "keras.applications" else importlib.import_module(module_name)
        return getattr(module, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"backbone.builder={name}: there is no such function; give the dotted name of one like "
            "keras.applications.MobileNetV2"
        ) from error


def _build(backbone: BackboneConfig) -> keras.Model:
    weights = "imagenet" if backbone.weights == "imagenet" else None
    shape = (backbone.image_size, backbone.image_size, 3)
    arguments = {"include_top": False, "input_shape": shape, **backbone.arguments}
    builder = _builder(backbone.builder)
    try:
        return builder(weights=weights, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"backbone.builder={backbone.builder} does not take backbone.arguments={backbone.arguments} with "
            f"backbone.image_size={backbone.image_size} and weights={weights}: {first_line(error)}"
        ) from error

    except Exception as error:
        if weights is None:
            raise
        # keras.utils.get_file raises a bare Exception for every failure of the network.
        raise UserError(
            f"backbone.weights=imagenet: the weights could not be downloaded ({first_line(error)}); where there is no "
            "network, copy the file that it names from another machine into ~/.keras/models, pass "
            "backbone.weights=PATH of a .weights.h5 or .h5 file, or try experiment=quickstart, which needs none"
        ) from error


def _load_weights(network: keras.Model, backbone: BackboneConfig) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns of every layer that does not fit before it raises; the sentence below says it once.
            warnings.simplefilter("ignore")
            network.load_weights(backbone.weights)
    except Exception as error:
        # Keras raises ValueError, KeyError, OSError or its own types, depending on where the layouts part.
        raise UserError(
            f"backbone.weights={backbone.weights} does not hold weights of backbone.builder={backbone.builder} with "
            f"backbone.arguments={backbone.arguments}: {first_line(error)}"
        ) from error
