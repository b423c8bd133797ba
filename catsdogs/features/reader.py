"""Activations of rows in a view at a cut, read from the store or computed by the engine.

Below a cut the network is a fixed function. All trials, and all jobs with the same network, images, augmentation and
seed, therefore share activations. A view is filled when it is first read, for all cuts of the job in one forward pass.
"""

import dataclasses
import errno
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np

from catsdogs.base.errors import UserError
from catsdogs.base.files import json_digest, sealed_bytes
from catsdogs.base.text import binary_size, format_duration
from catsdogs.config.schema import FeaturesConfig
from catsdogs.data.augment import CACHE_VERSION
from catsdogs.data.images import in_threads, pixels_key
from catsdogs.data.views import ORIGINAL, LiveViews, View, Views
from catsdogs.features.engine import InferenceEngine, build_engine
from catsdogs.features.store import FULL, Store, StoredActivations
from catsdogs.network.backbones import LoadedBackbone
from catsdogs.network.cut import PIXELS, Cut, prefix

log = logging.getLogger(__name__)

_FORMAT = 1  # part of the key of an entry; increment when the meaning of stored values changes
CHUNK = 64  # images per call of the engine

_LIVE = (
    "computing activations for every batch instead, which is slower (to fix: free disk space, raise features.max_gib, "
    "lower features.views, or set features.dtype=float16)"
)


@dataclasses.dataclass(frozen=True)
class JobImages:
    """The images of a job and the views in which they are read."""

    pixels: LiveViews
    hashes: Sequence[str]  # SHA-256 of every image
    train_rows: np.ndarray  # int, read in training views
    validation_rows: np.ndarray  # int, read unaugmented
    views: int  # number of distinct training views


class Fills(NamedTuple):
    """Filling of the activation store by this process."""

    seconds: float  # spent on it, or on waiting for another process that fills it
    views: int  # training views that were read
    total: int  # training views


class FeatureReader:
    """Inputs of the trained suffix: activations at a cut, from the store or computed.

    Safe to read from several threads: the first to read a missing view fills it while the others wait.

    `cuts`: all cuts that the job's trials need. Activations are stored in the subfolder `features` of `cache`.
    """

    def __init__(
        self, settings: FeaturesConfig, network: LoadedBackbone, cuts: Sequence[Cut], images: JobImages, cache: Path
    ) -> None:
        self._settings = settings
        self._network = network
        self._cuts = [cut for cut in dict.fromkeys(cuts) if cut.layer != PIXELS]
        self._pixels = images.pixels
        self.views = images.views
        self._closed = threading.Event()
        self._store = Store(cache / "features", int(settings.max_gib * 2**30), self._closed)
        self._stored = settings.mode != "live" and bool(self._cuts)
        # Rows that are stored together, and the index of every image among them; -1 if it is not one of them.
        self._rows = {"plain": images.validation_rows, "train": images.train_rows}
        self._indices = {kind: np.full(len(images.hashes), -1) for kind in self._rows}
        for kind, rows in self._rows.items():
            self._indices[kind][rows] = np.arange(len(rows))
        keys = {
            kind: pixels_key([images.hashes[row] for row in rows], network.settings.image_size, network.settings.resize)
            for kind, rows in self._rows.items()
            if len(rows)
        }
        # A group is one view at all cuts, filled in one pass.
        self._groups = {
            view: json_digest(_identity(network, self._pixels, keys[view.kind], view))
            for view in (ORIGINAL, *(View("train", number) for number in range(self.views)))
            if view.kind in keys
        }
        self._keys = {
            (cut, view): json_digest([group, cut.position, list(cut.shape), settings.dtype])
            for view, group in self._groups.items()
            for cut in self._cuts
        }
        self._open: dict[tuple[Cut, View], StoredActivations] = {}
        self._engines: dict[tuple[Cut, ...], InferenceEngine] = {}
        self._fill_seconds = 0.0
        self._lock = threading.RLock()
        # The error that stopped reading. Keras reads in TensorFlow's threads, which wrap it in their own error.
        self.problem: UserError | OSError | None = None

    def prepare(self) -> None:
        """Log the size of the activations, decide whether to store them, and compute those needed by every trial."""
        if not self._cuts:
            log.info("activation cache not used: no layer of the network is frozen")
        if self._stored:
            sizes = {
                key: sealed_bytes((len(self._rows[view.kind]), *cut.shape), self._settings.dtype)
                for (cut, view), key in self._keys.items()
            }
            missing = sum(size for key, size in sizes.items() if self._store.open(key) is None)
            room, total = self._store.room(keep=sizes), binary_size(sum(sizes.values()))
            cuts = ", ".join(cut.layer for cut in self._cuts)
            text = f"activation cache for {self.views} training views at {cuts}: {total} in total, "
            text += f"{binary_size(missing)} to compute"
            self._stored = missing <= room
            if self._stored:
                log.info("%s", text)
            else:
                log.warning("%s, but %s are available; %s", text, binary_size(room), _LIVE)
        for cut, view in self._keys:
            if self._stored and view.number == 0:
                self._activations(cut, view)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Re-raise the original error of a failed read, and stop all fills on exit."""
        try:
            yield
        except Exception:
            if self.problem is not None:
                raise self.problem from None
            raise
        finally:
            # Another thread may still be filling, for example after Ctrl-C.
            self._closed.set()
            # TensorFlow keeps this object alive, and open memory maps count as memory of this process.
            self._open.clear()

    def fills(self) -> Fills:
        """Return what was filled so far."""
        views = {view for _, view in list(self._open) if view.kind == "train"}
        return Fills(self._fill_seconds, len(views), self.views if self._stored else 0)

    def summary(self) -> dict[str, Any]:
        """Return the `features` of result.json: how the inputs were computed."""
        return {
            "stored": self._stored,
            "views": self.views,
            "dtype": self._settings.dtype if self._stored else "float32",
            "cuts": {cut.layer: list(cut.shape) for cut in self._cuts},
            # Empty if all activations were already stored.
            "engines": sorted({engine.name for engine in self._engines.values()}),
        }

    def at_cut(self, cut: Cut) -> Views:
        """Return the inputs of the suffix above this cut."""
        return self._pixels if cut.layer == PIXELS else _CutViews(self, cut)

    def read(self, cut: Cut, rows: np.ndarray, view: View) -> np.ndarray:
        """Return the activations float32 (B, *cut.shape) of these rows in this view."""
        if self._stored and (cut, view) in self._keys:
            indices = self._indices[view.kind][rows]
            if (indices >= 0).all() and (stored := self._activations(cut, view)) is not None:
                values = stored.read(indices)
                if np.isfinite(values).all():
                    return values
                # The digest of a large array covers some rows only.
                folder = self._store.folder / self._keys[cut, view]
                log.warning("%s: corrupted (NaN or infinity), delete it; %s", folder, _LIVE)
                self._stored = False
        with self._lock:
            return self._forward((cut,))(self._pixels.read(rows, view))[0]

    def _activations(self, cut: Cut, view: View) -> StoredActivations | None:
        """Return the stored activations of a view, after filling it if needed; None if it cannot be stored."""
        with self._lock:
            if (cut, view) not in self._open:
                key = self._keys[cut, view]
                try:
                    stored = self._store.open(key)
                    if stored is None:
                        images, produce = len(self._rows[view.kind]), partial(self._produce, view)
                        shapes = {self._keys[one, view]: (images, *one.shape) for one in self._cuts}
                        keep = self._keys.values()
                        started = time.monotonic()
                        self._store.fill(self._groups[view], shapes, self._settings.dtype, produce, keep)
                        self._fill_seconds += time.monotonic() - started
                        stored = self._store.open(key)
                    if stored is None:  # two jobs that do not fit together would evict each other forever
                        raise OSError(errno.ENOSPC, "another job evicted activations as soon as they were stored")
                except (OSError, UserError) as error:
                    if not isinstance(error, OSError) or error.errno not in FULL:
                        self.problem = error
                        raise
                    log.warning("%s: %s; %s", self._store.folder, error.strerror, _LIVE)
                    self._stored = False
                    return None
                self._open[cut, view] = stored
            return self._open[cut, view]

    def _produce(self, view: View, keys: list[str]) -> Iterator[Sequence[np.ndarray]]:
        """Yield the activations of a view at the cuts with these keys, in chunks of images."""
        rows = self._rows[view.kind]
        source = "validation images" if view.kind == "plain" else f"training view {view.number + 1}/{self.views}"
        label = f"activations of {source}"
        forward = self._forward(tuple(self._cuts))
        start_time, chunks = time.monotonic(), [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        # Threads augment the chunks ahead while the network runs.
        for images in in_threads(lambda chunk: self._pixels.read(chunk, view), chunks, label, ahead=4):
            if self._closed.is_set():
                raise InterruptedError("the job has stopped")
            outputs = forward(images)
            yield [output for cut, output in zip(self._cuts, outputs, strict=True) if self._keys[cut, view] in keys]
        seconds = time.monotonic() - start_time
        log.info("%s: %d images in %s (%.0f/s)", label, len(rows), format_duration(seconds), len(rows) / seconds)

    def _forward(self, cuts: tuple[Cut, ...]) -> InferenceEngine:
        if cuts not in self._engines:
            model = prefix(self._network.backbone, self._network.settings.preprocessing, cuts)
            engine = self._engines[cuts] = build_engine(model, self._settings.engine)
            difference = f"{engine.difference:.0e}" if engine.difference else "none"
            log.info("frozen prefix runs on %s, difference from Keras: %s", engine.name, difference)
        return self._engines[cuts]


@dataclasses.dataclass(frozen=True)
class _CutViews:
    """The activations at one cut, as `Views`."""

    features: FeatureReader
    cut: Cut

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """Return the activations of these rows, float32 (B, *cut.shape)."""
        return self.features.read(self.cut, rows, view)


def _identity(network: LoadedBackbone, pixels: LiveViews, pixels_key: str, view: View) -> dict[str, Any]:
    """Return everything that determines the activations of a view, apart from the cut, as plain JSON.

    The engine is omitted, because all engines agree with Keras up to rounding. `pixels_key`: `images.pixels_key` of the
    images that are stored together.
    """
    settings = network.settings
    inputs: dict[str, Any] = {"preprocessing": settings.preprocessing, "image_size": settings.image_size}
    inputs |= {"format": _FORMAT, "network": network.digest, "keras": keras.__version__, "pixels": pixels_key}
    inputs["view"] = ["plain", 0]
    # Without augmentation, training views are the original images.
    if view.kind == "train" and not pixels.augmentation.is_identity:
        inputs["view"] = [view.kind, view.number]
        inputs["augmentation"] = dataclasses.asdict(pixels.augmentation)
        inputs["seed"] = pixels.seed
        inputs["augment"] = [CACHE_VERSION, cv2.__version__]
    return inputs
