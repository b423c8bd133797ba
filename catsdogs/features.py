"""Rows + view -> activations at a cut: from the store, or computed by the engine.

What lies below a cut is a fixed function, so its activations for an image and a view are the same in every trial, and
in every job that shares network, images, augmentation and seed. They are filled view by view, when a view is first
asked for, for all cuts of the job in one forward pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catsdogs.activations import Activations, StoreFull, Wanted, bytes_of
from catsdogs.backbones import Network
from catsdogs.cut import PIXELS, Cut, prefix
from catsdogs.engine import Forward, fastest_forward
from catsdogs.errors import UserError
from catsdogs.feature_keys import about, digest, identity
from catsdogs.files import binary_size
from catsdogs.images import in_threads, pixels_key
from catsdogs.progress import duration
from catsdogs.schema import Features as Settings
from catsdogs.store import Store
from catsdogs.views import PLAIN, LiveViews, View, Views

log = logging.getLogger(__name__)

# Images that go through the network at a time.
CHUNK = 64


@dataclass(frozen=True)
class _Part:
    """Images that are stored together."""

    rows: np.ndarray
    positions: np.ndarray  # of every row in the stored file; -1 where it is not part of it
    pixels_key: str


class Features:
    """Inputs of the trained part of a network.

    Attributes:
        views: number of distinct training views.
        problem: the mistake that reading ended with. Keras reads in threads of TensorFlow, which make it an error of
            theirs on its way.

    Safe to read from several threads; what is missing is filled by whoever asks first while the others wait.

    Args:
        pixels: of all images.
        hashes: sha256 of every image.
        cuts: all that the job's trials need.
        train_rows: rows that are read through training views.
        validation_rows: rows that are read as they are.
        views: number of distinct training views.
        cache: the cache folder; activations lie in `features` in it.
    """

    def __init__(
        self,
        settings: Settings,
        network: Network,
        cuts: Sequence[Cut],
        pixels: LiveViews,
        hashes: Sequence[str],
        train_rows: np.ndarray,
        validation_rows: np.ndarray,
        views: int,
        cache: Path,
    ) -> None:
        self._settings = settings
        self._network = network
        self._cuts = [cut for cut in dict.fromkeys(cuts) if cut.layer != PIXELS]
        self._pixels = pixels
        self.views = views
        self._closed = threading.Event()
        self._store = Store(cache / "features", int(settings.max_gib * 2**30), self._closed)
        self._stored = settings.mode != "live" and bool(self._cuts)
        size = network.settings.image_size
        self._parts = {
            kind: _part(rows, hashes, size)
            for kind, rows in (("train", train_rows), ("plain", validation_rows))
            if len(rows)
        }
        self._open: dict[tuple[Cut, View], Activations] = {}
        self._engines: dict[tuple[Cut, ...], Forward] = {}
        self._lock = threading.RLock()
        self.problem: UserError | None = None

    def prepare(self) -> None:
        """Say how large the activations are, store them where there is room, and fill what every trial needs first."""
        if not self._cuts:
            log.info("no part of the network is frozen: there is nothing to store")
            return
        if self._stored:
            self._settle()
        if self._stored:
            for view in (PLAIN, View("train", 0)):
                for cut in self._cuts if view.kind in self._parts else ():
                    self._activations(cut, view)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around all reading: a mistake that it ended with is raised as it was, and no fill outlives it.

        Raises:
            UserError: what was stored cannot be read, or what is to be stored cannot be written.
        """
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

    def __len__(self) -> int:
        return len(self._pixels)

    def told(self) -> dict[str, Any]:
        """For the record: how the inputs came about."""
        return {
            "stored": self._stored,
            "views": self.views,
            "dtype": self._settings.dtype if self._stored else "float32",
            "cuts": {cut.layer: list(cut.shape) for cut in self._cuts},
            # Empty where everything was stored before.
            "engines": sorted({engine.name for engine in self._engines.values()}),
        }

    def at(self, cut: Cut) -> Views:
        """The inputs of the part of the network above this cut."""
        return self._pixels if cut.layer == PIXELS else _AtCut(self, cut)

    def read(self, cut: Cut, rows: np.ndarray, view: View) -> np.ndarray:
        """Activations float32 (B, *cut.shape) of these rows, seen through this view."""
        part = self._parts.get(view.kind)
        if self._stored and part is not None:
            positions = part.positions[rows]
            if (positions >= 0).all():
                stored = self._activations(cut, view)
                if stored is not None:
                    return stored.read(positions)
        with self._lock:
            return self._forward((cut,))(self._pixels.read(rows, view))[0]

    def _settle(self) -> None:
        """Decide between stored and live, and say so."""
        all_views = [View("train", number) for number in range(self.views)] + [PLAIN]
        wanted = [(cut, view) for view in all_views for cut in self._cuts if view.kind in self._parts]
        sizes = {self._key(cut, view): self._bytes(cut, view) for cut, view in wanted}
        missing = sum(size for key, size in sizes.items() if self._store.open(key) is None)
        what = (
            f"activations of {self.views} views of {self._count('train')} images and of {self._count('plain')} "
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

    def _count(self, kind: str) -> int:
        return len(self._parts[kind].rows) if kind in self._parts else 0

    def _bytes(self, cut: Cut, view: View) -> int:
        return bytes_of(cut.shape, len(self._parts[view.kind].rows), self._settings.dtype)

    def _activations(self, cut: Cut, view: View) -> Activations | None:
        """What is stored of a view, filled if need be; None if it could not be."""
        with self._lock:
            if (cut, view) not in self._open:
                key = self._key(cut, view)
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
        part = self._parts[view.kind]
        wanted = [Wanted(self._key(cut, view), cut.shape, self._about(cut, view)) for cut in self._cuts]
        mine = {self._key(cut, View("train", number)) for cut in self._cuts for number in range(self.views)}
        mine |= {self._key(cut, PLAIN) for cut in self._cuts if "plain" in self._parts}
        self._store.fill(
            self._group(view), wanted, len(part.rows), self._settings.dtype, lambda of: self._produce(view, of), mine
        )

    def _produce(self, view: View, indices: list[int]) -> Iterator[Sequence[np.ndarray]]:
        """Activations of all images of a view, chunk by chunk, at the cuts of these indices."""
        rows = self._parts[view.kind].rows
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
        log.info("%s: %d images in %s (%.0f/s)", what, len(rows), duration(seconds), len(rows) / seconds)

    def _forward(self, cuts: tuple[Cut, ...]) -> Forward:
        if cuts not in self._engines:
            model = prefix(self._network.backbone, self._network.settings.preprocessing, cuts)
            self._engines[cuts] = fastest_forward(model, self._settings.engine)
            engine = self._engines[cuts]
            log.info("frozen part by %s, within %.0e of Keras", engine.name, engine.difference)
        return self._engines[cuts]

    def _group(self, view: View) -> str:
        """What is filled in one go: a view at all cuts."""
        return digest(identity(self._network, self._pixels, self._parts[view.kind].pixels_key, view))

    def _key(self, cut: Cut, view: View) -> str:
        return digest([self._group(view), cut.position, list(cut.shape), self._settings.dtype])

    def _about(self, cut: Cut, view: View) -> dict[str, Any]:
        images, engine = len(self._parts[view.kind].rows), self._forward(tuple(self._cuts)).name
        return about(self._network, self._pixels, cut, view, images, engine)


class _AtCut:
    """`Views` at one cut."""

    def __init__(self, features: Features, cut: Cut) -> None:
        self._features = features
        self._cut = cut

    def __len__(self) -> int:
        return len(self._features)

    def read(self, rows: np.ndarray, view: View) -> np.ndarray:
        """float32 (B, *cut.shape)."""
        return self._features.read(self._cut, rows, view)


def _part(rows: np.ndarray, hashes: Sequence[str], size: int) -> _Part:
    positions = np.full(len(hashes), -1)
    positions[rows] = np.arange(len(rows))
    return _Part(rows, positions, pixels_key([hashes[row] for row in rows], size))
