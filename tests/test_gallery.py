"""What a model got wrong, and pictures that are really those of the images."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import ids, labels, p_dog, write_final, write_job

from catsdogs.comparison.answer import answer
from catsdogs.comparison.evidence import read_evidence
from catsdogs.comparison.gallery import MOST_MISTAKES, MOST_UNSURE, gallery
from catsdogs.files import read_json, write_csv, write_json

CHOICES = {"backbone": "b", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}


def colour_of(number: int) -> tuple[int, int, int]:
    """Every image has a colour of its own, far enough from the next for JPEG."""
    return (number * 37 % 256, number * 91 % 256, number * 53 % 256)


def picture(number: int) -> bytes:
    """240 x 120 pixels of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (240, 120), colour_of(number)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_zip(path, images: dict[str, bytes], folder: str = "train") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in images.items():
            archive.writestr(f"{folder}/{name}.jpg", data)


@pytest.fixture
def images() -> dict[str, bytes]:
    return {name: picture(number) for number, name in enumerate(ids())}


@pytest.fixture
def study(tmp_path, images):
    """A study of one job on a zip, with the split of what it saw."""
    folder = tmp_path / "multirun" / "night"
    train, cache = tmp_path / "train.zip", tmp_path / "cache"
    write_zip(train, images)
    cache.mkdir()
    write_job(folder, CHOICES, name="a", skill=0.5, config={"data": {"train": str(train)}, "cache": str(cache)})
    write_split(folder / "a", images)
    return folder


def write_split(job, images: dict[str, bytes]) -> None:
    rows = [(name, float(name.startswith("dog")), hashlib.sha256(data).hexdigest()) for name, data in images.items()]
    write_csv(job / "split.csv", pd.DataFrame(rows, columns=["id", "label", "sha256"]).assign(split="validation"))


def gallery_of(study):
    evidence = read_evidence([study])
    return gallery(evidence, answer(evidence))


def shots_of(found):
    return [*found.mistakes, *found.unsure]


def assert_all_are_right(found, images):
    """Every thumbnail is a small JPEG of its own image."""
    numbers = {name: number for number, name in enumerate(images)}
    assert found.missing is None
    for shot in shots_of(found):
        head, _, data = shot.thumbnail.partition(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format == "JPEG"
        assert image.size == (128, 64)
        pixel = np.asarray(image.convert("RGB"))[32, 64].astype(int)
        assert np.abs(pixel - colour_of(numbers[shot.id])).max() < 8, shot.id


def test_mistakes_come_most_confident_first_and_the_unsure_after_them(study, images):
    found = gallery_of(study)
    p = p_dog(0.5)
    confidence = np.where(labels() == 1, p, 1 - p)  # given to what the image shows
    order = np.argsort(confidence)
    wrong = [ids()[i] for i in order if (p[i] > 0.5) != (labels()[i] == 1)]
    assert len(wrong) > MOST_MISTAKES
    assert [shot.id for shot in found.mistakes] == wrong[:MOST_MISTAKES]
    assert found.mistakes_total == len(wrong)
    assert list(found.wrong["id"]) == wrong
    doubtful = [ids()[i] for i in np.argsort(np.abs(p - 0.5)) if ids()[i] not in wrong[:MOST_MISTAKES]]
    assert [shot.id for shot in found.unsure] == doubtful[:MOST_UNSURE]
    first = found.mistakes[0]
    place = ids().index(first.id)
    assert first.label == labels()[place]
    assert first.p_dog == pytest.approx(p[place])
    assert first.loss == pytest.approx(-np.log(confidence[place]))
    assert found.images == len(images)
    assert found.source == "trial 0, the best of job a"


def test_pictures_come_from_the_zip_and_nothing_is_unpacked(study, images, tmp_path):
    assert_all_are_right(gallery_of(study), images)
    assert list((tmp_path / "cache").iterdir()) == []


def test_pictures_come_from_a_folder(study, images, tmp_path):
    for name, data in images.items():
        place = tmp_path / "photos" / name.partition(".")[0] / f"{name}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    renamed = {f"{name.partition('.')[0]}/{name}": data for name, data in images.items()}  # as the catalogue calls them
    use(study, train=str(tmp_path / "photos"))
    table = pd.read_csv(study / "a" / "validation.csv")
    write_csv(study / "a" / "validation.csv", table.assign(id=list(renamed)))
    write_split(study / "a", renamed)
    assert_all_are_right(gallery_of(study), renamed)


def test_pictures_come_from_the_cache_when_the_zip_is_gone(study, images, tmp_path):
    (tmp_path / "train.zip").unlink()
    unpack(tmp_path / "cache", images)
    assert_all_are_right(gallery_of(study), images)


def test_pictures_that_were_drawn_are_found_by_what_they_are(study, images, tmp_path):
    other, right = tmp_path / "cache" / "sample" / "0", tmp_path / "cache" / "sample" / "1"
    for folder in (other, right):
        folder.mkdir(parents=True)
    # Another sample has images of the same names.
    write_zip(other / "train.zip", {name: picture(number + 7) for number, name in enumerate(images)})
    write_zip(right / "train.zip", images)
    use(study, train=None)
    assert_all_are_right(gallery_of(study), images)


def test_a_changed_picture_is_never_shown(study, images, tmp_path):
    found = gallery_of(study)
    swapped = found.mistakes[0].id
    write_zip(tmp_path / "train.zip", {**images, swapped: picture(999)})
    changed = gallery_of(study)
    assert changed.mistakes[0].id == swapped
    assert changed.mistakes[0].thumbnail is None
    assert all(shot.thumbnail for shot in shots_of(changed)[1:])
    assert changed.missing.startswith("1 of 36 pictures are not shown: the images at ")
    assert "no longer those that the job saw" in changed.missing


@pytest.mark.parametrize("damage", ["gone", "cut", "no zip", "a damaged member", "a folder without images"])
def test_lost_pictures_are_told_and_not_fatal(study, images, tmp_path, damage):
    train = tmp_path / "train.zip"
    data = train.read_bytes()
    second = gallery_of(study).mistakes[1].id
    train.unlink()
    if damage == "cut":
        train.write_bytes(data[: len(data) // 2])
    elif damage == "no zip":
        train.write_bytes(b"not an archive")
    elif damage == "a damaged member":
        train.write_bytes(data.replace(images[second], bytes(len(images[second]))))
    elif damage == "a folder without images":
        train.mkdir()
    found = gallery_of(study)
    assert len(found.mistakes) == MOST_MISTAKES
    if damage == "a damaged member":
        assert [shot.id for shot in shots_of(found) if shot.thumbnail is None] == [second]
        return
    assert all(shot.thumbnail is None for shot in shots_of(found))
    assert found.missing.startswith(f"No pictures: {train} is not at hand")
    assert found.missing.endswith("write this report again.")


def test_without_the_split_no_picture_is_believed(study):
    (study / "a" / "split.csv").unlink()
    found = gallery_of(study)
    assert all(shot.thumbnail is None for shot in shots_of(found))
    assert "split.csv" in found.missing
    (study / "a" / "split.csv").write_text("id,label\ncat.0,0\n")
    assert "split.csv" in gallery_of(study).missing


def test_a_final_model_is_judged_by_what_it_submits(study, images):
    write_final(study, skill=0.4)
    change(study / "best" / "metrics.json", job="a")
    found = gallery_of(study)
    assert found.source == "the final model of study night, with test-time augmentation"
    averaged = p_dog(0.4 + 0.1)
    wrong = (averaged > 0.5) != (labels() == 1)
    assert found.mistakes_total == wrong.sum()
    assert found.images == len(images)  # the test images have no labels
    assert_all_are_right(found, images)

    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog_calibrated=0.25 + table["p_dog"] / 2))
    found = gallery_of(study)
    assert found.source == "the final model of study night, with test-time augmentation, calibrated"
    assert all(0.25 <= shot.p_dog <= 0.75 for shot in found.mistakes)

    change(study / "best" / "metrics.json", validated_by="folds")
    assert gallery_of(study).source.startswith("the models of the folds of study night, each on images that it had not")

    write_final(study, skill=0.4, tta=False)
    change(study / "best" / "metrics.json", job="a", fit_on="all")
    found = gallery_of(study)
    assert found.source == "trial 0 of job a, before it was trained again on all images"
    assert found.mistakes_total == ((p_dog(0.4) > 0.5) != (labels() == 1)).sum()


def test_a_final_model_without_honest_predictions_leaves_the_best_job(study):
    write_final(study)
    change(study / "best" / "metrics.json", job="a")
    table = pd.read_csv(study / "best" / "predictions.csv")
    write_csv(study / "best" / "predictions.csv", table.assign(p_dog=np.nan, p_dog_tta=np.nan))
    assert gallery_of(study).source == "trial 0, the best of job a"


def test_ids_that_were_ignored_before_are_told(study):
    use(study, train=None, ignore=["cat.7", "a b"])
    assert gallery_of(study).ignored == ["cat.7", "a b"]


def test_a_perfect_model_has_doubts_only(study):
    table = pd.read_csv(study / "a" / "validation.csv")
    write_csv(study / "a" / "validation.csv", table.assign(p_dog=np.where(table["label"] == 1, 0.999, 0.001)))
    found = gallery_of(study)
    assert found.mistakes == []
    assert found.mistakes_total == 0
    assert len(found.unsure) == MOST_UNSURE


def test_there_is_none_without_predictions(study):
    (study / "a" / "validation.csv").unlink()
    assert gallery_of(study) is None
    shutil.rmtree(study / "a")
    write_job(study, CHOICES, name="b", trials=0, status="running")
    assert gallery_of(study) is None


def use(study, **data) -> None:
    """Give the job another `data` configuration."""
    result = read_json(study / "a" / "result.json")
    write_json(study / "a" / "result.json", {**result, "config": {**result["config"], "data": data}})


def change(file, **told) -> None:
    write_json(file, {**read_json(file), **told})


def unpack(cache, images: dict[str, bytes]) -> None:
    """What `open_images` and `catalogue` leave in the cache."""
    folder = cache / "archives" / ("e" * 64)
    folder.mkdir(parents=True)
    rows = []
    for name, data in images.items():
        (folder / f"{name}.jpg").write_bytes(data)
        rows.append((name, f"{name}.jpg", hashlib.sha256(data).hexdigest()))
    table = pd.DataFrame(rows, columns=["id", "path", "sha256"])
    write_csv(cache / "catalogues" / f"{'e' * 64}-v1.csv", table)
    # Another archive, whose folder was removed.
    write_csv(cache / "catalogues" / f"{'0' * 64}-v1.csv", table)
