"""Misclassified and uncertain images, with thumbnails of the right images."""

import base64
import io
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import CHOICES, color_of, ids, labels, p_dog, picture, write_final, write_images, write_job, write_split

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.evaluated import evaluated_model
from catsdogs.comparison.gallery import gallery
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.scoring.scores import MOST_ERRORS, MOST_UNCERTAIN


@pytest.fixture(scope="module")
def images():
    return {name: picture(number) for number, name in enumerate(ids())}


@pytest.fixture
def study(tmp_path, images, monkeypatch):
    """Write a study with one job, with its images in the cache."""
    monkeypatch.setenv("CATSDOGS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "multirun" / "night"
    write_job(folder, CHOICES, name="a", skill=0.5)
    change(folder / "a" / "result.json", data={"digest": "d" * 64, "images_digest": "e" * 64})
    write_split(folder / "a", images)
    write_images(tmp_path / "cache" / "archives" / ("e" * 64), images)
    return folder


def model_of(study):
    study_data = read_study_data([study])
    return evaluated_model(study_data, summarize(study_data))


def gallery_of(study, folder=None):
    return gallery(model_of(study), folder)


def images_of(shown):
    return [*shown.errors, *shown.uncertain]


def assert_thumbnails_match(shown, images):
    """Every thumbnail is a small JPEG of its own image."""
    assert shown.missing is None
    for one in images_of(shown):
        head, _, data = one["thumbnail"].partition(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (head, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", (128, 64))
        pixel = np.asarray(image.convert("RGB"))[32, 64].astype(int)
        assert np.abs(pixel - color_of(list(images).index(one["id"]))).max() < 8, one["id"]


def test_errors_are_sorted_by_confidence_and_uncertain_images_exclude_them(study, images):
    change(study / "a" / "result.json", config={"data": {"ignore": ["cat.7", "a b"]}})
    shown = gallery_of(study)
    p = p_dog(0.5)
    confidence = np.where(labels() == 1, p, 1 - p)  # predicted probability of the true class
    order = np.argsort(confidence)
    wrong = [ids()[i] for i in order if confidence[i] < 0.5]
    assert len(wrong) > MOST_ERRORS
    assert [one["id"] for one in shown.errors] == wrong[:MOST_ERRORS]
    assert list(shown.wrong["id"]) == wrong
    uncertain = [ids()[i] for i in np.argsort(np.abs(p - 0.5)) if ids()[i] not in wrong[:MOST_ERRORS]]
    assert [one["id"] for one in shown.uncertain] == uncertain[:MOST_UNCERTAIN]
    assert list(shown.wrong) == ["id", "label", "p_dog", "log_loss"]
    expected = [labels()[order[0]], p[order[0]], -np.log(confidence[order[0]])]
    assert list(shown.wrong.iloc[0, 1:]) == pytest.approx(expected)
    names = ("cat", "dog")[:: 1 if expected[0] == 0 else -1]
    first = {"id": wrong[0], "class": names[0], "predicted": names[1], "probability": 1 - confidence[order[0]]}
    assert {name: shown.errors[0][name] for name in first} == pytest.approx(first)
    model = model_of(study)
    assert (len(model.table), model.source, shown.ignored) == (len(images), "trial=0 of job a", ["cat.7", "a b"])
    assert_thumbnails_match(shown, images)  # from the cache
    without = gallery_of(study, False)  # `--no-images`
    assert has_no_thumbnails(without)
    assert without.missing is None


def has_no_thumbnails(shown):
    assert len(shown.errors) == MOST_ERRORS
    return all(one["thumbnail"] is None for one in images_of(shown))


def test_thumbnails_come_from_the_folder_of_the_user(study, images, tmp_path):
    (tmp_path / "cache").rename(tmp_path / "gone")
    shown = gallery_of(study)
    assert has_no_thumbnails(shown)
    assert "--images FOLDER" in shown.missing
    write_images(tmp_path / "photos", images)
    assert_thumbnails_match(gallery_of(study, tmp_path / "photos"), images)


def test_only_studies_of_the_user_may_name_image_paths(study, images, tmp_path, monkeypatch):
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    for config in ({"cache": str(tmp_path / "elsewhere")}, {"data": {"train": str(tmp_path / "photos")}}):
        change(study / "a" / "result.json", config=config)
        write_images(tmp_path / "photos", images if "data" in config else {})
        assert_thumbnails_match(gallery_of(study), images)
        write_split(study / "a", images, **dict.fromkeys(images, "gone.jpg"))
        assert has_no_thumbnails(gallery_of(study))  # the folder is not listed
        write_split(study / "a", images)
        with monkeypatch.context() as patch:
            patch.setattr("os.getuid", lambda: study.stat().st_uid + 1)
            assert has_no_thumbnails(gallery_of(study))


@pytest.mark.parametrize("data", [{"validation_digest": "f" * 64}, {}])
def test_thumbnails_of_the_images_of_data_validation(study, images, tmp_path, data):
    (tmp_path / "cache" / "archives").rename(tmp_path / "moved")
    change(study / "a" / "result.json", data={"digest": "d" * 64, "images_digest": "e" * 64} | data)
    folder = tmp_path / "cache" / "archives" / ("f" * 64) if data else tmp_path / "own"
    write_images(folder, images)
    change(study / "a" / "result.json", config={"data": {"train": "gone", "validation": None if data else str(folder)}})
    assert_thumbnails_match(gallery_of(study), images)


@pytest.mark.parametrize("digest", ["../photos", "/photos", "", None, "E" * 64])
def test_a_digest_cannot_name_another_folder(study, images, tmp_path, digest):
    (tmp_path / "cache").rename(tmp_path / "gone")
    write_images(tmp_path / "cache" / "photos", images)
    change(study / "a" / "result.json", data={"digest": "d" * 64, "images_digest": digest})
    assert has_no_thumbnails(gallery_of(study))


@pytest.mark.parametrize("fault", ["other bytes", "gone", "outside", "absolute", "a pipe", "a folder", "too large"])
def test_thumbnails_need_a_file_in_the_folder_with_the_recorded_bytes(study, images, tmp_path, fault):
    name = gallery_of(study).errors[0]["id"]
    file = tmp_path / "cache" / "archives" / ("e" * 64) / "train" / f"{name}.jpg"
    outside = {"outside": "train/../../x.jpg", "absolute": str(tmp_path / "x.jpg")}
    file.rename(file.parents[2] / "x.jpg")
    shutil.copy(file.parents[2] / "x.jpg", tmp_path)
    if fault in outside:
        write_split(study / "a", images, **{name: outside[fault]})
    elif fault == "other bytes":
        file.write_bytes(picture(999))
    elif fault == "a pipe":
        os.mkfifo(file)
    elif fault == "a folder":
        file.mkdir()
    elif fault == "too large":
        file.write_bytes(images[name] + bytes(2**26))
        write_split(study / "a", {**images, name: file.read_bytes()})
    shown = gallery_of(study)
    assert [one["id"] for one in images_of(shown) if one["thumbnail"] is None] == [name]
    assert shown.missing.startswith("1 of 36 thumbnails are missing: ")


def test_without_split_csv_no_thumbnail_is_shown(study):
    for content in ("id,label\ncat.0,0\n", None):
        (study / "a" / "split.csv").write_text(content) if content else (study / "a" / "split.csv").unlink()
        shown = gallery_of(study)
        assert has_no_thumbnails(shown)
        assert "split.csv" in shown.missing


def test_a_final_model_is_evaluated_by_its_submitted_probabilities(study, images):
    write_final(study, skill=0.4)
    change(study / "best" / "metrics.json", job="a")
    model, shown = model_of(study), gallery_of(study)
    # The test images have no labels.
    assert (model.source, len(model.table)) == ("the final model of study night with TTA", len(images))
    assert len(shown.wrong) == ((p_dog(0.4 + 0.1) > 0.5) != (labels() == 1)).sum()
    assert_thumbnails_match(shown, images)

    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog_calibrated=0.25 + table["p_dog"] / 2))
    model = model_of(study)
    assert model.source == "the final model of study night with TTA and calibration"
    assert model.table["p_dog"].between(0.25, 0.75).all()

    change(study / "best" / "metrics.json", validated_by="folds")
    assert model_of(study).source.startswith("the fold models of study night on their validation folds with TTA")

    write_final(study, skill=0.4, tta=False)
    change(study / "best" / "metrics.json", job="a", fit_on="all")
    assert model_of(study).source == "trial=0 of job a in the search, before retraining"
    assert len(gallery_of(study).wrong) == ((p_dog(0.4) > 0.5) != (labels() == 1)).sum()

    # Without out-of-sample predictions of the final model, the best job is shown.
    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog=np.nan, p_dog_tta=np.nan))
    assert model_of(study).source == "trial=0 of job a"


@pytest.mark.parametrize(
    ("resize", "bright"),
    [("squeeze", (112, 7)), ("pad", (112, 15)), ("crop", (87, 7))],  # in the image, crop takes 32 <= x < 96
)
def test_the_map_of_an_image_is_bright_where_the_network_looked(study, resize, bright):
    write_final(study, skill=0.4)
    change(study / "best" / "metrics.json", job="a")
    # The image of 128 x 64 is above the center of the padded one.
    corner = np.zeros((4, 4))
    corner[1 if resize == "pad" else 0, 3] = 1
    write_json(
        study / "best" / "class_activation.json", {"resize": resize, "maps": {i: corner.tolist() for i in ids()}}
    )
    for one in images_of(gallery_of(study)):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["map"].partition(",")[2]))), int)
        assert shown.shape == (64, 128)
        assert shown[bright[::-1]] > 230
        assert shown[:, :16].max() < 100
        assert shown[50:].max() < 100
    assert {one["map"] for one in images_of(gallery_of(study, False))} == {None}
    change(study / "best" / "class_activation.json", maps={"cat.0": [[0.5, 1], [2, 0]]})
    assert {one["map"] for one in images_of(gallery_of(study))} == {None}
    assert "class_activation.json is corrupted" in read_study_data([study]).problems[0]


def test_a_perfect_model_has_only_uncertain_images_and_no_model_has_no_gallery(study):
    table = pd.read_csv(study / "a" / "validation.csv")
    write_csv(study / "a" / "validation.csv", table.assign(p_dog=np.where(table["label"] == 1, 0.999, 0.001)))
    shown = gallery_of(study)
    assert (shown.errors, len(shown.wrong), len(shown.uncertain)) == ([], 0, MOST_UNCERTAIN)
    (study / "a" / "validation.csv").unlink()
    assert model_of(study) is None
    shutil.rmtree(study / "a")
    write_job(study, CHOICES, name="b", trials=0, status="running")
    assert model_of(study) is None


def change(file, **values):
    write_json(file, {**read_json(file), **values})
