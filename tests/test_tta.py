from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from catsdogs.schema import Augmentation, Tta
from catsdogs.tta import predict, tta_views
from catsdogs.views import MIRRORED, PLAIN, LiveViews, View

MOVES = Augmentation(0.5, 10, 0.1, 0.1, 0, 0.2, 0.0, 0.0, "reflect")
STILL = dataclasses.replace(
    MOVES, flip_probability=0.0, rotation_degrees=0, shift_fraction=0.0, zoom_fraction=0.0, brightness_fraction=0.0
)


class LeftBrightness:
    """Stands in for a model: says how bright the left half of an image is."""

    def __call__(self, images):
        return [images[:, :, :4].mean(axis=(1, 2, 3))[:, None] / 255]


@pytest.fixture
def views():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    return LiveViews(pixels, np.arange(7, dtype=np.uint64), MOVES, seed=3)


def test_the_kinds_of_tta_average_what_they_say():
    assert tta_views(Tta("none", 5), MOVES) == [PLAIN]
    assert tta_views(Tta("flip", 5), MOVES) == [PLAIN, MIRRORED]
    assert tta_views(Tta("views", 3), MOVES) == [View("tta", 0), View("tta", 1), View("tta", 2)]


def test_views_of_an_augmentation_that_changes_nothing_are_predicted_once(caplog):
    assert tta_views(Tta("views", 10), STILL) == [PLAIN]
    assert "changes nothing" in caplog.text


def test_the_prediction_is_the_mean_over_views_in_the_order_of_rows(views, monkeypatch):
    rows = np.array([5, 0, 3])
    over = [PLAIN, MIRRORED, View("tta", 4)]
    model = LeftBrightness()
    monkeypatch.setattr("catsdogs.tta.CHUNK", 2)
    alone = [model(views.read(rows, view))[0][:, 0] for view in over]
    np.testing.assert_allclose(predict(model, views, rows, over), np.mean(alone, axis=0))
    np.testing.assert_allclose(predict(model, views, rows), alone[0])


def test_a_mirrored_view_is_the_image_from_right_to_left(views):
    rows = np.arange(7)
    np.testing.assert_array_equal(views.read(rows, MIRRORED), views.read(rows, PLAIN)[:, :, ::-1])


def test_training_and_test_time_views_of_one_number_differ(views):
    rows = np.arange(7)
    assert (views.read(rows, View("train", 2)) != views.read(rows, View("tta", 2))).any(axis=(1, 2, 3)).all()


def test_no_rows_give_no_probabilities(views):
    assert predict(LeftBrightness(), views, np.array([], dtype=int)).shape == (0,)
