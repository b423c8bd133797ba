from __future__ import annotations

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from keras import ops
from reference import build_model
from test_golden_studies import STUDIES, VERSIONS

from catsdogs.backbones import load_network
from catsdogs.compose import checked
from catsdogs.errors import UserError
from catsdogs.hypermodel import compile_model, hyperparameters, unfreeze
from catsdogs.identity import differences, fingerprint, identity
from catsdogs.members import _OF_THE_JOB
from catsdogs.optimizers import BlockAdam, block_rates, block_starts, blocks, make_optimizer
from catsdogs.schema import PLAIN_ADAM, SEARCHABLE, SearchConfig
from catsdogs.study import read_job
from catsdogs.training import train
from catsdogs.trial_model import TrialModels
from catsdogs.views import PLAIN

RNG = np.random.default_rng(0)
ALL = (
    "optimizer=gradual",
    "optimizer.weight_decay=0.3",
    "optimizer.layer_decay=0.5",
    "optimizer.ema_momentum=0.8",
)


# The presets


def test_the_default_is_adam_as_it_was(composed, config):
    sample = ("data=sample", "data.train=null")
    assert checked(composed(*sample)).optimizer == PLAIN_ADAM
    assert checked(composed("experiment=seed_recipe", *sample)).optimizer == PLAIN_ADAM
    assert type(make_optimizer(config(), keras.optimizers.schedules.CosineDecay(0.1, 5), keras.Model())) is (
        keras.optimizers.Adam
    )


@pytest.mark.parametrize(
    ("preset", "changed"),
    [
        ("adamw", {"weight_decay": 0.01}),
        ("averaged", {"ema_momentum": 0.99}),
        ("discriminative", {"layer_decay": 0.8}),
        ("probe_first", {"probe_epochs": 1.0}),
        ("gradual", {"probe_epochs": 1.0, "thaw_epochs": 2.0}),
    ],
)
def test_every_other_preset_adds_what_its_name_says(config, preset, changed):
    assert config(f"optimizer={preset}").optimizer == dataclasses.replace(PLAIN_ADAM, **changed)


def test_a_probe_that_never_ends_is_refused(config):
    with pytest.raises(UserError, match=r"optimizer.probe_epochs=2: fit.epochs=2"):
        config("optimizer=probe_first", "optimizer.probe_epochs=2", "fit.epochs=2")
    config("optimizer=probe_first", "optimizer.probe_epochs=1.5", "fit.epochs=2")


# Blocks


def _layers_by_block(backbone):
    found = blocks(backbone)
    names: dict[int, list[str]] = {}
    for layer in backbone.layers:
        for number in {found[id(variable)] for variable in layer.trainable_variables}:
            names.setdefault(number, []).append(layer.name)
    return dict(sorted(names.items()))


def _chain(*names):
    """A network of 1 x 1 convolutions and, where the name says so, normalizations."""
    x = inputs = keras.Input((4, 4, 2))
    for name in names:
        norm = name.endswith("norm")
        x = keras.layers.LayerNormalization(name=name)(x) if norm else keras.layers.Conv2D(2, 1, name=name)(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # A block for every name, the rest below and above in threes; norms without a name join what is above them.
        ("a b c d block_1_x block_1_y other_norm top", ["top other_norm", "block_1_x block_1_y", "b c d", "a"]),
        (
            "conv2_block1_1_conv conv2_block1_2_conv conv2_block2_1_conv",
            ["conv2_block2_1_conv", "conv2_block1_1_conv conv2_block1_2_conv"],
        ),
        ("stage_0_block_9_conv stage_1_block_9_conv", ["stage_1_block_9_conv", "stage_0_block_9_conv"]),
        ("block6a_conv block6b_conv block6b_se_conv_1", ["block6b_conv block6b_se_conv_1", "block6a_conv"]),
        (
            "expanded_conv_9_a expanded_conv_10_a expanded_conv_10_b_1",
            ["expanded_conv_10_a expanded_conv_10_b_1", "expanded_conv_9_a"],
        ),
        ("block_1_conv block_1_norm block_2_conv last_norm", ["block_2_conv last_norm", "block_1_conv block_1_norm"]),
        ("conv2d_3 conv2d_4 conv2d_5 conv2d_6", ["conv2d_4 conv2d_5 conv2d_6", "conv2d_3"]),
    ],
)
def test_blocks_are_what_the_names_tell_and_threes_of_the_rest(names, expected):
    found = {number: set(layers) for number, layers in _layers_by_block(_chain(*names.split())).items()}
    assert found == {number: set(layers.split()) for number, layers in enumerate(expected, start=1)}


def test_the_trained_blocks_of_a_real_network():
    backbone = keras.applications.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None)
    unfreeze(backbone, 30, train_batch_norm=False)
    parts = ("expand", "depthwise", "project")
    assert _layers_by_block(backbone) == {
        1: ["Conv_1"],
        2: [f"block_16_{part}" for part in parts],
        3: [f"block_15_{part}" for part in parts],
        4: [f"block_14_{part}" for part in parts],
    }


def test_rates_fall_and_beginnings_rise_from_the_top():
    np.testing.assert_allclose(block_rates(0.5, 3), [1, 0.5, 0.25, 0.125])
    np.testing.assert_array_equal(block_rates(1.0, 2), np.ones(3, np.float32))
    # 10 steps an epoch: the blocks begin at epochs 1, 1.5, 2 and 2.5.
    assert list(block_starts(1, 2, 10, 4)) == [0, 10, 15, 20, 25]
    assert list(block_starts(1, 0, 10, 4)) == [0, 10, 10, 10, 10]
    # As many epochs as blocks: one epoch each.
    assert list(block_starts(0.5, 3, 10, 3)) == [0, 5, 15, 25]
    assert list(block_starts(1, 2, 10, 4, first_step=18)) == [-18, -8, -3, 2, 7]
    assert list(block_starts(1, 2, 10, 0)) == [0]


# Steps of the optimizer


def _made(values):
    return [keras.Variable(value, name=f"v{number}") for number, value in enumerate(values)]


def _steps(optimizer, variables, gradients):
    """The values after every step: a list per step of arrays per variable."""
    optimizer.build(variables)
    found = []
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in step], variables)
        found.append([ops.convert_to_numpy(variable).copy() for variable in variables])
    return found


VALUES = [RNG.normal(size=shape).astype("float32") for shape in ((3, 4), (4,), (2, 2, 3, 3), (3,))]
GRADIENTS = [[RNG.normal(size=value.shape).astype("float32") for value in VALUES] for _ in range(7)]


def test_weight_decay_is_that_of_keras_for_kernels_and_none_for_vectors():
    mine, theirs = _made(VALUES), _made(VALUES)
    optimizer = BlockAdam(0.01, {})
    optimizer.set(0.3, block_rates(0.5, 0), block_starts(0, 0, 10, 0))
    adamw = keras.optimizers.AdamW(0.01, weight_decay=0.3)
    adamw.exclude_from_weight_decay(var_list=[theirs[1].value, theirs[3].value] if _on_tensorflow() else theirs[1::2])
    found, expected = _steps(optimizer, mine, GRADIENTS), _steps(adamw, theirs, GRADIENTS)
    plain = _steps(keras.optimizers.Adam(0.01), _made(VALUES), GRADIENTS)
    for ours, keras_own, without in zip(found, expected, plain, strict=True):
        for place in range(4):
            np.testing.assert_allclose(ours[place], keras_own[place], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(ours[1], without[1])
        assert not np.allclose(ours[0], without[0], rtol=1e-4)


def test_nothing_asked_for_is_adam_bit_for_bit():
    variables = _made(VALUES)
    optimizer = BlockAdam(0.01, {id(variables[2]): 1, id(variables[3]): 2})
    optimizer.set(0.0, block_rates(1.0, 2), block_starts(0, 0, 10, 2))
    found = _steps(optimizer, variables, GRADIENTS)
    for ours, theirs in zip(found, _steps(keras.optimizers.Adam(0.01), _made(VALUES), GRADIENTS), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("first_step", [0, 3])
def test_every_block_moves_at_its_own_rate_from_its_own_step(first_step):
    """Where the gradient is always 1, a step of Adam is as long as the learning rate."""
    variables = _made([np.ones((2, 2), np.float32)] * 3)
    optimizer = BlockAdam(0.01, {id(variables[1]): 1, id(variables[2]): 2})
    # Two steps an epoch: block 1 begins at step 2, block 2 at step 4.
    optimizer.set(0.0, block_rates(0.5, 2), block_starts(1, 2, 2, 2, first_step))
    found = _steps(optimizer, variables, [[np.ones((2, 2), np.float32)] * 3] * 7)
    before = [[np.ones((2, 2))] * 3, *found[:-1]]
    lengths = np.array(
        [[(b - a).mean() for a, b in zip(*pair, strict=True)] for pair in zip(found, before, strict=True)]
    )
    steps = np.arange(7) + first_step
    expected = 0.01 * np.stack([np.ones(7), 0.5 * (steps >= 2), 0.25 * (steps >= 4)], axis=1)
    np.testing.assert_allclose(lengths, expected, rtol=1e-3, atol=0)


def test_weight_decay_takes_the_rate_of_the_block_and_none_where_that_is_0():
    """With gradients of 0 weight decay is all that happens."""
    values = [np.full((2, 2), 2.0, np.float32)] * 3
    variables = _made(values)
    optimizer = BlockAdam(0.1, {id(variables[1]): 1, id(variables[2]): 2})
    optimizer.set(0.5, block_rates(0.4, 2), block_starts(0, 2, 2, 2))
    found = _steps(optimizer, variables, [[np.zeros((2, 2), np.float32)] * 3] * 3)
    expected = [2 * (1 - 0.1 * 0.5) ** 3, 2 * (1 - 0.1 * 0.4 * 0.5) ** 3, 2 * (1 - 0.1 * 0.16 * 0.5)]
    np.testing.assert_allclose([value.mean() for value in found[-1]], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[1][2], values[2])


def _on_tensorflow():
    return keras.backend.backend() == "tensorflow"


# Trials

STEPS = 16
IMAGES = RNG.integers(0, 256, (32, 32, 32, 3)).astype("float32")
LABELS = np.tile([[0.0], [1.0]], (16, 1)).astype("float32")
# Four blocks; all of it is trained, so that the images are what is read.
WHOLE = ("backbone=small_cnn", "backbone.arguments.filters=4", "backbone.builder=catsdogs.backbones.small_cnn")


@pytest.fixture
def models(composed):
    def make(*overrides):
        tiny = ("backbone.image_size=32", "space=small_cnn", "model.dense_units=4", "model.unfreeze_depth=16")
        rest = ("~space.unfreeze_depth", "data=sample", "fit.epochs=4", "schedule=constant", "schedule.peak_lr=0.01")
        job = checked(composed(*WHOLE, *tiny, *rest, *overrides))
        return job, TrialModels(job, load_network(job.backbone, job.seed), STEPS)

    return make


def _fitted(trial):
    """Losses and final weights."""
    history = trial.model.fit(IMAGES, LABELS, epochs=4, batch_size=8, shuffle=False, verbose=0).history
    return [np.array(history["loss"]), *trial.model.get_weights()]


def _same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_searched_optimizer_with_nothing_in_it_trains_as_plain_adam_does(models):
    job, plain = models()
    trial = plain.start(hyperparameters(job, {}), seed=5)
    assert type(trial.structure.optimizer) is keras.optimizers.Adam
    job, searched = models("+space={weight_decay: {kind: choice, values: [0, 0.3]}}")
    other = searched.start(hyperparameters(job, {"weight_decay": 0}), seed=5)
    assert type(other.structure.optimizer) is BlockAdam
    expected = _fitted(trial)
    assert _same(_fitted(other), expected)
    assert not _same(_fitted(searched.start(hyperparameters(job, {"weight_decay": 0.3}), seed=5)), expected)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_trial_does_not_depend_on_those_before_it(models, precision):
    job, trials = models(*ALL, f"fit.precision={precision}")
    values = hyperparameters(job, {})
    fresh = _fitted(trials.start(values, seed=5))
    others = {"weight_decay": 0.9, "layer_decay": 0.9, "probe_epochs": 0.0}
    for name, value in others.items():
        other = dataclasses.replace(values, **{name: value})
        assert not _same(_fitted(trials.start(other, seed=5)), fresh), name
    assert _same(_fitted(trials.start(values, seed=5)), fresh)


def test_keras_knows_every_variable_of_the_optimizer_that_a_trial_sets(models):
    """One that it does not know is a constant to a compiled step of JAX."""
    job, trials = models(*ALL, "fit.precision=mixed_float16")
    structure = trials.start(hyperparameters(job, {}), seed=1).structure
    known = {id(variable) for variable in structure.model.optimizer.variables}
    optimizer = structure.optimizer
    assert all(id(one) in known for one in (optimizer._rates, optimizer._starts, optimizer._kernel_decay))
    # Moments and averages, which the next trial starts without.
    reset = {id(variable) for variable, _ in structure.initial}
    slots = [*optimizer._momentums, *optimizer._velocities, *optimizer._model_variables_moving_average]
    assert len(slots) == 3 * len(structure.model.trainable_variables)
    assert all(id(slot) in reset for slot in slots)


@pytest.mark.parametrize("first_step", [0, 5])
def test_frozen_blocks_stand_still_and_begin_from_the_top(models, first_step):
    job, trials = models("optimizer=gradual", "optimizer.weight_decay=0.1")
    trial = trials.start(hyperparameters(job, {}), seed=5, first_step=first_step)
    # 4 steps an epoch, 1 of the probe, 2 for four blocks.
    begins = {"block_4": 4, "block_3": 6, "block_2": 8, "block_1": 10, "head_dense": 0, "p_dog": 0}
    variables = [variable for variable in trial.model.trainable_variables if "batch_norm" not in variable.path]
    names = [next(name for name in begins if name in variable.path) for variable in variables]
    assert set(names) == set(begins)
    for step in range(first_step, 12):
        before = [ops.convert_to_numpy(variable).copy() for variable in variables]
        trial.model.train_on_batch(IMAGES[:8], LABELS[:8])
        for name, variable, old in zip(names, variables, before, strict=True):
            moved = not np.array_equal(ops.convert_to_numpy(variable), old)
            assert moved == (step >= begins[name]), (step, variable.path)


# The average of the weights


@pytest.fixture
def misled(training_data):
    """Validation images with the wrong labels: the better the training, the worse the validation."""
    labels = training_data.labels.copy()
    labels[training_data.validation_rows] = 1 - labels[training_data.validation_rows]
    return dataclasses.replace(training_data, labels=labels)


def _trained(config, data, ema_momentum, validate=True):
    """Training, model, and the trained weights that it had at the end of every epoch, which is one step long."""
    job = config("fit.epochs=6", "fit.batch_size=40", "fit.patience=10")
    keras.utils.set_random_seed(5)
    model = build_model(job, hyperparameters(job, {"unfreeze_depth": 5}), total_steps=6)
    compile_model(model, BlockAdam(0.01, {}, ema_momentum), 0.0)
    epochs: list[list[np.ndarray]] = []

    def listener(epoch, share, logs):
        if logs is not None:
            epochs.append([ops.convert_to_numpy(variable).copy() for variable in model.trainable_variables])

    rows = data.validation_rows if validate else None
    training = train(model, data.views, data.labels, data.train_rows, rows, job.fit, seed=5, listener=listener)
    return training, model, epochs


def _averages(epochs, momentum):
    found = [epochs[0]]
    for epoch in epochs[1:]:
        found.append([momentum * old + (1 - momentum) * new for old, new in zip(found[-1], epoch, strict=True)])
    return found


def _assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-5, atol=1e-7)


def test_the_average_is_validated_and_kept_and_training_goes_on_from_its_own_weights(config, misled):
    plain, _, own = _trained(config, misled, None)
    training, model, validated = _trained(config, misled, 0.7)
    # Losses of training are those of its own weights.
    np.testing.assert_array_equal(training.history["loss"], plain.history["loss"])
    averages = _averages(own, 0.7)
    assert len(validated) == 6
    for found, expected in zip(validated, averages, strict=True):
        _assert_close(found, expected)
    assert training.best_epoch < 6
    _assert_close(model.trainable_variables, averages[training.best_epoch - 1])
    pixels, labels = misled.views.read(misled.validation_rows, PLAIN), misled.labels[misled.validation_rows]
    found = model.evaluate(pixels, labels[:, None], verbose=0, return_dict=True)["log_loss"]
    assert found == pytest.approx(training.val_log_loss, rel=1e-4)


def test_without_validation_the_last_average_is_the_model(config, training_data):
    _, model, own = _trained(config, training_data, 0.7, validate=False)
    _assert_close(model.trainable_variables, _averages(own, 0.7)[-1])


@pytest.mark.parametrize("validate", [True, False])
def test_a_model_can_be_asked_and_trained_again_after_its_average_was_put_in(config, training_data, validate):
    """JAX frees the arrays of a model when it takes a step; the average must not be among them."""
    data = training_data
    _, model, _ = _trained(config, data, 0.7, validate)
    pixels = data.views.read(data.validation_rows, PLAIN)
    p_dog = model.predict(pixels, verbose=0)
    job = config("fit.epochs=1", "fit.batch_size=40")
    training = train(model, data.views, data.labels, data.train_rows, data.validation_rows, job.fit, seed=5)
    assert training.history["loss"].notna().all()
    assert not np.array_equal(model.predict(pixels, verbose=0), p_dog)


# Jobs of earlier versions


@pytest.mark.parametrize("version", VERSIONS)
def test_jobs_of_earlier_versions_were_trained_with_adam(version, tmp_path):
    folder = next(file.parent for file in (STUDIES / version).glob("*/result.json"))
    assert "optimizer" not in json.loads((folder / "result.json").read_text())["config"]
    shutil.copytree(folder, tmp_path / "job")
    assert read_job(tmp_path / "job").result["config"]["optimizer"] == dataclasses.asdict(PLAIN_ADAM)


def test_a_job_without_the_key_is_the_job_with_plain_adam(config):
    then = dataclasses.asdict(config())
    mark = fingerprint(config(), "digest")
    assert "optimizer" not in mark["config"]
    del then["optimizer"]
    assert identity(then) == identity(dataclasses.asdict(config()))
    assert differences({"config": then}, config(), "digest") == []
    changed = differences({"config": then}, config("optimizer=adamw"), "digest")
    assert len(changed) == 1
    assert changed[0].startswith("optimizer was None, now")
    here = differences({"config": dataclasses.asdict(config("optimizer=adamw"))}, config("optimizer=averaged"), "d")
    assert here == ["optimizer.ema_momentum was None, now 0.99", "optimizer.weight_decay was 0.01, now 0.0"]


def test_a_member_of_an_ensemble_has_all_that_its_job_was_trained_with():
    """Groups that searched values belong to, and what is trained beside them."""
    groups = {field.name for field in dataclasses.fields(SearchConfig) if field.default_factory in SEARCHABLE.values()}
    assert groups == {"model", "schedule", "optimizer"}
    assert groups < set(_OF_THE_JOB)
