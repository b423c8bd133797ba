"""Throughput of filling the activation store: decoding, augmentation, and MobileNetV2's prefix on every engine.

python benchmarks/fill.py [--train train.zip] [--weights FILE] [--images 256] [--output benchmarks/results/fill.json]

Every round runs all stages once, in turn, so other load on the machine affects all of them equally. The result is the
median over rounds. ONNX Runtime is measured if tf2onnx, onnx and onnxruntime are installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import yaml
from machine import machine, versions

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import AugmentationConfig, BackboneConfig, SampleConfig
from catsdogs.data.archive import open_images
from catsdogs.data.augment import augment
from catsdogs.data.images import in_threads, to_square, transform
from catsdogs.data.sample.archives import sample_archives
from catsdogs.features.engine import build_engine, max_relative_error
from catsdogs.network.backbones import build_backbone
from catsdogs.network.cut import find_cut, prefix

SIZE = 224
BATCH = 32
UNFREEZE_DEPTH = 30  # its cut and the pooled vector are the two outputs of the prefix

Stage = Callable[[], Any]


def read_images(train: Path | None, count: int) -> list[bytes]:
    """Return the bytes of `count` images, spread evenly over the archive; synthetic ones if `train` is None."""
    with tempfile.TemporaryDirectory() as cache:
        if train is None:
            train, _ = sample_archives(
                SampleConfig(images_per_class=max(8, -(-count // 2)), test_images=1, seed=1, classes=2), Path(cache)
            )
        images = open_images(train, Path(cache), max_unpacked_bytes=20 * 2**30)
        root, paths, readable = images.root, images.paths, []
        for index in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
            data = (root / paths[index]).read_bytes()
            try:
                transform(data, to_square(SIZE))
            except ValueError:  # a corrupted file; a search skips it, too
                continue
            readable.append(data)
        return readable


def keras_augmentation(light: AugmentationConfig) -> Callable[[np.ndarray], Any]:
    """Return the five layers closest to `light`, as one traced function over batches."""
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(light.rotation_degrees / 360, fill_mode="reflect"),
            keras.layers.RandomTranslation(light.shift_fraction, light.shift_fraction, fill_mode="reflect"),
            keras.layers.RandomZoom(light.zoom_fraction, fill_mode="reflect"),
            keras.layers.RandomBrightness(light.brightness_fraction, value_range=(0, 255)),
        ]
    )
    traced = compiled(lambda pixels: layers(pixels, training=True))
    return lambda images: [traced(images[i : i + BATCH].astype(np.float32)) for i in range(0, len(images), BATCH)]


def compiled(function: Callable[..., Any]) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Trace a function of float32 images (B, S, S, 3), once for all batch sizes."""
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
    return lambda images: [output.numpy() for output in tf.nest.flatten(traced(tf.constant(images)))]


def in_batches(forward: Callable[[np.ndarray], list[np.ndarray]], images: np.ndarray) -> list[np.ndarray]:
    parts = [forward(images[i : i + BATCH].astype(np.float32)) for i in range(0, len(images), BATCH)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def through_onnx(model: keras.Model) -> Callable[[np.ndarray], list[np.ndarray]]:
    import tensorflow as tf
    import tf2onnx  # before ONNX Runtime, because importing that writes to the home folder

    import onnxruntime  # isort: skip

    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="pixels")]
    function = tf.function(lambda pixels: model(pixels, training=False), input_signature=signature)
    graph, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=18)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"pixels": images})


def forward_stages(model: keras.Model, images: np.ndarray) -> tuple[dict[str, Stage], dict[str, str]]:
    """Return a stage per engine, by the names of the table, and the reasons for skipped engines."""
    stages: dict[str, Stage] = {
        "Model.predict": lambda: model.predict(images.astype(np.float32), batch_size=BATCH, verbose=0)
    }
    skipped = {}
    makers: dict[str, Callable[[], Stage]] = {
        "TensorFlow, traced": lambda: of(in_batches, compiled(lambda pixels: model(pixels, training=False)), images),
        "TensorFlow, frozen graph": lambda: of(build_engine(model, "tensorflow"), images),
        "OpenVINO": lambda: of(build_engine(model, "openvino"), images),
        "ONNX Runtime": lambda: of(in_batches, through_onnx(model), images),
    }
    for name, make in makers.items():
        try:
            stages[name] = make()
        except (ImportError, UserError) as error:
            skipped[name] = str(error)
    return stages, skipped


def of(function: Callable[..., Any], *arguments: Any) -> Stage:
    return lambda: function(*arguments)


def median_seconds(stages: dict[str, Stage], rounds: int) -> dict[str, float]:
    """Return the median seconds of every stage; a first round for tracing and caches is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(rounds + 1):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def differences(stages: dict[str, Stage]) -> dict[str, dict[str, float]]:
    """Return the largest differences of all engines from the first, which is Keras in float32."""
    results = {name: stage() for name, stage in stages.items()}
    expected = next(iter(results.values()))
    return {
        name: {
            "largest_absolute_difference": max(
                float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True)
            ),
            "largest_relative_difference": max_relative_error(outputs, expected),
        }
        for name, outputs in results.items()
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    before = machine()
    raw = read_images(options.train, options.images)
    images = np.stack([transform(data, to_square(SIZE)) for data in raw])
    keys = np.random.default_rng(0).integers(0, 2**63, len(images), dtype=np.uint64)
    light = AugmentationConfig(**yaml.safe_load((conf_dir() / "augmentation" / "light.yaml").read_text()))
    backbone = build_backbone(
        BackboneConfig(
            "keras.applications.MobileNetV2",
            {"alpha": 1.0},
            options.weights,
            SIZE,
            "minus_one_to_one",
            False,
            "squeeze",
        )
    )
    cuts = [find_cut(backbone, 0), find_cut(backbone, UNFREEZE_DEPTH)]
    engines, skipped = forward_stages(prefix(backbone, "minus_one_to_one", cuts), images)
    layers = keras_augmentation(light)
    stages: dict[str, Stage] = {
        "decode and resize, one thread": lambda: [transform(data, to_square(SIZE)) for data in raw],
        "decode and resize, all threads": lambda: list(
            in_threads(lambda data: transform(data, to_square(SIZE)), raw, "decoding")
        ),
        "augment, catsdogs": lambda: augment(images, keys, light, seed=1, view=0),
        "augment, five Keras layers": lambda: layers(images),
        **engines,
    }
    seconds, off = median_seconds(stages, options.rounds), differences(engines)
    rates = {name: round(len(images) / value, 1) for name, value in seconds.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": before,
        "versions": {**versions(), "onnxruntime": version("onnxruntime"), "tf2onnx": version("tf2onnx")},
        "images": {"count": len(images), "size": SIZE, "drawn": options.train is None},
        "prefix": {
            "backbone": "MobileNetV2 1.0",
            "random_weights": options.weights is None,
            "outputs": [{"layer": cut.layer, "shape": cut.shape} for cut in cuts],
        },
        "rounds": options.rounds,
        "stages": {name: {"images_per_second": rate, **off.get(name, {})} for name, rate in rates.items()},
        "augment_ratio": round(rates["augment, catsdogs"] / rates["augment, five Keras layers"], 1),
        "left_out": skipped,
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_table(result: dict[str, Any]) -> None:
    here = result["machine"]
    print(f"{result['images']['count']} images of {SIZE} px, {here['processor']}, {here['cores']} cores")
    print(f"{'stage':32} {'images/s':>9} {'absolute':>9} {'relative':>9}")
    for name, row in result["stages"].items():
        off = [row.get(f"largest_{kind}_difference") for kind in ("absolute", "relative")]
        print(f"{name:32} {row['images_per_second']:9.1f}", *(" " * 9 if x is None else f"{x:9.1e}" for x in off))
    print(f"augmentation: {result['augment_ratio']} times as fast as the Keras layers")
    for name, reason in result["left_out"].items():
        print(f"{name}: skipped ({reason})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the stages that fill the activation store.")
    parser.add_argument("--train", type=Path, help="zip or folder of images (default: synthetic images)")
    parser.add_argument("--weights", help="weights of MobileNetV2 1.0 at 224: imagenet or a file (default: random)")
    parser.add_argument("--images", type=int, default=256, help="number of images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fill.json")
    options = parser.parse_args()
    result = measure(options)
    files.write_json(options.output, result)
    print_table(result)


if __name__ == "__main__":
    main()
