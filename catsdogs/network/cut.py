"""Backbone + unfreeze depth -> the tensor where it is cut; its frozen prefix and its trained suffix.

The trunk of a model is preprocessing - backbone - GlobalAveragePooling2D. A cut is one tensor of it: below it
everything is a fixed function (the prefix), above it is all that is trained or random (the suffix).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from catsdogs.base.errors import UserError
from catsdogs.network.backbones import preprocess

# A suffix may cost this many times the multiply-adds of the shortest one if its input is smaller. An activation is
# stored for every image and view and read in every step, and a little more work often saves most of that: from the
# expansion in MobileNetV2's last block (47,040 values) down to its input (7,840) is one convolution of 1 x 1. Without a
# bound the smallest tensor could lie far below, and every step of every trial would pay for it.
SUFFIX_COST_TOLERANCE = 1.25

PIXELS = "pixels"
POOL = "pool"


@dataclass(frozen=True)
class Cut:
    """A tensor of the trunk.

    Attributes:
        layer: name of the layer of the backbone whose output it is, "pool" or "pixels". For people: Keras numbers
            unnamed layers by process, so one cut of two copies of a backbone may bear two names. `==` leaves it out.
        position: its place in `backbone.operations` (the layers, and between them the bare operations such as `x + y`,
            where a backbone has any); -1 for pixels, the number of operations for pool.
        shape: of one image's activation, e.g. (7, 7, 160); (C,) for pool, (S, S, 3) for pixels.
    """

    layer: str = field(compare=False)
    position: int
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """How many numbers one image's activation has."""
        return math.prod(self.shape)


def find_cut(backbone: keras.Model, depth: int, train_batch_norm: bool = False) -> Cut:
    """Find where to cut a backbone of which `classifier.unfreeze` trains the last `depth` layers.

    Live is one of those layers if it has weights that would be trained, or is random in training. A tensor is a valid
    cut if no live layer is at or below it and nothing else leads from below it to above. Of the valid cuts whose suffix
    costs at most SUFFIX_COST_TOLERANCE times that of the nearest, the smallest is taken. If nothing is live, it is the
    pooled vector; if no valid cut has multiply-adds below it, it is the pixels.

    Args:
        backbone: functional, of fixed image size. Neither changed nor asked which of its layers are trainable now.
        depth: as in `classifier.unfreeze`, 0 to the number of layers.

    Raises:
        UserError: the backbone has fewer layers.
    """
    layers = backbone.layers
    if depth > len(layers):
        raise UserError(f"unfreeze_depth={depth}: {backbone.name} has {len(layers)} layers; give at most that")
    live_layers = {id(layer) for layer in layers[len(layers) - depth :] if _is_live(layer, train_batch_norm)}
    if not live_layers:
        return Cut(POOL, len(backbone.operations), (backbone.outputs[0].shape[-1],))

    graph = _Graph(backbone)
    valid = [node for node in range(len(graph.nodes)) if graph.is_valid_cut(node, live_layers)]
    if not valid:
        return Cut(PIXELS, -1, backbone.input_shape[1:])
    # Valid cuts lie on one chain, each below the next, so the last in any topological order is the nearest.
    affordable = SUFFIX_COST_TOLERANCE * graph.cost_above(valid[-1])
    candidates = [graph.cut(node) for node in reversed(valid) if graph.cost_above(node) <= affordable]
    return min(candidates, key=lambda cut: cut.values)


def prefix(backbone: keras.Model, preprocessing: str, cuts: Sequence[Cut]) -> keras.Model:
    """Build what lies below cuts above the pixels, as one forward pass.

    Returns:
        A model from float32 (B, S, S, 3), RGB, 0..255, to a list of (B, *cut.shape) in the order of `cuts`, or for one
        cut, as Keras has it, to the tensor itself. It is a fixed function if called with `training=False`.
    """
    tensors = [tensor_of(backbone, cut) for cut in cuts]
    images = keras.Input(backbone.input_shape[1:], dtype="float32", name=PIXELS)
    below = keras.Model(backbone.inputs, tensors, name=f"{backbone.name}_below")
    found = below(preprocess(images, preprocessing))
    found = found if isinstance(found, list) else [found]
    pool = keras.layers.GlobalAveragePooling2D(name=POOL)
    outputs = [pool(x) if _is_pool(backbone, cut) else x for cut, x in zip(cuts, found, strict=True)]
    return keras.Model(images, outputs, name="prefix")


def suffix(backbone: keras.Model, preprocessing: str, cut: Cut) -> keras.Model:
    """Build what lies above a cut. It shares layers and variables with the backbone.

    Returns:
        A model from (B, *cut.shape) to pooled features (B, C): the identity for "pool", the whole trunk for "pixels".
    """
    pool = keras.layers.GlobalAveragePooling2D(name=POOL)
    if cut.position < 0:
        images = keras.Input(cut.shape, dtype="float32", name=PIXELS)
        return keras.Model(images, pool(backbone(preprocess(images, preprocessing))), name="suffix")
    tensor = tensor_of(backbone, cut)
    activations = keras.Input(cut.shape, dtype=tensor.dtype, name="activations")
    if _is_pool(backbone, cut):
        return keras.Model(activations, keras.layers.Identity(name=POOL)(activations), name="suffix")
    # Keras copies the nodes of the graph between the two tensors and keeps the layers.
    above = keras.Model(tensor, backbone.outputs[0], name=f"{backbone.name}_above")
    return keras.Model(activations, pool(above(activations)), name="suffix")


class _Graph:
    """The graph of a functional backbone: its nodes (calls of an operation) from the input to the output.

    Only the backbone's own nodes: a layer also remembers its calls in every prefix and suffix that was ever built.
    """

    def __init__(self, backbone: keras.Model) -> None:
        self.nodes: list[Any] = graph_nodes(backbone)
        self._position = {id(operation): place for place, operation in enumerate(backbone.operations)}
        producer = {id(tensor): index for index, node in enumerate(self.nodes) for tensor in node.outputs}
        # Sets of nodes as the bits of an integer.
        self._below: list[int] = []
        self._consumers = [0] * len(self.nodes)
        for index, node in enumerate(self.nodes):
            below = 1 << index
            for tensor in node.input_tensors:
                below |= self._below[producer[id(tensor)]]
                self._consumers[producer[id(tensor)]] |= 1 << index
            self._below.append(below)
        self._outputs = {producer[id(tensor)] for tensor in backbone.outputs}
        self._costs = [_multiply_adds(node) for node in self.nodes]

    def is_valid_cut(self, index: int, live_layers: set[int]) -> bool:
        """Whether nothing live is in or below the node, only its tensor leads upward, and there is work below it."""
        node, below = self.nodes[index], self._below[index]
        inside = self._inside(index)
        called_once = sum(other.operation is node.operation for other in self.nodes) == 1
        return (
            called_once
            and len(node.outputs) == 1
            and None not in node.outputs[0].shape[1:]
            and not any(id(self.nodes[other].operation) in live_layers for other in inside)
            and not any(other in self._outputs or self._consumers[other] & ~below for other in inside if other != index)
            and sum(self._costs[other] for other in inside) > 0
        )

    def cost_above(self, index: int) -> int:
        """Multiply-adds of the suffix of a cut, for one image."""
        return sum(self._costs) - sum(self._costs[other] for other in self._inside(index))

    def cut(self, index: int) -> Cut:
        node = self.nodes[index]
        return Cut(node.operation.name, self._position[id(node.operation)], tuple(node.outputs[0].shape[1:]))

    def _inside(self, index: int) -> list[int]:
        return [other for other in range(index + 1) if self._below[index] >> other & 1]


def graph_nodes(function: keras.Function) -> list[Any]:
    """The nodes of a functional model, each after those whose tensors it takes."""
    by_depth = function._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _is_pool(backbone: keras.Model, cut: Cut) -> bool:
    return cut.position == len(backbone.operations)


def tensor_of(backbone: keras.Model, cut: Cut) -> Any:
    """The tensor of the backbone that a cut other than the pixels is; for pool, the one that is pooled."""
    if _is_pool(backbone, cut):
        return backbone.outputs[0]
    operation = backbone.operations[cut.position]
    return next(node.outputs[0] for node in graph_nodes(backbone) if node.operation is operation)


def _is_live(layer: keras.layers.Layer, train_batch_norm: bool) -> bool:
    """Whether a layer above the boundary would be trained, or is random in training."""
    inner_layers = list(layer._flatten_layers())
    # Like `classifier.unfreeze`: BatchNormalization inside a nested layer is trained together with it.
    frozen = isinstance(layer, keras.layers.BatchNormalization) and not train_batch_norm
    if not frozen and any(inner._trainable_variables for inner in inner_layers):
        return True
    rates = [getattr(inner, name, None) for inner in inner_layers for name in ("rate", "drop_path_rate")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _multiply_adds(node: Any) -> int:
    """Of the weights that can be trained, for one image; a bare operation and a rescaling have none."""
    if not isinstance(node.operation, keras.layers.Layer):
        return 0
    weights = sum(
        math.prod(variable.shape)
        for inner in node.operation._flatten_layers()
        for variable in inner._trainable_variables
        if len(variable.shape) >= 2
    )
    return weights * math.prod(node.outputs[0].shape[1:-1]) if weights else 0
