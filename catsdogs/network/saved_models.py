"""Models and weights from any origin, checked by their headers before Keras reads them.

Keras allocates what a file declares, whatever it contains: 0.6 MiB can become gigabytes.
"""

import json
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.src.backend.common import global_state

from catsdogs.base.errors import UserError, first_line
from catsdogs.base.files import open_regular, open_zip
from catsdogs.base.text import binary_size

_MAX_BYTES = 2**30  # of the variables of a model, and of a copy of the largest one
_MAX_VALUES = 2**25  # of the output of a layer for one image
_MAX_CONFIG_BYTES = 2**23  # the configuration of EfficientNetV2L takes 1.1 MiB
# AdditiveAttention is a subclass.
_ATTENTION = (keras.layers.Attention, keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


def load_model(file: Path, fix: str) -> keras.Model:
    """Load a .keras file without its optimizer; raise a `UserError` with `fix` if that is not possible.

    Nothing in it is executed: Keras refuses Lambda layers and classes that are not its own.
    """
    try:
        with open_zip(file) as archive, tempfile.TemporaryDirectory() as folder:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if not {_CONFIG, _WEIGHTS} <= set(sizes) <= {_CONFIG, _WEIGHTS, "metadata.json"}:
                raise ValueError("not the members of a .keras file")
            if sizes[_WEIGHTS] > _MAX_BYTES or sizes[_CONFIG] > _MAX_CONFIG_BYTES:
                raise ValueError("a member is too large")
            config = archive.read(_CONFIG)
            try:
                with keras.StatelessScope(initialize_variables=False):  # without memory for the variables
                    _check_size(_build(config))
            finally:  # the next scope would initialize them
                global_state.set_global_attribute("uninitialized_variables", [])
            weights = archive.extract(_WEIGHTS, folder)  # `keras.models.load_model` would keep it in memory
            _check_hdf5(weights, _MAX_BYTES)
            model = _build(config)
            model.load_weights(weights)
            return model
    except Exception as error:  # Keras raises ValueError, TypeError, KeyError, OSError, RecursionError, ...
        raise UserError(f"{file}: cannot be loaded ({first_line(error)[:200]}); {fix}") from error


def load_weights(network: keras.Model, file: str) -> None:
    """Load a .weights.h5 or .h5 file; raise an exception, of many types, if it is corrupted or of another network."""
    # A file may also contain the optimizer's two values for each weight.
    _check_hdf5(file, 4 * sum(weight.nbytes for weight in network.get_weights()) + 2**16)
    with warnings.catch_warnings():
        # Keras warns about every mismatched layer before it raises.
        warnings.simplefilter("ignore")
        with h5py.File(file, "r") as root, tempfile.TemporaryDirectory() as folder:
            before_keras_3 = "model_weights" in root or _names(root, "layer_names")
            # Keras determines the format by the name.
            named = Path(folder, "model.h5" if before_keras_3 else "model.weights.h5")
            named.symlink_to(Path(file).absolute())
            network.load_weights(named)


def _build(config: bytes) -> keras.Model:
    return keras.saving.deserialize_keras_object({**json.loads(config), "compile_config": None})


def _check_size(model: keras.Model) -> None:
    sizes = [4 * math.prod(variable.shape) for variable in model.variables]
    if sum(sizes) + 2 * max(sizes, default=0) > _MAX_BYTES:
        raise ValueError(f"declares {binary_size(sum(sizes))} of weights, which is too large")
    if _largest_output(model) > _MAX_VALUES:
        raise ValueError("declares a layer with an output that is too large")


def _largest_output(model: keras.Model) -> int:
    """Return the number of values per image of the largest output of a layer; dimensions without a size count as 1."""
    layers = [layer for layer in getattr(model, "operations", model.layers) if layer is not model]
    inner = [_largest_output(layer) if isinstance(layer, keras.Model) else _largest_inside(layer) for layer in layers]
    outputs = [output for layer in layers for output in keras.tree.flatten(layer.output)]
    return max([*inner, *(_values(output.shape) for output in outputs)], default=0)


def _largest_inside(layer: Any) -> int:
    """Return the number of values per image of an array that a layer makes besides its outputs; 0 for most layers."""
    config = layer.get_config() if isinstance(layer, keras.layers.Layer) else {}
    parts = layer._flatten_layers(include_self=False) if config else ()  # their outputs are unknown
    if isinstance(layer, keras.layers.Pipeline) or any(isinstance(part, (keras.Model, *_ATTENTION)) for part in parts):
        raise ValueError(f"{layer.name}: {type(layer).__name__} around other layers is not supported")
    inputs, outputs = (keras.tree.flatten(tensors) for tensors in (layer.input, layer.output))
    if isinstance(layer, _ATTENTION):  # scores of every position of the query for every position of the key
        concatenated = isinstance(layer, keras.layers.AdditiveAttention) or config.get("score_mode") == "concat"
        heads = inputs[0].shape[-1] if concatenated else config.get("num_heads", config.get("num_query_heads", 1))
        return _values(outputs[0].shape[:-1]) * max(_values(tensor.shape[:-1]) for tensor in inputs) * heads
    if isinstance(layer, (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)):
        return _values(outputs[0].shape) // layer.filters * _values(inputs[0].shape) * layer.depth_multiplier
    return 0


def _values(shape: tuple[int | None, ...]) -> int:
    return math.prod(size or 1 for size in shape)


def _check_hdf5(file: str, max_bytes: int) -> None:
    """Raise ValueError if an HDF5 file has links, compressed or external data, or more values than `max_bytes`."""
    with open_regular(Path(file)) as stream, h5py.File(stream, "r") as root:
        stored, listed, groups, entered = 0, 0, [root], set()
        while groups:  # h5py's own walk recurses
            group = groups.pop()
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{group.name}/{name} is a link")
                member = group[name]
                if isinstance(member, h5py.Dataset):
                    stored += _dataset_bytes(member)
                elif isinstance(member, h5py.Group) and (address := h5py.h5o.get_info(member.id).addr) not in entered:
                    entered.add(address)
                    groups.append(member)
        # In the format before Keras 3, attributes list what is read, and may repeat it.
        tables = [root, *([root["model_weights"]] if "model_weights" in root else [])]
        layers = (table[name] for table in tables for name in _names(table, "layer_names"))
        for dataset in (layer[name] for layer in layers for name in _names(layer, "weight_names")):
            if (listed := listed + _dataset_bytes(dataset)) > max_bytes:
                break
    if max(stored, listed) > max_bytes:
        raise ValueError(f"declares {binary_size(max(stored, listed))} of weights, which is too large")


def _names(group: h5py.Group, key: str) -> list[str]:
    """Return the names in an attribute of the format before Keras 3, which may be continued in `key` 0, 1, ..."""
    values = [np.atleast_1d(group.attrs[name]) for name in group.attrs if name.startswith(key)]
    return [os.fsdecode(name) for names in values for name in names]


def _dataset_bytes(dataset: h5py.Dataset) -> int:
    if dataset.external or dataset.is_virtual or dataset.dtype.hasobject:
        raise ValueError(f"{dataset.name}: refers to other data")
    if dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{dataset.name}: is compressed, which Keras never does")
    return int(dataset.dtype.itemsize * max(dataset.size or 0, math.prod(dataset.chunks or ())))
