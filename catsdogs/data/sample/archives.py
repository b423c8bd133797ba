"""A seed -> drawn `train.zip` and `test.zip`, so that everything can be tried at once and offline.

The pictures are cats and dogs by their ears, heads, eyes, muzzles and noses. Every trait occurs in both, the
surroundings tell nothing, and 3 % of the training images carry the wrong label. So a network ends between chance and
perfection, and a linear model on the pixels near chance. For seeds 0 and 1:

- four convolutions (16, 32, 64, 64), 12 epochs of Adam at 0.001, batch 16, 600 training images at 64 px: log loss of
  120 validation images 0.25, 0.31 (chance: 0.69)
- logistic regression on the pixels of 720 images at 32 px, cross-validated: AUC 0.62, 0.60
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.config.schema import SampleConfig
from catsdogs.data.sample.synthetic import synthetic_photo

_log = logging.getLogger(__name__)

# Part of the cache key: count it up with every change to the pictures.
_DRAWING_VERSION = 2

_MISLABELLED_FRACTION = 0.03
_NAMES = ("cat", "dog")


def sample_archives(sample: SampleConfig, cache: Path) -> tuple[Path, Path]:
    """Draw the archives, or find the ones drawn before.

    They lie in a folder of `cache/sample` whose name covers the settings and the version of the drawing, with
    `test_labels.csv` beside them: `id,label` of the test images (1 = dog), for tests only, never for training. The same
    settings give the same bytes with the same Pillow and NumPy.

    Args:
        sample: how many, and the seed. A picture depends on the seed and its own number only.
        cache: the cache folder.

    Returns:
        `train.zip` with train/cat.0.jpg, train/dog.0.jpg and so on, and `test.zip` with test/1.jpg and so on.

    Raises:
        UserError: the cache cannot be written.
    """
    settings = {**dataclasses.asdict(sample), "drawing": _DRAWING_VERSION}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache / "sample" / key
    train, test, labels = folder / "train.zip", folder / "test.zip", folder / "test_labels.csv"
    if not (train.exists() and test.exists() and labels.exists()):
        count = 2 * sample.images_per_class + sample.test_images
        _log.info("drawing %d sample images into %s, about %d s", count, folder, 1 + count // 100)
        truth = [(str(n), _test_label(sample, n)) for n in range(1, sample.test_images + 1)]
        try:
            _write_zip(train, _training_pictures(sample))
            _write_zip(test, _test_pictures(sample))
            files.write_csv(labels, pd.DataFrame(truth, columns=["id", "label"]))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); pass cache=FOLDER with room") from error
    return train, test


def _training_pictures(sample: SampleConfig) -> Iterator[tuple[str, Image.Image, int]]:
    """(name in the archive, picture, JPEG quality)"""
    for n in range(sample.images_per_class):
        for label, name in enumerate(_NAMES):
            rng = np.random.default_rng([sample.seed, label, n])
            drawn = 1 - label if rng.random() < _MISLABELLED_FRACTION else label
            yield f"train/{name}.{n}.jpg", *synthetic_photo(drawn, rng)


def _test_pictures(sample: SampleConfig) -> Iterator[tuple[str, Image.Image, int]]:
    for n in range(1, sample.test_images + 1):
        rng = np.random.default_rng([sample.seed, 2, n])
        yield f"test/{n}.jpg", *synthetic_photo(_test_label(sample, n), rng)


def _test_label(sample: SampleConfig, n: int) -> int:
    return int(np.random.default_rng([sample.seed, 3, n]).random() < 0.5)


def _write_zip(path: Path, pictures: Iterator[tuple[str, Image.Image, int]]) -> None:
    """One picture at a time, so that memory does not grow with the archive."""
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, picture, quality in pictures:
            jpeg = io.BytesIO()
            picture.save(jpeg, "JPEG", quality=quality)
            # Without time, owner or system of the machine that draws, the bytes are the same everywhere.
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, jpeg.getvalue())
