import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_images import cats_and_dogs, zip_of

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_json
from catsdogs.config.compose import to_search_config
from catsdogs.config.schema import AUTO
from catsdogs.data.dataset import Dataset, load_dataset
from catsdogs.data.fitting import fit_to_data
from catsdogs.study.decision import with_values_of_job
from catsdogs.study.jobs import read_job


def dataset_of(images, folds=1, side=200):
    """Return a dataset with this number of training images (in each fold), of which only folds and sizes are known."""
    count = images * 5 // 4
    fold = np.arange(count) % folds if folds > 1 else np.r_[np.full(images, -1), np.zeros(count - images, int)]
    sides = np.r_[np.full(count // 3, 20), np.full(count - count // 3, side)]
    rows = pd.DataFrame({"fold": fold, "split": "train", "width": 500, "height": sides})
    return Dataset(rows, *(None,) * 6)  # type: ignore[arg-type]  # the other attributes are not read


@pytest.mark.parametrize(
    ("images", "folds", "epochs", "batch_size", "trials"),
    [(20_000, 1, 2, 32, 2), (8_000, 1, 2, 32, 2), (2_760, 1, 4, 32, 2), (1_280, 1, 6, 32, 3), (252, 5, 6, 16, 3)],
)
def test_values_that_are_auto_fit_the_number_of_images(composed, images, folds, epochs, batch_size, trials):
    config, dataset = to_search_config(composed("data.train=x")), dataset_of(images, folds)
    fitted, note = fit_to_data(config, dataset)
    values = (fitted.split.folds, fitted.fit.epochs, fitted.fit.batch_size, fitted.tuner.max_trials)
    assert values == (folds, epochs, batch_size, trials)
    assert note.startswith(f"Chosen for {images:,} training images: fit.epochs={epochs}, fit.batch_size=")
    assert fit_to_data(fitted, dataset) == (fitted, "")


@pytest.mark.parametrize(("side", "size"), [(28, 96), (128, 128), (150, 160), (2000, 224)])
def test_the_image_size_is_that_of_the_images_within_bounds(composed, side, size):
    config = to_search_config(composed("data.train=x"))
    assert fit_to_data(config, dataset_of(81, side=side))[0].backbone.image_size == size


@pytest.mark.parametrize(("images", "size"), [(6_000, 224), (8_000, 192), (20_000, 160), (100_000, 160)])
def test_many_images_are_made_smaller(composed, images, size):
    config = to_search_config(composed("data.train=x"))
    assert fit_to_data(config, dataset_of(images))[0].backbone.image_size == size
    own = to_search_config(composed("data.train=x", "backbone.image_size=256"))
    assert fit_to_data(own, dataset_of(images))[0].backbone.image_size == 256


def test_values_of_the_user_stay_and_a_fixed_space_has_one_trial(composed):
    config = to_search_config(composed("data.train=x", "space=fixed", "fit.epochs=40", "split.folds=1"))
    fitted, note = fit_to_data(config, dataset_of(80))
    assert (fitted.fit.epochs, fitted.tuner.max_trials) == (40, 1)
    assert note.endswith(": fit.batch_size=16, backbone.image_size=224, tuner.max_trials=1")
    grid = to_search_config(composed("data.train=x", "tuner=grid"))
    assert fit_to_data(grid, dataset_of(80))[0].tuner.max_trials is None


@pytest.mark.parametrize(("overrides", "folds"), [((), 5), (("split.folds=3",), 3), (("data.limit=19",), 1)])
def test_few_images_are_split_into_folds_unless_a_class_is_too_small(composed, tmp_path, overrides, folds):
    zip_of(tmp_path / "train.zip", cats_and_dogs(12, 12))
    config = to_search_config(composed(f"data.train={tmp_path / 'train.zip'}", "split.group_by=copies", *overrides))
    dataset = load_dataset(config.data, tmp_path / "cache", config.split)
    assert len(dataset.folds()) == fit_to_data(config, dataset)[0].split.folds == folds
    explicit = dataclasses.replace(config.split, folds=folds)
    assert load_dataset(config.data, tmp_path / "cache", explicit).digest == dataset.digest


def test_auto_is_no_value_of_other_settings(composed):
    with pytest.raises(UserError, match=r"fit\.patience=auto: must be a valid integer"):
        to_search_config(composed("data.train=x", "fit.patience=auto"))


def test_a_job_is_resumed_with_its_values_and_files_of_jobs_contain_no_auto(composed, tmp_path):
    config = to_search_config(composed("data.train=x", "fit.batch_size=8"))
    settings: dict[str, Any] = {"fit": {"epochs": 7, "batch_size": 32}, "tuner": {"max_trials": 9}}
    result = {"status": "ok", "config": settings}
    write_json(tmp_path / "result.json", result)
    resumed = with_values_of_job(config, tmp_path)
    assert (resumed.fit.epochs, resumed.fit.batch_size, resumed.tuner.max_trials) == (7, 8, 9)
    assert (resumed.split.folds, resumed.backbone.image_size) == (1, AUTO)  # jobs without the key have one fold
    assert with_values_of_job(config, tmp_path / "new") == config
    settings["fit"]["epochs"] = "auto"
    write_json(tmp_path / "result.json", result)
    assert "fit.epochs=auto: must be the value that was chosen" in read_job(tmp_path).result["error"]
