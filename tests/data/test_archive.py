import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_images import HEIC, cats_and_dogs, encoded, folder_of, gradient, jpeg, zip_of

from catsdogs.base import files
from catsdogs.base.errors import UserError
from catsdogs.base.text import natural_key
from catsdogs.data import archive
from catsdogs.data.archive import ImageFolder, open_images

ROOM = 2**30


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@given(st.lists(st.integers(min_value=0)), st.lists(st.text(alphabet="ab01２.", max_size=6), unique=True))
def test_natural_key_sorts_numbers_and_separates_names(numbers, names):
    ids = [f"cat.{number}" for number in numbers]
    assert sorted(ids, key=natural_key) == [f"cat.{number}" for number in sorted(numbers)]
    assert len({natural_key(name) for name in names}) == len(names)


def test_zip_is_unpacked_into_the_cache_once(tmp_path, monkeypatch):
    images = {
        "train/cat.1.jpg": jpeg(1),
        "train/dog.2.JPEG": jpeg(2),
        "train/Ünï cödé 猫.png": b"not decoded",
        "train/deep/er/x.TIFF": b"4",
        "CAT.1.JPG": b"7",
    }
    hidden = ("train/", "train/._cat.1.jpg", "__MACOSX/cat.1.jpg", ".no/3.jpg")
    skipped = {**dict.fromkeys(hidden, b""), "README.md": b"text"}
    members = images | skipped | {"./train//y.webp": b"5", "windows\\z.gif": b"6"}
    source = zip_of(tmp_path / "with space" / "tráin.zip", members)
    folder = open_images(source, tmp_path / "my cache", ROOM)
    assert folder.digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert folder.root == tmp_path / "my cache" / "archives" / folder.digest
    assert contents(folder.root) == images | {"train/y.webp": b"5", "windows/z.gif": b"6"}
    assert [path.name for path in folder.root.parent.iterdir()] == [folder.digest]
    assert folder.paths == tuple(sorted(contents(folder.root), key=natural_key))
    assert folder.skipped == (".no/3.jpg", "README.md")
    # An unpacked zip is used as long as its images are unchanged.
    monkeypatch.setattr(archive, "_unpack", unpack := Mock())
    assert open_images(source.rename(tmp_path / "other.zip"), tmp_path / "my cache", 0) == folder
    unpack.assert_not_called()


@pytest.mark.parametrize("content", [None, jpeg(1)[:-1] + b"x"])
def test_an_unpacked_image_that_is_missing_or_changed_is_unpacked_again(tmp_path, content, caplog):
    source = zip_of(tmp_path / "train.zip", {"cat.1.jpg": jpeg(1), "dog.1": jpeg(2)})
    folder = open_images(source, tmp_path / "cache", ROOM)
    for name in ("cat.1.jpg", "dog.1"):
        (folder.root / name).unlink()
        if content is not None:
            (folder.root / name).write_bytes(content)
        assert open_images(source, tmp_path / "cache", ROOM) == folder
        assert contents(folder.root) == {"cat.1.jpg": jpeg(1), "dog.1": jpeg(2)}
        assert f"{name}: missing or different" in caplog.messages[-1]


def test_skipped_files_are_named(tmp_path):
    one, many = (ImageFolder(tmp_path, "", (), tuple("123456"[:count])).skipped_message("my pets") for count in (1, 6))
    assert one == "skipping 1 file that is hidden or no image: 1"
    assert many.endswith("4, 5 and 1 more; for skipped.csv with all names: python -m catsdogs.audit 'my pets'")


def test_folder_is_used_in_place(tmp_path, monkeypatch):
    members = {"dogs/10.jpg": b"x" * 11, "dogs/9.jpg": b"x" * 10, "notes.txt": b"", ".cache/cat.9.jpg": b""}
    source = folder_of(tmp_path / "my pets", members)
    folder_of(tmp_path / "elsewhere", {"1.jpg": b"x" * 10, "2.jpg": b"x" * 10})
    (source / "cats").symlink_to(tmp_path / "elsewhere")
    (source / "cats" / "loop").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    images = open_images(Path("my pets"), tmp_path / "cache", 0)
    assert not (tmp_path / "cache").exists()
    paths = ["cats/1.jpg", "cats/2.jpg", "dogs/9.jpg", "dogs/10.jpg"]
    assert (images.root, list(images.paths)) == (source, paths)
    for number, path in enumerate(paths):
        os.utime(source / path, ns=(5, number))
    listing = "".join(f"{path}\0{len(path)}\0{paths.index(path)}\n" for path in sorted(paths))
    assert open_images(source, tmp_path / "cache", 0).digest == hashlib.sha256(listing.encode()).hexdigest()


IMAGES = {
    **{f"{number}{suffix}": jpeg(number) for number, suffix in enumerate((".jfif", ".jpe", "", ".dat", ".tar.gz"), 1)},
    "6.avif": encoded(gradient(6), "AVIF"),
    "7.JP2": encoded(gradient(7), "JPEG2000"),
    "8.heic": HEIC,
    "9": HEIC,
    "10.jpg": b"damaged",
}
OTHERS = {".hidden.jpg": jpeg(1), ".git/a/b": b"", "a/movie.mp4": b"\0\0\0\x18ftypmp42", "empty": b"", "notes": b"BM"}
LITTER = {".DS_Store": b"", "._1.jpg": jpeg(1), "a/Thumbs.db": b"", "desktop.ini": b"", "__MACOSX/a/1.jpg": jpeg(1)}


@pytest.mark.parametrize("form", ["folder", "zip", "compressed zip"])
def test_content_decides_and_every_other_file_is_named(tmp_path, form):
    if form == "folder":
        source = folder_of(tmp_path / "pets", IMAGES | OTHERS | LITTER)
    else:
        compression = zipfile.ZIP_DEFLATED if form == "compressed zip" else zipfile.ZIP_STORED
        source = zip_of(tmp_path / "pets.zip", IMAGES | OTHERS | LITTER, compression)
    for _ in range(2):  # also of a zip that is already unpacked
        folder = open_images(source, tmp_path / "cache", ROOM)
        assert folder.paths == tuple(sorted(IMAGES, key=natural_key))
        assert folder.skipped == tuple(sorted(OTHERS, key=natural_key))
    names = ", ".join(folder.skipped)
    assert folder.skipped_message(source) == f"skipping 5 files that are hidden or not images: {names}"


def test_only_regular_files_are_read(tmp_path):
    source = folder_of(tmp_path / "pets", {"1": jpeg(1), ".x/2.jpg": jpeg(2)})
    os.mkfifo(source / "pipe")
    (source / "gone").symlink_to("nowhere")
    (source / ".loop").symlink_to(source)
    (source / ".x" / "cats").symlink_to(source)
    folder = open_images(source, tmp_path / "cache")
    assert (folder.paths, folder.skipped) == (("1",), (".x/2.jpg", "gone", "pipe"))


def test_concurrent_unpacking_keeps_the_first_result(tmp_path, monkeypatch):
    members = cats_and_dogs(3, 3)
    source = zip_of(tmp_path / "train.zip", members)
    rename = os.rename
    first = members | {"first.jpg": b""}
    monkeypatch.setattr(os, "rename", lambda one, other: rename(one, folder_of(other, first)))
    folder = open_images(source, tmp_path / "cache", ROOM)
    assert contents(folder.root) == first
    assert list((tmp_path / "cache" / "archives").iterdir()) == [folder.root]


def refused(source, cache, room=ROOM):
    """Return the error message; check that no file is left behind."""
    before = contents(source.parent)
    with pytest.raises(UserError) as caught:
        open_images(source, cache, room)
    assert str(caught.value).isprintable()
    assert contents(source.parent) == before
    assert not cache.is_dir() or [path for path in cache.rglob("*") if path != cache / "archives"] == []
    return str(caught.value)


PAIR = {"train/cat.1.jpg": bytes(range(256)) * 40, "train/dog.2.jpg": b"B" * 1000}
ENTRY = b"PK\x01\x02"  # of the central directory; the last one is that of dog.2


def entry(offset, kind, value):
    """Overwrite a number in the central directory's entry of dog.2."""
    return lambda data: struct.pack_into(kind, data, data.rindex(ENTRY) + offset, value)


def corrupt_content(data):
    data[45:80] = b"\xff" * 35


@pytest.mark.parametrize(
    ("compression", "change", "message"),
    [
        (0, lambda data: data.__delitem__(slice(len(data) // 2, None)), "truncated.*download"),
        (0, lambda data: data.__delitem__(slice(data.index(ENTRY), data.index(b"PK\5\6"))), "corrupted.*download"),
        (0, lambda data: data.__setitem__(data.index(b"BBBB"), 0), r"dog\.2\.jpg is corrupted.*CRC.*download"),
        (0, entry(8, "<H", 1), r"dog\.2\.jpg.*password.*the folder"),
        (0, entry(42, "<I", 2**31), r"dog\.2\.jpg is corrupted"),  # offset beyond the file
        (0, lambda data: data.__setitem__(slice(None), b"<html>Log in first</html>"), "not a zip"),
        (zipfile.ZIP_BZIP2, corrupt_content, r"cat\.1\.jpg is corrupted"),
        (zipfile.ZIP_LZMA, corrupt_content, r"cat\.1\.jpg is corrupted"),
    ],
)
def test_corrupted_zip(tmp_path, compression, change, message):
    source = zip_of(tmp_path / "given" / "train.zip", PAIR, compression)
    data = bytearray(source.read_bytes())
    change(data)
    source.write_bytes(data)
    assert re.search(message, refused(source, tmp_path / "cache"))


def test_corrupted_member_without_an_image_suffix_is_skipped(tmp_path):
    source = zip_of(tmp_path / "train.zip", {"1": PAIR["train/cat.1.jpg"], **PAIR}, zipfile.ZIP_BZIP2)
    data = bytearray(source.read_bytes())
    corrupt_content(data)
    source.write_bytes(data)
    assert open_images(source, tmp_path / "cache", ROOM).skipped == ("1",)


UNSAFE = ["/tmp/2.jpg", "\\2.jpg", "C:\\2.jpg", "a/../../2.jpg", "a\\..\\2.jpg", "../2.txt", "2.\0.jpg", "2.\x1b.jpg"]


@pytest.mark.parametrize("name", [*UNSAFE, "link.jpg"])
def test_unsafe_member_is_refused(tmp_path, name):
    info = zipfile.ZipInfo("x" * len(name))
    info.external_attr = (stat.S_IFLNK | 0o777) << 16 if name == "link.jpg" else 0
    source = zip_of(tmp_path / "given" / "train.zip", {"train/cat.1.jpg": b"1", info: b"/etc/passwd"})
    source.write_bytes(source.read_bytes().replace(b"x" * len(name), name.encode()))
    assert f"unsafe member {name!a}" in refused(source, tmp_path / "cache")


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat.1.jpg", "./cat.1.jpg"), ("cat.1.jpg", "cat.1.jpg/2.jpg"), ("1.jpg/2.jpg", "1.jpg"), ("a.jpg", "A.jpg")],
)
def test_no_image_replaces_another(tmp_path, monkeypatch, one, other):
    # Simulate a case-insensitive file system.
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    source = zip_of(tmp_path / "given" / "train.zip", {one: b"1", other: b"2"})
    assert f"{other.removeprefix('./')} has the same name as another" in refused(source, tmp_path / "cache")


def test_unusable_sources(tmp_path):
    cache, pets = tmp_path / "cache", folder_of(tmp_path / "pets", {"notes.txt": b"", "__MACOSX/cat.1.jpg": b""})
    no_images = "contains no images, only {}; pass a zip or a folder of images"
    assert "gone.zip: not found" in refused(tmp_path / "gone.zip", cache)
    assert no_images.format("notes.txt") in refused(pets, cache)
    zips = {"test1.zip": b"", "sampleSubmission.csv": b"", "train.zip": b""}
    assert "zips (test1.zip, train.zip); pass train.zip" in refused(folder_of(pets, zips), cache)
    message = refused(zip_of(tmp_path / "2" / "2.zip", zips), cache)
    assert "zips (test1.zip, train.zip); unpack it and pass train.zip" in message
    for name, make, problem in (
        ("cat.2.jpg", lambda path: path.symlink_to("gone.jpg"), r"cat\.2\.jpg: cannot be read"),
        (os.fsdecode(b"cat.\xff.jpg"), Path.touch, "udcff.* not UTF-8"),
        ("cat.3.jpg", Path.mkdir, "no images"),
        ("cat.4.jpg", os.mkfifo, r"cat\.4\.jpg: not a file"),
    ):
        make(pets / name)
        with pytest.raises(UserError, match=problem):
            open_images(pets, cache)
        (pets / name).rmdir() if name == "cat.3.jpg" else (pets / name).unlink()
    os.mkfifo(tmp_path / "train.zip")
    with pytest.raises(UserError, match=r"train.zip: cannot be read .is not a regular file"):
        open_images(tmp_path / "train.zip", cache)


def test_size_limit_is_inclusive_and_detects_zip_bombs(tmp_path):
    cache = tmp_path / "cache"
    source = zip_of(tmp_path / "given" / "train.zip", {"cat.1.jpg": b"12345", "dog.1.jpg": b"1" * 10**6})
    data = bytearray(source.read_bytes())
    entry(24, "<I", 5)(data)
    entry(16, "<I", zlib.crc32(b"11111"))(data)
    source.write_bytes(data)
    assert "images take 10 bytes, more than data.max_unpacked_gib=8.38e-09; raise" in refused(source, cache, 9)
    assert contents(open_images(source, cache, 10).root) == {"cat.1.jpg": b"12345", "dog.1.jpg": b"11111"}
    # Images do not compress this much.
    bomb = zip_of(tmp_path / "bomb" / "train.zip", {"cat.1.jpg": bytes(200 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert re.search(r"cat\.1\.jpg expands from 19\d\.\d KiB to 200\.0 MiB", refused(bomb, tmp_path / "b"))


def test_unwritable_or_full_cache(tmp_path, monkeypatch):
    source = zip_of(tmp_path / "given" / "train.zip", cats_and_dogs(1, 1))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        open_images(source, tmp_path / "file")
    monkeypatch.setattr(shutil, "copyfileobj", Mock(side_effect=OSError(errno.ENOSPC, "full")))  # used by zipfile
    with pytest.raises(OSError, match="full"):
        open_images(source, tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []
    monkeypatch.setattr(hashlib, "file_digest", Mock(side_effect=OSError(errno.EACCES, "Permission denied")))
    assert "train.zip: cannot be read (Permission denied)" in refused(source, tmp_path / "cache")


def test_deep_and_long_members_and_those_without_a_name_are_skipped(tmp_path):
    good = {f"cat.{number}.jpg": jpeg(number) for number in range(3)}
    source = zip_of(tmp_path / "pets.zip", good)
    with zipfile.ZipFile(source, "a") as target:
        for name in ("", ".", "/", "a/" * 1000 + "cat.9.jpg", "x" * 65_000 + ".jpg", "./"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            target.writestr(info, b"" if name == "./" else jpeg(9))
    images = open_images(source, tmp_path / "cache")
    assert (list(images.paths), len(images.skipped)) == (list(good), 5)
    assert len(images.skipped_message(source)) < 2000


def test_too_many_members_and_an_unpacked_image_are_not_read_into_memory(tmp_path, monkeypatch):
    source = zip_of(tmp_path / "pets.zip", {"cat.1.jpg": jpeg(1)})
    images = open_images(source, tmp_path / "cache")
    monkeypatch.setattr(Path, "read_bytes", None)
    assert open_images(source, tmp_path / "cache") == images
    monkeypatch.setattr(files, "_MAX_DIRECTORY_BYTES", 40)
    with pytest.raises(UserError, match="lists too many members"):
        open_images(source, tmp_path / "cache")
