"""EfficientNet-Lite0, which keras.applications does not have.

Source: its authors' code in the repository tensorflow/tpu, models/official/efficientnet/lite.
"""

from typing import Any

import keras

_STAGES = (  # blocks, side of the depthwise kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite0(
    include_top: bool = False, weights: None = None, input_shape: tuple[int, int, int] = (224, 224, 3)
) -> keras.Model:
    """Build the network from pixels 0..255, which it scales itself, to a feature map (B, S / 32, S / 32, 1280).

    Layers are in the order of the authors' weights, so `load_weights` accepts a file of these. Raises ValueError for
    other `weights` than None, because Keras cannot download them.
    """
    if weights is not None:
        raise ValueError("Keras has no weights of EfficientNet-Lite0 to download; set backbone.weights to their file")
    inputs = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(inputs)
    x = _normalized(x, _convolution(32, 3, stride=2))
    for blocks, kernel, first_stride, expansion, channels in _STAGES:
        for block in range(blocks):
            x = _inverted_residual(x, kernel, first_stride if block == 0 else 1, expansion, channels)
    return keras.Model(inputs, _normalized(x, _convolution(1280, 1)), name="efficientnet_lite0")


def _inverted_residual(x: Any, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    y = x if expansion == 1 else _normalized(x, _convolution(expansion * x.shape[-1], 1))
    y = _normalized(y, keras.layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False))
    y = _normalized(y, _convolution(channels, 1), activation=False)
    return keras.layers.Add()([x, y]) if stride == 1 and x.shape[-1] == channels else y


def _convolution(channels: int, kernel: int, stride: int = 1) -> keras.layers.Layer:
    return keras.layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False)


def _normalized(x: Any, convolution: keras.layers.Layer, activation: bool = True) -> Any:
    x = keras.layers.BatchNormalization(epsilon=1e-3)(convolution(x))
    return keras.layers.ReLU(6.0)(x) if activation else x
