"""Merging of an ensemble into a single Keras model."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from catsdogs.network.backbones import structure
from catsdogs.network.classifier import PROBABILITIES
from catsdogs.network.cut import find_cut, graph_nodes, tensor_of
from catsdogs.scoring.combination import Combination
from catsdogs.scoring.scores import EPSILON


def merge_models(models: Sequence[keras.Model], combination: Combination) -> keras.Model:
    """Combine models into one that uses only Keras' own layers, so it loads without catsdogs.

    Members with the same backbone share the layers below the first layer with different weights, if there is a cut
    (see `cut.find_cut`). Members with weight 0 are omitted. `models` are those of `classifier.full_model`, with
    equal outputs. The result is such a model too, and shares layers with them. Its images have the largest size of the
    members, and are resized (bilinear) for the others.
    """
    used = [(model, weight) for model, weight in zip(models, combination.weights, strict=True) if weight]
    size = max(model.input_shape[1] for model, _ in used)
    images = keras.Input((size, size, 3), dtype="float32", name="pixels")
    members = keras.ops.stack(_outputs([model for model, _ in used], images), axis=-1)
    outputs, logits = members.shape[1], combination.method == "logit"
    if logits:
        clipped = keras.ops.clip(members, EPSILON, 1 - EPSILON)
        members = keras.ops.log(clipped)
        if outputs == 1:
            members = members - keras.ops.log1p(-clipped)
    combine = keras.layers.Dense(1, use_bias=False, trainable=False, name="weighted_sum")
    combined = keras.layers.Flatten()(combine(members))
    combine.set_weights([np.array([[weight] for _, weight in used])])
    if logits:
        activation = "sigmoid" if outputs == 1 else "softmax"
        combined = keras.layers.Activation(activation, name=PROBABILITIES)(combined)
    else:
        # Rounded weights may sum to slightly more than 1.
        combined = keras.ops.clip(combined, 0, 1)
    return keras.Model(images, combined, name="catsdogs")


def _outputs(models: list[keras.Model], images: Any) -> list[Any]:
    """Return the (B, C) output of every model for these symbolic images."""
    groups: dict[str, list[int]] = {}
    for index, model in enumerate(models):
        groups.setdefault(_structure_key(model) or f"model {index}", []).append(index)
    outputs: dict[int, Any] = {}
    resized = {images.shape[1]: images}
    for indices in groups.values():
        members = [models[index] for index in indices]
        size = members[0].input_shape[1]
        if size not in resized:
            resized[size] = keras.layers.Resizing(size, size, name=f"resize_{size}")(images)
        member_outputs = _with_shared_prefix(members, resized[size], indices) or [
            # Renamed, because members may have the same name.
            keras.Model(member.inputs, member.outputs[0], name=f"member_{index}")(resized[size])
            for index, member in zip(indices, members, strict=True)
        ]
        outputs |= zip(indices, member_outputs, strict=True)
    return [outputs[index] for index in range(len(models))]


def _with_shared_prefix(models: list[keras.Model], images: Any, indices: list[int]) -> list[Any] | None:
    """Return the outputs of models with equal structure and a shared prefix; None if no layer can be shared."""
    nodes = [node for model in models if (node := backbone_node(model)) is not None]
    if len(models) == 1 or len(nodes) < len(models):
        return None
    backbones = [node.operation for node in nodes]
    cut = find_cut(backbones[0], _depth_of_difference(backbones), train_batch_norm=True)
    if cut.position < 0:
        return None
    below = [keras.Model(each.inputs, tensor_of(each, cut), name=f"shared_{indices[0]}") for each in backbones]
    # Weights below a cut are not trainable but may still differ, for example statistics.
    if not all(_same_weights(below[0], other) for other in below[1:]):
        return None
    preprocessed = nodes[0].input_tensors[0]
    if preprocessed is not models[0].inputs[0]:
        images = keras.Model(models[0].inputs, preprocessed, name=f"preprocessing_{indices[0]}")(images)
    shared = below[0](images)
    outputs = []
    for index, model, node, backbone in zip(indices, models, nodes, backbones, strict=True):
        x = shared
        top, features = tensor_of(backbone, cut), backbone.outputs[0]
        if top is not features:
            x = keras.Model(top, features, name=f"member_{index}_above")(x)
        outputs.append(keras.Model(node.outputs[0], model.outputs[0], name=f"member_{index}_head")(x))
    return outputs


def _structure_key(model: keras.Model) -> str | None:
    """Return a text that is equal for models that differ only in weights and head; None without a backbone."""
    node = backbone_node(model)
    if node is None:
        return None
    return structure(keras.Model(model.inputs, node.input_tensors[0])) + structure(node.operation)


def backbone_node(model: keras.Model) -> Any | None:
    """Return the call of the only functional model nested in a model, or None."""
    if not isinstance(model, keras.Function):
        return None
    nodes = [node for node in graph_nodes(model) if isinstance(node.operation, keras.Function)]
    return nodes[0] if len(nodes) == 1 and len(nodes[0].outputs) == 1 else None


def _depth_of_difference(backbones: list[keras.Model]) -> int:
    """Return the number of layers from the first one with different weights to the last; 0 if all are equal."""
    layers = list(zip(*(backbone.layers for backbone in backbones), strict=True))
    for index, (first, *others) in enumerate(layers):
        if not all(_same_weights(first, other) for other in others):
            return len(layers) - index
    return 0


def _same_weights(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
