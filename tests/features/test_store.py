"""The store returns exactly the produced values, despite other processes, kills, removals and full disks."""

import errno
import hashlib
import logging
import multiprocessing
import os
import resource
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from catsdogs.base.files import remove, sealed_bytes
from catsdogs.features.store import FULL, RESERVED_DISK_BYTES, Store

SHAPE = (3, 2, 5)
IMAGES = 23
BYTES = sealed_bytes((IMAGES, *SHAPE), "float32")


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


def shapes(*names):
    return {digest(name): (IMAGES, *SHAPE) for name in names}


def values_of(name):
    """Return the values of a name, (IMAGES, *SHAPE) float32."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(2, 3, (IMAGES, *SHAPE)).astype(np.float32)


def producing(*names, calls=None):
    """Return a `produce` of the values of names in chunks of uneven size; it appends the names to `calls`."""
    calls = [] if calls is None else calls

    def produce(missing):
        calls.append([name for name in names if digest(name) in missing])
        for start, end in ((0, 8), (8, 15), (15, IMAGES)):
            yield [values_of(name)[start:end] for name in calls[-1]]

    return produce


def fill(store, *names, keep=(), group="group", dtype="float32", produce=None, calls=None):
    keys = [digest(name) for name in keep]
    store.fill(digest(group), shapes(*names), dtype, produce or producing(*names, calls=calls), keys)


def half(store, *chunks):
    """Store these chunks in float16 and return the values that are read back."""
    fill(store, "half", dtype="float16", produce=lambda _: iter([chunk] for chunk in chunks))
    return read_all(store, "half")


@contextmanager
def full(match):
    """Expect the error of a store without room."""
    with pytest.raises(OSError, match=match) as caught:
        yield
    assert caught.value.errno in FULL


def read_all(store, name):
    activations = store.open(digest(name))
    return None if activations is None else activations.read(np.arange(IMAGES))


def names_of(store):
    names = {digest(name): name for name in (*"abcdefxyz", "kept", "wanted", "left")}
    return [names[entry.key] for entry in store.entries()]


def used_before(store, name, seconds):
    os.utime(store.folder / digest(name) / "about.json", (time.time() - seconds,) * 2)


def unfinished(folder):
    """Return the names of unfinished entries."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".locks"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "features", 100 * BYTES)


def test_reading_in_any_order_returns_the_written_values_and_only_missing_entries_are_produced(store):
    assert (store.entries(), store.open(digest("a")), store.clear()) == ([], None, 0)
    assert store.room([]) == 100 * BYTES
    assert not store.folder.exists()
    names = ("a", "b", "c")
    calls: list[list[str]] = []
    fill(store, "b")
    fill(store, *names, calls=calls)
    assert calls == [["a", "c"]]
    for name in names:
        for positions in (np.arange(IMAGES)[::-1], np.array([5, 22, 5, 0])):
            read = store.open(digest(name)).read(positions)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, values_of(name)[positions])
            read[:] = 7  # must not change the entry
    assert sorted(names_of(store)) == ["a", "b", "c"]
    assert store.entries()[0].bytes == BYTES


def test_float16_is_within_half_a_step_of_the_distance_from_the_mean(store):
    """Channels that are nearly constant in the first chunk are exact if they stay so, and otherwise not clipped."""
    constant = np.full((IMAGES, *SHAPE), 3.1, np.float32)
    np.testing.assert_array_equal(half(store, constant), constant)
    store.clear()
    values = values_of("a")
    values[:9, ..., 0] = 0
    values[:9, ..., 1] = 4 + 1e-6 * values[:9, ..., 1]
    values[..., 2] = 3.1
    values[20, ..., 3] = 1e9
    read = half(store, values[:9], values[9:])
    assert store.entries()[0].bytes < 0.6 * BYTES
    mean = values[:9].reshape(-1, 5).mean(axis=0)
    error, most = np.abs(read - values), 2.0**-11 * np.abs(values - mean) + 1e-6
    assert (error <= most)[..., [0, 1, 4]].all()
    np.testing.assert_array_equal(read[..., 2], values[..., 2])
    assert np.isfinite(read).all()
    assert (read[20, ..., 3] > 40_000).all()


def test_failed_fill_leaves_no_files_and_releases_the_lock(store):
    def failing(missing):
        yield [values_of("a")[:8]]
        raise OSError(errno.ENOENT, "an image is gone")

    with pytest.raises(OSError, match="an image is gone"):
        fill(store, "a", produce=failing)
    assert (store.entries(), unfinished(store.folder)) == ([], [])
    # A limit on the file size simulates a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 2, limits[1]))
        with full("File too large"):
            fill(store, "a", "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (store.entries(), unfinished(store.folder)) == ([], [])
    fill(store, "a")
    np.testing.assert_array_equal(read_all(store, "a"), values_of("a"))


def fill_slowly(folder, seconds_per_chunk, progress):
    """Fill "a" and report every written chunk to a queue."""

    def produce(missing):
        for chunk in producing("a")(missing):
            yield chunk
            progress.put("written")
            time.sleep(seconds_per_chunk)

    fill(Store(folder, 10**9), "a", produce=produce)


@contextmanager
def filling(folder, seconds_per_chunk):
    """Start another process and wait until it has written the first chunk."""
    spawn = multiprocessing.get_context("spawn")
    progress = spawn.Queue()
    process = spawn.Process(target=fill_slowly, args=(folder, seconds_per_chunk, progress), daemon=True)
    process.start()
    try:
        assert progress.get(timeout=60) == "written"
        yield process
    finally:
        process.kill()


def test_only_one_of_two_processes_fills(store):
    calls: list[list[str]] = []
    with filling(store.folder, 0.3):
        fill(store, "a", calls=calls)
        assert calls == []
        np.testing.assert_array_equal(read_all(store, "a"), values_of("a"))


def test_fill_of_a_killed_process_is_ignored_and_removed(store):
    with filling(store.folder, 60) as process:
        # While the process runs, its entry is not visible, and neither clear nor another fill removes its files.
        assert (store.open(digest("a")), store.entries()) == (None, [])
        store.clear()
        fill(store, "b", group="other")
        assert len(unfinished(store.folder)) == 1
        process.kill()
        process.join()
    assert store.open(digest("a")) is None
    fill(store, "a")
    assert unfinished(store.folder) == []
    np.testing.assert_array_equal(read_all(store, "a"), values_of("a"))


def test_fill_stops_waiting_when_the_job_stops(store, caplog):
    caplog.set_level(logging.INFO, "catsdogs")
    closed = threading.Event()
    other = Store(store.folder, store.max_bytes, closed)

    def produce(missing):
        threading.Timer(1.5, closed.set).start()
        with pytest.raises(InterruptedError, match="Interrupted"):
            fill(other, "a")
        assert caplog.messages == ["waiting for another process to store the same activations"]
        yield [values_of("a")]

    fill(store, "a", produce=produce)
    np.testing.assert_array_equal(read_all(store, "a"), values_of("a"))


def test_least_recently_used_entries_are_evicted_first(tmp_path):
    store = Store(tmp_path, 3 * BYTES)
    for age, name in enumerate(["a", "b", "c"]):
        fill(store, name, group=name)
        used_before(store, name, 1000 - age)
    reader = store.open(digest("a"))  # now the most recently used
    assert names_of(store) == ["a", "c", "b"]
    fill(store, "d", group="d")
    assert names_of(store) == ["d", "a", "c"]
    fill(store, "e", "f", group="e")
    assert sorted(names_of(store)) == ["d", "e", "f"]
    assert unfinished(store.folder) == []
    np.testing.assert_array_equal(reader.read(np.arange(IMAGES)), values_of("a"))  # still readable after its removal


def test_kept_and_requested_entries_are_not_evicted(tmp_path):
    store = Store(tmp_path, 4 * BYTES)
    for age, name in enumerate(["kept", "wanted", "a", "b"]):
        fill(store, name)
        used_before(store, name, 1000 - age)
    assert (store.room([]), store.room([digest("kept"), digest("b"), digest("?")])) == (4 * BYTES, 2 * BYTES)
    fill(store, "wanted", "c", keep=["kept"])
    assert sorted(names_of(store)) == ["b", "c", "kept", "wanted"]
    with full(r"8\.6 KiB of activations do not fit"):
        fill(store, "wanted", "d", "e", "f", keep=["kept"])
    assert sorted(names_of(store)) == ["b", "c", "kept", "wanted"]  # no useless eviction


def test_entries_of_a_group_that_is_being_filled_are_not_evicted(tmp_path):
    store = Store(tmp_path, 2 * BYTES)
    fill(store, "a")

    def produce(missing):
        fill(store, "x", group="other")
        with full("do not fit"):
            fill(store, "y", "z", group="third")
        store.clear()
        assert names_of(store) == ["a"]
        yield [values_of("b")]

    fill(store, "a", "b", produce=produce)
    assert sorted(names_of(store)) == ["a", "b"]
    fill(store, "y", "z", group="third")
    assert sorted(names_of(store)) == ["y", "z"]


def test_disk_reserve_stays_free(store, monkeypatch):
    fill(store, "a", group="first")
    disk = 4 * BYTES + RESERVED_DISK_BYTES

    def usage(folder):
        return SimpleNamespace(free=disk - sum(entry.bytes for entry in store.entries()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert (store.room([]), store.room([digest("a")])) == (4 * BYTES, 3 * BYTES)
    with full(r"the disk leave 8\.6 KiB$"):
        fill(store, "b", "c", "d", "e", keep=["a"])
    assert names_of(store) == ["a"]
    fill(store, "b", "c", "d", "e")
    assert sorted(names_of(store)) == ["b", "c", "d", "e"]


def test_clear_removes_old_and_unfinished_entries_only(store, monkeypatch):
    fill(store, "a", "b", "c", "left")
    (store.folder / digest("left")).rename(store.folder / f".filling-{digest('group')}-0123")  # by a killed process
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "photos").mkdir()
    used_before(store, "a", 10 * 86400)
    used_before(store, "b", 2 * 86400)
    assert 2 * BYTES < store.clear(5, dry_run=True) < 2 * BYTES + 2000
    assert (len(store.entries()), len(unfinished(store.folder))) == (3, 1)
    assert 2 * BYTES < store.clear(5) < 2 * BYTES + 2000
    assert (names_of(store), unfinished(store.folder)) == (["c", "b"], [])
    assert 2 * BYTES < store.clear() < 2 * BYTES + 2000
    assert sorted(path.name for path in store.folder.iterdir()) == [".locks", "notes.txt", "photos"]
    # An interrupted removal leaves no valid entry.
    fill(store, "a")
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=OSError("killed")))
    store.clear()
    assert (store.entries(), store.open(digest("a"))) == ([], None)


def test_complete_read_only_store_is_sufficient(store, monkeypatch):
    fill(store, "a")
    shutil.rmtree(store.folder / ".locks")
    (store.folder / ".locks").write_text("not a folder")
    monkeypatch.setattr(os, "utime", Mock(side_effect=PermissionError("read-only")))
    fill(store, "a")
    np.testing.assert_array_equal(read_all(store, "a"), values_of("a"))
    with pytest.raises(FileExistsError):
        fill(store, "b")


def test_entry_under_another_key_is_corrupted(store):
    fill(store, "a", "b")
    shutil.rmtree(store.folder / digest("a"))
    shutil.copytree(store.folder / digest("b"), store.folder / digest("a"))
    assert store.open(digest("a")) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("values.npy", lambda old: old[: len(old) // 2]),
        ("values.npy", lambda old: old[:128] + old[188:248] + old[128:188] + old[248:]),  # swapped images
        ("values.npy", os.mkdir),
        ("about.json", lambda old: old.replace(b'"float16"', b'"float32"')),
        ("about.json", lambda old: old.replace(b'"group": "', b'"group": "../')),
        ("about.json", lambda old: old.replace(b'"images": 23', b'"images": 1000000000000000000')),
        ("channels.npy", lambda old: old[:128] + np.full(10, np.nan, np.float32).tobytes() + old[168:]),
        ("channels.npy", os.mkfifo),
        ("", None),
    ],
)
def test_corrupted_entry_is_ignored_and_filled_again(store, name, content, caplog):
    def corrupt():
        file = store.folder / digest("a") / name
        old = file.read_bytes() if name else b""
        remove(file)
        if content in (os.mkdir, os.mkfifo):
            content(file)
        elif content or not name:
            file.write_bytes(content(old) if content else b"")

    fill(store, "a", "b", dtype="float16")
    before = read_all(store, "a")
    corrupt()
    assert store.open(digest("a")) is None
    assert "b" in names_of(store)
    fill(store, "a", "b", dtype="float16")
    np.testing.assert_array_equal(read_all(store, "a"), before)
    assert len(caplog.messages) == 1
    corrupt()
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == [".locks"]
