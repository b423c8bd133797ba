import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from catsdogs.data.views import ORIGINAL, View
from catsdogs.study.trials import TrialRecord
from catsdogs.training.execution import Listener, execute
from catsdogs.training.linear_probe import _regression

LINEAR = ("model.head_init=linear_probe", "model.dense_units=0", "model.head_batch_norm=false")
STILL = ("schedule=constant", "schedule.peak_lr=1e-9", "model.dropout=0.0", "fit.epochs=1", "fit.batch_size=8")


def first_epoch(job, prepared):
    data, models = prepared(job)
    record = TrialRecord("0", "RUNNING", None, None, 0, 0, 0.0, {"unfreeze_depth": 5})
    with data.features.reading():
        data.features.prepare()
        trainings, trial = execute(job, [record], data, models, 0, Listener())
    return trainings[0], trial, data


def test_a_trial_starts_from_the_regression_on_the_first_view_of_its_training_images(config, training_data, prepared):
    training, trial, data = first_epoch(config(*LINEAR, *STILL), prepared)
    network = keras.Model(trial.model.input, trial.settings.output)
    views, labels = data.features.at_cut(trial.cut), training_data.labels

    def features(rows, view):
        return network.predict(views.read(rows, view), verbose=0)

    train, validation = training_data.train_rows, training_data.validation_rows
    losses = []
    for strength in np.logspace(-4, -1, 4):
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=strength))
        regression.fit(features(train, View("train", 0)), labels[train])
        losses.append(log_loss(labels[validation], regression.predict_proba(features(validation, ORIGINAL))))
    assert min(abs(np.array(losses) - training.val_log_loss)) < 1e-3
    random, _, _ = first_epoch(config("model.head_init=random", *LINEAR[1:], *STILL), prepared)
    assert random.val_log_loss > training.val_log_loss + 0.05


def test_the_regression_of_many_classes_is_that_of_scikit_learn_and_its_strength_is_chosen_by_folds():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    features = rng.normal(3, 2, (240, 10)) + np.eye(4, 10)[labels] * 3
    kernel, bias = _regression(features, labels, balanced=False)
    scores = features @ kernel + bias
    own = LogisticRegression(C=0.1).fit(StandardScaler().fit_transform(features), labels)
    expected = own.decision_function(StandardScaler().fit_transform(features))
    np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, atol=1e-2)
    # One image of a class: too few for folds.
    kernel, _ = _regression(features[:9], np.array([0, 0, 0, 1, 1, 1, 2, 2, 3]), balanced=True)
    assert kernel.shape == (10, 4)
    assert np.isfinite(kernel).all()


@pytest.mark.parametrize("setting", ["model.dense_units=8", "model.head_batch_norm=true"])
def test_only_a_linear_classifier_starts_from_a_regression(config, prepared, setting):
    kernels = []
    for start in ("random", "linear_probe"):
        _, trial, data = first_epoch(config(*LINEAR, *STILL, f"model.head_init={start}", setting), prepared)
        kernels.append(trial.model.get_layer("probabilities").get_weights()[0])
        assert not data.probes
    np.testing.assert_array_equal(*kernels)
