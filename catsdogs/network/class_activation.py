"""Class activation maps: how much each region of an image adds to the prediction of a class."""

import cv2
import keras
import numpy as np

from catsdogs.network.classifier import PROBABILITIES
from catsdogs.network.devices import without_distribution

_BATCH = 8  # feature maps of many large images would not fit into memory
_FINEST = 16  # rows and columns of a map


def class_activation(model: keras.Model, images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the positive `shares`, divided by the highest of their image, at most 16 x 16; the others are 0."""
    maps = np.maximum(shares(model, images, predicted), 0)
    maps /= np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    size = (min(maps.shape[2], _FINEST), min(maps.shape[1], _FINEST))
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in maps])


def shares(model: keras.Model, images: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the share of each region of an image in the logit of a class, float32 (B, H, W).

    Their mean and a constant are the logit minus the mean of all logits (of two classes, the logit against the other):
    the classifier is piecewise linear in the features, which are averaged over the regions. H and W are those of the
    last features.

    Args:
        model: as `classifier.full_model`.
        images: (B, S, S, 3), 0..255.
        predicted: the class of each image, int (B,), 0 .. K - 1.

    Source: Zhou et al. 2016, arXiv:1512.04150; with a hidden layer Selvaraju et al. 2017, arXiv:1610.02391.
    """
    layers = {layer.name: layer for layer in model.layers}
    to_features = keras.Model(model.inputs[0], layers["pool"].input)
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    with without_distribution():
        outputs = [keras.ops.convert_to_numpy(to_features(batch, training=False)) for batch in batches]
    features = np.concatenate(outputs)
    pooled, scale = features.mean(axis=(1, 2)), np.float32(1)
    if "head_batch_norm" in layers:
        gamma, beta, mean, variance = layers["head_batch_norm"].get_weights()
        scale = gamma / np.sqrt(variance + layers["head_batch_norm"].epsilon)
        pooled = (pooled - mean) * scale + beta
    kernel = layers[PROBABILITIES].get_weights()[0]
    kernel = np.hstack([-kernel, kernel]) if kernel.shape[1] == 1 else kernel - kernel.mean(axis=1, keepdims=True)
    slopes = kernel.T[predicted]
    if "head_dense" in layers:
        hidden, bias = layers["head_dense"].get_weights()
        slopes = (slopes * (pooled @ hidden + bias > 0)) @ hidden.T
    return np.einsum("bhwf,bf->bhw", features, slopes * scale)
