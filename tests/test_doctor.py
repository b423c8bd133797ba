from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from synthetic_images import cats_and_dogs, folder_of, jpeg

from catsdogs.doctor import _data

pytestmark = pytest.mark.lowest


def test_doctor_lists_problems_and_their_fixes(run, tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    done = run("doctor", "--train", "text.zip", "--weights", "nowhere.weights.h5")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok") and "tensorflow" in line for line in lines)
    assert any(line.startswith("ok") and "conf/" in line for line in lines)
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 2
    assert "nowhere.weights.h5" in problems[0]
    assert "text.zip" in problems[1]
    assert "not a zip" in done.stdout
    assert lines[-1] == "2 problems found, see above"


def test_images_of_each_part_are_checked(tmp_path: Path) -> None:
    members = cats_and_dogs(4, 3) | cats_and_dogs(2, 0, "val/") | {"test/1.jpg": jpeg(0), "test/2.jpg": jpeg(8)}
    source = folder_of(tmp_path / "input", members)
    options = argparse.Namespace(train=source, validation=source / "val", test=source, labels=None)
    options.cache, rule = tmp_path / "cache", "2 classes from names of files and folders"
    train, validation, leak, test, unlabeled_leak = _data(options)
    assert "part train (7 images) for training; not used: part test (2 images), part val" in train.text
    options.validation, options.test = None, source / "val"
    train, own, own_leak, _, test_leak = _data(options)
    assert train.ok
    assert "part train (7 images) for training, part val (2 images) for validation; not used: part test" in train.text
    assert train.text.endswith(f"7 images, {rule}: cat 4, dog 3")
    assert not own.ok
    assert own.text == f"data.train={source}, part val: 2 images, {rule}: cat 2, dog 0"
    assert own_leak.text == "2 of 2 images in part val are exact or near-duplicates of images in data.train"
    assert test_leak.text.endswith("duplicates of images in data.train or the validation images")
    assert own_leak.fix == "no model is scored on these: cat.0, cat.1; remove them from one of the two"
    assert not own_leak.ok
    assert not test_leak.ok
    assert validation.text == f"data.validation={source / 'val'}: 2 images, {rule}: cat 2, dog 0"
    assert leak.text.startswith("2 of 2 images in data.validation are exact or near-duplicates")
    assert not leak.ok
    assert leak.fix.startswith("no model is scored on these: cat.0, cat.1; remove")
    assert test.text.endswith(": 2 images")
    # Without labels, no score is computed.
    assert unlabeled_leak.text.startswith("1 of 2 images in data.test are exact or near-duplicates")
    assert unlabeled_leak.ok
