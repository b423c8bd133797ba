"""Keras model -> its forward pass by the fastest faithful engine that is installed.

MobileNetV2 at 224 px on two cores: OpenVINO 300 images/s, the frozen TensorFlow graph 130, Keras' own predict 90; all
in float32, and within 1e-5 of each other (`benchmarks/fill.py`).
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catsdogs.base.errors import UserError
from catsdogs.base.processes import thread_limit
from catsdogs.network.devices import accelerators, without_distribution

Run = Callable[[np.ndarray], list[np.ndarray]]

# Engines that work in float32 agree to about 5e-6 of the largest value; bfloat16 or a wrong output is off by 1e-2.
TOLERANCE = 1e-4

# More than OpenVINO takes at once for images of 224 px and above, so that the probe also covers a batch in parts.
_PROBE_IMAGES = 5

_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """Why an engine cannot be used for this model, here."""


@dataclass(frozen=True)
class InferenceEngine:
    """The forward pass of a model, with the weights that the model had when it was made.

    It may be called from any thread, but from one at a time.
    """

    name: str  # engine and version, for the keys of what it computes: "openvino 2026.4.1"
    difference: float  # from Keras on the probe, as `difference` has it
    run: Run

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Run the model in inference mode.

        Args:
            images: (B, S, S, 3) uint8 or float32, RGB, 0..255; only read. Hundreds at once are somewhat faster than 32.

        Returns:
            float32 (B, ...), newly made, for every output of the model in its order.
        """
        return self.run(images)


def build_engine(model: keras.Model, engine: str = "auto") -> InferenceEngine:
    """Hand a model to an engine, and make sure that it computes what Keras computes.

    A few made-up images go through the engine and through Keras. An engine that differs by more than `TOLERANCE`, gives
    values that are not finite, or cannot take the model is refused: with a warning and the next engine if engine is
    auto, else with an error.

    Args:
        model: float32, from pixels (B, S, S, 3) in 0..255 to one output or a list of outputs. Later changes of its
            weights may or may not show.
        engine: openvino (on the CPU), tensorflow, keras, or auto: openvino if it is installed and Keras has no GPU,
            else tensorflow, and keras where Keras' backend is another.

    Raises:
        UserError: the engine that was asked for cannot be used, or the model gives values that are not finite.
    """
    probe = _probe(model.input_shape[1])
    expected = _through_keras(model, probe)
    if not all(np.isfinite(output).all() for output in expected):
        raise UserError(
            f"{model.name} turns images into values that are not finite: its weights are damaged, or of another network"
        )
    for name in _in_order_of_speed() if engine == "auto" else [engine]:
        try:
            return _checked(name, model, probe, expected)
        except _Unusable as problem:
            if engine != "auto":
                raise UserError(f"features.engine={name}: {problem}; pass features.engine=auto") from problem
            _log.warning("features.engine=auto: not %s for %s: %s", name, model.name, problem)
    raise AssertionError("Keras differs from itself")


def max_relative_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest |found - expected| relative to the largest |expected| of an output, and of all outputs the largest.

    Where all of an output is below 1, relative to 1: probabilities that are next to nothing need not agree in theirs.
    It is infinite where numbers of outputs, shapes or dtypes differ, or a value is not finite.
    """
    if [(a.shape, a.dtype) for a in found] != [(a.shape, a.dtype) for a in expected]:
        return np.inf
    relative = [0.0]
    for a, b in zip(found, expected, strict=True):
        relative.append(float(np.abs(a - b).max(initial=0)) / max(1.0, float(np.abs(b).max(initial=0))))
    return float(max(relative)) if np.isfinite(relative).all() else np.inf


def _checked(engine: str, model: keras.Model, probe: np.ndarray, expected: list[np.ndarray]) -> InferenceEngine:
    try:
        name, run = _ENGINES[engine](model)
        found = run(probe)
    except _Unusable:
        raise
    except Exception as error:  # what OpenVINO and TensorFlow raise of a model that they cannot take has no common base
        text = " ".join(str(error).split())[:200]
        raise _Unusable(f"it cannot take the model ({type(error).__name__}: {text})") from error
    off = max_relative_error(found, expected)
    if not off <= TOLERANCE:
        raise _Unusable(
            f"{name} gives outputs that differ from Keras' by {off:.1e} of the largest value, where {TOLERANCE:.0e} is "
            "allowed"
        )
    return InferenceEngine(name, off, run)


def _probe(side: int) -> np.ndarray:
    """(5, S, S, 3) uint8, always the same: patches of colour under noise, so that filters of every size answer."""
    rng = np.random.default_rng(0)
    patch = -(-side // 4)
    colours = rng.integers(0, 256, (_PROBE_IMAGES, 4, 4, 3)).repeat(patch, axis=1).repeat(patch, axis=2)
    noise = rng.integers(-40, 41, (_PROBE_IMAGES, side, side, 3))
    return np.clip(colours[:, :side, :side] + noise, 0, 255).astype(np.uint8)


def _in_order_of_speed() -> list[str]:
    """The engines that can work here; Keras itself is last and always can."""
    engines = ["keras"]
    if keras.backend.backend() == "tensorflow":
        engines.insert(0, "tensorflow")
        if not accelerators() and importlib.util.find_spec("openvino") is not None:
            engines.insert(0, "openvino")
    return engines


def _through_keras(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    with without_distribution():
        outputs = model.predict_on_batch(images.astype(np.float32))
    return [np.asarray(output) for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def _keras_engine(model: keras.Model) -> tuple[str, Run]:
    name = f"keras ({keras.backend.backend()}) {keras.__version__}"
    return name, lambda images: _through_keras(model, images)


def _tensorflow_engine(model: keras.Model) -> tuple[str, Run]:
    frozen = _frozen(model)
    import tensorflow as tf

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = frozen(tf.cast(tf.constant(images), tf.float32))
        return [output.numpy() for output in tf.nest.flatten(outputs)]

    return f"tensorflow {tf.__version__}", run


def _frozen(model: keras.Model) -> Any:
    """The model as one TensorFlow graph from float32 pixels, its weights constants.

    With constants TensorFlow folds normalisation into the convolutions, which makes it 1.5 times as fast; and OpenVINO
    reads such a graph in half the time of `openvino.convert_model`.
    """
    if keras.backend.backend() != "tensorflow":
        raise _Unusable(f"it needs Keras' TensorFlow backend, and KERAS_BACKEND is {keras.backend.backend()}")
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    traced = tf.function(lambda images: model(images, training=False), input_signature=[pixels])
    return convert_variables_to_constants_v2(traced.get_concrete_function())


def _openvino_engine(model: keras.Model) -> tuple[str, Run]:
    openvino = _import_openvino()
    frozen = _frozen(model)
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.io.write_graph(frozen.graph, folder, "model.pb", as_text=False)
        graph = openvino.Core().read_model(str(Path(folder) / "model.pb"))
    return f"openvino {openvino.__version__.split('-')[0]}", _OpenVino(graph, len(model.outputs))


def _import_openvino() -> Any:
    """OpenVINO, without telling its maker: its import sends a message, unless the package for that is missing."""
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import openvino
    except ImportError as error:
        raise _Unusable("OpenVINO is not installed (pip install 'catsdogs[fast]')") from error
    finally:
        if hidden:
            del sys.modules[telemetry]
    return openvino


class _OpenVino:
    """A graph compiled by OpenVINO for a fixed number of images, several of which are under way at a time.

    Parts of a few images, one per stream, stay in a core's cache. A fixed number of them is a tenth faster than any
    number, and what an image gives does not depend on how many came with it; the last part is filled up with black.
    """

    def __init__(self, graph: Any, outputs: int) -> None:
        side = graph.inputs[0].partial_shape[1].get_length()
        # The fastest of 1, 2, 4, 8, 16 at 224 px; in proportion for other sizes.
        self._part = int(np.clip(200_000 // side**2, 1, 16))
        graph.reshape([self._part, side, side, 3])
        self._graph = graph
        # By name: in the graph's own order, output 10 comes before output 2.
        self._outputs = [f"Identity_{i}:0" if i else "Identity:0" for i in range(outputs)]
        self._queues = {np.dtype(np.uint8): self._queue("u8")}

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        if images.dtype not in self._queues:
            self._queues[images.dtype] = self._queue("f32")
        queue, part = self._queues[images.dtype], self._part
        results = [np.empty((len(images), *self._graph.output(name).shape[1:]), np.float32) for name in self._outputs]
        try:
            for start in range(0, len(images), part):
                chunk = images[start : start + part]
                # Copied, not shared: a request that was given the caller's memory keeps it, and a later one that
                # copies its pixels would copy them there.
                queue.start_async([self._filled_up(chunk)], (results, start), share_inputs=False)
        finally:
            queue.wait_all()
        return results

    def _filled_up(self, images: np.ndarray) -> np.ndarray:
        if len(images) == self._part:
            return images
        full = np.zeros((self._part, *images.shape[1:]), images.dtype)
        full[: len(images)] = images
        return full

    def _queue(self, pixels: str) -> Any:
        import openvino
        from openvino.preprocess import PrePostProcessor

        converting = PrePostProcessor(self._graph.clone())
        converting.input().tensor().set_element_type(getattr(openvino.Type, pixels))
        # Pinned, the streams of several jobs would share the first cores and leave the others idle. The precision is
        # not left to OpenVINO, which takes bfloat16 where the processor has it.
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,
        }
        limit = thread_limit()
        if limit is not None:
            settings["INFERENCE_NUM_THREADS"] = limit
        queue = openvino.AsyncInferQueue(openvino.Core().compile_model(converting.build(), "CPU", settings))
        queue.set_callback(self._keep)
        return queue

    def _keep(self, request: Any, place: tuple[list[np.ndarray], int]) -> None:
        """Copy what a finished request gives to its place, before the next one takes its memory."""
        results, start = place
        for result, name in zip(results, self._outputs, strict=True):
            rows = result[start : start + self._part]
            rows[:] = request.get_tensor(name).data[: len(rows)]


_ENGINES: dict[str, Callable[[keras.Model], tuple[str, Run]]] = {
    "openvino": _openvino_engine,
    "tensorflow": _tensorflow_engine,
    "keras": _keras_engine,
}
