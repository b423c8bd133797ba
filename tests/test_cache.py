import os
import re
import shutil
import time

import numpy as np
import pytest

from catsdogs import cache as cache_module
from catsdogs.features.store import Store

pytestmark = pytest.mark.lowest

DIGEST = "0123456789abcdef" * 4
OLD, NEW = "a" * 64, "b" * 64


@pytest.fixture
def cache(tmp_path):
    """A cache with files in every folder, and one unrelated file."""
    folder = tmp_path / "cache"
    for name, size in {
        f"pixels/{DIGEST}.npy": 3 * 2**20,
        f"archives/{DIGEST}/train/cat.1.jpg": 2**20,
        f"archives/{DIGEST}/train/dog.1.jpg": 2**20,
        f"catalogues/{DIGEST}-v1.csv": 2**11,
        f"near_duplicates/{DIGEST}-v1.csv": 2**10,
        "sample/0123456789abcdef/train.zip": 100,
        "weights/mine.h5": 10,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    store = Store(folder / "features", 2**30)
    values = np.ones((16, 8, 8, 64), np.float32)
    for key in (OLD, NEW):
        store.fill(key, {key: values.shape}, "float32", lambda _: iter([[values]]))
    os.utime(folder / "features" / OLD / "about.json", (time.time() - 7.5 * 86400,) * 2)
    return folder


@pytest.fixture
def command(monkeypatch, capsys, cache):
    """Run the command on the cache and return its exit status, stdout and stderr."""
    monkeypatch.setenv("CATSDOGS_CACHE", str(cache))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["catsdogs-cache", *arguments])
        return cache_module.main(), *capsys.readouterr()

    return run


def files_in(folder):
    """Return all files except locks, which are never removed."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(file.relative_to(folder).as_posix() for file in files)


def stored_in(folder):
    return [entry.key for entry in Store(folder / "features", 0).entries()]


def test_show_prints_every_folder_and_changes_no_file(command, cache):
    before = files_in(cache)
    status, out, err = command()
    assert (status, err) == (0, "")
    assert command("show")[1].splitlines()[1:-1] == out.splitlines()[1:-1]
    first, *lines, total = out.splitlines()
    assert re.fullmatch(r"features: 2 .*, 51\d\.\d KiB, last used 0\.0 days ago", first)
    sizes = {"pixels": "3.0 MiB", "archives": "2.0 MiB", "catalogues": "2.0 KiB", "near_duplicates": "1.0 KiB"}
    assert {line.split(":")[0]: line.split(", ")[1] for line in lines} == sizes | {"sample": "100 bytes"}
    assert total.startswith(f"Total: 5.5 MiB in {cache};")
    assert files_in(cache) == before


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], []), (["--unused-days", "7"], [NEW]), (["--unused-days", "8"], [NEW, OLD])]
)
def test_clear_removes_activations_only(command, cache, arguments, expected):
    others = [file for file in files_in(cache) if not file.startswith("features")]
    status, out, _ = command("clear", *arguments)
    assert status == 0
    assert re.search(r"Freed (51\d\.\d KiB|25\d\.\d KiB|0 bytes) of stored activations", out)
    assert stored_in(cache) == expected
    assert [file for file in files_in(cache) if not file.startswith("features")] == others


def test_clear_everything_keeps_unrelated_files(command, cache, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.jpg").write_text("mine")
    (cache / "archives" / "link").symlink_to(tmp_path / "elsewhere")
    before = files_in(cache)
    _, dry_run, _ = command("clear", "--everything", "--dry-run")
    assert files_in(cache) == before
    assert command("clear", "--everything") == (0, dry_run.replace("Would free", "Freed"), "")
    assert files_in(cache) == ["weights/mine.h5"]
    assert (tmp_path / "elsewhere" / "1.jpg").exists()
    assert dry_run.splitlines()[1] == f"Would free 3.0 MiB of decoded images in {cache / 'pixels'}"
    assert dry_run.endswith("Would free 5.5 MiB in total\n")
    # An empty and a missing cache can be cleared.
    assert command("clear", "--everything")[1].endswith("Freed 0 bytes in total\n")
    shutil.rmtree(cache)
    assert command("clear", "--everything")[0] == 0
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clear", "--unused-days", "-1"), "--unused-days -1"),
        (("clear", "--unused-days", "inf"), "--unused-days inf"),
        (("--everything",), "--everything, --dry-run: not supported with show"),
        (("--cache", __file__), f"{__file__}: not a folder"),
    ],
)
def test_invalid_arguments_are_refused(command, cache, arguments, message):
    before = files_in(cache)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(f"error: .*{message}.*\n", err)
    assert files_in(cache) == before


def test_folder_that_cannot_be_removed_is_reported(command, cache, tmp_path):
    (cache / "pixels").rename(tmp_path / "elsewhere")
    (cache / "pixels").symlink_to(tmp_path / "elsewhere")
    status, _, err = command("clear", "--everything")
    assert status == 2
    assert f"{cache / 'pixels'}: cannot be removed" in err
    assert (tmp_path / "elsewhere" / f"{DIGEST}.npy").exists()
