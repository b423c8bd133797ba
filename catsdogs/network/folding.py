"""Suffix -> the same function with frozen BatchNormalization folded into the convolutions before it.

On a CPU a BatchNormalization is one more pass over memory, forward and backward: without it a training step of
MobileNetV2 at depth 30 took 65 ms instead of 81.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras

from catsdogs.network.cut import graph_nodes


def folded(model: keras.Model) -> keras.Model:
    """Fold every frozen BatchNormalization into the Conv2D or DepthwiseConv2D whose only consumer it is.

    Args:
        model: a functional model, not compiled; functional models nested in it are folded too. What is trainable is
            read now: fold again after a BatchNormalization was frozen or freed.

    Returns:
        A functional model of the same inputs and outputs, which shares all layers and variables with `model`, so the
        kernel that is trained is the original one. `get_weights` may give them in another order, and it is not meant to
        be saved: save `model`.
    """
    if not model.trainable and any(layer.trainable_variables for layer in model.layers):
        # A frozen container hides variables of layers that are not frozen; its copy would show them.
        return model
    replacements: dict[int, FoldedConvolution | None] = {}
    for convolution, batch_norm in _foldable(model):
        replacements[id(convolution)] = None
        replacements[id(batch_norm)] = FoldedConvolution(convolution, batch_norm)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if id(operation) in replacements:
            replacement = replacements[id(operation)]
            # The convolution lets its input through to the BatchNormalization, in whose place both are computed.
            return args[0] if replacement is None else replacement(args[0])
        if isinstance(operation, keras.Function):
            operation = folded(operation)
        return operation(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda operation: operation, call_function=call)


class FoldedConvolution(keras.layers.Layer):
    """A convolution and the frozen BatchNormalization behind it, as one convolution.

    With scale = gamma / sqrt(moving_variance + epsilon) it is a convolution with kernel * scale, plus
    beta + (bias - moving_mean) * scale. It has no variables of its own.

    Args:
        convolution: a built Conv2D or DepthwiseConv2D, channels last, without activation.
        batch_norm: a built BatchNormalization over the last axis.
    """

    def __init__(self, convolution: keras.layers.Layer, batch_norm: keras.layers.BatchNormalization) -> None:
        # Without autocast the variables arrive in float32, so that the scaled kernel is rounded once.
        super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy, autocast=False)
        self.convolution = convolution
        self.batch_norm = batch_norm

    def call(self, inputs: Any) -> Any:
        ops, convolution = keras.ops, self.convolution
        scale, shift = self._scale_and_shift()
        depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
        # A depthwise kernel is (h, w, C, multiplier), and its output channels are counted C by C.
        channels = convolution.kernel.shape[-2:] if depthwise else (-1,)
        kernel = ops.cast(convolution.kernel, scale.dtype) * ops.reshape(scale, channels)
        convolve = ops.depthwise_conv if depthwise else ops.conv
        outputs = convolve(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(kernel, self.compute_dtype),
            strides=convolution.strides,
            padding=convolution.padding,
            data_format=convolution.data_format,
            dilation_rate=convolution.dilation_rate,
        )
        outputs = outputs + ops.cast(shift, self.compute_dtype)
        return ops.cast(outputs, self.batch_norm.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.convolution.compute_output_shape(input_shape)

    def _scale_and_shift(self) -> tuple[Any, Any]:
        """Both (C,), float32 or wider."""
        ops, norm = keras.ops, self.batch_norm
        dtype = keras.backend.result_type(norm.variable_dtype, "float32")
        scale = ops.rsqrt(ops.cast(norm.moving_variance, dtype) + norm.epsilon)
        if norm.gamma is not None:
            scale = scale * ops.cast(norm.gamma, dtype)
        shift = -ops.cast(norm.moving_mean, dtype) * scale
        if self.convolution.use_bias:
            shift = shift + ops.cast(self.convolution.bias, dtype) * scale
        if norm.beta is not None:
            shift = shift + ops.cast(norm.beta, dtype)
        return scale, shift


def _foldable(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.layers.BatchNormalization]]:
    """The pairs of convolution and BatchNormalization of one graph, nested graphs left out."""
    nodes = graph_nodes(model)
    calls = Counter(id(node.operation) for node in nodes)
    consumers: dict[int, list[Any]] = {}
    for node in nodes:
        for tensor in node.input_tensors:
            consumers.setdefault(id(tensor), []).append(node.operation)
    outputs = {id(tensor) for tensor in model.outputs}
    pairs = []
    for node in nodes:
        tensor, behind = node.outputs[0], consumers.get(id(node.outputs[0]), [])
        if len(behind) != 1 or id(tensor) in outputs or not _takes_a_scale(node.operation):
            continue
        called_once = calls[id(node.operation)] == calls[id(behind[0])] == 1
        if called_once and _is_a_fixed_scale(behind[0], len(tensor.shape)):
            pairs.append((node.operation, behind[0]))
    return pairs


def _takes_a_scale(operation: Any) -> bool:
    # Exact types: a subclass may compute something else.
    return (
        type(operation) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        and operation.data_format == "channels_last"
        and operation.activation in (None, keras.activations.linear)
        and operation.activity_regularizer is None
        and operation.quantization_mode is None
    )


def _is_a_fixed_scale(operation: Any, rank: int) -> bool:
    return (
        type(operation) is keras.layers.BatchNormalization
        and not operation.trainable
        and operation.axis in (-1, rank - 1)
        and operation.activity_regularizer is None
    )
