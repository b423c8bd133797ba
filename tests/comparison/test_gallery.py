"""What a model got wrong, and pictures that are really those of the images."""

from __future__ import annotations

import base64
import io
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import CHOICES, colour_of, ids, labels, p_dog, picture, write_final, write_images, write_job, write_split

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.gallery import MOST_MISTAKES, MOST_UNSURE, gallery
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return {name: picture(number) for number, name in enumerate(ids())}


@pytest.fixture
def study(tmp_path, images, monkeypatch):
    """A study of one job, whose images lie in the cache."""
    monkeypatch.setenv("CATSDOGS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "multirun" / "night"
    write_job(folder, CHOICES, name="a", skill=0.5)
    change(folder / "a" / "result.json", data={"digest": "d" * 64, "images_digest": "e" * 64})
    write_split(folder / "a", images)
    write_images(tmp_path / "cache" / "archives" / ("e" * 64), images)
    return folder


def gallery_of(study, folder=None):
    study_data = read_study_data([study])
    return gallery(study_data, summarize(study_data), folder)


def shots_of(found):
    return [*found.mistakes, *found.unsure]


def assert_all_are_right(found, images):
    """Every thumbnail is a small JPEG of its own image."""
    assert found.missing is None
    for shot in shots_of(found):
        head, _, data = shot["thumbnail"].partition(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format == "JPEG"
        assert image.size == (128, 64)
        pixel = np.asarray(image.convert("RGB"))[32, 64].astype(int)
        assert np.abs(pixel - colour_of(list(images).index(shot["id"]))).max() < 8, shot["id"]


def test_mistakes_come_most_confident_first_and_the_unsure_after_them(study, images):
    change(study / "a" / "result.json", config={"data": {"ignore": ["cat.7", "a b"]}})
    found = gallery_of(study)
    p = p_dog(0.5)
    confidence = np.where(labels() == 1, p, 1 - p)  # given to what the image shows
    order = np.argsort(confidence)
    wrong = [ids()[i] for i in order if (p[i] > 0.5) != (labels()[i] == 1)]
    assert len(wrong) > MOST_MISTAKES
    assert [shot["id"] for shot in found.mistakes] == wrong[:MOST_MISTAKES]
    assert list(found.wrong["id"]) == wrong
    doubtful = [ids()[i] for i in np.argsort(np.abs(p - 0.5)) if ids()[i] not in wrong[:MOST_MISTAKES]]
    assert [shot["id"] for shot in found.unsure] == doubtful[:MOST_UNSURE]
    first, place = found.mistakes[0], order[0]
    expected = [labels()[place], p[place], -np.log(confidence[place])]
    assert [first[name] for name in ("label", "p_dog", "log_loss")] == pytest.approx(expected)
    assert found.images == len(images)
    assert found.source == "trial 0, the best of job a"
    assert_all_are_right(found, images)  # from the cache
    assert found.ignored == ["cat.7", "a b"]


def pictureless(found) -> bool:
    assert len(found.mistakes) == MOST_MISTAKES
    return all(shot["thumbnail"] is None for shot in shots_of(found))


@pytest.mark.parametrize("paths", ["told", "not told"])
def test_pictures_come_from_the_folder_that_is_given(study, images, tmp_path, paths):
    (tmp_path / "cache").rename(tmp_path / "gone")
    if paths == "not told":  # as by 0.2
        write_csv(study / "a" / "split.csv", pd.read_csv(study / "a" / "split.csv").drop(columns="path"))
    found = gallery_of(study)
    assert pictureless(found)
    assert "--images FOLDER" in found.missing
    write_images(tmp_path / "photos", images)
    assert_all_are_right(gallery_of(study, tmp_path / "photos"), images)
    assert_all_are_right(gallery_of(study, tmp_path / "photos" / "train"), images)


def test_only_the_users_own_study_says_where_its_images_are(study, images, tmp_path, monkeypatch):
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    for config in ({"cache": str(tmp_path / "elsewhere")}, {"data": {"train": str(tmp_path / "photos")}}):
        change(study / "a" / "result.json", config=config)
        write_images(tmp_path / "photos", images if "data" in config else {})
        assert_all_are_right(gallery_of(study), images)
        with monkeypatch.context() as patch:
            patch.setattr("os.getuid", lambda: study.stat().st_uid + 1)
            assert pictureless(gallery_of(study))


@pytest.mark.parametrize("digest", ["../photos", "/photos", "", None, "E" * 64])
def test_a_digest_leads_nowhere_else(study, images, tmp_path, digest):
    (tmp_path / "cache").rename(tmp_path / "gone")
    write_images(tmp_path / "cache" / "photos", images)
    change(study / "a" / "result.json", data={"digest": "d" * 64, "images_digest": digest})
    assert pictureless(gallery_of(study))


@pytest.mark.parametrize("fault", ["other bytes", "gone", "outside", "absolute", "a pipe", "a folder", "too large"])
def test_a_picture_is_a_file_in_the_folder_with_the_bytes_that_the_job_saw(study, images, tmp_path, fault):
    name = gallery_of(study).mistakes[0]["id"]
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
    found = gallery_of(study)
    assert [shot["id"] for shot in shots_of(found) if shot["thumbnail"] is None] == [name]
    assert found.missing.startswith("1 of 36 pictures are not shown: ")


def test_without_the_split_no_picture_is_believed(study):
    for content in ("id,label\ncat.0,0\n", None):
        (study / "a" / "split.csv").write_text(content) if content else (study / "a" / "split.csv").unlink()
        found = gallery_of(study)
        assert pictureless(found)
        assert "split.csv" in found.missing


def test_a_final_model_is_judged_by_what_it_submits(study, images):
    write_final(study, skill=0.4)
    change(study / "best" / "metrics.json", job="a")
    found = gallery_of(study)
    assert found.source == "the final model of study night, with test-time augmentation"
    assert len(found.wrong) == ((p_dog(0.4 + 0.1) > 0.5) != (labels() == 1)).sum()
    assert found.images == len(images)  # the test images have no labels
    assert_all_are_right(found, images)

    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog_calibrated=0.25 + table["p_dog"] / 2))
    found = gallery_of(study)
    assert found.source == "the final model of study night, with test-time augmentation, calibrated"
    assert all(0.25 <= shot["p_dog"] <= 0.75 for shot in found.mistakes)

    change(study / "best" / "metrics.json", validated_by="folds")
    assert gallery_of(study).source.startswith("the models of the folds of study night, each on images that it had not")

    write_final(study, skill=0.4, tta=False)
    change(study / "best" / "metrics.json", job="a", fit_on="all")
    found = gallery_of(study)
    assert found.source == "trial 0 of job a, before it was trained again on all images"
    assert len(found.wrong) == ((p_dog(0.4) > 0.5) != (labels() == 1)).sum()

    # Without honest predictions of its own the best job is shown.
    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog=np.nan, p_dog_tta=np.nan))
    assert gallery_of(study).source == "trial 0, the best of job a"


def test_a_perfect_model_has_doubts_only_and_none_has_nothing(study):
    table = pd.read_csv(study / "a" / "validation.csv")
    write_csv(study / "a" / "validation.csv", table.assign(p_dog=np.where(table["label"] == 1, 0.999, 0.001)))
    found = gallery_of(study)
    assert (found.mistakes, len(found.wrong), len(found.unsure)) == ([], 0, MOST_UNSURE)
    (study / "a" / "validation.csv").unlink()
    assert gallery_of(study) is None
    shutil.rmtree(study / "a")
    write_job(study, CHOICES, name="b", trials=0, status="running")
    assert gallery_of(study) is None


def change(file, **told) -> None:
    write_json(file, {**read_json(file), **told})
