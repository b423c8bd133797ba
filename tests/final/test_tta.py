import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, softmax

from catsdogs import predict
from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.config.schema import AugmentationConfig, TtaConfig
from catsdogs.data.views import MIRRORED, ORIGINAL, LiveViews, View
from catsdogs.final.pipeline import (
    NO_TTA,
    PIPELINE,
    Pipeline,
    average_views,
    choose_tta,
    describe_choice,
    final_output,
    read_pipeline,
    tta_choices,
    tta_views,
    write_pipeline,
)
from catsdogs.scoring.calibration import Calibration
from catsdogs.scoring.classes import DEFAULT, Classes
from catsdogs.scoring.combination import uniform_mean
from catsdogs.scoring.scores import score_images

MOVES = AugmentationConfig(0.5, 10, 0.1, 0.1, 0, 0.2, 0.0, 0.0, "reflect")
STILL = AugmentationConfig(0.0, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, "reflect")


THREE = Classes(("ant", "bee", "wasp"))


def left_brightness(images):
    """Return the mean brightness of the left half of each image, like a model."""
    return [images[:, :, :4].mean(axis=(1, 2, 3))[:, None] / 255]


def three_brightnesses(images):
    """Return the softmax of the mean brightness of three columns, like a model of three classes."""
    return [softmax(images[:, :, [0, 3, 6]].mean(axis=(1, 3)) / 64, axis=1)]


MODELS = [(DEFAULT, left_brightness), (THREE, three_brightnesses)]


def predicted(classes, model, views, rows, view):
    return classes.from_output(model(views.read(rows, view))[0])


@pytest.fixture
def views():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    return LiveViews(pixels, np.arange(7, dtype=np.uint64), MOVES, seed=3)


def test_each_kind_of_tta_has_its_views():
    assert tta_views("views", 3, MOVES) == [View("tta", 0), View("tta", 1), View("tta", 2)]
    crops = tta_views("crops", 5, MOVES)
    assert len(set(crops)) == 10
    assert {view.kind for view in crops} == {"crop", "mirrored crop"}


def test_tta_auto_has_the_views_and_averages_of_every_distinct_kind(caplog):
    auto, flip = TtaConfig("auto", 4, kinds=["none", "flip", "crops", "views"]), TtaConfig("flip", average="logit")
    choices = tta_choices(auto, MOVES)
    pairs = [(kind, average) for kind in ("flip", "crops", "views") for average in ("probability", "logit")]
    assert list(choices) == [NO_TTA, *pairs]
    assert [len(views) for views in choices.values()] == [1, 2, 2, 10, 10, 4, 4]
    still = tta_choices(TtaConfig("auto", 4, kinds=["views", "none"]), STILL)
    assert still == {NO_TTA: [ORIGINAL], ("views", "probability"): [ORIGINAL]}
    assert tta_choices(flip, MOVES) == {NO_TTA: [ORIGINAL], ("flip", "logit"): [ORIGINAL, MIRRORED]}
    assert tta_choices(TtaConfig("none", average="logit"), MOVES) == {NO_TTA: [ORIGINAL]}
    assert not caplog.messages
    assert tta_choices(TtaConfig("views", 10), STILL)["views", "probability"] == [ORIGINAL]
    assert caplog.text.count("changes nothing") == 1


@pytest.mark.parametrize(("classes", "model"), MODELS)
def test_each_choice_is_averaged_in_the_order_of_rows(views, monkeypatch, classes, model):
    monkeypatch.setattr("catsdogs.final.pipeline.CHUNK", 2)
    rows, chosen = np.array([5, 0, 3]), {("none", "logit"): [View("crop", 2)], ("flip", "logit"): [ORIGINAL, MIRRORED]}
    by_view = {view: predicted(classes, model, views, rows, view) for view in (ORIGINAL, MIRRORED, View("crop", 2))}
    read, plain = [], by_view[ORIGINAL]

    def counted(images):
        read.append(len(images))
        return model(images)

    for known, counts in ((None, [2, 2, 2, 1, 1, 1]), (plain, [2, 2, 1, 1])):
        averages = average_views(counted, views, rows, chosen, classes, plain=known)
        np.testing.assert_allclose(averages["none", "logit"], by_view[View("crop", 2)])
        expected = softmax((np.log(plain) + np.log(by_view[MIRRORED])) / 2, axis=1)
        np.testing.assert_allclose(averages["flip", "logit"], expected)
        assert read == counts
        read.clear()
    assert average_views(model, views, rows[:0], chosen, classes)["flip", "logit"].shape == (0, len(classes))


@pytest.mark.parametrize(("classes", "model"), MODELS)
@pytest.mark.parametrize("average", ["probability", "logit"])
def test_a_pipeline_averages_the_views_of_its_kind(views, average, classes, model):
    rows, pipeline = np.array([5, 0, 3]), Pipeline(TtaConfig("flip", 1, average), MOVES, 0, None, classes)
    both = np.stack([predicted(classes, model, views, rows, view) for view in (ORIGINAL, MIRRORED)])
    outputs = pipeline(model, views, rows)
    mean = both.mean(axis=0) if average == "probability" else softmax(np.log(both).mean(axis=0), axis=1)
    np.testing.assert_allclose(outputs[""], both[0])
    np.testing.assert_allclose(outputs["_tta"], mean)
    assert list(outputs)[-1] == pipeline.last_step == "_tta"
    calibration = Calibration(2.0, 0.01)
    calibrated = dataclasses.replace(pipeline, calibration=calibration)
    # The last available step is submitted.
    np.testing.assert_allclose(final_output(calibrated(model, views, rows)), calibration(mean))
    assert calibrated.last_step == "_calibrated"
    without = Pipeline(TtaConfig("none", 1, average), MOVES, 0, None, classes)
    np.testing.assert_allclose(final_output(without(model, views, rows)), both[0])
    assert without.last_step == ""


def test_a_pipeline_of_a_previous_version_is_read(tmp_path):
    """It has no classes and no kind of resizing, and the combination "stacked", which is part of the saved model."""
    for classes in (DEFAULT, THREE):
        written = Pipeline(TtaConfig("flip", 2, "logit"), MOVES, 3, Calibration(1.5, 0.01), classes)
        write_pipeline(tmp_path, written, {"way": "stacked", "weights": [0.5, 1.5], "bias": 0.1})
        assert read_pipeline(tmp_path) == written
    record = read_json(tmp_path / PIPELINE)
    assert (record.pop("classes"), record.pop("resize")) == (["ant", "bee", "wasp"], "squeeze")
    write_json(tmp_path / PIPELINE, record)
    assert read_pipeline(tmp_path) == dataclasses.replace(written, classes=DEFAULT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("calibration.temperature", -1),
        ("calibration.floor", 1.5),
        ("calibration.floor", 0.04),
        ("classes", ["ant"]),
        ("classes", ["ant", "Ant", "bee"]),
        ("calibration.scale", 2.0),
        ("calibration", [1.5, 0.01]),
        ("augmentation.shift_fraction", 10**9),
        ("tta.kind", "auto"),
        ("tta.views", 10**6),
        ("tta.views", None),
        ("seed", -1),
        ("resize", "stretch"),
    ],
)
def test_a_pipeline_with_invalid_values_is_refused(tmp_path, key, value):
    write_pipeline(tmp_path, Pipeline(TtaConfig("views", 3, "logit"), MOVES, 7, Calibration(1.5, 0.01), THREE), {})
    content = read_json(tmp_path / PIPELINE)
    *groups, name = key.split(".")
    (content[groups[0]] if groups else content)[name] = value
    write_json(tmp_path / PIPELINE, content)
    with pytest.raises(UserError, match=rf"pipeline\.json: corrupted \({key}=.*; retrain"):
        read_pipeline(tmp_path)
    write_json(tmp_path / PIPELINE, [1])
    with pytest.raises(UserError, match="should be a JSON object"):
        read_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ([[0.5], [-0.1]], "-0.1, not a probability"),
        ([[0.5], [1.1]], "1.1, not a probability"),
        ([[0.5], [np.nan]], "not a probability"),
        ([[0.5, 0.3, 0.2], [0.5, 0.5, 0.2]], "with the sum 1.2, not 1"),
    ],
)
def test_outputs_that_are_not_probabilities_are_a_user_error(outputs, problem):
    views = LiveViews(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2, dtype=np.uint64), MOVES, 1)
    classes = THREE if len(outputs[0]) == 3 else DEFAULT
    with pytest.raises(UserError, match=problem):
        average_views(lambda images: [np.array(outputs)], views, np.arange(2), {NO_TTA: [ORIGINAL]}, classes)


def test_crops_are_parts_of_the_image_and_their_mirror_images():
    rows, side = np.arange(4), 32
    pixels = np.random.default_rng(1).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    views = LiveViews(pixels, np.arange(4, dtype=np.uint64), MOVES, seed=3)
    crops = [views.read(rows, View("crop", number)) for number in range(5)]
    # The corner crops contain the corner pixels: top left, top right, bottom left, bottom right.
    for crop, (y, x) in zip(crops[1:], [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=True):
        np.testing.assert_array_equal(crop[:, y, x], pixels[:, y, x])
    # Positions of the crops along one axis: 7/8 of it, at the center and at both ends.
    ramp = np.broadcast_to(np.arange(side, dtype=np.uint8)[None, None, :, None] * 8, (4, side, side, 3)).copy()
    views = LiveViews(ramp, np.arange(4, dtype=np.uint64), MOVES, seed=3)
    step, middle = 8 * 7 / 8, 8 * (side - 1) / 2
    ends = [(middle - step * 15.5, middle + step * 15.5), (0, step * 31), (248 - step * 31, 248)]
    for number, (first, last) in enumerate(ends):
        row = views.read(rows, View("crop", number))[0, 5, :, 0].astype(float)
        np.testing.assert_allclose(row, np.linspace(first, last, side), atol=1)
        mirrored = views.read(rows, View("mirrored crop", number))[0, 5, :, 0]
        np.testing.assert_array_equal(mirrored, row[::-1])


def outputs(noise, seed, images=4000):
    """Return labels, and a function that returns probabilities (N, 2) of views with independent noise, by view."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 4, images)
    labels = (rng.random(images) < expit(truth)).astype(float)
    return labels, lambda views: DEFAULT.from_output(expit(truth + rng.normal(0, noise, (views, images)))[..., None])


def choose(labels, by_kind):
    """Choose between both averages of each kind."""
    choices = {
        (kind, average): uniform_mean(len(p), average)(p)
        for kind, p in by_kind.items()
        for average in ("probability", "logit")[: len(p)]
    }
    return choose_tta(labels, choices, {choice: by_kind[choice[0]] for choice in choices})


def test_tta_with_independent_noise_of_views_is_chosen():
    labels, views = outputs(noise=3.0, seed=2)
    by_kind = {"none": views(1), "flip": views(2), "views": views(10)}
    (kind, average), table = choose(labels, by_kind)
    assert (kind, average) == ("views", "logit")
    assert table["kind"].tolist() == ["none", "flip", "flip", "views", "views"]
    assert table["average"].tolist() == ["probability", *["probability", "logit"] * 2]
    table = table.set_index(["kind", "average"])
    assert table["views"].tolist() == [1, 2, 2, 10, 10]
    assert table["chosen"].tolist() == [False] * 4 + [True]
    assert (table["low"][1:] > 0).all()
    np.testing.assert_allclose(table["gain"], table["log_loss"].iloc[0] - table["log_loss"])
    assert table["gain"].iloc[0] == table["low"].iloc[0] == table["high"].iloc[0] == 0
    choice, row = describe_choice(table.reset_index()), table.iloc[4]
    assert (choice["kind"], choice["against"], choice["kinds"]) == ("views", "none", ["none", "flip", "views"])
    columns = ["gain", "low", "high", "size", "errors"]
    assert [choice[name] for name in ("value", *columns[1:])] == list(row[columns])
    expected = score_images(labels, uniform_mean(2, "logit")(by_kind["flip"])).losses.mean()
    assert table.loc[("flip", "logit"), "log_loss"] == pytest.approx(expected)


def test_worse_views_are_not_chosen():
    labels, views = outputs(noise=0.0, seed=4)
    worse = 0.5 + 0.4 * (views(10) - 0.5)
    choice, table = choose(labels, {"none": views(1), "crops": worse})
    assert choice == NO_TTA
    assert (table["high"][1:] < 0).all()
    choice = describe_choice(table)
    assert (choice["kind"], choice["against"]) == ("none", "crops")
    assert 0 < choice["low"] < choice["value"] == -table["gain"][1:].max() < choice["high"]


def test_the_fewest_views_are_chosen_in_a_tie():
    labels, views = outputs(noise=0.0, seed=5)
    for kinds in (["crops", "none", "flip"], ["flip", "none"]):
        by_kind = {kind: views({"none": 1, "flip": 2, "crops": 10}[kind]) for kind in kinds}
        assert choose(labels, by_kind)[0] == NO_TTA
    # A gain of 0.00002 nats is a tie, a gain of 0.0002 is not.
    plain = np.where(labels == 1, 0.9, 0.1)
    for gain, kind in ((2e-5, "none"), (2e-4, "flip")):
        better = np.where(labels == 1, plain * np.exp(gain), 1 - (1 - plain) * np.exp(gain))
        by_kind = {"none": DEFAULT.from_output(plain[None, :, None])}
        by_kind["flip"] = DEFAULT.from_output(np.stack([better] * 2)[..., None])
        assert choose(labels, by_kind)[0][0] == kind


def test_a_mirrored_view_is_the_flipped_image_and_training_and_test_time_views_differ(views):
    rows = np.arange(7)
    np.testing.assert_array_equal(views.read(rows, MIRRORED), views.read(rows, ORIGINAL)[:, :, ::-1])
    assert (views.read(rows, View("train", 2)) != views.read(rows, View("tta", 2))).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("units", "bias", "problem"),
    [
        (1, np.nan, "has outputs that are not finite"),
        (1, 3.0, "the model predicts 3, not a probability"),
        (2, 0.5, "expected input (None, S, S, 3) and output (None, 1)"),
        (3, 0.5, "the model predicts probabilities with the sum 1.5, not 1"),
        ({"a": 1}, 0.5, "expected input (None, S, S, 3) and output (None, 1)"),
    ],
)
def test_a_model_without_probabilities_does_not_predict(tmp_path, capsys, monkeypatch, units, bias, problem):
    inputs = keras.Input((16, 16, 3), name="a")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.0)(inputs))
    names = list(units) if isinstance(units, dict) else []
    outputs = keras.layers.Dense(1 if names else units, bias_initializer=keras.initializers.Constant(bias))(pooled)
    model = keras.Model(dict.fromkeys(names, inputs) or inputs, dict.fromkeys(names, outputs) or outputs)
    model.save(tmp_path / "model.keras")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr("sys.argv", ["predict", str(tmp_path / "model.keras"), str(tmp_path / "a.png")])
    assert predict.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{tmp_path / 'model.keras'}: {problem}" in printed.err
