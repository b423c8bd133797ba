import keras
import numpy as np
import pytest
from reference import build_model

from catsdogs.config.hyperparameters import with_values
from catsdogs.network.classifier import compile_model, plain_head, unfreeze
from catsdogs.network.classifier import log_loss as log_loss_metric
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import score_images

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("uint8")


def built(config, outputs=1, **values):
    return build_model(with_values(config, values), total_steps=10, outputs=outputs)


@pytest.mark.parametrize("train_batch_norm", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 10, 30, 154])
def test_exactly_the_last_layers_are_trained_and_batch_norm_only_if_configured(depth, train_batch_norm):
    backbone = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35)
    unfreeze(backbone, depth, train_batch_norm)
    trained = backbone.layers[len(backbone.layers) - depth :]
    if not train_batch_norm:
        trained = [layer for layer in trained if not isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer for layer in backbone.layers if layer.trainable] == trained
    expected = [weight for layer in trained for weight in layer.trainable_weights]
    assert [id(weight) for weight in backbone.trainable_variables] == [id(weight) for weight in expected]


@pytest.mark.parametrize("scope", ["head", "head_and_backbone"])
def test_l2_is_summed_over_the_trained_kernels_in_its_scope(config, scope):
    model = built(config(f"model.l2_scope={scope}"), l2=0.1, unfreeze_depth=3)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    if scope == "head_and_backbone":
        kernels = [w for w in model.trainable_variables if w.name == "kernel"]
        assert any("conv" in kernel.path for kernel in kernels)
    expected = 0.1 * sum(float((keras.ops.convert_to_numpy(kernel) ** 2).sum()) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_log_loss_excludes_label_smoothing_and_l2_and_the_loss_includes_them(config, count):
    classes, labels = Classes(tuple(map(str, range(count)))), np.arange(16) % count
    model = built(config("label_smoothing=strong"), classes.outputs, l2=0.1)
    scores = model.evaluate(IMAGES, classes.targets(labels), batch_size=5, verbose=0, return_dict=True)
    probabilities = classes.from_output(model.predict(IMAGES, verbose=0))
    expected = score_images(labels, probabilities)
    assert scores["log_loss"] == pytest.approx(expected.losses.mean(), rel=1e-4)
    assert scores["accuracy"] == pytest.approx(1 - expected.wrong.mean())
    smoothed = np.eye(count)[labels] * 0.9 + 0.1 / count
    loss = -(smoothed * np.log(probabilities)).sum(axis=1).mean()
    assert scores["loss"] == pytest.approx(loss + float(sum(model.losses)), rel=1e-4)


def test_a_head_with_two_outputs_equals_one_with_one_output(config):
    """A step of SGD with rate 1 shows the gradients."""
    settings = with_values(config(), {"dropout": 0.0, "l2": 0.0}).model
    labels, features = np.arange(16) % 2, np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    kernel, results, steps = np.random.default_rng(1).normal(size=(settings.dense_units, 1)), [], []
    for targets in (labels[:, None], np.eye(2)[labels]):
        count = targets.shape[1]
        keras.utils.set_random_seed(1)
        pooled = keras.Input((5,))
        model = keras.Model(pooled, plain_head(pooled, settings, count))
        model.layers[-1].set_weights([kernel if count == 1 else np.hstack([-kernel, kernel]) / 2, np.zeros(count)])
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables]
        p_second = model.predict(features, verbose=0)[:, -1]
        compile_model(model, keras.optimizers.SGD(1.0), 0.1)
        scores = model.train_on_batch(features, targets, return_dict=True)
        results.append([*p_second, *(float(scores[name]) for name in ("loss", "log_loss", "accuracy"))])
        after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        steps.append([new - old for new, old in zip(after, before, strict=True)])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    expected = [*steps[0][:-2], *(np.concatenate([-step, step], axis=-1) for step in steps[0][-2:])]
    for step, of_one in zip(steps[1], expected, strict=True):
        np.testing.assert_allclose(step, of_one, rtol=1e-4, atol=1e-6)
    assert all(np.abs(step).max() > 1e-3 for step in expected)


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_log_loss_metric_of_saturated_outputs_equals_the_score(count):
    classes, labels = Classes(tuple(map(str, range(count)))), np.array([0, 1, 0, 1])
    logits = np.zeros((4, classes.outputs), "float32")
    logits[:, -1] = [30, -30, -30, 2]
    inputs = keras.Input((classes.outputs,))
    model = keras.Model(inputs, keras.layers.Activation("sigmoid" if count == 2 else "softmax")(inputs))
    model.compile(loss="mse", metrics=[keras.metrics.MeanMetricWrapper(log_loss_metric, name="log_loss")])
    metric = model.evaluate(logits, classes.targets(labels), verbose=0, return_dict=True)["log_loss"]
    probabilities = classes.from_output(model.predict(logits, verbose=0))
    assert metric == pytest.approx(score_images(labels, probabilities).losses.mean(), rel=1e-5)
    assert metric < 10


def test_layers_of_the_head(config):
    names = [layer.name for layer in built(config()).layers]
    assert names[-5:] == ["pool", "head_batch_norm", "head_dense", "head_dropout", "probabilities"]
    names = [layer.name for layer in built(config("model.head_batch_norm=false"), dense_units=0).layers]
    assert names[-3:] == ["pool", "head_dropout", "probabilities"]
