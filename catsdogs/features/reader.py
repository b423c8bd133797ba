"""Rows + view -> activations at a cut: from the store, or computed by the engine.

What lies below a cut is a fixed function, so its activations for an image and a view are the same in every trial, and
in every job that shares network, images, augmentation and seed. They are filled view by view, when a view is first
asked for, for all cuts of the job in one forward pass.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from catsdogs.base.errors import UserError
from catsdogs.base.files import binary_size
from catsdogs.base.text import format_duration
from catsdogs.config.schema import FeaturesConfig
from catsdogs.data.images import in_threads, pixels_key
from catsdogs.data.views import ORIGINAL, LiveViews, View, Views
from catsdogs.features.engine import InferenceEngine, build_engine
from catsdogs.features.entries import EntrySpec, StoredActivations, StoreFull, bytes_of
from catsdogs.features.keys import digest, identity
from catsdogs.features.store import Store
from catsdogs.network.backbones import LoadedBackbone
from catsdogs.network.cut import PIXELS, Cut, prefix

log = logging.getLogger(__name__)

# Images that go through the network at a time.
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class JobImages:
    """The images of a job and the views in which they are read.

    Attributes:
        pixels: views of all images.
        hashes: SHA-256 of every image.
        train_rows: rows that are read in training views; int.
        validation_rows: rows that are read unaugmented; int.
        views: number of distinct training views.
    """

    pixels: LiveViews
    hashes: Sequence[str]
    train_rows: np.ndarray
    validation_rows: np.ndarray
    views: int


class FeatureReader:
    """Inputs of the trained suffix: activations at a cut, from the store or computed.

    Safe to read from several threads: the first to read a missing view fills it while the others wait.

    Args:
        cuts: all cuts that the job's trials need.
        cache: the cache folder; activations are stored in its subfolder `features`.

    Attributes:
        problem: the user error that stopped reading. Keras reads in TensorFlow's threads, which wrap it in an error of
            their own.
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
        self._indices = {kind: _indices(rows, len(images.hashes)) for kind, rows in self._rows.items()}
        keys = {
            kind: pixels_key([images.hashes[row] for row in rows], network.settings.image_size)
            for kind, rows in self._rows.items()
            if len(rows)
        }
        # A group is one view at all cuts, filled in one pass.
        self._groups = {
            view: digest(identity(network, self._pixels, keys[view.kind], view))
            for view in (ORIGINAL, *(View("train", number) for number in range(self.views)))
            if view.kind in keys
        }
        self._keys = {
            (cut, view): digest([group, cut.position, list(cut.shape), settings.dtype])
            for view, group in self._groups.items()
            for cut in self._cuts
        }
        self._open: dict[tuple[Cut, View], StoredActivations] = {}
        self._engines: dict[tuple[Cut, ...], InferenceEngine] = {}
        self._lock = threading.RLock()
        self.problem: UserError | None = None

    def prepare(self) -> None:
        """Say how large the activations are, store them where there is room, and fill what every trial needs first."""
        if not self._cuts:
            log.info("no part of the network is frozen: there is nothing to store")
        if self._stored:
            self._settle()
        for cut, view in self._keys:
            if self._stored and view.number == 0:
                self._activations(cut, view)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around all reading: the UserError that it ended with is raised as it was, and no fill outlives it."""
        try:
            yield
        except Exception:
            if self.problem is not None:
                raise self.problem from None
            raise
        finally:
            # Another thread may be in the middle of a fill, as after Ctrl-C.
            self._closed.set()
            # TensorFlow keeps what its threads have read from, and the maps would count as memory of this process.
            self._open.clear()

    def summary(self) -> dict[str, Any]:
        """For the record: how the inputs came about."""
        return {
            "stored": self._stored,
            "views": self.views,
            "dtype": self._settings.dtype if self._stored else "float32",
            "cuts": {cut.layer: list(cut.shape) for cut in self._cuts},
            # Empty where everything was stored before.
            "engines": sorted({engine.name for engine in self._engines.values()}),
        }

    def at_cut(self, cut: Cut) -> Views:
        """The inputs of the part of the network above this cut."""
        return self._pixels if cut.layer == PIXELS else _AtCut(self, cut)

    def read(self, cut: Cut, rows: np.ndarray, view: View) -> np.ndarray:
        """Activations float32 (B, *cut.shape) of these rows, seen through this view."""
        if self._stored and (cut, view) in self._keys:
            indices = self._indices[view.kind][rows]
            if (indices >= 0).all() and (stored := self._activations(cut, view)) is not None:
                return stored.read(indices)
        with self._lock:
            return self._forward((cut,))(self._pixels.read(rows, view))[0]

    def _settle(self) -> None:
        """Decide between stored and live, and say so."""
        sizes = {
            key: bytes_of(cut.shape, len(self._rows[view.kind]), self._settings.dtype)
            for (cut, view), key in self._keys.items()
        }
        missing = sum(size for key, size in sizes.items() if self._store.open(key) is None)
        what = (
            f"activations of {self.views} views of {len(self._rows['train'])} images and of {len(self._rows['plain'])} "
            f"validation images at {', '.join(f'{cut.layer} ({cut.values:,} values)' for cut in self._cuts)}"
        )
        room = self._store.room(keep=sizes)
        if missing > room:
            log.warning(
                f"{what}: {binary_size(missing)} to be stored, but there is room for {binary_size(room)}; they are "
                "computed anew for every batch, which is slower (free the disk, raise features.max_gib, or take fewer "
                "features.views or features.dtype=float16)"
            )
            self._stored = False
            return
        log.info("%s: %s, of which %s to be filled", what, binary_size(sum(sizes.values())), binary_size(missing))

    def _activations(self, cut: Cut, view: View) -> StoredActivations | None:
        """What is stored of a view, filled if need be; None if it could not be."""
        with self._lock:
            if (cut, view) not in self._open:
                key = self._keys[cut, view]
                try:
                    found = self._store.open(key)
                    if found is None:
                        self._fill(view)
                        found = self._store.open(key)
                    if found is None:  # two jobs that do not fit together would go on so
                        raise StoreFull("another job evicted the activations of a view as soon as they were stored")
                except StoreFull as error:
                    log.warning("%s; activations are computed anew for every batch from here on", error)
                    self._stored = False
                    return None
                except UserError as error:
                    self.problem = error
                    raise
                self._open[cut, view] = found
            return self._open[cut, view]

    def _fill(self, view: View) -> None:
        told = {
            **dataclasses.asdict(self._network.settings),
            "view": f"{view.kind} {view.number}",
            "augmentation": dataclasses.asdict(self._pixels.augmentation),
            "engine": self._forward(tuple(self._cuts)).name,
        }
        wanted = [EntrySpec(self._keys[cut, view], cut.shape, {**told, "cut": cut.layer}) for cut in self._cuts]
        images, dtype = len(self._rows[view.kind]), self._settings.dtype
        produce = partial(self._produce, view)
        self._store.fill(self._groups[view], wanted, images, dtype, produce, self._keys.values())

    def _produce(self, view: View, indices: list[int]) -> Iterator[Sequence[np.ndarray]]:
        """Activations of all images of a view, chunk by chunk, at the cuts of these indices."""
        rows = self._rows[view.kind]
        seen = "validation images" if view.kind == "plain" else f"training view {view.number + 1} of {self.views}"
        what = f"activations of {seen}"
        forward = self._forward(tuple(self._cuts))
        began = time.monotonic()
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        # Threads augment the chunks ahead while the network runs.
        for images in in_threads(lambda chunk: self._pixels.read(chunk, view), chunks, what, ahead=4):
            if self._closed.is_set():
                raise InterruptedError("the job has ended")
            outputs = forward(images)
            yield [outputs[index] for index in indices]
        seconds = time.monotonic() - began
        log.info("%s: %d images in %s (%.0f/s)", what, len(rows), format_duration(seconds), len(rows) / seconds)

    def _forward(self, cuts: tuple[Cut, ...]) -> InferenceEngine:
        if cuts not in self._engines:
            model = prefix(self._network.backbone, self._network.settings.preprocessing, cuts)
            engine = self._engines[cuts] = build_engine(model, self._settings.engine)
            log.info("frozen part by %s, within %.0e of Keras", engine.name, engine.difference)
        return self._engines[cuts]


@dataclasses.dataclass(frozen=True)
class _AtCut:
    """`Views` at one cut."""

    features: FeatureReader
    cut: Cut

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """float32 (B, *cut.shape)."""
        return self.features.read(self.cut, rows, view)


def _indices(rows: np.ndarray, images: int) -> np.ndarray:
    indices = np.full(images, -1)
    indices[rows] = np.arange(len(rows))
    return indices
