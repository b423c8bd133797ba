from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catsdogs import cache as cache_module
from catsdogs.activations import Wanted
from catsdogs.store import Store

DIGEST = "0123456789abcdef" * 4

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with something in every folder of it."""
    folder = tmp_path / "cache"
    for name, size in {
        f"pixels/{DIGEST}.npy": 3 * 2**20,
        f"archives/{DIGEST}/train/cat.1.jpg": 2**20,
        f"archives/{DIGEST}/train/dog.1.jpg": 2**20,
        f"catalogues/{DIGEST}-v1.csv": 2**11,
        f"near_duplicates/{DIGEST}-v1.csv": 2**10,
        "sample/0123456789abcdef/train.zip": 100,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    store = Store(folder / "features", 2**30)
    for view in ("train 0", "train 1", "plain"):
        about = {"backbone": "MobileNetV2 alpha=1.0", "cut": "block_12_add", "view": view}
        if view != "plain":
            about["augmentation"] = "horizontal_flip=0.5, rotation_degrees=10.0, translation=0.1, zoom=0.2"
        fill(store, view, about, "float16")
    fill(store, "bare", {}, "float32")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path) -> Command:
    """Run the command line on the cache; exit status, standard output and standard error."""
    monkeypatch.setenv("CATSDOGS_CACHE", str(cache))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["catsdogs-cache", *arguments])
        status = cache_module.main()
        return status, *capsys.readouterr()

    return run


def fill(store: Store, name: str, about: dict[str, str], dtype: str) -> None:
    key = hashlib.sha256(name.encode()).hexdigest()
    values = np.ones((16, 8, 8, 64), np.float32)
    store.fill(key, [Wanted(key, values.shape[1:], about)], len(values), dtype, lambda _: iter([[values]]))


def unused_for(cache: Path, name: str, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(cache / "features" / hashlib.sha256(name.encode()).hexdigest() / "about.json", (then, then))


def everything_in(folder: Path) -> list[str]:
    """Every file but the locks, which stay."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(file for file in files if not file.endswith(".lock"))


# show


def test_table_tells_what_is_stored(command: Command, cache: Path) -> None:
    unused_for(cache, "plain", 3)
    unused_for(cache, "train 0", 5 / 24)
    status, out, err = command()
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert all(len(line) <= 100 for line in lines[:-1])
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    firsts = [row for row in rows if row[3]]
    # Cells are folded, so only those of a line that begins a row have the numbers.
    assert [row[3:] for row in firsts] == [
        ["1", "16", "float32", "256.0 KiB", "just now"],
        ["2", "16", "float16", "256.0 KiB", "just now"],
        ["1", "16", "float16", "128.0 KiB", "3 days ago"],
    ]
    assert firsts[0][:3] == ["–", "–", "–"]
    text = "".join(row[0] for row in rows).replace(" ", "")
    assert text.count("MobileNetV2alpha=1.0") == 2
    assert "".join(row[1] for row in rows).replace(" ", "").count("block12add") == 2
    assert "rotationdegrees=10.0,translation=0.1" in "".join(row[2] for row in rows).replace(" ", "")


def test_every_folder_has_its_line(command: Command, cache: Path) -> None:
    _, out, _ = command("show")
    assert "features: 4 stored activations, 640.0 KiB\n" in out
    assert "pixels: decoded images, 1 of them, 3.0 MiB\n" in out
    assert "archives: unpacked archives, 1 of them, 2.0 MiB\n" in out
    assert "catalogues: tables of images, 1 of them, 2.0 KiB\n" in out
    assert "near_duplicates: perceptual hashes, 1 of them, 1.0 KiB\n" in out
    assert "sample: drawn archives, 1 of them, 100 bytes\n" in out
    assert re.search(rf"Total: 5\.6 MiB in {re.escape(str(cache))}; .* free on its disk\n", out)


def test_showing_changes_nothing(command: Command, cache: Path) -> None:
    unused_for(cache, "plain", 3)
    before = everything_in(cache)
    command("show")
    assert everything_in(cache) == before
    used = {entry.about.get("view"): entry.last_used for entry in Store(cache / "features", 0).entries()}
    assert time.time() - used["plain"] > 2 * 86400


def test_empty_cache_is_shown(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, out, _ = command("--cache", str(tmp_path / "empty"))
    assert status == 0
    assert "features: 0 stored activations, 0 bytes" in out
    assert "Total: 0 bytes" in out


@pytest.mark.parametrize("arguments", [(), ("clear", "--everything")])
def test_cache_that_was_never_made_is_no_mistake(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CATSDOGS_CACHE", str(tmp_path / "never"))
    status, out, _ = command(*arguments)
    assert status == 0
    assert f"{tmp_path / 'never'} has not been made yet" in out
    assert not (tmp_path / "never").exists()


# clear


def test_clear_removes_activations_only(command: Command, cache: Path) -> None:
    others = [file for file in everything_in(cache) if not file.startswith("features")]
    status, out, _ = command("clear")
    assert status == 0
    assert re.fullmatch(rf"Freed 64\d\.\d KiB of stored activations in {re.escape(str(cache / 'features'))}\n", out)
    assert everything_in(cache) == others


def test_clear_by_days(command: Command, cache: Path) -> None:
    unused_for(cache, "plain", 8)
    unused_for(cache, "train 0", 6)
    out = command("clear", "--unused-days", "7")[1]
    assert out.startswith("Freed 12")
    assert [entry.about.get("view") for entry in Store(cache / "features", 0).entries()][-1] == "train 0"
    assert len(Store(cache / "features", 0).entries()) == 3


def test_clear_everything_leaves_what_others_made(command: Command, cache: Path, tmp_path: Path) -> None:
    mine = ["notes.txt", "pixels/best cats.npy", "archives/holidays/1.jpg", "sample/labels.csv", "weights/big.h5"]
    for name in mine:
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.jpg").write_text("mine")
    (cache / "archives" / DIGEST[::-1]).symlink_to(elsewhere)
    status, out, _ = command("clear", "--everything")
    assert status == 0
    assert everything_in(cache) == sorted(mine)
    assert (elsewhere / "1.jpg").exists()
    assert (cache / "archives" / DIGEST[::-1]).is_symlink()
    assert "Freed 3.0 MiB of decoded images" in out
    assert "Freed 2.0 MiB of unpacked archives" in out
    assert f"Left alone in {cache / 'pixels'}, as catsdogs did not make it: best cats.npy\n" in out
    assert out.endswith("Freed 5.6 MiB in all\n")


def test_what_killed_processes_left_goes_once_it_is_old(command: Command, cache: Path) -> None:
    unfinished = [f"pixels/.{DIGEST}-abcd_123.npy", f"catalogues/.{DIGEST}-v1-abcd_123.csv"]
    for name in unfinished:
        (cache / name).write_text("half")
    folder = cache / "archives" / f".{DIGEST[:16]}-abcd_123"
    folder.mkdir()
    command("clear", "--everything")
    assert everything_in(cache) == sorted(unfinished)
    assert folder.exists()
    then = time.time() - 2 * 86400
    for path in (*(cache / name for name in unfinished), folder):
        os.utime(path, (then, then))
    command("clear", "--everything")
    assert everything_in(cache) == []
    assert not folder.exists()


def test_dry_run_tells_the_same_and_removes_nothing(command: Command, cache: Path) -> None:
    before = everything_in(cache)
    status, told, _ = command("clear", "--everything", "--dry-run")
    assert status == 0
    assert everything_in(cache) == before
    assert command("clear", "--everything")[1] == told.replace("Would free", "Freed")


def test_activations_that_are_being_filled_stay(command: Command, cache: Path) -> None:
    store = Store(cache / "features", 0)
    with store._locked(hashlib.sha256(b"plain").hexdigest(), ""):
        out = command("clear")[1]
    assert [entry.about.get("view") for entry in store.entries()] == ["plain"]
    assert "1 stored activation stayed: being filled right now" in out


# mistakes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("clear", "--unused-days", "-1"), "--unused-days -1"),
        (("clear", "--unused-days", "nan"), "--unused-days nan"),
        (("clear", "--unused-days", "inf"), "--unused-days inf"),
        (("show", "--dry-run"), "are for clear"),
        (("--everything",), "are for clear"),
        (("--cache", "nowhere"), "--cache nowhere: there is no such folder"),
        (("--cache", __file__), "no folder"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    command: Command, cache: Path, arguments: tuple[str, ...], told: str
) -> None:
    before = everything_in(cache)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert everything_in(cache) == before


def test_what_cannot_be_removed_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refused)
    status, _, err = command("clear", "--everything")
    assert status == 2
    assert f"{DIGEST}.npy: cannot be removed (Permission denied)" in err


def test_runs_as_a_command_without_tensorflow(run: Callable[..., object], cache: Path) -> None:
    done = run("cache", "show", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0  # type: ignore[attr-defined]
    assert "Stored activations, last used first" in done.stdout  # type: ignore[attr-defined]
    assert not re.search(r"\| +(tensorflow|keras)$", done.stderr, re.MULTILINE)  # type: ignore[attr-defined]
    assert re.search(r"\| +numpy$", done.stderr, re.MULTILINE)  # type: ignore[attr-defined]
    helped = run("cache", "--help")
    assert "--unused-days" in helped.stdout  # type: ignore[attr-defined]
