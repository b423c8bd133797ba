"""Input of the plain side: a tf.data pipeline of augmented batches of all epochs, with prefetch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from catsdogs.config.schema import AugmentationConfig
from catsdogs.data.augment import augment


@dataclass(frozen=True)
class Settings:
    """Settings of the plain search.

    Attributes:
        task: "search", or "input" to find the faster of two input pipelines.
        output: JSON file of the results.
        folder: state of Keras Tuner.
        pixels: .npy file, uint8 (N, S, S, 3).
        arrays: .npz file with labels (N,), keys (N,) uint64, train_rows and validation_rows.
        weights: weights file of MobileNetV2 without top.
        views: epoch e reads view e mod views.
        augmentation: ranges of `catsdogs.config.schema.AugmentationConfig`.
        augmentation_source: "views" (`augment`) or "layers" (Keras' augmentation layers).
        autotune: let tf.data choose its parallelism; otherwise one call per processor and two batches of prefetch.
        all_trials: train every trial; otherwise only the first of every depth.
        epochs_run: trained epochs per trial; the learning-rate schedule is for `epochs`.
    """

    task: str
    output: str
    folder: str
    pixels: str
    arrays: str
    weights: str
    image_size: int
    seed: int
    trials: int
    epochs: int
    epochs_run: int
    all_trials: bool
    batch_size: int
    patience: int
    peak_lr: float
    final_fraction: float
    label_smoothing: float
    dense_units: int
    head_batch_norm_momentum: float
    views: int
    augmentation: dict[str, Any]
    augmentation_source: str
    autotune: bool


class Images:
    """Pixels, labels and split, with their tf.data pipelines; `autotune` replaces that of the settings."""

    def __init__(self, settings: Settings, autotune: bool | None = None) -> None:
        self._settings = settings
        self._pixels = np.load(settings.pixels, mmap_mode="r")
        with np.load(settings.arrays) as arrays:
            self._labels = arrays["labels"].astype(np.float32).reshape(-1, 1)
            self._keys = arrays["keys"]
            self._train_rows = arrays["train_rows"]
            self._validation_rows = arrays["validation_rows"]
        self._autotune = settings.autotune if autotune is None else autotune
        self.steps = -(-len(self._train_rows) // settings.batch_size)

    def training(self, seed: int) -> tf.data.Dataset:
        """Return the batches of all epochs in sequence; (seed, epoch) determines the order of images."""
        settings = self._settings
        orders = tf.constant(
            np.stack(
                [np.random.default_rng([seed, epoch]).permutation(self._train_rows) for epoch in range(settings.epochs)]
            )
        )

        def one_epoch(epoch: Any) -> tf.data.Dataset:
            rows = tf.data.Dataset.from_tensor_slices(orders[epoch]).batch(settings.batch_size)
            return rows.map(lambda batch: (batch, epoch))

        batches = tf.data.Dataset.range(settings.epochs).flat_map(one_epoch)
        batches = batches.map(self._read, num_parallel_calls=self._calls)
        if settings.augmentation_source == "layers":
            layers = augmentation_layers(settings.augmentation)
            batches = batches.map(
                lambda images, labels: (layers(images, training=True), labels), num_parallel_calls=self._calls
            )
        return self._ahead(batches)

    def validation(self) -> tf.data.Dataset:
        """Return the unaugmented validation batches in fixed order, cached in memory."""
        images, labels = self._pixels[self._validation_rows], self._labels[self._validation_rows]
        return self._ahead(
            tf.data.Dataset.from_tensor_slices((images, labels)).batch(self._settings.batch_size).cache()
        )

    def _read(self, rows: Any, epoch: Any) -> tuple[Any, Any]:
        images, labels = tf.numpy_function(self._augmented, [rows, epoch], [tf.uint8, tf.float32], stateful=False)
        size = self._settings.image_size
        images.set_shape((None, size, size, 3))
        labels.set_shape((None, 1))
        return images, labels

    def _augmented(self, rows: np.ndarray, epoch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, settings = self._pixels[rows], self._settings
        if settings.augmentation_source == "views":
            view = int(epoch) % settings.views
            ranges = AugmentationConfig(**settings.augmentation)
            images = augment(images, self._keys[rows], ranges, settings.seed, view, stream="train")
        return images, self._labels[rows]

    @property
    def _calls(self) -> int:
        return tf.data.AUTOTUNE if self._autotune else os.cpu_count() or 1

    def _ahead(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        batches = batches.prefetch(tf.data.AUTOTUNE if self._autotune else 2)
        options = tf.data.Options()
        options.autotune.enabled = self._autotune
        return batches.with_options(options)


def augmentation_layers(ranges: dict[str, Any]) -> keras.Sequential:
    """Return Keras' layers for the ranges of conf/augmentation/light.yaml, in Keras' units.

    In Keras, rotation is a fraction of a full turn, and positive zoom zooms out. Keras' brightness adds a fraction of
    the value range; in catsdogs it multiplies.
    """
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(ranges["rotation_degrees"] / 360, fill_mode="reflect"),
            keras.layers.RandomTranslation(ranges["shift_fraction"], ranges["shift_fraction"], fill_mode="reflect"),
            keras.layers.RandomZoom(ranges["zoom_fraction"], fill_mode="reflect"),
            keras.layers.RandomBrightness(ranges["brightness_fraction"], value_range=(0, 255)),
        ]
    )
