"""Frozen backbones with their weights, built from the `backbone` configuration, and their preprocessing."""

import dataclasses
import hashlib
import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend.config import keras_home
from keras.src.utils import file_utils

from catsdogs.base.errors import UserError, first_line
from catsdogs.config.schema import BackboneConfig
from catsdogs.network.saved_models import load_model, load_weights

# Means and standard deviations of ImageNet, RGB, from keras.applications.imagenet_utils.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def build_backbone(backbone: BackboneConfig) -> keras.Model:
    """Build the network without its top, load its weights and freeze every layer.

    The result is a functional model from preprocessed float32 (B, S, S, 3) to float32 (B, h, w, C). A `UserError` is
    raised if the builder is unknown, or the weights cannot be downloaded or belong to another network.
    """
    network = _build(backbone)
    if backbone.weights not in (None, "imagenet"):
        _load_weights(network, backbone)
    network.trainable = False
    return network


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights, ready to be cut and copied."""

    settings: BackboneConfig
    backbone: keras.Model  # float32, every layer frozen; do not change it
    weights: list[np.ndarray]
    digest: str  # SHA-256 of its layers and of the values of its weights

    def copy(self) -> keras.Model:
        """Return a copy with separate variables, under the current dtype policy of Keras."""
        backbone = build_backbone(dataclasses.replace(self.settings, weights=None))
        backbone.set_weights(self.weights)
        return backbone


def load_network(backbone: BackboneConfig, seed: int) -> LoadedBackbone:
    """Build the network that the trials of a job share; `seed` is for its weights if `backbone.weights` is null."""
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
    """Describe every operation of a network, in order, as JSON; without names, which Keras numbers per process."""
    operations = []
    for operation in network.operations:
        config = operation.get_config() if isinstance(operation, keras.layers.Layer) else {}
        settings = {key: value for key, value in config.items() if key not in ("layers", "input_layers")}
        operations.append([type(operation).__name__, _without_names(settings), str(operation.output.shape)])
    return json.dumps(operations, sort_keys=True, default=lambda value: type(value).__name__)


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_names(item) for key, item in value.items() if key != "name"}
    return [_without_names(item) for item in value] if isinstance(value, list | tuple) else value


def preprocess(images: Any, preprocessing: str) -> Any:
    """Add the preprocessing of a backbone family to symbolic pixels (B, S, S, 3), RGB, 0..255.

    Only built-in Keras layers are used, so a saved model loads without catsdogs.
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
    """Build four blocks of convolution, group normalization, ReLU and pooling, meant for synthetic images.

    Without statistics of batch normalization, it behaves the same frozen, partly frozen and trainable.
    """
    if weights is not None:
        raise ValueError("small_cnn has no pretrained weights; set backbone.weights to null or to a weights file")
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
        # Depending on the Keras version, keras.applications is only an attribute, not an importable module.
        module = keras.applications if module_name == "keras.applications" else importlib.import_module(module_name)
        return getattr(module, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        fix = "use a dotted name such as keras.applications.MobileNetV2"
        raise UserError(f"backbone.builder={name}: function not found; {fix}") from error


class _Download(Exception):
    """File that a builder wants to download."""


def pretrained_file(backbone: BackboneConfig) -> str:
    """Return name and digest of the file of ImageNet weights, without downloading it.

    Raise a `UserError` if Keras has none, or the network cannot be built.
    """

    def ask(name: str, origin: str, file_hash: str | None = None, **options: Any) -> None:
        kind = {32: "MD5", 64: "SHA-256"}.get(len(file_hash or ""))
        raise _Download(f"{name} ({f'{kind} {file_hash}' if kind else 'Keras has no digest of it'})")

    download, file_utils.get_file = file_utils.get_file, ask
    try:
        _build(dataclasses.replace(backbone, weights="imagenet"))
    except _Download as asked:
        return str(asked)
    finally:
        file_utils.get_file = download
    raise UserError("backbone.weights=imagenet: the builder downloads no file; set backbone.weights=PATH")


def _build(backbone: BackboneConfig) -> keras.Model:
    weights = "imagenet" if backbone.weights == "imagenet" else None
    shape = (backbone.image_size, backbone.image_size, 3)
    arguments = {"include_top": False, "input_shape": shape, **backbone.arguments}
    builder = _builder(backbone.builder)
    try:
        return builder(weights=weights, **arguments)
    except _Download:
        raise
    except (TypeError, ValueError) as error:
        size = f"backbone.image_size={backbone.image_size} and weights={weights}"
        given = f"backbone.arguments={backbone.arguments}, {size}; change one of them ({first_line(error)})"
        raise UserError(f"backbone.builder={backbone.builder}: cannot be built with {given}") from error
    except Exception as error:
        if weights is None:
            raise
        # keras.utils.get_file raises a bare Exception for every network failure.
        fix = f"copy {pretrained_file(backbone)} into {keras_home()}/models or set backbone.weights=PATH"
        text = f"download failed; without a network, {fix}; experiment=quickstart needs no weights"
        raise UserError(f"backbone.weights=imagenet: {text} ({first_line(error)})") from error


def _copy_weights(network: keras.Model, backbone: BackboneConfig) -> None:
    """Copy the weights of the backbone in a model of catsdogs, which may have been trained with another image size."""
    from catsdogs.network.merging import backbone_node  # imports this module

    file = Path(str(backbone.weights))
    node = backbone_node(load_model(file, "use the model of another study"))
    if node is None:
        problem = "is an ensemble, or not of catsdogs; retrain its study with ensemble=none"
        raise UserError(f"backbone.weights={file}: {problem}")
    trained, size = node.operation, node.operation.input_shape[1]
    expected = _build(dataclasses.replace(backbone, image_size=size, weights=None))
    # What `classifier.unfreeze` changes is no difference.
    changed = r'"(trainable|rate|drop_path_rate)": [^,}]*'
    if re.sub(changed, "", structure(trained)) != re.sub(changed, "", structure(expected)):
        raise ValueError("its backbone has other layers")
    network.set_weights(trained.get_weights())


def _load_weights(network: keras.Model, backbone: BackboneConfig) -> None:
    try:
        if str(backbone.weights).endswith(".keras"):
            _copy_weights(network, backbone)
        else:
            load_weights(network, str(backbone.weights))
    except UserError:
        raise
    except Exception as error:
        # Keras raises ValueError, KeyError, OSError or its own types, depending on the mismatch.
        network_of = f"backbone.builder={backbone.builder} with backbone.arguments={backbone.arguments}"
        problem = f"not weights of {network_of}; use a file saved from this network ({first_line(error)})"
        raise UserError(f"backbone.weights={backbone.weights}: {problem}") from error
