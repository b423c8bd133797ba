"""How fast images become stored activations: decoding, augmentation, and MobileNetV2's prefix by every engine.

python benchmarks/fill.py [--train train.zip] [--weights FILE] [--images 256] [--output benchmarks/results/fill.json]

Every round runs every stage once, one after the other, so that a busy minute of the machine hits all of them alike;
reported is the median of the rounds. ONNX Runtime is measured where tf2onnx, onnx and onnxruntime are installed.
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
from catsdogs.data.archive import image_paths, open_images
from catsdogs.data.augment import augment
from catsdogs.data.images import decode, in_threads
from catsdogs.data.sample.archives import sample_archives
from catsdogs.features.engine import build_engine, max_relative_error
from catsdogs.network.backbones import build_backbone
from catsdogs.network.cut import find_cut, prefix

SIZE = 224
BATCH = 32
UNFREEZE_DEPTH = 30  # its cut and the pooled vector are the two outputs of the prefix

Stage = Callable[[], Any]


def read_images(train: Path | None, count: int) -> list[bytes]:
    """The bytes of `count` images, spread evenly over the archive; of drawn ones where there is none."""
    with tempfile.TemporaryDirectory() as cache:
        if train is None:
            train, _ = sample_archives(
                SampleConfig(images_per_class=max(8, -(-count // 2)), test_images=1, seed=1), Path(cache)
            )
        root = open_images(train, Path(cache), max_unpacked_bytes=20 * 2**30).root
        readable = []
        paths = image_paths(root)
        for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
            data = (root / paths[place]).read_bytes()
            try:
                decode(data, SIZE)
            except ValueError:  # a corrupt file, which a search leaves out
                continue
            readable.append(data)
        return readable


def keras_augmentation(light: AugmentationConfig) -> Callable[[np.ndarray], Any]:
    """The five layers that come nearest to `light`, as one traced function over batches."""
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
    """A function of float32 images, traced by TensorFlow once for all sizes of batch."""
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32)])
    return lambda images: [output.numpy() for output in tf.nest.flatten(traced(tf.constant(images)))]


def in_batches(forward: Callable[[np.ndarray], list[np.ndarray]], images: np.ndarray) -> list[np.ndarray]:
    parts = [forward(images[i : i + BATCH].astype(np.float32)) for i in range(0, len(images), BATCH)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def through_onnx(model: keras.Model) -> Callable[[np.ndarray], list[np.ndarray]]:
    import tensorflow as tf
    import tf2onnx  # before ONNX Runtime, which writes to the home folder when it is imported

    import onnxruntime  # isort: skip

    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="pixels")]
    function = tf.function(lambda pixels: model(pixels, training=False), input_signature=signature)
    graph, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=18)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"pixels": images})


def forward_stages(model: keras.Model, images: np.ndarray) -> tuple[dict[str, Stage], dict[str, str]]:
    """What runs the model over all images, by the names of the table; and why others are left out."""
    stages: dict[str, Stage] = {
        "Model.predict": lambda: model.predict(images.astype(np.float32), batch_size=BATCH, verbose=0)
    }
    left_out = {}
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
            left_out[name] = str(error)
    return stages, left_out


def of(function: Callable[..., Any], *arguments: Any) -> Stage:
    return lambda: function(*arguments)


def median_seconds(stages: dict[str, Stage], rounds: int) -> dict[str, float]:
    """Median seconds of every stage; a first round, in which things are traced and caches filled, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(rounds + 1):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def differences(stages: dict[str, Stage]) -> dict[str, dict[str, float]]:
    """The largest differences of all engines from the first, which is Keras itself in float32."""
    found = {name: stage() for name, stage in stages.items()}
    expected = next(iter(found.values()))
    return {
        name: {
            "largest_absolute_difference": max(
                float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True)
            ),
            "largest_relative_difference": max_relative_error(outputs, expected),
        }
        for name, outputs in found.items()
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    before = machine()
    raw = read_images(options.train, options.images)
    images = np.stack([decode(data, SIZE) for data in raw])
    keys = np.random.default_rng(0).integers(0, 2**63, len(images), dtype=np.uint64)
    light = AugmentationConfig(**yaml.safe_load((conf_dir() / "augmentation" / "light.yaml").read_text()))
    backbone = build_backbone(
        BackboneConfig(
            "keras.applications.MobileNetV2", {"alpha": 1.0}, options.weights, SIZE, "minus_one_to_one", False
        )
    )
    cuts = [find_cut(backbone, 0), find_cut(backbone, UNFREEZE_DEPTH)]
    forwards, left_out = forward_stages(prefix(backbone, "minus_one_to_one", cuts), images)
    layers = keras_augmentation(light)
    stages: dict[str, Stage] = {
        "decode and resize, one thread": lambda: [decode(data, SIZE) for data in raw],
        "decode and resize, all threads": lambda: list(in_threads(lambda data: decode(data, SIZE), raw, "decoding")),
        "augment, catsdogs": lambda: augment(images, keys, light, seed=1, view=0),
        "augment, five Keras layers": lambda: layers(images),
        **forwards,
    }
    seconds, off = median_seconds(stages, options.rounds), differences(forwards)
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
        "left_out": left_out,
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def print_table(result: dict[str, Any]) -> None:
    here = result["machine"]
    print(f"{result['images']['count']} images of {SIZE} px, {here['processor']}, {here['cores']} cores")
    print(f"{'stage':32} {'images/s':>9} {'off by':>9} {'relative':>9}")
    for name, row in result["stages"].items():
        off = [row.get(f"largest_{kind}_difference") for kind in ("absolute", "relative")]
        print(f"{name:32} {row['images_per_second']:9.1f}", *(" " * 9 if x is None else f"{x:9.1e}" for x in off))
    print(f"augmentation: {result['augment_ratio']} times as fast as the Keras layers")
    for name, reason in result["left_out"].items():
        print(f"{name}: left out, {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the stages that fill the store of activations.")
    parser.add_argument("--train", type=Path, help="zip or folder of images (default: drawn ones)")
    parser.add_argument("--weights", help="weights of MobileNetV2 1.0 at 224, imagenet or a file (default: random)")
    parser.add_argument("--images", type=int, default=256, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="median of how many (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fill.json")
    options = parser.parse_args()
    result = measure(options)
    files.write_json(options.output, result)
    print_table(result)


if __name__ == "__main__":
    main()
