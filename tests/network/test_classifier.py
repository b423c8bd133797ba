import keras
import numpy as np
import pytest
from reference import build_model
from sklearn.metrics import log_loss

from catsdogs.config.hyperparameters import with_values
from catsdogs.network.classifier import log_loss as log_loss_metric
from catsdogs.network.classifier import unfreeze
from catsdogs.scoring.scores import log_loss_per_image

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("uint8")
LABELS = np.tile([[0.0], [1.0]], (8, 1)).astype("float32")


def built(config, **values):
    return build_model(with_values(config, values), total_steps=10)


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


def test_log_loss_excludes_label_smoothing_and_l2_and_the_loss_includes_them(config):
    model = built(config("label_smoothing=strong"), l2=0.1)
    scores = model.evaluate(IMAGES, LABELS, batch_size=5, verbose=0, return_dict=True)
    p_dog = model.predict(IMAGES, verbose=0).astype(np.float64)
    assert scores["log_loss"] == pytest.approx(log_loss(LABELS.ravel(), p_dog.ravel()), rel=1e-4)
    smoothed = LABELS * 0.9 + 0.05
    loss = -(smoothed * np.log(p_dog) + (1 - smoothed) * np.log(1 - p_dog)).mean()
    assert scores["loss"] == pytest.approx(loss + float(sum(model.losses)), rel=1e-4)


def test_log_loss_metric_of_saturated_outputs_equals_the_score():
    labels = np.array([[0.0], [1.0], [0.0], [1.0]], dtype="float32")
    logits = np.array([[30.0], [-30.0], [-30.0], [2.0]], dtype="float32")
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(inputs))
    model.compile(loss="mse", metrics=[keras.metrics.MeanMetricWrapper(log_loss_metric, name="log_loss")])
    metric = model.evaluate(logits, labels, verbose=0, return_dict=True)["log_loss"]
    p_dog = model.predict(logits, verbose=0)
    assert metric == pytest.approx(log_loss_per_image(labels, p_dog).mean(), rel=1e-5)
    assert metric < 9


def test_layers_of_the_head(config):
    names = [layer.name for layer in built(config()).layers]
    assert names[-5:] == ["pool", "head_batch_norm", "head_dense", "head_dropout", "p_dog"]
    names = [layer.name for layer in built(config("model.head_batch_norm=false"), dense_units=0).layers]
    assert names[-3:] == ["pool", "head_dropout", "p_dog"]
