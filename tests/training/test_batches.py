import numpy as np
import pytest

from catsdogs.training.batches import EpochPlan, TrainingBatches


class Recorded:
    """Views with inputs (row, number of the view, whether it is a training view)."""

    def read(self, rows, view):
        return np.stack([rows, np.full(len(rows), view.number), np.full(len(rows), view.kind == "train")], axis=1)


TARGETS, WEIGHTS = np.eye(3, dtype=np.float32)[np.arange(50) % 3], np.arange(50.0)


def batches(batch_size=8, **changes):
    plan = EpochPlan(**{"seed": 3, "epochs": 4} | changes)
    return TrainingBatches(Recorded(), (TARGETS, WEIGHTS), np.arange(5, 38), batch_size, plan)


@pytest.mark.parametrize("first_epoch", [0, 2])
def test_a_batch_depends_only_on_its_index(first_epoch):
    """Also in a training that starts later: it reads the same batches in its epochs."""
    full, resumed = batches(), batches(first_epoch=first_epoch)
    assert len(resumed) == 20 - 5 * first_epoch
    for index in reversed(range(len(resumed))):
        inputs, targets, weights = resumed[index]
        np.testing.assert_array_equal(inputs, full[index + 5 * first_epoch][0])
        np.testing.assert_array_equal(targets, TARGETS[inputs[:, 0]])
        np.testing.assert_array_equal(weights, inputs[:, 0])


def test_orders_differ_between_epochs_and_seeds_and_views_repeat_after_distinct_views_epochs():
    data, other, repeating = (batches(batch_size=33, **changes) for changes in ({}, {"seed": 4}, {"distinct_views": 3}))
    orders = [tuple(data[epoch][0][:, 0]) for epoch in range(4)]
    assert len({*orders, tuple(other[0][0][:, 0])}) == 5
    assert [tuple(repeating[epoch][0][:, 0]) for epoch in range(4)] == orders
    assert [set(repeating[epoch][0][:, 1]) for epoch in range(4)] == [{0}, {1}, {2}, {0}]
