import argparse
from pathlib import Path
from unittest.mock import Mock

import pytest
from synthetic_images import cats_and_dogs, folder_of, jpeg

from catsdogs import doctor
from catsdogs.doctor import _data, _doctor, _fitting, _weights
from catsdogs.network.backbones import small_cnn

pytestmark = pytest.mark.lowest


def test_doctor_lists_problems_and_their_fixes(run, tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    weights = ("--backbone", "efficientnet_lite0", "--weights", "nowhere.weights.h5")
    done = run("doctor", "--train", "text.zip", *weights)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok") and "tensorflow" in line for line in lines)
    assert any(line.startswith("ok") and "conf/" in line for line in lines)
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 2
    assert "efficientnet_lite0: nowhere.weights.h5" in problems[0]
    assert "text.zip" in problems[1]
    assert "not a zip" in done.stdout
    assert lines[-1] == "2 problems found, see above"


def test_weights_of_a_backbone_and_the_backbone_of_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_backbones", lambda: ["efficientnet_lite0", "small_cnn"])
    small_cnn(input_shape=(64, 64, 3)).save_weights(tmp_path / "a.weights.h5")
    assert _fitting(str(tmp_path / "a.weights.h5")).text.endswith("a.weights.h5: of small_cnn")
    assert not _fitting(str(tmp_path / "b.weights.h5")).ok
    assert _weights("small_cnn", None).text == "weights of small_cnn: none needed, because it is trained from scratch"
    assert "lines of" in _weights("efficientnet_lite0", None).fix
    error = Exception("URL fetch failure")
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", Mock(side_effect=error))
    assert "copy xception_weights_tf_dim_ordering_tf_kernels_notop.h5 (MD5 b004" in _weights("xception", None).fix


@pytest.mark.parametrize("option", ["--test", "--validation", "--labels"])
def test_images_are_checked_with_the_training_images(capsys, option):
    with pytest.raises(SystemExit):
        _doctor([option, "there"])
    assert f"error: {option} there: checked against the training images; add --train PATH" in capsys.readouterr().err


def test_images_of_each_part_are_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = {"val/cat.7.jpg": jpeg(70), "val/dog.7.jpg": jpeg(71), "val/cat.0.jpg": jpeg(0)}
    test = {"test/1.jpg": jpeg(0), "test/2.jpg": jpeg(80)}
    source = folder_of(tmp_path / "input", cats_and_dogs(4, 3) | own | test)
    options = argparse.Namespace(train=source, validation=None, test=source, labels=None, cache=tmp_path / "cache")
    parts, testing, classes, copies = _data(options)
    assert "part train (7 images) for training, part val (3 images) for validation; not used: part test" in parts.text
    assert testing.text.startswith(f"data.test={source}: using part test (2 images)")
    assert classes.text == f"data.train={source}: 2 classes from names of files and folders: cat 5, dog 4"
    assert "skipping 1 of 3 validation images: validation/cat.0 (duplicate of a training image)" in caplog.text
    assert copies.text.startswith("1 of 2 images in data.test are exact or near-duplicates")
    assert copies.ok  # without labels, no score is computed
    options.test = folder_of(tmp_path / "labeled", {"cat.1.jpg": jpeg(0), "dog.1.jpg": jpeg(81)})
    *_, copies = _data(options)
    assert (copies.ok, copies.fix) == (False, "no model is scored on these: cat.1; remove them from one of the two")
    options.train = source / "test"
    (problem,) = _data(options)
    assert problem.text == f"data.train={source / 'test'}: no image has a label"
    assert problem.fix.startswith("use at least two class folders")
