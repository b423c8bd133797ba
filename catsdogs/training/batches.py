"""Views -> batches for Keras. Every batch is a pure function of its index, whoever asks first and from which thread."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from catsdogs.data.views import View, Views
from catsdogs.network.schedules import steps_per_epoch


class TrainingBatches(keras.utils.PyDataset):
    """All batches of a training, one epoch after the other.

    Batch `i` belongs to epoch `first_epoch + i // steps`. Epoch e reads view `e % distinct_views` of every image in an
    order drawn from (seed, e). The whole training is one sequence, because Keras reads ahead: a dataset that changed
    its state at the end of an epoch would be asked for the next epoch's batches before it knew. Give
    `steps_per_epoch=batches.steps` to `fit`.

    Args:
        labels: float (M,), 0.0 or 1.0, of all images.
        rows: int (N,), the images to train on.
        epochs, first_epoch: training ends before the one and begins with the other, counted from 0.
        distinct_views: after this many epochs the views come again; None never repeats one.
    """

    def __init__(
        self,
        views: Views,
        labels: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        epochs: int,
        seed: int,
        first_epoch: int = 0,
        distinct_views: int | None = None,
    ) -> None:
        super().__init__()
        self._views = views
        self._labels = labels
        self._rows = rows
        self._batch_size = batch_size
        self._epochs = epochs
        self._seed = seed
        self._first_epoch = first_epoch
        self._distinct_views = distinct_views
        self.steps = steps_per_epoch(len(rows), batch_size)

    def __len__(self) -> int:
        return self.steps * (self._epochs - self._first_epoch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (B, ...) and labels float32 (B, 1)."""
        epoch, step = divmod(index, self.steps)
        epoch += self._first_epoch
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        rows = order[step * self._batch_size : (step + 1) * self._batch_size]
        number = epoch % self._distinct_views if self._distinct_views else epoch
        return self._views.read(rows, View("train", number)), _targets(self._labels[rows])


class EvaluationBatches(keras.utils.PyDataset):
    """Rows in their order through one view, with labels where there are any: for validation and prediction."""

    def __init__(
        self, views: Views, rows: np.ndarray, view: View, batch_size: int, labels: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self._views = views
        self._rows = rows
        self._view = view
        self._batch_size = batch_size
        self._labels = labels

    def __len__(self) -> int:
        return steps_per_epoch(len(self._rows), self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Inputs (B, ...) and, where there are labels, float32 (B, 1)."""
        rows = self._rows[index * self._batch_size : (index + 1) * self._batch_size]
        inputs = self._views.read(rows, self._view)
        return (inputs,) if self._labels is None else (inputs, _targets(self._labels[rows]))


def for_keras(batches: TrainingBatches | EvaluationBatches) -> Any:
    """What `fit`, `evaluate` and `predict` are given to read these batches, each once, in their order.

    On TensorFlow a tf.data pipeline that reads two batches ahead, without autotuning: the one that Keras makes of a
    PyDataset stalls for five seconds at the end of every `fit`, as long as the training of a small trial.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    signature = tuple(
        tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype)) for array in map(np.asarray, batches[0])
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    pipeline = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(len(batches))), output_signature=signature
    )
    pipeline = pipeline.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return pipeline.prefetch(2).with_options(options)


def _targets(labels: np.ndarray) -> np.ndarray:
    """(B,) -> float32 (B, 1), the shape of the model's output: Keras would broadcast (B,) against (B, 1)."""
    return labels.astype(np.float32).reshape(-1, 1)
