"""Several models and how they are combined -> one Keras model that predicts alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from catsdogs.network.backbones import structure
from catsdogs.network.cut import find_cut, graph_nodes, tensor_of
from catsdogs.scoring.combination import Combination
from catsdogs.scoring.scores import EPSILON


def merge_models(models: Sequence[keras.Model], combination: Combination) -> keras.Model:
    """Combine members, of plain Keras layers, so that `keras.models.load_model` alone reads what is saved.

    What members have in common is computed once: of members with the same backbone everything below the first layer
    whose weights differ, if there is a cut (see `cut.find_cut`). Members with weight 0 are left out.

    Args:
        models: as `classifier.full_model` gives them: float32 (B, S, S, 3), RGB, 0..255 to p_dog (B, 1), of one S.
            They share layers with what is returned.
        combination: of as many members.

    Returns:
        A model with the same input and output as the members.

    Raises:
        ValueError: the combination is of another number of members.
    """
    used = [(model, weight) for model, weight in zip(models, combination.weights, strict=True) if weight]
    images = keras.Input(used[0][0].input_shape[1:], dtype="float32", name="pixels")
    members = keras.layers.Concatenate(name="members")(_outputs([model for model, _ in used], images))
    logits = combination.method == "logit"
    if logits:
        clipped = keras.ops.clip(members, EPSILON, 1 - EPSILON)
        members = keras.ops.log(clipped) - keras.ops.log1p(-clipped)
    activation = "sigmoid" if logits else None
    combine = keras.layers.Dense(1, activation=activation, use_bias=False, trainable=False, name="p_dog")
    p_dog = combine(members)
    if not logits:
        # A sum of rounded weights may end a little above 1.
        p_dog = keras.ops.clip(p_dog, 0, 1)
    combine.set_weights([np.array([[weight] for _, weight in used])])
    return keras.Model(images, p_dog, name="catsdogs")


def _outputs(models: list[keras.Model], images: Any) -> list[Any]:
    """The (B, 1) output of every model on these symbolic images."""
    alike: dict[str, list[int]] = {}
    for place, model in enumerate(models):
        alike.setdefault(_kind(model) or f"model {place}", []).append(place)
    found: dict[int, Any] = {}
    for places in alike.values():
        members = [models[place] for place in places]
        outputs = _with_shared_prefix(members, images, places) or [
            # Under a name of its own: members may bear the same one.
            keras.Model(member.inputs, member.outputs[0], name=f"member_{place}")(images)
            for place, member in zip(places, members, strict=True)
        ]
        found |= zip(places, outputs, strict=True)
    return [found[place] for place in range(len(models))]


def _with_shared_prefix(models: list[keras.Model], images: Any, places: list[int]) -> list[Any] | None:
    """The outputs of models of one kind, what lies below a cut computed once; None where nothing is shared."""
    nodes = [node for model in models if (node := _backbone_node(model)) is not None]
    if len(models) == 1 or len(nodes) < len(models):
        return None
    backbones = [node.operation for node in nodes]
    cut = find_cut(backbones[0], _depth_of_difference(backbones), train_batch_norm=True)
    if cut.position < 0:
        return None
    below = [keras.Model(one.inputs, tensor_of(one, cut), name=f"shared_{places[0]}") for one in backbones]
    # A cut is below what can be trained; weights that cannot, statistics for example, might differ all the same.
    if not all(_same_weights(below[0], other) for other in below[1:]):
        return None
    preprocessed = nodes[0].input_tensors[0]
    if preprocessed is not models[0].inputs[0]:
        images = keras.Model(models[0].inputs, preprocessed, name="preprocessing")(images)
    shared = below[0](images)
    outputs = []
    for place, model, node, backbone in zip(places, models, nodes, backbones, strict=True):
        x = shared
        top, features = tensor_of(backbone, cut), backbone.outputs[0]
        if top is not features:
            x = keras.Model(top, features, name=f"member_{place}_above")(x)
        outputs.append(keras.Model(node.outputs[0], model.outputs[0], name=f"member_{place}_head")(x))
    return outputs


def _kind(model: keras.Model) -> str | None:
    """The same text for models whose backbones and preprocessing differ in weights alone; None without a backbone."""
    node = _backbone_node(model)
    if node is None:
        return None
    return structure(keras.Model(model.inputs, node.input_tensors[0])) + structure(node.operation)


def _backbone_node(model: keras.Model) -> Any | None:
    """The call of the one functional model inside another."""
    if not isinstance(model, keras.Function):
        return None
    nodes = [node for node in graph_nodes(model) if isinstance(node.operation, keras.Function)]
    return nodes[0] if len(nodes) == 1 and len(nodes[0].outputs) == 1 else None


def _depth_of_difference(backbones: list[keras.Model]) -> int:
    """How many last layers there are from the first one on whose weights differ; 0 if none differ."""
    layers = list(zip(*(backbone.layers for backbone in backbones), strict=True))
    for place, (first, *others) in enumerate(layers):
        if not all(_same_weights(first, other) for other in others):
            return len(layers) - place
    return 0


def _same_weights(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
