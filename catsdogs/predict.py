"""Entry point: saved model + images -> `id,label` rows; label is the probability of dog.

python -m catsdogs.predict multirun/NAME/best IMAGE|FOLDER|ZIP ...
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError, exit_status_of, first_line
from catsdogs.base.files import write_csv
from catsdogs.config.locations import add_cache_option

if TYPE_CHECKING:
    from catsdogs.final.pipeline import Pipeline

# Images decoded and predicted at a time, so that a folder of any size fits into memory.
CHUNK = 256


def _predict(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    model_file = options.model / "model.keras" if options.model.is_dir() else options.model
    if not model_file.is_file():
        raise UserError(
            f"{model_file}: there is no such model; give the folder that catsdogs.retrain wrote, multirun/NAME/best"
        )
    ids, paths = _images(options.images, options.cache)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    try:
        model = keras.models.load_model(model_file, compile=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{model_file}: it cannot be loaded as a Keras model ({first_line(error)})") from error
    pipeline = _pipeline(options)
    shape = model.input_shape
    if len(shape) != 4 or not isinstance(shape[1], int) or tuple(shape[1:]) != (shape[1], shape[1], 3):
        raise UserError(
            f"{model_file}: its input is {model.input_shape} and not square RGB images of one size; give catsdogs' own"
        )
    from catsdogs.features.engine import build_engine

    forward = build_engine(model)
    size = int(model.input_shape[1])
    p_dog = np.concatenate(
        [_chunk(forward, size, paths[start : start + CHUNK], pipeline) for start in range(0, len(paths), CHUNK)]
    )
    table = pd.DataFrame({"id": ids, "label": p_dog})
    if options.output is None:
        sys.stdout.write(table.to_csv(index=False, lineterminator="\n"))
        return 0
    try:
        write_csv(options.output, table)
    except OSError as error:
        raise UserError(f"--output {options.output}: it cannot be written ({error.strerror}); give another") from error
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-predict",
        description="Predict images with a saved model: id,label rows, label = probability of dog.",
    )
    parser.add_argument(
        "model",
        type=Path,
        help="folder that catsdogs.retrain wrote, multirun/NAME/best, for what submission.csv would say, with its "
        "test-time augmentation and calibration; or a .keras file, for the model alone",
    )
    parser.add_argument("images", nargs="+", type=Path, help="image, folder of images, or zip of images")
    parser.add_argument("--output", type=Path, help="CSV file to write; default: standard output")
    parser.add_argument("--plain", action="store_true", help="the model alone, also of a folder; faster")
    add_cache_option(parser, "where zips are unpacked")
    return parser.parse_args(arguments)


def _images(sources: list[Path], cache: Path) -> tuple[list[str], list[Path]]:
    """Ids and files of all images, in the order given; zips and folders in the order of their ids, by number."""
    from catsdogs.data.archive import IMAGE_SUFFIXES, image_paths, natural_key, open_images
    from catsdogs.data.catalog import ids_of

    ids: list[str] = []
    files: list[Path] = []
    for source in sources:
        if source.is_file() and not zipfile.is_zipfile(source) and source.suffix.lower() != ".zip":
            if source.suffix.lower() not in IMAGE_SUFFIXES:
                raise UserError(f"{source}: it is neither an image ({', '.join(IMAGE_SUFFIXES)}), a folder nor a zip")
            ids.append(source.stem)
            files.append(source)
            continue
        root = open_images(source, cache).root
        paths = image_paths(root)
        named = sorted(zip(ids_of(paths), paths, strict=True), key=lambda pair: natural_key(pair[0]))
        ids += [name for name, _ in named]
        files += [root / path for _, path in named]
    # Images of one name from several places: their whole paths tell them apart.
    seen = Counter(ids)
    return [str(file) if seen[name] > 1 else name for name, file in zip(ids, files, strict=True)], files


def _chunk(forward: Any, size: int, paths: list[Path], pipeline: Pipeline) -> np.ndarray:
    """(N,) float64; 0.5 for images that do not decode."""
    from catsdogs.data.augment import view_keys
    from catsdogs.data.images import decode
    from catsdogs.data.views import LiveViews
    from catsdogs.final.pipeline import submitted

    images, digests, usable = [], [], []
    for position, path in enumerate(paths):
        try:
            content = path.read_bytes()
            images.append(decode(content, size))
        except OSError as error:
            raise UserError(f"{path}: it cannot be read ({error.strerror})") from error
        except ValueError as error:
            print(f"warning: {path} does not decode ({error}); it gets 0.5", file=sys.stderr)
            continue
        digests.append(hashlib.sha256(content).hexdigest())
        usable.append(position)
    p_dog = np.full(len(paths), 0.5)
    if not images:
        return p_dog
    views = LiveViews(np.stack(images), view_keys(digests), pipeline.augmentation, pipeline.seed)
    p_dog[usable] = submitted(pipeline(forward, views, np.arange(len(images))))
    return p_dog


def _pipeline(options: argparse.Namespace) -> Pipeline:
    """What is done with the model's outputs; nothing with those of a file, with --plain, or in a folder of 0.1."""
    from catsdogs.config.schema import AugmentationConfig, TtaConfig
    from catsdogs.final.pipeline import Pipeline, read_pipeline

    found = None if options.plain or not options.model.is_dir() else read_pipeline(options.model)
    unchanged = AugmentationConfig(0, 0, 0, 0, 0, 0, 0, 0, "reflect")
    return found or Pipeline(TtaConfig(kind="none", views=1, average="probability"), unchanged, 0, None)


def main() -> int:
    return exit_status_of(_predict)


if __name__ == "__main__":
    sys.exit(main())
