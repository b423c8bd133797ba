from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import cats_and_dogs, folder_of, jpeg, zip_of
from hypothesis import given
from hypothesis import strategies as st

from catsdogs.archive import image_paths, natural_key, open_images
from catsdogs.errors import UserError

ROOM = 2**30


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


def test_zip_is_unpacked_into_the_cache_once(tmp_path: Path) -> None:
    images = {
        "train/cat.1.jpg": jpeg(1),
        "train/dog.2.JPEG": jpeg(2),
        "train/Ünï cödé 猫.png": b"not looked into",
        "train/deep/er/x.TIFF": b"4",
        "CAT.1.JPG": b"7",
    }
    rest = {"train/": b"", "README.md": b"text", "train/._cat.1.jpg": b"", "__MACOSX/cat.1.jpg": b"", ".no/3.jpg": b""}
    members = images | rest | {"./train//y.webp": b"5", "windows\\z.gif": b"6"}
    source = zip_of(tmp_path / "with space" / "tráin.zip", members)
    folder = open_images(source, tmp_path / "my cache", ROOM)
    assert folder.digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert folder.root == tmp_path / "my cache" / "archives" / folder.digest
    assert contents(folder.root) == images | {"train/y.webp": b"5", "windows/z.gif": b"6"}
    assert [path.name for path in folder.root.parent.iterdir()] == [folder.digest]
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o755
    (folder.root / "CAT.1.JPG").unlink()
    assert open_images(source.rename(tmp_path / "other.zip"), tmp_path / "my cache", 0) == folder
    assert not (folder.root / "CAT.1.JPG").exists()


def test_folder_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"dogs/10.jpg": b"", "dogs/9.jpg": b"", "notes.txt": b"", ".cache/cat.9.jpg": b""}
    source = folder_of(tmp_path / "my pets", members)
    folder_of(tmp_path / "elsewhere", {"1.jpg": b"", "2.jpg": b""})
    (source / "cats").symlink_to(tmp_path / "elsewhere")
    (source / "cats" / "loop").symlink_to(source)  # no folder is entered twice
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (source, Path("my pets"), Path("~/my pets")):
        assert open_images(name, tmp_path / "cache", 0).root == source
    assert not (tmp_path / "cache").exists()
    assert image_paths(source) == ["cats/1.jpg", "cats/2.jpg", "dogs/9.jpg", "dogs/10.jpg"]


def test_digest_of_a_folder_is_that_of_its_listing(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pets", {"cat.1.jpg": b"one", "cat.2.jpg": b"two", "notes.txt": b"no image"})
    os.utime(source / "cat.1.jpg", ns=(5, 7))
    os.utime(source / "cat.2.jpg", ns=(5, 8))
    digest = open_images(source, tmp_path / "cache", ROOM).digest
    assert digest == hashlib.sha256(b"cat.1.jpg\x003\x007\ncat.2.jpg\x003\x008\n").hexdigest()


def test_of_processes_that_unpack_at_once_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(3, 3))
    original = Path.rename

    def too_late(path: Path, target: Path) -> Path:
        folder_of(target, {"first.jpg": b""})
        return original(path, target)

    monkeypatch.setattr(Path, "rename", too_late)
    folder = open_images(source, tmp_path / "cache", ROOM)
    assert contents(folder.root) == {"first.jpg": b""}
    assert list((tmp_path / "cache" / "archives").iterdir()) == [folder.root]


# What is bad


def refused(source: Path, cache: Path, room: int = ROOM) -> str:
    """The sentence that says why; nothing is left anywhere."""
    before = contents(source.parent)
    with pytest.raises(UserError) as caught:
        open_images(source, cache, room)
    assert str(caught.value).isprintable()
    assert contents(source.parent) == before
    assert not cache.is_dir() or [path for path in cache.rglob("*") if path != cache / "archives"] == []
    return str(caught.value)


PAIR = {"train/cat.1.jpg": b"A" * 1000, "train/dog.2.jpg": b"B" * 1000}
ENTRY = b"PK\x01\x02"  # of the central directory; the last one is that of dog.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.__delitem__(slice(len(data) // 2, None)), "its end is missing.*download it again"),
        (lambda data: data.__setitem__(slice(data.index(ENTRY), data.index(b"PK\5\6")), b""), "damaged.*download"),
        (lambda data: data.__setitem__(data.index(b"BBBB") + 500, 0), r"dog\.2\.jpg in it is damaged.*CRC.*download"),
        # The directory declares 10 bytes where there are 1000, a method that nobody knows, a password, no such place.
        (lambda data: struct.pack_into("<I", data, data.rindex(ENTRY) + 24, 10), r"dog\.2\.jpg in it is damaged"),
        (lambda data: struct.pack_into("<H", data, data.rindex(ENTRY) + 10, 9), r"dog\.2\.jpg.*method.*the folder"),
        (lambda data: struct.pack_into("<H", data, data.rindex(ENTRY) + 8, 1), r"dog\.2\.jpg.*password.*the folder"),
        (lambda data: struct.pack_into("<I", data, data.rindex(ENTRY) + 42, 2**31), r"dog\.2\.jpg in it is damaged"),
        (lambda data: data.__setitem__(slice(None), b"<html>Log in first</html>"), "not a zip"),
    ],
)
def test_damage_is_told(tmp_path: Path, change: Callable[[bytearray], object], said: str) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", PAIR)
    data = bytearray(source.read_bytes())
    change(data)
    source.write_bytes(data)
    assert re.search(said, refused(source, tmp_path / "cache"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_within_what_is_packed_is_told(tmp_path: Path, compression: int) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": bytes(range(256)) * 40}, compression)
    data = bytearray(source.read_bytes())
    data[45:80] = b"\xff" * 35
    source.write_bytes(data)
    assert "cat.1.jpg in it is damaged" in refused(source, tmp_path / "cache")


HOSTILE = ["/tmp/2.jpg", "\\2.jpg", "C:\\2.jpg", "../2.jpg", "a/../../2.jpg", "a\\..\\2.jpg", "../2.txt", "2.\0.jpg"]


@pytest.mark.parametrize("name", [*HOSTILE, "2.\n\x1b[2J.jpg"])
def test_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"train/cat.1.jpg": b"1", "x" * len(name): b"2"})
    source.write_bytes(source.read_bytes().replace(b"x" * len(name), name.encode()))
    said = refused(source, tmp_path / "cache")
    assert f"the member {name!a} is a link, leads out of the archive or has control characters" in said


def test_link_is_refused(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"train/cat.1.jpg": b"1"})
    info = zipfile.ZipInfo("train/cat.2.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "a") as opened:
        opened.writestr(info, "/etc/passwd")
    assert "'train/cat.2.jpg' is a link" in refused(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat.1.jpg", "./cat.1.jpg"), ("cat.1.jpg", "cat.1.jpg/2.jpg"), ("1.jpg/2.jpg", "1.jpg"), ("a.jpg", "A.jpg")],
)
def test_no_image_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    # As a file system does that takes lower and upper case for the same.
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    source = zip_of(tmp_path / "given" / "train.zip", {one: b"1", other: b"2"})
    said = refused(source, tmp_path / "cache")
    assert f"{other.removeprefix('./')} has the name of another member" in said


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"README.md": b"", "__MACOSX/cat.1.jpg": b""}, r"no images in it; pass a zip with files ending in \.jpg"),
        (
            {"test1.zip": b"", "sampleSubmission.csv": b"", "in/train.zip": b""},
            r"the zips test1\.zip, in/train\.zip; unpack it first and pass the inner in/train\.zip instead",
        ),
        ({"c" * 300 + ".jpg": b"1"}, "ccc.* of .*train.zip cannot be written .*too long"),
    ],
)
def test_archive_without_use(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    assert re.search(said, refused(zip_of(tmp_path / "given" / "train.zip", members), tmp_path / "cache"))


def test_no_source(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "gone.zip", tmp_path / "cache")
    os.mkfifo(tmp_path / "train.zip")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_images(tmp_path / "train.zip", tmp_path / "cache", ROOM)


def test_folder_without_use(tmp_path: Path) -> None:
    pets, cache = folder_of(tmp_path / "pets", {"notes.txt": b""}), tmp_path / "cache"
    assert "no images in it; pass a folder with files ending in .jpg" in refused(pets, cache)
    folder_of(pets, {"train.zip": b"", "test.zip": b""})
    assert "the zips test.zip, train.zip; pass the path of one" in refused(pets, cache)
    (pets / "cat.2.jpg").symlink_to("gone.jpg")
    assert re.search(r"cat\.2\.jpg: cannot be read", refused(pets, cache))
    (pets / "cat.2.jpg").unlink()
    (pets / "cat.3.jpg").mkdir()
    (pets / os.fsdecode(b"cat.\xff.jpg")).touch()
    assert re.search("udcff.* not UTF-8", refused(pets, cache))


def test_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED)
    said = refused(source, tmp_path / "cache", 100 * 2**20)
    assert re.search(r"0\.195 GiB.*data\.max_unpacked_gib=0\.0977.*raise data\.max_unpacked_gib", said)
    assert re.search(r"cat\.1\.jpg would grow from 0\.19\d to 200 MiB", refused(source, tmp_path / "cache"))


def test_limit_is_inclusive_and_holds_whatever_is_packed(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": b"12345", "dog.1.jpg": b"1" * 10**6})
    data = bytearray(source.read_bytes())
    struct.pack_into("<I", data, data.rindex(ENTRY) + 24, 5)
    struct.pack_into("<I", data, data.rindex(ENTRY) + 16, zlib.crc32(b"11111"))
    source.write_bytes(data)
    assert "max_unpacked_gib" in refused(source, tmp_path / "cache", 9)
    root = open_images(source, tmp_path / "cache", 10).root
    assert contents(root) == {"cat.1.jpg": b"12345", "dog.1.jpg": b"11111"}


def test_cache_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", cats_and_dogs(1, 1))
    (tmp_path / "file").write_text("mine")
    assert re.search("cannot be written.*cache=FOLDER", refused(source, tmp_path / "file"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)  # as zipfile writes a member
    assert "the disk is full; make room, or pass cache=FOLDER" in refused(source, tmp_path / "cache")


def test_unreadable_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(1, 1))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    with pytest.raises(UserError, match=r"train\.zip: cannot be read \(Permission denied\)"):
        open_images(source, tmp_path / "cache", ROOM)
