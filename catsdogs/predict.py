"""Command `predict`: write `id,label,class` rows for images of two classes, otherwise a column per class in between.

python -m catsdogs.predict multirun/NAME IMAGE|FOLDER|ZIP ...
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_links, check_output, write_csv
from catsdogs.base.text import listed, natural_key
from catsdogs.config.locations import MODEL, add_cache_option, typed_model, typed_path
from catsdogs.network.startup import check_backend, start_keras

if TYPE_CHECKING:
    from catsdogs.final.pipeline import Pipeline
    from catsdogs.scoring.classes import Classes

MODEL_FOLDER = "a study with the model of catsdogs.retrain (multirun/NAME)"

# Images in memory at a time, and their pixels in bytes.
_CHUNK, _CHUNK_BYTES = 256, 2**27


def _predict(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    check_backend()
    model_file = options.model / MODEL if options.model.is_dir() else options.model
    if not model_file.is_file():
        raise UserError(f"{model_file}: not found; pass {MODEL_FOLDER}, or a .keras file")
    if options.model.is_dir():
        check_links(options.model, options.model.parent)
    pipeline, classes = _pipeline(options)
    if options.output is not None:
        check_output(options.output, "predict", functools.partial(_is_own, classes=classes))
        if options.output.resolve().parent == model_file.resolve().parent:
            raise UserError(f"--output {options.output}: is in the folder of the model; use another --output=FILE")
    ids, paths = _images(options.images, options.cache)
    start_keras()
    from catsdogs.final.submission import describe_rows, prediction_table
    from catsdogs.network.saved_models import load_model

    model = load_model(model_file, f"pass {MODEL_FOLDER}")
    forward, classes = _engine(model, model_file, classes)
    pipeline = dataclasses.replace(pipeline, classes=classes)
    size = int(model.input_shape[1])
    count = max(1, min(_CHUNK, _CHUNK_BYTES // (size * size * 3)))
    chunks = [paths[start : start + count] for start in range(0, len(paths), count)]
    outputs = np.concatenate([_predict_chunk(forward, size, chunk, pipeline, model_file) for chunk in chunks])
    missing = np.isnan(outputs[:, 0])
    undecodable = [name for name, one in zip(ids, missing, strict=True) if one]
    print(describe_rows(ids, len(paths), undecodable, f"{1 / len(classes):.3g}"), file=sys.stderr)
    table = prediction_table(ids, outputs, classes, pipeline.threshold)
    if options.output is None:
        sys.stdout.write(table.to_csv(index=False, lineterminator="\n"))
        return 0
    write_csv(options.output, table)
    return 0


def _is_own(head: bytes, classes: Classes | None) -> bool:
    """Return whether the first row of a table that is not all equal has probabilities, neither labels nor a template's.

    `classes` None: they are numbered.
    """
    with suppress(ValueError, csv.Error):
        header, *rows = csv.reader(head.decode(errors="replace").split("\n")[:-1])
        count = len(header) - (2 if header[-1:] == ["class"] else 1)
        pair = header[:2] == ["id", "label"]
        names = ["label"] if pair else map(str, range(count)) if classes is None else classes.names
        table = ["id", *names]
        if header not in (table, [*table, "class"]) or len(table) == 3:
            return False
        split = (row[1 : len(table)] for row in rows)  # tables of earlier versions have no column `class`
        first = next((values for values in split if {*values} != {"0.5"} and (pair or len({*values}) > 1)), [])
        return bool(first) and all(0 < float(one) < 1 or (pair and one in ("0.0", "1.0")) for one in first)
    return False


def _engine(model: Any, file: Path, classes: Classes | None) -> tuple[Any, Classes]:
    """Return the inference engine of a model with input (None, S, S, 3) and output (None, C), and its classes.

    If `classes` is None, they are numbered.
    """
    from catsdogs.features.engine import build_engine
    from catsdogs.scoring.classes import DEFAULT, MOST_CLASSES, Classes

    shapes = [getattr(tensor, "shape", None) for tensor in (model.input, model.output)]  # None: several, or with names
    size = shapes[0][1] if shapes[0] and len(shapes[0]) == 4 else None
    count = (shapes[1] or [0])[-1]
    if classes is None and count in range(3, MOST_CLASSES + 1):
        print(f"warning: {file}: no pipeline.json with the names of its classes; numbering them", file=sys.stderr)
        classes = Classes(tuple(map(str, range(count))))
    if classes is None:  # of version 0.1, or of another program
        classes = DEFAULT if (file.parent / "metrics.json").is_file() else Classes(("0", "1"))
    if size is None or shapes != [(None, size, size, 3), (None, classes.outputs)]:
        expected = f"expected input (None, S, S, 3) and output (None, {classes.outputs}), without names"
        raise UserError(f"{file}: {expected}, got {shapes[0]} and {shapes[1]}; pass {MODEL_FOLDER}")
    try:
        return build_engine(model), classes
    except UserError as error:
        raise UserError(f"{file}: has outputs that are not finite, so its weights are corrupted; retrain it") from error


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-predict",
        description="Predict images with a saved model. Writes id,label,class rows for two classes (label is the "
        "probability of the second one), otherwise id, a column of probabilities per class, and class, the predicted "
        "class.",
    )
    about = f"{MODEL_FOLDER}, with the TTA and calibration used for submission.csv; or a .keras file, for the plain "
    parser.add_argument("model", type=typed_model, help=f"{about}model output")
    parser.add_argument("images", nargs="+", type=typed_path, help="image, folder of images, or zip of images")
    parser.add_argument("--output", type=typed_path, metavar="FILE", help="CSV file (default: standard output)")
    parser.add_argument("--plain", action="store_true", help="skip test-time augmentation and calibration (faster)")
    add_cache_option(parser, "folder for unpacked zips")
    return parser.parse_args(arguments)


def _images(sources: list[Path], cache: Path) -> tuple[list[str], list[Path]]:
    """Return ids and files of all images, in the given order; those of a zip or folder in natural order."""
    from catsdogs.data.archive import is_image, open_images
    from catsdogs.data.catalog import ids_of, stray_message

    ids: list[str] = []
    paths: list[str] = []
    files: list[Path] = []
    single = [one for one in sources if one.is_file() and not zipfile.is_zipfile(one) and one.suffix.lower() != ".zip"]
    id_of_file = dict(zip(single, ids_of([str(source.absolute()) for source in single]), strict=True))
    for source in sources:
        if source in id_of_file:
            if not is_image(source):
                raise UserError(f"{source}: not an image; pass a folder, a zip or an image")
            ids.append(id_of_file[source])
            paths.append(str(source.absolute()))
            files.append(source)
            continue
        folder = open_images(source, cache)
        by_id = dict(zip(ids_of(list(folder.paths)), folder.paths, strict=True))
        names = sorted(by_id, key=natural_key)
        found = [by_id[name] for name in names]
        ids += names
        paths += [f"{source.absolute()}/{path}" for path in found]
        files += [folder.root / path for path in found]
        for message in filter(None, (folder.skipped_message(source), stray_message(names, found))):
            print(f"warning: {source}: {message}", file=sys.stderr)
    return _unique(ids, paths), files


def _unique(ids: list[str], paths: list[str]) -> list[str]:
    """Return ids; images that share theirs with others get one with the folders in which their paths differ."""
    from catsdogs.data.catalog import ids_of

    counts = Counter(ids)
    if shared := [name for name, count in counts.items() if count > 1]:
        print(f"warning: several images have the id {listed(shared)}; adding their folders", file=sys.stderr)
        rows = [row for row, name in enumerate(ids) if counts[name] > 1]
        for row, name in zip(rows, ids_of([paths[row] for row in rows]), strict=True):
            ids[row] = name
    name, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise UserError(f"{name}: passed {count} times; pass each image once")
    return ids


def _predict_chunk(forward: Any, size: int, paths: list[Path], pipeline: Pipeline, model_file: Path) -> np.ndarray:
    """Return probabilities (N, K) float64; NaN for images that cannot be decoded."""
    from catsdogs.data.augment import view_keys
    from catsdogs.data.images import read_image, to_square
    from catsdogs.data.views import LiveViews
    from catsdogs.final.pipeline import final_output

    images, digests, decoded = [], [], []
    for index, path in enumerate(paths):
        digest, image, problem = read_image(path, to_square(size, pipeline.resize))
        if image is None:
            equal = f"{1 / len(pipeline.classes):.3g}"
            print(f"warning: cannot decode {path} ({problem}); writing {equal}", file=sys.stderr)
            continue
        images.append(image)
        digests.append(digest)
        decoded.append(index)
    probabilities = np.full((len(paths), len(pipeline.classes)), np.nan)
    if not images:
        return probabilities
    views = LiveViews(np.stack(images), view_keys(digests), pipeline.augmentation, pipeline.seed)
    try:
        probabilities[decoded] = final_output(pipeline(forward, views, np.arange(len(images))))
    except UserError as error:
        raise UserError(f"{model_file}: {error}") from error
    return probabilities


def _pipeline(options: argparse.Namespace) -> tuple[Pipeline, Classes | None]:
    """Return the pipeline and the classes of a model; None if no `pipeline.json`, new in 0.2, lies beside it.

    The pipeline has no steps for a file, and for --plain.
    """
    from catsdogs.config.schema import AugmentationConfig, TtaConfig
    from catsdogs.final.pipeline import Pipeline, read_pipeline

    plain = options.plain or not options.model.is_dir()
    saved = read_pipeline(options.model if options.model.is_dir() else options.model.parent)
    if saved is None and not plain:
        print(f"warning: {options.model}: no pipeline.json; predicting the plain model output", file=sys.stderr)
    if saved is not None and not plain:
        return saved, saved.classes
    tta = TtaConfig(kind="none", views=1, average="probability")
    if saved is not None:
        return dataclasses.replace(saved, tta=tta, calibration=None), saved.classes
    return Pipeline(tta, AugmentationConfig(), 0, None), None


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_predict)


if __name__ == "__main__":
    sys.exit(main())
