from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catsdogs import batches as batches_module
from catsdogs import inputs
from catsdogs.batches import TrainingBatches
from catsdogs.compose import checked
from catsdogs.dataset import load_dataset
from catsdogs.errors import UserError
from catsdogs.final import make_final
from catsdogs.hypermodel import compile_model, log_loss
from catsdogs.identity import changes, differences, fingerprint
from catsdogs.job import Place, run_job
from catsdogs.locations import conf_dir
from catsdogs.members import _config_of
from catsdogs.mixing import check_cut, mixed
from catsdogs.schema import Ensemble, Fit, Mixing, RetrainConfig, Tta
from catsdogs.scores import EPSILON, log_loss_per_image
from catsdogs.study import Job, _completed, chosen_trial, read_job, read_jobs
from catsdogs.training import train
from catsdogs.views import PLAIN

NONE = Mixing("none", 1.0, 1.0)
MIXUP = Mixing("mixup", 0.7, 1.0)
CUTMIX = Mixing("cutmix", 1.0, 1.0)

alphas = st.floats(1e-3, 50)
indices = st.integers(0, 2**31 - 1)


def batch(shape, seed=0, dtype="float32"):
    """Inputs that are all different, and hard labels of both kinds."""
    rng = np.random.default_rng(seed)
    count = math.prod(shape)
    values = rng.permutation(count).reshape(shape)
    targets = (np.arange(shape[0]) % 2).astype("float32").reshape(-1, 1)
    return (values % 256 if dtype == "uint8" else values / count).astype(dtype), targets


def shares(mixing, seed, epoch, step, images=6, height=7, width=5):
    """What a mixed batch is made of, (B, B) the share of image j in image i, and a column that is linear in it.

    Each image has a channel of its own, in which it alone is not 0, so that the batch itself tells.
    """
    marked = np.broadcast_to(np.eye(images, dtype="float32")[:, None, None], (images, height, width, images))
    targets = np.linspace(0, 1, images, dtype="float32").reshape(-1, 1) ** 2
    found, labels = mixed(marked.copy(), targets, mixing, seed, epoch, step)
    return found.mean(axis=(1, 2)), targets, labels


def own_share(mixing, *index):
    """Of the image in its place, but for images that are their own partners; None if all are."""
    own = np.diag(shares(mixing, *index, images=8, height=16, width=16)[0])
    return own.min() if own.min() < 1 - 1e-6 else None


@given(kind=st.sampled_from([MIXUP, CUTMIX]), alpha=alphas, seed=indices, step=st.integers(0, 50))
def test_a_label_is_mixed_by_the_share_that_its_images_have(kind, alpha, seed, step):
    share, targets, labels = shares(dataclasses.replace(kind, alpha=alpha), seed, 3, step)
    np.testing.assert_allclose(labels, share @ targets, atol=1e-6)
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)
    # Every image is shown as often as before, and all by the same two weights.
    np.testing.assert_allclose(share.sum(axis=0), 1, atol=1e-5)
    own = np.diag(share)
    assert (np.isclose(own, own.min(), atol=1e-6) | np.isclose(own, 1, atol=1e-6)).all()
    assert ((share > 1e-6).sum(axis=1) <= 2).all()


@given(alpha=alphas, seed=indices, shape=st.sampled_from([(6, 11), (6, 3, 2, 5), (6, 8), (6, 1, 1, 4)]))
def test_mixup_is_the_convex_combination_of_the_batch_and_a_permutation_of_it(alpha, seed, shape):
    mixing = dataclasses.replace(MIXUP, alpha=alpha)
    shown, targets = batch(shape, seed)
    found, _ = mixed(shown, targets, mixing, seed, 0, 0)
    share, *_ = shares(mixing, seed, 0, 0)
    np.testing.assert_allclose(found, np.tensordot(share, shown, axes=1), atol=1e-5)
    assert found.min() >= shown.min() - 1e-6
    assert found.max() <= shown.max() + 1e-6


@given(alpha=alphas, seed=indices, size=st.tuples(st.integers(1, 9), st.integers(2, 9)))
def test_cutmix_takes_every_place_from_one_of_two_images_and_those_of_the_other_are_one_rectangle(alpha, seed, size):
    shown, targets = batch((5, *size, 3), seed)
    found, labels = mixed(shown, targets, dataclasses.replace(CUTMIX, alpha=alpha), seed, 1, 2)
    pasted = (found != shown).all(axis=3)
    np.testing.assert_array_equal(pasted, (found != shown).any(axis=3))
    outside = 1.0
    for place in pasted[pasted.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(place.any(axis=1)), np.flatnonzero(place.any(axis=0))
        assert place.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        outside = 1 - place.mean()
    assert set(np.unique(labels)) <= {np.float32(value) for value in (0, 1, outside, 1 - outside)}
    # Nothing is moved: what is there is from the same place of some image of the batch.
    assert (found[:, None] == shown[None]).all(axis=4).any(axis=1).all()


def test_weights_have_the_mean_and_the_spread_of_their_distribution():
    def drawn(mixing):
        found = [own_share(dataclasses.replace(mixing, alpha=1.0), 1, 0, step) for step in range(600)]
        return np.array([share for share in found if share is not None])

    # Beta(1, 1) is uniform; the mean of 600 has an error of 0.012.
    assert drawn(MIXUP).mean() == pytest.approx(0.5, abs=0.04)
    assert drawn(MIXUP).std() == pytest.approx(12**-0.5, abs=0.03)
    # A side r = sqrt(1 - lambda) with its middle anywhere is r - r^2 / 4 after clipping, in the mean; squared, over all
    # lambda, that is 1/2 - 1/5 + 1/48.
    assert drawn(CUTMIX).mean() == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.04)
    assert drawn(CUTMIX).min() < 0.2


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_so_many_batches_are_mixed(probability):
    shown, targets = batch((6, 4))
    found = [
        mixed(shown, targets, dataclasses.replace(MIXUP, probability=probability), 5, 0, step) for step in range(400)
    ]
    share = np.mean([not np.array_equal(inputs_, shown) for inputs_, _ in found])
    assert share == pytest.approx(probability, abs=0.08 if 0 < probability < 1 else 0.005)
    untouched = [labels for inputs_, labels in found if np.array_equal(inputs_, shown)]
    assert all(np.array_equal(labels, targets) for labels in untouched)


@given(mixing=st.sampled_from([MIXUP, CUTMIX]), seed=indices, probability=st.sampled_from([0.0, 0.5, 1.0]))
def test_shapes_stay_and_everything_is_float32_of_its_own(mixing, seed, probability):
    for dtype in ("uint8", "float32", "float16"):
        shown, targets = batch((4, 6, 5, 3), seed, dtype)
        before = shown.copy(), targets.copy()
        found, labels = mixed(shown, targets, dataclasses.replace(mixing, probability=probability), seed, 0, 0)
        assert (found.shape, labels.shape) == (shown.shape, (4, 1))
        assert found.dtype == labels.dtype == np.float32
        # Pixels are averaged without the overflow of bytes.
        assert shown.min() - 1e-3 <= found.min() <= found.max() <= shown.max() + 1e-3
        found[:], labels[:] = -1, -1
        np.testing.assert_array_equal(shown, before[0])
        np.testing.assert_array_equal(targets, before[1])


class Recorded:
    """Views whose inputs say which image they are, in bytes as pixels are."""

    def __len__(self):
        return 40

    def read(self, rows, view):
        return np.repeat(rows.astype("uint8"), 4 * 4 * 3).reshape(-1, 4, 4, 3)


LABELS = np.arange(40) % 2


def batches(mixing, **changed):
    settings = {"rows": np.arange(3, 36), "batch_size": 8, "epochs": 3, "seed": 3, **changed}
    return TrainingBatches(Recorded(), LABELS, mixing=mixing, **settings)


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX])
def test_a_mixed_batch_is_a_function_of_its_index_alone(mixing):
    one, other, late = batches(mixing), batches(mixing), batches(mixing, first_epoch=1)
    forwards = [one[index] for index in range(len(one))]
    backwards = [other[index] for index in reversed(range(len(other)))][::-1]
    for (a, label_a), (b, label_b) in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(label_a, label_b)
    for index in range(len(late)):
        np.testing.assert_array_equal(late[index][0], forwards[one.steps + index][0])
        np.testing.assert_array_equal(late[index][1], forwards[one.steps + index][1])


@pytest.mark.parametrize("mixing", [None, NONE])
def test_without_mixing_batches_are_what_they_always_were(mixing):
    data = batches(mixing)
    for index in range(len(data)):
        epoch, step = divmod(index, data.steps)
        rows = np.random.default_rng([3, epoch]).permutation(np.arange(3, 36))[8 * step : 8 * step + 8]
        found, labels = data[index]
        assert (found.dtype, labels.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(found[:, 0, 0, 0], rows)
        np.testing.assert_array_equal(labels[:, 0], LABELS[rows])


def test_every_seed_epoch_and_step_has_a_weight_of_its_own():
    drawn = [own_share(dataclasses.replace(MIXUP, alpha=5.0), *index) for index in np.ndindex(3, 3, 3)]
    assert len(set(drawn)) == 27


@pytest.mark.parametrize("seed", [1, 2])
def test_weights_are_not_drawn_from_the_numbers_that_order_the_images(seed):
    # To NumPy [seed, epoch] and [seed, epoch, 0] are the same.
    order = np.random.default_rng([seed, 4])
    order.random()
    assert abs(order.beta(0.7, 0.7) - own_share(MIXUP, seed, 4, 0)) > 1e-3


def test_every_preset_composes_and_is_its_kind(composed):
    presets = {file.stem for file in (conf_dir() / "mixing").glob("*.yaml")}
    assert presets == {"none", "mixup", "cutmix"}
    for name in presets:
        config = checked(composed("data=sample", f"mixing={name}", "space.unfreeze_depth.values=[10]"))
        assert config.mixing.kind == name
    assert checked(composed("data=sample")).mixing.kind == "none"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("mixing.kind=mixupp", ["mixing.kind=mixupp", "cutmix"]),
        ("mixing.alpha=0", ["mixing.alpha=0", "(0, 1000]"]),
        ("mixing.probability=1.5", ["mixing.probability=1.5", "[0, 1]"]),
    ],
)
def test_values_out_of_range_are_refused(composed, override, words):
    with pytest.raises(UserError) as refused:
        checked(composed("data=sample", override))
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["space=default"], "leave 0 out of space.unfreeze_depth"),
        (["space=fixed", "model.unfreeze_depth=0"], "give model.unfreeze_depth=1 or more"),
        (["+space={unfreeze_depth: {kind: int, low: 0, high: 9}}"], "leave 0 out of space.unfreeze_depth"),
    ],
)
def test_cutmix_of_a_vector_is_refused_before_any_data_are_read(composed, overrides, remedy):
    space = [] if overrides[0].startswith("space=") else ["space=fixed"]
    for kind, refused in (("mixup", False), ("cutmix", True)):
        made = composed("data.train=nowhere.zip", f"mixing={kind}", *space, *overrides)
        if not refused:
            checked(made)
            continue
        with pytest.raises(UserError) as told:
            checked(made)
        assert str(told.value).startswith("mixing.kind=cutmix: with unfreeze_depth=0 ")
        assert str(told.value).endswith(f"{remedy}, or take mixing=mixup")


def test_a_layer_above_which_nothing_is_trained_is_refused_before_pixels_are_decoded(config, monkeypatch, tmp_path):
    job = config(
        *("mixing=cutmix", "space.unfreeze_depth.values=[2,1]", "data.sample.images_per_class=8"),
        *("data.sample.test_images=1", f"cache={tmp_path}"),
    )
    monkeypatch.setattr(inputs, "pixels", lambda *arguments: pytest.fail("pixels were decoded"))
    dataset = load_dataset(job.data, tmp_path, job.split)
    with pytest.raises(UserError, match=r"^mixing\.kind=cutmix: with unfreeze_depth=1 .* 8 values .*mixing=mixup$"):
        inputs.prepared(job, dataset, dataset.folds())


def test_cutmix_needs_height_and_width():
    for shape in ((7, 7, 160), (1, 4, 3), (32, 32, 3)):
        check_cut(CUTMIX, 5, shape)
    for shape in ((1280,), (1, 1, 576), (49, 160)):
        with pytest.raises(UserError, match=r"mixing\.kind=cutmix.*mixing=mixup"):
            check_cut(CUTMIX, 5, shape)
        check_cut(MIXUP, 5, shape)
        check_cut(NONE, 5, shape)


def test_another_job_of_an_ensemble_mixes_as_its_own_search_did(config):
    mixing, plain = config("mixing=mixup", "mixing.alpha=0.3"), config("mixing=none")
    saved = {"status": "ok", "config": dataclasses.asdict(mixing)}
    more = {"job": "a", "trial": None, "fit_on": "train", "calibrate": True, "ensemble": Ensemble("jobs", 2)}
    here = RetrainConfig(**vars(plain), **more)
    assert _config_of(here, Job(conf_dir() / "b", saved)).mixing == Mixing("mixup", 0.3, 1.0)


def test_a_job_of_a_version_that_could_not_mix_is_one_that_does_not(config, tmp_path):
    job = config()
    saved = dataclasses.asdict(job)
    del saved["mixing"]
    (tmp_path / "result.json").write_text('{"status": "ok", "config": {}}')
    completed = read_job(tmp_path)
    assert completed is not None
    assert completed.result["config"]["mixing"] == dataclasses.asdict(NONE)
    assert _completed(saved)["mixing"]["kind"] == "none"
    for now, differs in (
        (job, []),
        (config("mixing.alpha=3"), []),
        (config("mixing=mixup"), ["mixing was None, now "]),
    ):
        mark = fingerprint(now, "d")
        then = fingerprint(job, "d")
        assert "mixing" not in then["config"]
        for found in (differences({"config": saved}, now, "d"), changes(then, mark, unfinished=True)):
            assert len(found) == len(differs)
            assert all(told.startswith(start) for told, start in zip(found, differs, strict=True))
    mixing, other = config("mixing=mixup"), config("mixing=mixup", "mixing.alpha=3")
    assert changes(fingerprint(mixing, "d"), fingerprint(other, "d"), unfinished=True) == [
        "mixing.alpha was 0.2, now 3.0"
    ]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), indices)
@example([0.0, 1.0, EPSILON, 1 - EPSILON], 0)
def test_the_log_loss_of_hard_labels_has_the_bits_that_it_always_had(p_dog, seed):
    p_dog = np.array(p_dog, dtype="float32").reshape(-1, 1)
    labels = np.random.default_rng(seed).integers(0, 2, p_dog.shape).astype("float32")
    p_label = keras.ops.convert_to_tensor(labels * p_dog + (1 - labels) * (1 - p_dog))
    before = -keras.ops.log(keras.ops.maximum(p_label, EPSILON))
    found = keras.ops.convert_to_numpy(log_loss(labels, keras.ops.convert_to_tensor(p_dog)))
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(before)[:, 0])
    np.testing.assert_allclose(found, log_loss_per_image(labels, p_dog), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_soft_labels_have_the_true_cross_entropy_and_smoothing_is_on_top_of_them(epsilon):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (64, 1)).astype("float32"), rng.random((64, 1)).astype("float32")
    x = keras.Input((1,))
    model = keras.Model(x, keras.layers.Dense(1, "sigmoid", kernel_initializer="ones")(x))
    compile_model(model, keras.optimizers.Adam(), epsilon)
    found = model.evaluate(logits, labels, verbose=0, return_dict=True)
    p_dog = 1 / (1 + np.exp(-logits.astype("float64")))

    def cross_entropy(targets):
        return float(np.mean(-(targets * np.log(p_dog) + (1 - targets) * np.log1p(-p_dog))))

    assert found["log_loss"] == pytest.approx(cross_entropy(labels), rel=1e-5)
    assert found["loss"] == pytest.approx(cross_entropy(labels * (1 - epsilon) + epsilon / 2), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean((labels > 0.5) == (p_dog > 0.5)))


def test_training_mixes_and_validation_never_does(training_data):
    data, fit = training_data, Fit(2, 16, 5, 1, "float32", None)
    fitted = {}
    for mixing in (None, NONE, MIXUP, CUTMIX):
        keras.utils.set_random_seed(5)
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")]
        model = keras.Sequential([keras.Input((32, 32, 3)), *layers])
        compile_model(model, keras.optimizers.Adam(1e-3), 0.0)
        rows = data.train_rows, data.validation_rows
        training = train(model, data.views, data.labels, *rows, fit, seed=5, mixing=mixing)
        fitted[mixing and mixing.kind] = training.history.drop(columns="seconds")
        p_dog = model.predict(data.views.read(data.validation_rows, PLAIN), verbose=0)
        labels = data.labels[data.validation_rows]
        assert training.val_log_loss == pytest.approx(log_loss_per_image(labels, p_dog[:, 0]).mean(), rel=1e-5)
    pd.testing.assert_frame_equal(fitted[None], fitted["none"], check_exact=True)
    for kind in ("mixup", "cutmix"):
        assert (fitted[kind]["loss"] != fitted["none"]["loss"]).all()


def test_retrain_mixes_as_the_search_did_and_finds_the_same(config, tmp_path, monkeypatch):
    drawn = []

    def spied(inputs_, targets, mixing, *index):
        found = mixed(inputs_, targets, mixing, *index)
        drawn.append((inputs_.shape[1:], mixing, index, found[1].ravel().tolist()))
        return found

    monkeypatch.setattr(batches_module, "mixed", spied)
    job = config(
        *("mixing=cutmix", "space.unfreeze_depth.values=[2]", "tuner.max_trials=1", "fit.epochs=2"),
        *("data.sample.images_per_class=16", "data.sample.test_images=4", f"cache={tmp_path / 'cache'}"),
        "fit.batch_size=8",
    )
    study = tmp_path / "study"
    assert math.isfinite(run_job(job, Place(study / "a", study), {}))
    in_search, drawn[:] = list(drawn), []
    searched = read_jobs(study)[0]
    again = RetrainConfig(
        **vars(job), job="a", trial=None, fit_on="train", calibrate=False, ensemble=Ensemble("none", 2)
    )
    again.tta = Tta("none", 1, "probability")
    make_final(again, [searched], chosen_trial(searched, None), study)
    # Mixed were activations, in both the same way.
    assert all((shape, mixing) == ((8, 8, 4), job.mixing) for shape, mixing, *_ in drawn)
    assert drawn == in_search
    assert any(0 < label < 1 for *_, labels in drawn for label in labels)
    columns = ["epoch", "loss", "log_loss", "accuracy", "val_loss", "val_log_loss", "val_accuracy"]
    found, before = (pd.read_csv(study / folder / "history.csv")[columns] for folder in ("best", "a"))
    pd.testing.assert_frame_equal(found, before, check_exact=True)
