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
    members = {"dogs/10.jpg": b"ten", "dogs/9.jpg": b"nine", "notes.txt": b"", ".cache/cat.9.jpg": b""}
    source = folder_of(tmp_path / "my pets", members)
    folder_of(tmp_path / "elsewhere", {"1.jpg": b"", "2.jpg": b""})
    (source / "cats").symlink_to(tmp_path / "elsewhere")
    (source / "cats" / "loop").symlink_to(source)  # no folder is entered twice
    for number, name in enumerate(places := ["cats/1.jpg", "cats/2.jpg", "dogs/10.jpg", "dogs/9.jpg"]):
        os.utime(source / name, ns=(5, number))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (source, Path("my pets"), Path("~/my pets")):
        assert open_images(name, tmp_path / "cache", 0).root == source
    assert not (tmp_path / "cache").exists()
    assert image_paths(source) == ["cats/1.jpg", "cats/2.jpg", "dogs/9.jpg", "dogs/10.jpg"]
    listing = "".join(f"{name}\0{size}\0{n}\n" for n, (name, size) in enumerate(zip(places, (0, 0, 3, 4), strict=True)))
    assert open_images(source, tmp_path / "cache", 0).digest == hashlib.sha256(listing.encode()).hexdigest()


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
        (lambda data: data.__delitem__(slice(len(data) // 2, None)), "its end is missing"),
        (lambda data: data.__setitem__(slice(data.index(ENTRY), data.index(b"PK\5\6")), b""), "damaged"),
        (lambda data: data.__setitem__(data.index(b"BBBB") + 500, 0), r"dog\.2\.jpg .*CRC"),
        # The directory declares 10 bytes where there are 1000, a method that nobody knows, a password, no such place.
        (lambda data: struct.pack_into("<I", data, data.rindex(ENTRY) + 24, 10), r"dog\.2\.jpg "),
        (lambda data: struct.pack_into("<H", data, data.rindex(ENTRY) + 10, 9), r"dog\.2\.jpg .*method"),
        (lambda data: struct.pack_into("<H", data, data.rindex(ENTRY) + 8, 1), r"dog\.2\.jpg .*password"),
        (lambda data: struct.pack_into("<I", data, data.rindex(ENTRY) + 42, 2**31), r"dog\.2\.jpg "),
        (lambda data: data.__setitem__(slice(None), b"<html>Log in first</html>"), "not a zip"),
    ],
)
def test_damage_is_reported(tmp_path: Path, change: Callable[[bytearray], object], said: str) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", PAIR)
    data = bytearray(source.read_bytes())
    change(data)
    source.write_bytes(data)
    assert re.search(said, refused(source, tmp_path / "cache"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_within_what_is_packed_is_reported(tmp_path: Path, compression: int) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": bytes(range(256)) * 40}, compression)
    data = source.read_bytes()
    source.write_bytes(data[:45] + b"\xff" * 35 + data[80:])
    assert "cat.1.jpg in it cannot be unpacked" in refused(source, tmp_path / "cache")


def test_names_that_lead_out_of_the_archive_and_links_stay_in_its_folder(tmp_path: Path) -> None:
    names = {"/tmp/1.jpg": "tmp/1.jpg", "\\2.jpg": "2.jpg", "../3.jpg": "3.jpg", "a/../../4.jpg": "a/4.jpg"}
    names |= {"a\\..\\5.jpg": "a/5.jpg", "..": None, "../.6.jpg": None}
    source = zip_of(tmp_path / "train.zip", dict.fromkeys(names, b"1"))
    info = zipfile.ZipInfo("link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "a") as opened:
        opened.writestr(info, "/etc/passwd")
    root = open_images(source, tmp_path / "cache", ROOM).root
    assert not (root / "link.jpg").is_symlink()
    assert contents(root) == {path: b"1" for path in names.values() if path} | {"link.jpg": b"/etc/passwd"}
    assert len(contents(tmp_path)) == 1 + len(contents(root))


@pytest.mark.parametrize("name", [b"2.\0.jpg", b"2.\n.jpg", b"2\x1b[.jpg"])
def test_control_characters_are_refused(tmp_path: Path, name: bytes) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": b"1", "x" * len(name): b"2"})
    source.write_bytes(source.read_bytes().replace(b"x" * len(name), name))
    assert ascii(name.decode()) in refused(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("one", "other"), [("1.jpg", "../1.jpg"), ("1.jpg", "1.jpg/2.jpg"), ("1.jpg/2.jpg", "1.jpg"), ("a.jpg", "A.jpg")]
)
def test_no_image_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    # As a file system does that takes lower and upper case for the same.
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    source = zip_of(tmp_path / "given" / "train.zip", {one: b"1", other: b"2"})
    assert f"{other.lstrip('./')} has the name of another member" in refused(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"README.md": b"", "__MACOSX/cat.1.jpg": b""}, "no images in it; pass a zip"),
        (
            {"test1.zip": b"", "a.csv": b"", "in/train.zip": b""},
            r"zips test1\.zip, in/train\.zip; .*inner in/train\.zip",
        ),
        ({"c" * 300 + ".jpg": b"1"}, "ccc.* of .*train.zip cannot be written .*too long"),
    ],
)
def test_archive_without_use(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    assert re.search(said, refused(zip_of(tmp_path / "given" / "train.zip", members), tmp_path / "cache"))


def test_source_without_use(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "no such file or folder" in refused(tmp_path / "gone.zip", cache)
    pets = folder_of(tmp_path / "pets", {"notes.txt": b""})
    assert "no images in it; pass a folder" in refused(pets, cache)
    folder_of(pets, {"train.zip": b"", "test.zip": b""})
    assert "the zips test.zip, train.zip; pass the path of one" in refused(pets, cache)
    (pets / "cat.2.jpg").symlink_to("gone.jpg")
    assert "cat.2.jpg: cannot be read" in refused(pets, cache)
    (pets / "cat.2.jpg").unlink()
    (pets / "cat.3.jpg").mkdir()
    (pets / os.fsdecode(b"cat.\xff.jpg")).touch()
    assert re.search("udcff.* not UTF-8", refused(pets, cache))
    os.mkfifo(tmp_path / "train.zip")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        open_images(tmp_path / "train.zip", cache, ROOM)


def test_limit_is_inclusive_and_holds_whatever_is_packed(tmp_path: Path) -> None:
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": b"12345", "dog.1.jpg": b"1" * 10**6})
    data = bytearray(source.read_bytes())
    struct.pack_into("<I", data, data.rindex(ENTRY) + 24, 5)
    struct.pack_into("<I", data, data.rindex(ENTRY) + 16, zlib.crc32(b"11111"))
    source.write_bytes(data)
    assert "raise data.max_unpacked_gib" in refused(source, tmp_path / "cache", 9)
    root = open_images(source, tmp_path / "cache", 10).root
    assert contents(root) == {"cat.1.jpg": b"12345", "dog.1.jpg": b"11111"}


def test_what_cannot_be_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_of(tmp_path / "train.zip", cats_and_dogs(1, 1))
    (tmp_path / "file").write_text("mine")
    assert re.search("cannot be written.*cache=FOLDER", refused(source, tmp_path / "file"))
    for target, name, number, said in (
        (shutil, "copyfileobj", errno.ENOSPC, "the disk is full; make room, or pass cache=FOLDER"),  # as zipfile writes
        (hashlib, "file_digest", errno.EACCES, "train.zip: cannot be read (Permission denied)"),
    ):

        def fails(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(target, name, fails)
        assert said in refused(source, tmp_path / "cache")
