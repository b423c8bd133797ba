import keras
import numpy as np
import pytest
from reference import build_model

from catsdogs.config.compose import to_search_config
from catsdogs.config.hyperparameters import with_values
from catsdogs.network.backbones import load_network
from catsdogs.network.classifier import plain_head
from catsdogs.network.cut import prefix
from catsdogs.network.trial_model import TrialModels, _copy_head
from catsdogs.scoring.classes import DEFAULT

pytestmark = pytest.mark.lowest

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype("float32")
LABELS = np.tile([[0.0], [1.0]], (12, 1)).astype("float32")
STEPS = 12
BIG: tuple[str, ...] = ("data=sample", "backbone=mobilenet_v2_035", "backbone.weights=null", "backbone.image_size=32")
BIG += ("fit.epochs=10", "fit.batch_size=32", "split.folds=1")


@pytest.fixture
def bench(composed, config):
    """Build a job, the models of its trials, a function that returns IMAGES at a cut, and the network."""

    def make(*overrides, base=None):
        overrides = ("fit.epochs=4", "fit.batch_size=8", *overrides)
        job = to_search_config(composed(*base, *overrides)) if base else config(*overrides)
        network = load_network(job.backbone, job.seed)

        def inputs(cut):
            if cut.layer == "pixels":
                return IMAGES
            return keras.ops.convert_to_numpy(prefix(network.backbone, "minus_one_to_one", [cut])(IMAGES))

        return job, TrialModels(job, network, DEFAULT, STEPS, [0, 10] if base else [0, 2, 5]), inputs, network

    return make


def fitted(trial, inputs):
    history = trial.model.fit(inputs(trial.cut), LABELS, epochs=3, batch_size=8, shuffle=False, verbose=0).history
    return np.array([history[name] for name in sorted(history)])


@pytest.mark.parametrize(
    ("base", "depth", "scope"),
    [(None, 0, "head"), (None, 2, "head_and_backbone"), (None, 5, "head_and_backbone"), (BIG, 10, "head_and_backbone")],
)
def test_training_the_suffix_equals_training_the_full_model(bench, base, depth, scope):
    """Plain Keras on images, the reference, has equal losses and final weights."""
    job, models, inputs, network = bench(f"model.l2_scope={scope}", "schedule=cosine_warmup", base=base)
    # Other backends sample different dropout masks from the same state.
    dropout = 0.4 if keras.backend.backend() == "tensorflow" else 0.0
    values = with_values(job, {"unfreeze_depth": depth, "dropout": dropout, "l2": 0.01})
    trial = models.new_trial(values, seed=5)
    losses = fitted(trial, inputs)

    reference = build_model(values, total_steps=STEPS)
    next(layer for layer in reference.layers if isinstance(layer, keras.Model)).set_weights(network.weights)
    keras.utils.set_random_seed(5)
    pooled = keras.Input(reference.get_layer("pool").output.shape[1:])
    _copy_head(keras.Model(pooled, plain_head(pooled, values.model, 1)), reference)
    history = reference.fit(IMAGES, LABELS, epochs=3, batch_size=8, shuffle=False, verbose=0).history
    np.testing.assert_allclose(losses, [history[name] for name in sorted(history)], rtol=2e-4)
    for weights, expected in zip(models.full_model(trial).get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)


def test_trial_does_not_depend_on_earlier_trials(bench):
    job, models, inputs, _ = bench()
    values = with_values(job, {"unfreeze_depth": 5, "dropout": 0.3})
    fresh = fitted(models.new_trial(values, seed=5), inputs)
    other = with_values(job, {"unfreeze_depth": 5, "dropout": 0.5, "l2": 0.1, "peak_lr": 0.05})
    assert not np.allclose(fitted(models.new_trial(other, seed=6), inputs), fresh)
    fitted(models.new_trial(with_values(job, {"unfreeze_depth": 2}), seed=7), inputs)
    np.testing.assert_array_equal(fitted(models.new_trial(values, seed=5), inputs), fresh)


def test_every_hyperparameter_and_the_seed_affect_a_reused_model(bench):
    job, models, inputs, _ = bench("schedule=cosine")
    values = with_values(job, {"unfreeze_depth": 2, "dropout": 0.4})
    one = fitted(models.new_trial(values, seed=5), inputs)
    others = {"dropout": 0.0, "l2": 0.5, "peak_lr": 0.1, "warmup_fraction": 0.5, "final_fraction": 1.0}
    for name, value in others.items():
        other = fitted(models.new_trial(with_values(values, {name: value}), seed=5), inputs)
        assert not np.allclose(one, other, rtol=1e-5), name
    assert not np.allclose(one, fitted(models.new_trial(values, seed=6), inputs), rtol=1e-5)


def test_keras_tracks_every_variable_that_a_trial_sets(bench):
    """An untracked variable is a constant in a compiled JAX step."""
    job, models, _, _ = bench("fit.precision=mixed_float16")
    trial = models.new_trial(job, seed=1)
    tracked = {id(variable) for variable in [*trial.model.variables, *trial.model.optimizer.variables]}
    variables = [trial.rates, trial.settings.dropout, trial.settings.l2, *trial.seeds]
    assert all(id(variable) in tracked for variable in [*variables, *(variable for variable, _ in trial.initial)])


@pytest.mark.parametrize(("depth", "kernels"), [(0, 0), (10, 3)])
def test_full_model_predicts_like_the_trial_and_frozen_weights_are_unchanged(bench, depth, kernels, tmp_path):
    job, models, inputs, network = bench(base=BIG)
    trial = models.new_trial(with_values(job, {"unfreeze_depth": depth, "peak_lr": 0.01}), seed=3)
    fitted(trial, inputs)
    final = models.full_model(trial)
    expected = trial.model.predict(inputs(trial.cut), verbose=0)
    np.testing.assert_allclose(final.predict(IMAGES, verbose=0), expected, atol=1e-5)
    final.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, atol=1e-5)
    trained = {variable.path for variable in trial.backbone.trainable_variables}
    assert len(trained) == kernels
    for variable, before in zip(trial.backbone.weights, network.weights, strict=True):
        changed = not np.array_equal(keras.ops.convert_to_numpy(variable), before)
        assert changed == (variable.path in trained), variable.path


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_training_returns_float32_probabilities(bench, precision):
    job, models, inputs, _ = bench(f"fit.precision={precision}")
    trial = models.new_trial(with_values(job, {"unfreeze_depth": 2}), seed=5)
    losses = fitted(trial, inputs)
    p_dog = trial.model.predict(inputs(trial.cut), verbose=0)
    assert p_dog.dtype == np.float32
    final = models.full_model(trial)
    assert {weight.dtype for weight in final.weights} == {"float32"}
    # The final model computes in float32, unlike the model scored in training.
    difference = np.abs(final.predict(IMAGES, verbose=0) - p_dog)
    assert 0 < difference.max() < 0.05
    assert keras.config.dtype_policy().name == "float32"
    np.testing.assert_array_equal(fitted(models.new_trial(trial.config, seed=5), inputs), losses)
