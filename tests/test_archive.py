from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import cats_and_dogs, folder_of, jpeg, zip_of
from hypothesis import given
from hypothesis import strategies as st

from catsdogs import archive
from catsdogs.archive import image_paths, natural_key, open_images
from catsdogs.errors import UserError

ROOM = 2**30


def left_behind(cache: Path) -> list[Path]:
    """What a failed run left in the cache; an empty folder named archives is all it may."""
    return [path for path in cache.rglob("*") if path != cache / "archives"] if cache.is_dir() else []


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# natural_key


def test_natural_order_is_that_of_numbers() -> None:
    names = ["cat.100", "cat.2", "dog.1", "cat.10", "cat.1", "10", "9", "cat"]
    assert sorted(names, key=natural_key) == ["9", "10", "cat", "cat.1", "cat.2", "cat.10", "cat.100", "dog.1"]


@given(st.lists(st.integers(min_value=0)))
def test_numbers_sort_as_numbers(numbers: list[int]) -> None:
    assert sorted(map(str, numbers), key=natural_key) == [str(number) for number in sorted(numbers)]


@given(st.lists(st.text(alphabet="ab01２.", max_size=6), unique=True))
def test_order_is_total(names: list[str]) -> None:
    assert len({natural_key(name) for name in names}) == len(names)
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


# What is good


def test_zip_is_unpacked_into_the_cache(tmp_path: Path) -> None:
    images = {
        "train/cat.1.jpg": jpeg(1),
        "train/dog.2.JPEG": jpeg(2),
        "train/Ünï cödé 猫.png": b"not looked into",
        "train/deep/er/x.TIFF": b"4",
        "./train//y.webp": b"5",
        "windows\\z.gif": b"6",
    }
    rest = {
        "train/": b"",
        "README.md": b"text",
        "train/Thumbs.db": b"",
        "__MACOSX/train/._cat.1.jpg": b"",
        "train/._cat.1.jpg": b"",
        ".hidden/cat.3.jpg": b"",
    }
    source = zip_of(tmp_path / "with space" / "tráin.zip", images | rest)
    folder = open_images(source, tmp_path / "my cache", ROOM)
    assert folder.digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert folder.root == tmp_path / "my cache" / "archives" / folder.digest
    assert contents(folder.root) == {
        "train/cat.1.jpg": jpeg(1),
        "train/dog.2.JPEG": jpeg(2),
        "train/Ünï cödé 猫.png": b"not looked into",
        "train/deep/er/x.TIFF": b"4",
        "train/y.webp": b"5",
        "windows/z.gif": b"6",
    }
    assert [path.name for path in folder.root.parent.iterdir()] == [folder.digest]
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o755


def test_zip_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(1, 1))
    first = open_images(source, tmp_path / "cache", ROOM)
    monkeypatch.delattr(archive, "_unpack")
    renamed = source.rename(tmp_path / "other.zip")
    assert open_images(renamed, tmp_path / "cache", ROOM) == first


def test_names_that_differ_in_case_only_never_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = zip_of(tmp_path / "train.zip", {"cat.1.jpg": b"a", "CAT.1.JPG": b"b"})
    if not (tmp_path / "TRAIN.ZIP").exists():
        root = open_images(source, tmp_path / "cache", ROOM).root
        assert contents(root) == {"cat.1.jpg": b"a", "CAT.1.JPG": b"b"}
        original = Path.open  # a file system that takes them for one
        monkeypatch.setattr(Path, "open", lambda path, *mode: original(path.with_name(path.name.lower()), *mode))
    with pytest.raises(UserError, match=r"CAT\.1\.JPG has the name of another member.*rename one"):
        open_images(source, tmp_path / "other", ROOM)
    assert left_behind(tmp_path / "other") == []


@pytest.mark.parametrize("relative", [True, False])
def test_folder_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    source = folder_of(tmp_path / "my pets", cats_and_dogs(2, 2) | {"notes.txt": b"", ".cache/cat.9.jpg": b""})
    monkeypatch.chdir(tmp_path)
    folder = open_images(Path("my pets") if relative else source, tmp_path / "cache", 0)
    assert folder.root == source
    assert not (tmp_path / "cache").exists()
    assert image_paths(folder.root) == ["train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "train/dog.1.jpg"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "pets", cats_and_dogs(1, 0))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_images(Path("~/pets"), tmp_path / "cache", ROOM).root == tmp_path / "pets"


def test_digest_of_a_folder_is_that_of_its_listing(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pets", {"cat.1.jpg": b"one", "cat.2.jpg": b"two"})
    os.utime(source / "cat.1.jpg", ns=(5, 7))
    os.utime(source / "cat.2.jpg", ns=(5, 8))

    def digest() -> str:
        return open_images(source, tmp_path / "cache", ROOM).digest

    first = digest()
    assert first == hashlib.sha256(b"cat.1.jpg\x003\x007\ncat.2.jpg\x003\x008\n").hexdigest()
    (source / "notes.txt").write_text("no image")
    assert digest() == first
    os.utime(source / "cat.2.jpg", ns=(5, 9))
    assert digest() != first
    os.utime(source / "cat.2.jpg", ns=(5, 8))
    assert digest() == first
    (source / "cat.2.jpg").rename(source / "cat.3.jpg")
    assert digest() != first


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    folder_of(tmp_path / "elsewhere", {"1.jpg": b"", "2.jpg": b""})
    source = folder_of(tmp_path / "pets", {"dogs/10.jpg": b"", "dogs/9.jpg": b""})
    (source / "cats").symlink_to(tmp_path / "elsewhere")
    (source / "cats" / "loop").symlink_to(source)
    assert image_paths(source) == ["cats/1.jpg", "cats/2.jpg", "dogs/9.jpg", "dogs/10.jpg"]


def test_processes_that_unpack_at_once_share_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(3, 3))
    everyone_has_unpacked = threading.Barrier(3, timeout=20)
    original = archive._write_members

    def write_and_wait(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        everyone_has_unpacked.wait()

    monkeypatch.setattr(archive, "_write_members", write_and_wait)
    found: list[archive.ImageFolder] = []

    def run() -> None:
        found.append(open_images(source, tmp_path / "cache", ROOM))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert contents(found[0].root) == cats_and_dogs(3, 3)
    assert [path.name for path in (tmp_path / "cache" / "archives").iterdir()] == [found[0].digest]


# What is bad


def nothing(folder: Path) -> Path:
    return folder / "no such.zip"


def text_file(folder: Path) -> Path:
    (folder / "train.zip").write_text("<html>Log in first</html>")
    return folder / "train.zip"


def empty_file(folder: Path) -> Path:
    (folder / "train.zip").touch()
    return folder / "train.zip"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "train.zip")
    return folder / "train.zip"


def changed(folder: Path, change: Callable[[bytearray], object]) -> Path:
    """An archive of two images whose bytes are changed afterwards."""
    source = zip_of(folder / "train.zip", {"train/cat.1.jpg": b"A" * 1000, "train/dog.2.jpg": b"B" * 1000})
    data = bytearray(source.read_bytes())
    change(data)
    source.write_bytes(data)
    return source


def truncated(folder: Path) -> Path:
    return changed(folder, lambda data: data.__delitem__(slice(len(data) // 2, None)))


def central_directory_gone(folder: Path) -> Path:
    return changed(folder, lambda data: data.__setitem__(slice(data.index(b"PK\x01\x02"), data.index(b"PK\5\6")), b""))


def flipped_bit(folder: Path) -> Path:
    return changed(folder, lambda data: data.__setitem__(data.index(b"BBBB") + 500, ord("X")))


def lying_size(folder: Path) -> Path:
    """The directory declares 10 bytes where there are 1000."""
    return changed(folder, lambda data: struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 10))


def unknown_method(folder: Path) -> Path:
    return changed(folder, lambda data: struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + 10, 9))


def encrypted(folder: Path) -> Path:
    return changed(folder, lambda data: struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + 8, 1))


def bad_deflate(folder: Path) -> Path:
    source = zip_of(folder / "train.zip", {"cat.1.jpg": bytes(range(256)) * 40}, zipfile.ZIP_DEFLATED)
    data = bytearray(source.read_bytes())
    data[45:60] = b"\xff" * 15
    source.write_bytes(data)
    return source


def named(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        stand_in = "x" * len(name.encode())
        source = zip_of(folder / "train.zip", {"train/cat.1.jpg": b"1", stand_in: b"2"})
        source.write_bytes(source.read_bytes().replace(stand_in.encode(), name.encode()))
        return source

    make.__name__ = name
    return make


def symlink(folder: Path) -> Path:
    source = zip_of(folder / "train.zip", {"train/cat.1.jpg": b"1"})
    info = zipfile.ZipInfo("train/cat.2.jpg")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "a") as opened:
        opened.writestr(info, "/etc/passwd")
    return source


def twice(folder: Path) -> Path:
    source = zip_of(folder / "train.zip", {"train/cat.1.jpg": b"1"})
    with warnings.catch_warnings(), zipfile.ZipFile(source, "a") as opened:
        warnings.simplefilter("ignore")
        opened.writestr("train/./cat.1.jpg", b"2")
    return source


def no_images(folder: Path) -> Path:
    return zip_of(folder / "train.zip", {"README.md": b"", "__MACOSX/cat.1.jpg": b""})


def empty_zip(folder: Path) -> Path:
    return zip_of(folder / "train.zip", {})


def kaggles_outer_zip(folder: Path) -> Path:
    inner = zip_of(folder / "inner.zip", cats_and_dogs(1, 1)).read_bytes()
    outer = {"sampleSubmission.csv": b"id,label", "test1.zip": inner, "train.zip": inner}
    return zip_of(folder / "dogs-vs-cats.zip", outer)


def folder_without_images(folder: Path) -> Path:
    return folder_of(folder / "pets", {"notes.txt": b""})


def folder_of_zips(folder: Path) -> Path:
    return folder_of(folder / "pets", {"train.zip": b"", "test.zip": b""})


def broken_link(folder: Path) -> Path:
    source = folder_of(folder / "pets", {"cat.1.jpg": b""})
    (source / "cat.2.jpg").symlink_to("gone.jpg")
    return source


def name_not_utf8(folder: Path) -> Path:
    source = folder_of(folder / "pets", {"cat.1.jpg": b""})
    with open(os.fsencode(source) + b"/cat.\xff.jpg", "wb"):
        return source


def file_and_folder_of_one_name(folder: Path) -> Path:
    return zip_of(folder / "train.zip", {"cat.1.jpg": b"1", "cat.1.jpg/cat.2.jpg": b"2"})


def name_too_long(folder: Path) -> Path:
    return zip_of(folder / "train.zip", {"c" * 300 + ".jpg": b"1"})


BAD: list[tuple[Callable[[Path], Path], list[str]]] = [
    (nothing, ["no such.zip", "no such file or folder"]),
    (text_file, ["not a zip"]),
    (empty_file, ["not a zip"]),
    (fifo, ["neither a file nor a folder"]),
    (truncated, ["its end is missing", "download it again"]),
    (central_directory_gone, ["damaged", "download it again"]),
    (flipped_bit, ["train/dog.2.jpg", "damaged", "CRC", "download"]),
    (lying_size, ["train/dog.2.jpg", "damaged"]),
    (bad_deflate, ["cat.1.jpg", "damaged"]),
    (unknown_method, ["train/dog.2.jpg", "method", "pass the folder"]),
    (encrypted, ["train/dog.2.jpg is encrypted", "with its password", "pass the folder"]),
    (named("/tmp/cat.2.jpg"), ["'/tmp/cat.2.jpg'", "absolute"]),
    (named("\\\\host\\cat.2.jpg"), ["absolute"]),
    (named("C:\\cat.2.jpg"), ["C:", "absolute"]),
    (named("../cat.2.jpg"), ["'../cat.2.jpg'", "leads out"]),
    (named("train/../../cat.2.jpg"), ["leads out"]),
    (named("train\\..\\cat.2.jpg"), ["leads out"]),
    (named("../notes.txt"), ["leads out"]),
    (named("cat.\0.jpg"), [r"\x00", "control characters"]),
    (named("cat.\n\x1b[2J.jpg"), [r"\x1b", "control characters"]),
    (symlink, ["train/cat.2.jpg", "symbolic link"]),
    (twice, ["train/cat.1.jpg", "twice"]),
    (no_images, ["no images", ".jpg"]),
    (empty_zip, ["no images"]),
    (kaggles_outer_zip, ["the zips test1.zip, train.zip", "unpack it first", "pass the inner train.zip"]),
    (folder_without_images, ["no images", ".jpg"]),
    (folder_of_zips, ["test.zip, train.zip", "pass the path of one"]),
    (broken_link, ["cat.2.jpg", "cannot be read"]),
    (name_not_utf8, ["udcff", "UTF-8"]),
    (file_and_folder_of_one_name, ["cat.1.jpg/cat.2.jpg", "name of another member"]),
    (name_too_long, ["train.zip", "ccc", "cannot be written", "too long"]),
]


@pytest.mark.parametrize(("make", "parts"), BAD, ids=[ascii(make.__name__) for make, _ in BAD])
def test_bad_source_is_told_in_a_sentence(tmp_path: Path, make: Callable[[Path], Path], parts: list[str]) -> None:
    (tmp_path / "given").mkdir()
    source = make(tmp_path / "given")
    before = contents(tmp_path) if not source.is_fifo() else {}
    with pytest.raises(UserError) as caught:
        open_images(source, tmp_path / "cache", ROOM)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert [part for part in parts if part not in sentence] == []
    assert left_behind(tmp_path / "cache") == []
    if not source.is_fifo():
        assert contents(tmp_path) == before


def test_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "train.zip", {"cat.1.jpg": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert source.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"0\.195 GiB.*data\.max_unpacked_gib=0\.0977.*raise data\.max_unpacked_gib"):
        open_images(source, tmp_path / "cache", 100 * 2**20)
    assert left_behind(tmp_path / "cache") == []
    with pytest.raises(UserError, match=r"cat\.1\.jpg would grow from 0\.19\d to 200 MiB"):
        open_images(source, tmp_path / "cache", ROOM)
    assert left_behind(tmp_path / "cache") == []


def test_limit_is_inclusive(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "train.zip", {"cat.1.jpg": b"12345", "dog.1.jpg": b"12345"})
    with pytest.raises(UserError, match="max_unpacked_gib"):
        open_images(source, tmp_path / "cache", 9)
    assert len(contents(open_images(source, tmp_path / "cache", 10).root)) == 2


def test_bytes_are_counted_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a decompressor ever give more than was declared."""
    source = zip_of(tmp_path / "train.zip", {"cat.1.jpg": b"1", "cat.2.jpg": b"2"})
    monkeypatch.setattr(archive, "_content", lambda *_: iter([bytes(60)]))
    with pytest.raises(UserError, match="max_unpacked_gib"):
        open_images(source, tmp_path / "cache", 100)
    assert left_behind(tmp_path / "cache") == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(2, 2))
    original = Path.open

    def open_on_full_disk(path: Path, mode: str = "r") -> object:
        file = original(path, mode)
        if path.name == "dog.0.jpg":
            file.close()
            return original(Path("/dev/full"), "wb", 0)
        return file

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(UserError, match=r"the disk is full; make room, or pass cache=FOLDER"):
        open_images(source, tmp_path / "cache", ROOM)
    assert left_behind(tmp_path / "cache") == []


def test_cache_that_is_a_file(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(1, 1))
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written.*cache=FOLDER"):
        open_images(source, tmp_path / "cache", ROOM)
    assert (tmp_path / "cache").read_text() == "mine"


def test_unreadable_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(1, 1))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"train\.zip: cannot be read \(Permission denied\)"):
        open_images(source, tmp_path / "cache", ROOM)
