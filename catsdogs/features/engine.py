"""Inference engines: the forward pass of a Keras model by the fastest installed engine that matches Keras.

MobileNetV2 at 224 px on two cores: OpenVINO 300 images/s, a frozen TensorFlow graph 130, Keras' predict 90. All compute
in float32 and agree to 1e-5 (`benchmarks/fill.py`).
"""

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from catsdogs.base.errors import UserError
from catsdogs.base.processes import thread_limit
from catsdogs.network.devices import accelerators, without_distribution

Run = Callable[[np.ndarray], list[np.ndarray]]

# Engines that compute in float32 agree to about 5e-6 of the largest value; bfloat16 or a wrong output differs by 1e-2.
TOLERANCE = 1e-4

# More than OpenVINO processes at once for images of 224 px or larger, to test a batch in several parts too.
_PROBE_IMAGES = 5

_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """The reason why an engine cannot be used for a model on this machine."""


@dataclass(frozen=True)
class InferenceEngine:
    """The forward pass of a model, with its weights at the time of construction.

    It may be called from any thread, but only from one at a time.
    """

    name: str  # engine and version, recorded with its outputs: "openvino 2026.4.1"
    difference: float  # `max_relative_error` to Keras on the probe
    run: Run

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return a new array float32 (B, ...) for every output of the model in inference mode, in order.

        `images`: (B, S, S, 3) uint8, RGB; not modified. Hundreds are slightly faster than 32.
        """
        return self.run(images)


def build_engine(model: keras.Model, engine: str = "auto") -> InferenceEngine:
    """Build an engine for a model and check its outputs against Keras.

    An engine is rejected if it differs by more than `TOLERANCE` on a few synthetic images, returns non-finite values or
    cannot run the model. With `engine="auto"`, a warning is logged and the next engine is tried; with another, and if
    Keras returns non-finite values, a `UserError` is raised.

    `model` is float32, from pixels (B, S, S, 3) in 0..255 to one output or a list of outputs; later changes of its
    weights may have no effect. `auto` is openvino if it is installed and Keras has no GPU, then tensorflow if it is
    Keras' backend, then keras.
    """
    probe = _probe(model.input_shape[1])
    expected = _through_keras(model, probe)
    if not all(np.isfinite(output).all() for output in expected):
        problem = "has outputs that are not finite, so its weights are corrupted or of another network"
        raise UserError(f"backbone.weights: model {model.name} {problem}; download or train them again")
    names = [engine]
    if engine == "auto":
        openvino = not accelerators() and importlib.util.find_spec("openvino") is not None
        names = [*(["openvino"] if openvino else []), "tensorflow"] if keras.backend.backend() == "tensorflow" else []
        names.append("keras")
    for name in names:
        try:
            return _checked(name, model, probe, expected)
        except _Unusable as problem:
            if engine != "auto":
                raise UserError(f"features.engine={name}: {problem}; set features.engine=auto") from problem
            _log.warning("features.engine=auto: skipping %s for model %s: %s", name, model.name, problem)
    raise AssertionError("Keras must match itself")


def max_relative_error(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest relative error of any output: max |output - expected| / max(1, max |expected|).

    The error is infinite if the number of outputs, a shape or a dtype differs, or a value is not finite.
    """
    if [(a.shape, a.dtype) for a in outputs] != [(a.shape, a.dtype) for a in expected]:
        return np.inf
    pairs = zip(outputs, expected, strict=True)
    relative = [0.0, *(np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1) for a, b in pairs)]
    return float(max(relative)) if np.isfinite(relative).all() else np.inf


def _checked(engine: str, model: keras.Model, probe: np.ndarray, expected: list[np.ndarray]) -> InferenceEngine:
    try:
        name, run = _ENGINES[engine](model)
        outputs = run(probe)
    except _Unusable:
        raise
    except Exception as error:  # OpenVINO and TensorFlow have no common base class for unsupported models
        text = " ".join(str(error).split())[:200]
        raise _Unusable(f"cannot run the model ({type(error).__name__}: {text})") from error
    difference = max_relative_error(outputs, expected)
    if not difference <= TOLERANCE:
        limit = f"of the largest value (limit: {TOLERANCE:.0e})"
        raise _Unusable(f"outputs of {name} differ from Keras by {difference:.1e} {limit}")
    return InferenceEngine(name, difference, run)


def _probe(side: int) -> np.ndarray:
    """Return fixed images (5, S, S, 3) uint8: noisy color patches, which excite filters of every size."""
    rng = np.random.default_rng(0)
    patch = -(-side // 4)
    colors = rng.integers(0, 256, (_PROBE_IMAGES, 4, 4, 3)).astype(np.uint8)
    images = colors.repeat(patch, axis=1).repeat(patch, axis=2)[:, :side, :side]
    return (images + rng.integers(-40, 41, images.shape, np.int16)).clip(0, 255).astype(np.uint8)


def _through_keras(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    with without_distribution():
        outputs = model.predict_on_batch(images.astype(np.float32))
    return [np.asarray(output) for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


def _tensorflow_engine(model: keras.Model) -> tuple[str, Run]:
    frozen = _frozen(model)
    import tensorflow as tf

    def run(images: np.ndarray) -> list[np.ndarray]:
        outputs = frozen(tf.cast(tf.constant(images), tf.float32))
        return [output.numpy() for output in tf.nest.flatten(outputs)]

    return f"tensorflow {tf.__version__}", run


def _frozen(model: keras.Model) -> Any:
    """Return the model as one TensorFlow graph from float32 pixels, with constant weights.

    Constant weights let TensorFlow fold normalization into the convolutions, which is 1.5 times as fast. OpenVINO reads
    such a graph in half the time of `openvino.convert_model`.
    """
    if keras.backend.backend() != "tensorflow":
        raise _Unusable(f"requires KERAS_BACKEND=tensorflow (now {keras.backend.backend()})")
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    traced = tf.function(lambda images: model(images, training=False), input_signature=[pixels])
    return convert_variables_to_constants_v2(traced.get_concrete_function())


def _openvino_engine(model: keras.Model) -> tuple[str, Run]:
    # Without telemetry: the import of the package through which OpenVINO reports usage fails.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise _Unusable("OpenVINO is not installed (pip install 'catsdogs[fast]')") from error
    frozen = _frozen(model)
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.io.write_graph(frozen.graph, folder, "model.pb", as_text=False)
        graph = openvino.Core().read_model(str(Path(folder) / "model.pb"))
    return f"openvino {openvino.__version__.split('-')[0]}", _OpenVino(graph, len(model.outputs))


class _OpenVino:
    """A graph compiled by OpenVINO for small parts of a batch, processed in parallel.

    A part fits into a core's cache. A fixed size is 10% faster than a dynamic one and makes outputs independent of the
    batch size. The last part is padded with black images.
    """

    def __init__(self, graph: Any, outputs: int) -> None:
        side = graph.inputs[0].partial_shape[1].get_length()
        # The fastest of 1, 2, 4, 8 and 16 images at 224 px, scaled to other image sizes.
        self._part = int(np.clip(200_000 // side**2, 1, 16))
        graph.reshape([self._part, side, side, 3])
        self._graph = graph
        # By name, because the graph sorts output 10 before output 2.
        self._outputs = [f"Identity_{i}:0" if i else "Identity:0" for i in range(outputs)]

        import openvino
        from openvino.preprocess import PrePostProcessor

        processor = PrePostProcessor(graph.clone())
        processor.input().tensor().set_element_type(openvino.Type.u8)
        # With CPU pinning, several jobs would share the first cores and leave the others idle. The precision is set,
        # because OpenVINO defaults to bfloat16 on processors that support it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
        settings |= {"ENABLE_CPU_PINNING": False}
        if limit := thread_limit():
            settings["INFERENCE_NUM_THREADS"] = limit
        self._queue = openvino.AsyncInferQueue(openvino.Core().compile_model(processor.build(), "CPU", settings))
        self._queue.set_callback(self._copy_outputs)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        part = self._part
        results = [np.empty((len(images), *self._graph.output(name).shape[1:]), np.float32) for name in self._outputs]
        try:
            for start in range(0, len(images), part):
                chunk = images[start : start + part]
                # Not shared: a request keeps memory that is shared with it, and would overwrite the caller's pixels
                # when it is reused.
                missing = [(0, part - len(chunk)), (0, 0), (0, 0), (0, 0)]
                self._queue.start_async([np.pad(chunk, missing)], (results, start), share_inputs=False)
        finally:
            self._queue.wait_all()
        return results

    def _copy_outputs(self, request: Any, target: tuple[list[np.ndarray], int]) -> None:
        """Copy the outputs of a finished request, before the next request overwrites them."""
        results, start = target
        for result, name in zip(results, self._outputs, strict=True):
            rows = result[start : start + self._part]
            rows[:] = request.get_tensor(name).data[: len(rows)]


_ENGINES: dict[str, Callable[[keras.Model], tuple[str, Run]]] = {
    "openvino": _openvino_engine,
    "tensorflow": _tensorflow_engine,
    "keras": lambda model: (f"keras ({keras.backend.backend()}) {keras.__version__}", partial(_through_keras, model)),
}
