from types import SimpleNamespace

import keras
import numpy as np
import pytest
from reference import build_model
from sklearn.metrics import log_loss

from catsdogs.config.hyperparameters import with_values
from catsdogs.data.dataset import Fold
from catsdogs.data.views import ORIGINAL
from catsdogs.network.schedules import learning_rates
from catsdogs.scoring.classes import Classes
from catsdogs.training.batches import EpochPlan
from catsdogs.training.execution import DivergedError, Listener, _balanced_weights, train

CONSTANT = ("schedule=constant", "schedule.peak_lr=0.005")


def train_model(config, data, *overrides, validate=True, first_epoch=0, epochs=None, listener=None):
    job = config("fit.epochs=4", "fit.batch_size=16", *overrides)
    keras.utils.set_random_seed(5)
    trial = with_values(job, {"unfreeze_depth": 5})
    model = build_model(trial, total_steps=3 * job.fit.epochs, first_step=3 * first_epoch)
    fold = Fold(data.train_rows, data.validation_rows if validate else np.arange(0))
    plan = EpochPlan(5, epochs or job.fit.epochs, first_epoch)
    training = train(model, data.views, data.targets, fold, job.fit, plan, listener)
    return training, model, job


@pytest.mark.parametrize(("first_epoch", "epochs"), [(0, [1, 2, 3, 4]), (2, [3, 4])])
def test_history_has_every_metric_and_the_scheduled_learning_rate(config, training_data, first_epoch, epochs):
    training, _, job = train_model(config, training_data, "schedule=cosine", "fit.patience=10", first_epoch=first_epoch)
    history = training.history
    assert list(history["epoch"]) == epochs
    assert {"loss", "log_loss", "accuracy", "val_loss", "val_log_loss", "val_accuracy", "seconds"} <= set(history)
    rates = learning_rates(job.schedule, 12)
    np.testing.assert_allclose(history["learning_rate"], rates[3 * np.array(epochs)], rtol=1e-4, atol=1e-9)
    highest = [rates[3 * epoch - 3 : 3 * epoch].max() for epoch in epochs]
    np.testing.assert_allclose(history["max_learning_rate"], highest, rtol=1e-6)


@pytest.fixture
def mislabeled(training_data):
    """Return data with wrong validation labels: the better the training, the worse the validation."""
    labels = training_data.labels.copy()
    labels[training_data.validation_rows] = 1 - labels[training_data.validation_rows]
    return SimpleNamespace(**{**vars(training_data), "labels": labels, "targets": labels[:, None]})


def test_the_weights_of_the_epoch_with_the_best_log_loss_and_not_loss_are_restored(config, mislabeled):
    # With this L2 the loss decreases with the weights while the predictions get worse.
    training, model, _ = train_model(config, mislabeled, *CONSTANT, "model.l2=0.1", "fit.patience=10")
    losses = training.history["val_log_loss"]
    assert training.history["val_loss"].argmin() == 3
    assert training.best_epoch == losses.argmin() + 1 < 4
    assert training.val_log_loss == pytest.approx(losses.min())
    assert losses.iloc[-1] > losses.min() + 1e-3
    rows = mislabeled.validation_rows
    p_dog = model.predict(mislabeled.views.read(rows, ORIGINAL), verbose=0)[:, 0]
    assert log_loss(mislabeled.labels[rows], p_dog) == pytest.approx(losses.min(), rel=1e-4)


def test_class_weights_change_the_loss_and_no_score(config, training_data):
    """All images are equal, so every one has the same probability."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    equal = SimpleNamespace(read=lambda rows, view: np.stack([image] * len(rows)))
    rows = np.flatnonzero((np.arange(40) % 2 == 0) | (np.arange(40) % 6 == 1))  # 20 of class 0, 7 of class 1
    data = SimpleNamespace(**{**vars(training_data), "views": equal, "train_rows": rows})
    settings = ("fit.class_weights=balanced", "schedule=constant", "schedule.peak_lr=1e-9", "model.l2=0.0")
    training, model, _ = train_model(config, data, *settings, "model.head_batch_norm=false", "model.dropout=0.0")
    (p_second,) = model.predict(image[None], verbose=0)[0]
    losses, scores = -np.log([1 - p_second, p_second]), training.history.iloc[0]
    assert abs(losses[0] - losses[1]) > 1e-3
    assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert scores["log_loss"] == pytest.approx(losses @ [20 / 27, 7 / 27], rel=1e-5)
    assert scores["val_loss"] == pytest.approx(scores["val_log_loss"], rel=1e-5) == losses.mean()


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_balanced_classes_have_equal_weights_in_sum(count):
    classes, labels = Classes(tuple(map(str, range(count)))), np.repeat(np.arange(count), np.arange(count) + 1)
    weights = _balanced_weights(classes.targets(labels), np.arange(len(labels)))
    np.testing.assert_allclose(np.bincount(labels, weights), len(labels) / count, rtol=1e-5)


def test_training_stops_after_patience_epochs_without_improvement(config, mislabeled):
    training, _, _ = train_model(config, mislabeled, *CONSTANT, "fit.patience=1", "fit.epochs=30")
    assert len(training.history) == training.best_epoch + 1 < 30


def test_without_validation_every_epoch_is_trained(config, training_data):
    training, _, _ = train_model(config, training_data, validate=False, epochs=2)
    assert len(training.history) == 2
    assert training.best_epoch == 2
    assert np.isnan(training.val_log_loss)


def test_every_epoch_reads_every_image_once_in_its_own_view(config, training_data):
    """Read by `fit`, which reads ahead and shuffles across epochs by default."""
    reads = []

    class Recorded:
        def read(self, rows, view):
            if view.kind == "train":
                reads.append((view.number, tuple(rows)))
            return training_data.views.read(rows, view)

    data = SimpleNamespace(**{**vars(training_data), "views": Recorded()})
    train_model(config, data, "fit.epochs=3", "fit.patience=10")
    # The first batch is read an extra time, for its shape.
    steps = reads[1:]
    assert len(steps) == 9
    assert [number for number, _ in steps] == [0] * 3 + [1] * 3 + [2] * 3
    for epoch in range(3):
        epoch_rows = [row for _, rows in steps[3 * epoch : 3 * epoch + 3] for row in rows]
        assert sorted(epoch_rows) == list(training_data.train_rows)


def test_a_diverged_training_names_the_epoch(config, training_data):
    job = config("fit.epochs=2")
    model = build_model(job, total_steps=10)
    kernel = model.get_layer("probabilities").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    fold = Fold(np.arange(40), np.arange(40, 60))
    with pytest.raises(DivergedError, match="epoch 1"):
        train(model, training_data.views, training_data.targets, fold, job.fit, EpochPlan(1, job.fit.epochs))


def test_a_rung_has_the_outputs_of_the_best_epoch_so_far_and_changes_nothing(config, mislabeled):
    found = {}

    def at_rung(epochs, outputs):
        found[epochs] = outputs()
        return epochs == 3

    settings = (*CONSTANT, "model.l2=0.1", "fit.patience=10")
    whole, _, _ = train_model(config, mislabeled, *settings)
    rungs = dict.fromkeys((1, 3), at_rung)
    training, model, _ = train_model(config, mislabeled, *settings, listener=Listener(rungs=rungs))
    labels = mislabeled.labels[mislabeled.validation_rows]
    lowest = whole.history["val_log_loss"].cummin()
    assert [log_loss(labels, found[epochs][:, 0]) for epochs in (1, 3)] == pytest.approx(
        lowest[[0, 2]].tolist(), rel=1e-5
    )
    columns = ["epoch", "loss", "val_log_loss"]
    np.testing.assert_allclose(training.history[columns], whole.history[columns][:3], rtol=1e-6)
    # It has the weights of the best epoch, as after early stopping.
    inputs = mislabeled.views.read(mislabeled.validation_rows, ORIGINAL)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), found[3], rtol=1e-5)
    assert training.best_epoch < 3


def test_the_listener_is_called_after_every_batch_and_epoch(config, training_data):
    calls = []
    train_model(config, training_data, "fit.epochs=2", listener=Listener(lambda *arguments: calls.append(arguments)))
    shares = [(epoch, round(3 * share)) for epoch, share, logs in calls if logs is None]
    assert shares == [(epoch, batch) for epoch in (0, 1) for batch in (1, 2, 3)]
    assert [epoch for epoch, _, logs in calls if logs] == [0, 1]
