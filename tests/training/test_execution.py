from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from reference import build_model
from sklearn.metrics import log_loss

from catsdogs.config.hyperparameters import with_values
from catsdogs.data.dataset import Fold
from catsdogs.data.views import ORIGINAL
from catsdogs.network.schedules import learning_rates
from catsdogs.training.execution import DivergedError, train


def trained(config, data, *overrides, validate=True, first_epoch=0, **arguments):
    job = config("fit.epochs=4", "fit.batch_size=16", *overrides)
    keras.utils.set_random_seed(5)
    trial = with_values(job, {"unfreeze_depth": 5})
    model = build_model(trial, total_steps=3 * job.fit.epochs, first_step=3 * first_epoch)
    fold = Fold(data.train_rows, data.validation_rows if validate else np.arange(0))
    training = train(model, data.views, data.labels, fold, job.fit, 5, first_epoch, **arguments)
    return training, model, job


@pytest.mark.parametrize(("first_epoch", "epochs"), [(0, [1, 2, 3, 4]), (2, [3, 4])])
def test_the_history_has_every_metric_and_the_scheduled_learning_rate(config, training_data, first_epoch, epochs):
    training, _, job = trained(config, training_data, "schedule=cosine", "fit.patience=10", first_epoch=first_epoch)
    history = training.history
    assert list(history["epoch"]) == epochs
    assert {"loss", "log_loss", "accuracy", "val_loss", "val_log_loss", "val_accuracy", "seconds"} <= set(history)
    rates = learning_rates(job.schedule, 12)
    np.testing.assert_allclose(history["learning_rate"], rates[3 * np.array(epochs)], rtol=1e-4, atol=1e-9)


@pytest.fixture
def misled(training_data):
    """Validation images with the wrong labels: the better the training, the worse the validation, from the start."""
    labels = training_data.labels.copy()
    labels[training_data.validation_rows] = 1 - labels[training_data.validation_rows]
    return dataclasses.replace(training_data, labels=labels)


def found_log_loss(model, data):
    p_dog = model.predict(data.views.read(data.validation_rows, ORIGINAL), verbose=0)[:, 0]
    return log_loss(data.labels[data.validation_rows], np.clip(p_dog, 1e-7, 1 - 1e-7))


def test_the_model_comes_back_with_the_weights_of_its_best_epoch_by_log_loss_and_not_by_loss(config, misled):
    # L2 so strong that the loss falls with the weights while the predictions get worse.
    training, model, _ = trained(
        config, misled, "schedule=constant", "schedule.peak_lr=0.005", "model.l2=0.1", "fit.patience=10"
    )
    losses = training.history["val_log_loss"]
    assert training.history["val_loss"].argmin() == 3
    assert training.best_epoch == losses.argmin() + 1 < 4
    assert training.val_log_loss == pytest.approx(losses.min())
    assert losses.iloc[-1] > losses.min() + 1e-3
    assert found_log_loss(model, misled) == pytest.approx(losses.min(), rel=1e-4)


def test_training_stops_when_patience_ends(config, misled):
    training, _, _ = trained(
        config, misled, "schedule=constant", "schedule.peak_lr=0.005", "fit.patience=1", "fit.epochs=30"
    )
    assert len(training.history) == training.best_epoch + 1 < 30


def test_without_validation_every_epoch_is_trained(config, training_data):
    training, _, _ = trained(config, training_data, validate=False, epochs=2)
    assert len(training.history) == 2
    assert training.best_epoch == 2
    assert np.isnan(training.val_log_loss)


def test_every_epoch_reads_every_image_once_through_its_own_view_in_its_order(config, training_data):
    """As `fit` reads them, which reads ahead and would shuffle across epochs if it were let."""
    reads = []

    class Recorded:
        def read(self, rows, view):
            if view.kind == "train":
                reads.append((view.number, tuple(rows)))
            return training_data.views.read(rows, view)

    data = dataclasses.replace(training_data, views=Recorded())
    trained(config, data, "fit.epochs=3", "fit.patience=10")
    # The first batch is looked at once more, for its shape.
    steps = reads[1:]
    assert len(steps) == 9
    assert [number for number, _ in steps] == [0] * 3 + [1] * 3 + [2] * 3
    for epoch in range(3):
        seen = [row for _, rows in steps[3 * epoch : 3 * epoch + 3] for row in rows]
        assert sorted(seen) == list(training_data.train_rows)


def test_a_diverging_training_says_so(config, training_data):
    job = config("fit.epochs=2")
    model = build_model(job, total_steps=10)
    kernel = model.get_layer("p_dog").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(DivergedError, match="epoch 1"):
        train(model, training_data.views, training_data.labels, Fold(np.arange(40), np.arange(40, 60)), job.fit, 1)


def test_the_listener_hears_of_every_batch_and_epoch(config, training_data):
    heard = []
    trained(config, training_data, "fit.epochs=2", listener=lambda *what: heard.append(what))
    shares = [(epoch, round(3 * share)) for epoch, share, logs in heard if logs is None]
    assert shares == [(epoch, batch) for epoch in (0, 1) for batch in (1, 2, 3)]
    assert [epoch for epoch, _, logs in heard if logs] == [0, 1]
