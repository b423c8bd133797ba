"""Batches for Keras, read from views. A batch depends only on its index, not on the order or thread of access."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from catsdogs.data.views import ORIGINAL, View, Views
from catsdogs.network.schedules import steps_per_epoch


@dataclass(frozen=True)
class EpochPlan:
    """Epochs of one training, and the order and view of their images."""

    seed: int  # epoch e is shuffled with (seed, e)
    epochs: int  # number of the epoch after the last one, counted from 0
    first_epoch: int = 0
    distinct_views: int | None = None  # epoch e reads view `e % distinct_views`; None: a new view in every epoch


class EvaluationBatches(keras.utils.PyDataset):
    """Batches of rows in the given order and one view.

    `arrays`: what follows the inputs, arrays of all images: targets for validation, nothing for prediction.
    """

    def __init__(
        self, views: Views, rows: np.ndarray, view: View, batch_size: int, arrays: tuple[np.ndarray, ...] = ()
    ) -> None:
        super().__init__()
        self._views = views
        self._rows = rows
        self._view = view
        self._batch_size = batch_size
        self._arrays = arrays
        self.steps = steps_per_epoch(len(rows), batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Return inputs (B, ...), and the rows of each array."""
        return self._read(self._rows, index, self._view)

    def _read(self, rows: np.ndarray, step: int, view: View) -> tuple[np.ndarray, ...]:
        rows = rows[step * self._batch_size : (step + 1) * self._batch_size]
        return (self._views.read(rows, view), *(array[rows] for array in self._arrays))


class TrainingBatches(EvaluationBatches):
    """All batches of a training; pass `steps_per_epoch=batches.steps` to `fit`.

    Batch `i` belongs to epoch `first_epoch + i // steps`. All epochs are one sequence, because Keras reads ahead: it
    would request batches of the next epoch before a dataset with a state was notified of that epoch. `arrays` are the
    targets of all images and, if there are any, their weights; `rows`, int (N,), are the images to train on.
    """

    def __init__(
        self, views: Views, arrays: tuple[np.ndarray, ...], rows: np.ndarray, batch_size: int, plan: EpochPlan
    ) -> None:
        super().__init__(views, rows, ORIGINAL, batch_size, arrays)
        self._plan = plan

    def __len__(self) -> int:
        return self.steps * (self._plan.epochs - self._plan.first_epoch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Return inputs (B, ...), and the rows of each array."""
        epoch, step = divmod(index, self.steps)
        epoch += self._plan.first_epoch
        order = np.random.default_rng([self._plan.seed, epoch]).permutation(self._rows)
        number = epoch % self._plan.distinct_views if self._plan.distinct_views else epoch
        return self._read(order, step, View("train", number))


def for_keras(batches: EvaluationBatches) -> Any:
    """Return an input for `fit`, `evaluate` and `predict` that reads every batch once, in order.

    On TensorFlow, this is a tf.data pipeline that reads two batches ahead, without autotuning. Keras' own pipeline
    stalls for five seconds at the end of every `fit`, as long as the training of a small trial.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    arrays = map(np.asarray, batches[0])
    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype)) for array in arrays)
    options = tf.data.Options()
    options.autotune.enabled = False
    pipeline = tf.data.Dataset.from_generator(
        lambda: (batches[index] for index in range(len(batches))), output_signature=signature
    )
    pipeline = pipeline.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return pipeline.prefetch(2).with_options(options)
