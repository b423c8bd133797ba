"""A backbone that is traced in a fraction of a second, for tests that train many models."""

import keras


def build(include_top, weights, input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=4, name="conv_1")(inputs)
    x = keras.layers.ReLU(name="relu_1")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, name="conv_2")(x)
    x = keras.layers.ReLU(name="relu_2")(x)
    return keras.Model(inputs, x, name="tiny")
