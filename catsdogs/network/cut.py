"""The tensor where a backbone is cut for an unfreeze depth, its frozen prefix and its trained suffix.

The trunk of a model is preprocessing - backbone - GlobalAveragePooling2D. A cut is one tensor of the trunk. Everything
below it is a fixed function (the prefix); everything trained or random is above it (the suffix).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from catsdogs.base.errors import UserError
from catsdogs.network.backbones import preprocess

# A suffix may cost this many times the multiply-adds of the shortest one if its input, which is stored for every image
# and view, is smaller. In MobileNetV2's last block, one more 1 x 1 convolution reduces it from 47,040 values to 7,840.
# Without a bound, the smallest tensor could be far below, which would slow down every step of every trial.
SUFFIX_COST_TOLERANCE = 1.25

PIXELS = "pixels"
POOL = "pool"


@dataclass(frozen=True)
class Cut:
    """A tensor of the trunk."""

    # Name of the backbone layer that outputs the tensor, "pool" or "pixels". Keras numbers unnamed layers per process,
    # so copies of a backbone may have different names; `==` ignores them.
    layer: str = field(compare=False)
    # Index in `backbone.operations`, which contains the layers and bare operations such as `x + y`; -1 for pixels, the
    # number of operations for pool.
    position: int
    shape: tuple[int, ...]  # of one image's activation, e.g. (7, 7, 160); (C,) for pool, (S, S, 3) for pixels


def find_cut(backbone: keras.Model, depth: int, train_batch_norm: bool = False) -> Cut:
    """Find the best tensor to cut at when `classifier.unfreeze` trains the last `depth` layers of a backbone.

    One of those layers is live if it has weights to train or is random in training. A tensor is a valid cut if no live
    layer is at or below it and it is the only connection from below to above. The result is the smallest valid cut with
    a suffix of at most SUFFIX_COST_TOLERANCE times the cost of the nearest, which is the cheapest. It is the pooled
    vector without live layers, and the pixels if no valid cut has multiply-adds below it.

    The backbone is functional, and its `trainable` flags are ignored. A `UserError` is raised if it has fewer layers
    than `depth`.
    """
    layers = backbone.layers
    if depth > len(layers):
        raise UserError(f"unfreeze_depth={depth}: {backbone.name} has {len(layers)} layers; use at most {len(layers)}")
    live_layers = {id(layer) for layer in layers[len(layers) - depth :] if _is_live(layer, train_batch_norm)}
    if not live_layers:
        return Cut(POOL, len(backbone.operations), (backbone.outputs[0].shape[-1],))

    graph = _Graph(backbone)
    valid = [node for node in range(len(graph.nodes)) if graph.is_valid_cut(node, live_layers)]
    if not valid:
        return Cut(PIXELS, -1, backbone.input_shape[1:])
    # Valid cuts form one chain, each below the next, so the last in any topological order is the nearest.
    affordable = SUFFIX_COST_TOLERANCE * graph.cost_above(valid[-1])
    candidates = [graph.cut(node) for node in reversed(valid) if graph.cost_above(node) <= affordable]
    return min(candidates, key=lambda cut: math.prod(cut.shape))


def prefix(backbone: keras.Model, preprocessing: str, cuts: Sequence[Cut]) -> keras.Model:
    """Build the model below these cuts, all in one forward pass. Pixels are not accepted as a cut.

    It maps float32 (B, S, S, 3), RGB, 0..255, to a list of (B, *cut.shape) in the order of `cuts`, or to the tensor of
    a single cut. The model is a fixed function if called with `training=False`.
    """
    tensors = [tensor_of(backbone, cut) for cut in cuts]
    images = keras.Input(backbone.input_shape[1:], dtype="float32", name=PIXELS)
    below = keras.Model(backbone.inputs, tensors, name=f"{backbone.name}_below")
    activations = below(preprocess(images, preprocessing))
    activations = activations if isinstance(activations, list) else [activations]
    pool = keras.layers.GlobalAveragePooling2D(name=POOL)
    outputs = [pool(x) if _is_pool(backbone, cut) else x for cut, x in zip(cuts, activations, strict=True)]
    return keras.Model(images, outputs, name="prefix")


def suffix(backbone: keras.Model, preprocessing: str, cut: Cut) -> keras.Model:
    """Build the model above a cut, which shares layers and variables with the backbone.

    It maps (B, *cut.shape) to pooled features (B, C): the identity for "pool", the full trunk for "pixels".
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
    """The nodes (calls of an operation) of a functional backbone, from the input to the output.

    Layers also store their calls in every prefix and suffix built so far; those nodes are excluded.
    """

    def __init__(self, backbone: keras.Model) -> None:
        self.nodes: list[Any] = graph_nodes(backbone)
        self._position = {id(operation): index for index, operation in enumerate(backbone.operations)}
        producer = {id(tensor): index for index, node in enumerate(self.nodes) for tensor in node.outputs}
        self._below: list[set[int]] = []  # of each node: itself and all nodes that it is computed from
        self._consumers: list[set[int]] = [set() for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            inputs = {producer[id(tensor)] for tensor in node.input_tensors}
            self._below.append({index}.union(*(self._below[one] for one in inputs)))
            for one in inputs:
                self._consumers[one].add(index)
        self._outputs = {producer[id(tensor)] for tensor in backbone.outputs}
        self._costs = [_multiply_adds(node) for node in self.nodes]

    def is_valid_cut(self, index: int, live_layers: set[int]) -> bool:
        """Return True if the node has multiply-adds and no live layer at or below it, and only its tensor leads up."""
        node, below = self.nodes[index], self._below[index]
        called_once = sum(other.operation is node.operation for other in self.nodes) == 1
        return (
            called_once
            and len(node.outputs) == 1
            and None not in node.outputs[0].shape[1:]
            and not any(id(self.nodes[other].operation) in live_layers for other in below)
            and not any(other in self._outputs or self._consumers[other] - below for other in below if other != index)
            and sum(self._costs[other] for other in below) > 0
        )

    def cost_above(self, index: int) -> int:
        """Return the multiply-adds of the suffix above a node, for one image."""
        return sum(self._costs) - sum(self._costs[other] for other in self._below[index])

    def cut(self, index: int) -> Cut:
        """Return the cut at the output of a node."""
        node = self.nodes[index]
        return Cut(node.operation.name, self._position[id(node.operation)], tuple(node.outputs[0].shape[1:]))


def graph_nodes(function: keras.Function) -> list[Any]:
    """Return the nodes of a functional model in topological order."""
    by_depth = function._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _is_pool(backbone: keras.Model, cut: Cut) -> bool:
    return cut.position == len(backbone.operations)


def tensor_of(backbone: keras.Model, cut: Cut) -> Any:
    """Return the backbone's tensor at a cut other than the pixels; for pool, the tensor before pooling."""
    if _is_pool(backbone, cut):
        return backbone.outputs[0]
    operation = backbone.operations[cut.position]
    return next(node.outputs[0] for node in graph_nodes(backbone) if node.operation is operation)


def _is_live(layer: keras.layers.Layer, train_batch_norm: bool) -> bool:
    """Return True if a layer above the boundary has weights to train or is random in training."""
    inner_layers = list(layer._flatten_layers())
    # As in `classifier.unfreeze`, a BatchNormalization inside a nested layer is trained together with that layer.
    frozen = isinstance(layer, keras.layers.BatchNormalization) and not train_batch_norm
    if not frozen and any(inner._trainable_variables for inner in inner_layers):
        return True
    rates = [getattr(inner, name, None) for inner in inner_layers for name in ("rate", "drop_path_rate")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _multiply_adds(node: Any) -> int:
    """Return the multiply-adds of the trainable weights for one image; 0 for bare operations and rescalings."""
    if not isinstance(node.operation, keras.layers.Layer):
        return 0
    layers = node.operation._flatten_layers()
    shapes = [variable.shape for inner in layers for variable in inner._trainable_variables]
    weights = sum(math.prod(shape) for shape in shapes if len(shape) >= 2)
    return weights * math.prod(node.outputs[0].shape[1:-1]) if weights else 0
