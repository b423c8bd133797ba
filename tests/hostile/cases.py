"""Mutations of valid inputs. Each is a function of a random generator and the input, so a seed and number repeat it."""

import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

HOSTILE = json.loads(Path(__file__).with_name("values.json").read_text())
# JSON values of other types, and at the ends of ranges.
JSON_VALUES = (
    *HOSTILE["json"],
    *("9" * 400, "9" * 5000, str([0] * 10_000), json.dumps("a" * 10**6)),
    *("[" * depth + "]" * depth for depth in (50, 900, 100_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (50, 900, 100_000)),
)
CELLS = (*HOSTILE["cells"], "9" * 5000, "a" * 10**6)
INTEGERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
FILES = ("missing", "empty", "folder", "fifo", "loop", "dangling", "device", "endless")
MEMBERS = (*HOSTILE["members"], "x" * 300 + ".jpg", "d/" * 1000 + "a.jpg")
YAML_VALUES = (*HOSTILE["yaml"], "9" * 5000, "x" * 10**5, "[" * 500 + "]" * 500)


def mutated(rng: random.Random, kind: str, data: bytes) -> tuple[bytes, str]:
    """Return damaged content of a kind (json, csv, zip, image, npy, yaml, bytes), and the key that was changed."""
    change = KINDS.get(kind)
    if change is None or (kind not in VALUES and rng.random() < 0.2):
        return mutated_bytes(rng, data), ""
    return change(rng, data)


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, move and overwrite bytes; half of the changes are in the first 128, where headers are."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        size = len(content)
        at = rng.randrange(min(size, 128) if rng.random() < 0.5 else size) if size else 0
        length = rng.choice((1, 4, 32, size // 3))
        integer = struct.pack(rng.choice("<>") + "Q", rng.choice(INTEGERS))
        width = rng.choice((1, 2, 4, 8))
        action = rng.randrange(7)
        if action == 0 and size:
            content[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            del content[at:]
        elif action == 2:
            content[at:at] = content[at : at + length] * rng.choice((1, 2, 50))
        elif action == 3:
            del content[at : at + length]
        elif action == 4:
            content[at : at + width] = integer[:width] if rng.random() < 0.5 else integer[-width:]
        elif action == 5:
            content[at : at + length] = rng.randbytes(min(length, 64))
        else:
            source = rng.randrange(size) if size else 0
            content[at : at + length] = content[source : source + length]
    return bytes(content)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested lists and dictionaries."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def mutated_json(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Replace, remove, rename, add or repeat one value; the text of the new one need not be valid JSON."""
    value = json.loads(data)
    path = rng.choice([place for place in places(value) if place] or [()])
    raw, action = rng.choice(JSON_VALUES), rng.randrange(8)
    if not path:
        return raw.encode(), ""
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    last = path[-1]
    if action == 0:
        del parent[last]
    elif action == 1 and isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    elif action == 2 and isinstance(parent, dict):
        parent["@new@"], raw = "@raw@", json.dumps(parent[last]) + f', "{last}": {raw}'
    else:
        parent[last] = "@raw@"
    text = json.dumps(value).replace('"@raw@"', raw).replace('"@new@"', json.dumps(str(last)))
    return text.encode(errors="surrogatepass"), str(next((key for key in reversed(path) if isinstance(key, str)), ""))


def mutated_csv(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Change one cell or name of a column; remove, repeat or exchange columns and rows."""
    rows = [line.split(",") for line in data.decode().removesuffix("\n").split("\n")]
    row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    name, action = "", rng.randrange(9)
    if action == 0:
        rows[0][column] = rng.choice((*rows[0], *CELLS))
    elif action == 1:
        rows = [cells[:column] + cells[column + 1 :] for cells in rows]
    elif action == 2:
        rows = [[*cells, cells[column]] for cells in rows]
    elif action == 3:
        rows.insert(row, rng.choice(rows))
    elif action == 4:
        del rows[row:]
    else:
        cell = rng.choice(CELLS)
        # Quotes and commas move cells to other columns.
        name, rows[row][column] = "" if row == 0 or cell in ('"', "a,b") else rows[0][column], cell
    end = rng.choice(("\n",) * 8 + ("", "\r\n"))
    text = (end or "\n").join(map(",".join, rows)) + end
    return text.encode(errors="surrogatepass"), name


def mutated_zip(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Add a hostile member, or change fields of the directory so that it disagrees with the members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    action, file = rng.randrange(6), io.BytesIO()
    name = rng.choice((*MEMBERS, members[0][0]))
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings(action="ignore"):
        for member, content in members:
            archive.writestr(member, content)
        info = zipfile.ZipInfo("a.jpg")
        info.orig_filename = info.filename = name if action == 0 else "train/cat.77.jpg"
        if action == 1:
            info.external_attr = rng.choice((0o120777, 0o010644, 0o060644, 0o040755)) << 16
        if action == 2:
            info.compress_type = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        content = {1: b"/etc/passwd", 2: bytes(rng.choice((10, 10**5, 7 * 10**7)))}.get(action, members[0][1])
        if name or action:
            archive.writestr(info, content)
    raw = bytearray(file.getvalue())
    if action > 2:
        entries = [at for at in range(len(raw)) if raw[at : at + 4] == b"PK\1\2"]
        # Version, flags, method, time, checksum, sizes, lengths of name, extra and comment, disk, attributes, offset.
        fields = {6: 2, 8: 2, 10: 2, 12: 4, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 34: 2, 38: 4, 42: 4}
        at, width = rng.choice(list(fields.items()))
        value = rng.choice((*INTEGERS, 8, 9, 12, 14, 93, 99)) % 2 ** (8 * width)
        start = rng.choice(entries) + at
        raw[start : start + width] = value.to_bytes(width, "little")
    return bytes(raw), ""


def mutated_image(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Set width, height or another field of a header to an extreme value, with the checksum of PNG; or damage bytes."""
    content, value = bytearray(data), rng.choice((*INTEGERS, 20_000, 60_000))
    if data.startswith(b"\x89PNG"):
        at, width = rng.choice(((16, 4), (20, 4), (16, 8), (24, 1), (25, 1), (28, 1)))
        value = 20_000 * (2**32 + 1) if width == 8 else value  # width and height: 1.5 GiB
        content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    elif data.startswith(b"\xff\xd8") and (frame := data.find(b"\xff\xc0")) > 0:
        at, width = rng.choice(((5, 2), (7, 2), (5, 4), (4, 1), (9, 1), (11, 1)))
        value = 20_000 * (2**16 + 1) if width == 4 else value
        content[frame + at : frame + at + width] = (value % 2 ** (8 * width)).to_bytes(width, "big")
    else:
        at, width = rng.randrange(4, min(len(data), 64)), rng.choice((2, 4))
        content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))
    return bytes(content), ""


def mutated_npy(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Describe another shape or type in the header of an array, which keeps its length."""
    end = 10 + int.from_bytes(data[8:10], "little")
    kind = rng.choice(("|O", "<f4", "|u1", "<f8", "|V0", "<U4", "|S0", "<m8", "<c16"))
    shape = rng.choice(((), (0,), (10**9, 10**9), (-1,), (2**62, 4), (1,), (6, 64, 64, 3), (10**10,)))
    order = rng.choice(("False", "True", "0", "None"))
    text = f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return data[:10] + text.ljust(end - 11)[: end - 11] + b"\n" + data[end:], ""


def mutated_yaml(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Replace the value of one line, or add a repeated or an unknown key."""
    lines = [line for line in data.decode().splitlines() if ":" in line]
    at, action = rng.randrange(len(lines)), rng.randrange(8)
    key = lines[at].partition(":")[0]
    extra = {1: [lines[at]], 2: ["unknown: 1"], 3: ["defaults: [x]"]}.get(action)
    if extra is None:
        lines[at] = f"{key}: {rng.choice(YAML_VALUES)}"
    return ("\n".join([*lines, *(extra or [])]) + "\n").encode(), "" if extra else key


def mutated_override(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Replace the value or a character of an override of Hydra."""
    key, _, value = data.decode().partition("=")
    characters = "=,[]{}()'\"\\$~+@:% \t\n\x00٣é\ud800*!#&|<>;-_.0e"
    word = f"{key}={rng.choice(YAML_VALUES + CELLS + ('choice(1,2)', 'range(1,10**9)', 'glob(*)', 'interval(0,1)'))}"
    if rng.random() < 0.5:
        at = rng.randrange(len(data) + 1)
        text = f"{key}={value}"
        key, word = "", text[:at] + rng.choice(characters) + text[at + rng.randrange(2) :]
    # An argument has no NUL and at most 128 KiB, and an option is not an override.
    word = (rng.choice(("", "", "", "+", "++", "~")) + word).replace("\0", "").lstrip("-")[:131_000]
    return word.encode(errors="surrogatepass"), key.lstrip("+~")


def mutated_space(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Change one value as `mutated_json`, in text that Python can parse."""
    while True:
        content, key = mutated_json(rng, data)
        try:
            if isinstance(json.loads(content), dict):
                return content, key
        except (ValueError, RecursionError):
            continue


VALUES = ("override", "space")  # not files, so that only their values are changed
CHANGES = (mutated_json, mutated_csv, mutated_zip, mutated_image, mutated_npy, mutated_yaml, mutated_override)
KINDS: dict[str, Any] = {one.__name__.removeprefix("mutated_"): one for one in (*CHANGES, mutated_space)}


def put(file: Path, content: bytes | str) -> None:
    """Write a file in place of anything else; a name of `FILES` creates what is no regular file."""
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content in ("empty", "endless"):
        with file.open("wb") as stream:
            stream.truncate(0 if content == "empty" else 2**33)  # without blocks on the disk
    elif content == "folder":
        file.mkdir()
    elif content == "fifo":
        os.mkfifo(file)
    elif content != "missing":
        file.symlink_to({"loop": file.name, "dangling": "nowhere", "device": "/dev/zero"}[content])
