"""Record the file operations of a command with strace, which sees every library and every process."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,lseek,truncate,ftruncate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,chmod,fchmod,fchmodat,"
    "dup,dup2,dup3,fcntl"
)
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x..)*)"')
_OPENED = re.compile(r"(-?\w+)<((?:\\x..)*)>(\(deleted\))?")


@dataclass(frozen=True)
class Operation:
    """A successful operation on a path, which is relative to the recorded folder."""

    kind: str  # create, write, truncate, sync, rename, link, symlink, unlink, mkdir, rmdir or chmod
    path: str
    target: str = ""  # new path of rename and link, content of symlink
    data: bytes = b""
    offset: int = 0  # of the write, -1 for the end of the file; size of truncate, where -1 is that of a new file


def record(command: list[str], folder: Path, environment: dict[str, str]) -> list[Operation]:
    """Run a command in a folder, and return its operations on files below it."""
    log = folder.with_suffix(".strace")
    tracing = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", str(2**28), "-o", str(log)]
    output = log.with_suffix(".log")
    with output.open("wb") as file:
        arguments = [*tracing, "-e", f"trace={_CALLS}", *command]
        done = subprocess.run(arguments, cwd=folder, env=environment, stdout=file, stderr=file, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: status {done.returncode}\n{output.read_text()[-3000:]}")
    return list(_Parser(folder.resolve()).operations(log))


class _Parser:
    def __init__(self, root: Path) -> None:
        self._root = root
        # Offset by path and number of the open file, -1 if it appends; duplicates of a number share the list.
        self._offsets: dict[tuple[str, str], list[int]] = {}

    def operations(self, log: Path) -> Iterator[Operation]:
        unfinished: dict[str, str] = {}
        with log.open(encoding="ascii") as lines:
            for line in lines:
                process, text = line.rstrip("\n").split(maxsplit=1)
                if text.endswith(" <unfinished ...>"):
                    unfinished[process] = text.removesuffix(" <unfinished ...>")
                    continue
                if text.startswith("<..."):
                    text = unfinished.pop(process) + text.split(" resumed>", 1)[1]
                match = _CALL.match(text)
                if match and int(match[3]) >= 0:
                    yield from self._operation(match[1], match[2], int(match[3]))

    def _operation(self, call: str, arguments: str, returned: int) -> Iterator[Operation]:
        strings = [os.fsdecode(_decode(text)) for text in _STRING.findall(arguments)]
        # Pipes have no path, and a removed file is in no state.
        named = _OPENED.findall(arguments)
        opened = [(number, "/" if gone else os.fsdecode(_decode(path))) for number, path, gone in named]
        opened = [(number, path if path.startswith("/") else "/") for number, path in opened]
        if call in ("open", "openat", "creat"):
            yield from self._opened(self._relative(strings[0], opened), arguments, returned)
        elif call in ("rename", "renameat", "renameat2", "link", "linkat"):
            one, other = (self._relative(path, opened[i : i + 1]) for i, path in enumerate(strings))
            if one is not None or other is not None:
                assert one is not None, arguments
                assert other is not None, arguments
                yield Operation(call[:6].removesuffix("at"), one, other)
        elif call in ("symlink", "symlinkat"):
            yield from self._on("symlink", self._relative(strings[1], opened), strings[0])
        elif call in ("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "chmod", "fchmodat", "truncate"):
            kind = "rmdir" if "AT_REMOVEDIR" in arguments else call.removeprefix("f").removesuffix("at")
            size = int(arguments.rsplit(", ", 1)[1]) if call == "truncate" else 0
            yield from self._on(kind, self._relative(strings[0], opened), offset=size)
        elif opened and (path := self._relative("", opened[:1])) is not None:
            yield from self._on_open(call, arguments, returned, path, opened[0][0])

    def _opened(self, path: str | None, arguments: str, returned: int) -> Iterator[Operation]:
        if path is None or not re.search("O_(WRONLY|RDWR)", arguments):
            return
        self._offsets[path, str(returned)] = [-1 if "O_APPEND" in arguments else 0]
        if "O_CREAT" in arguments:
            yield Operation("create", path)
        if "O_TRUNC" in arguments:
            yield Operation("truncate", path)

    def _on_open(self, call: str, arguments: str, returned: int, path: str, number: str) -> Iterator[Operation]:
        last = arguments.rsplit(", ", 1)[-1]
        if call == "lseek":
            if self._offsets.get((path, number), [-1])[0] >= 0:
                self._offsets[path, number][0] = returned
        elif call.startswith("dup") or "F_DUPFD" in arguments:
            if (path, number) in self._offsets:
                self._offsets[path, str(returned)] = self._offsets[path, number]
        elif call in ("write", "writev", "pwrite64", "pwritev"):
            data = b"".join(map(_decode, _STRING.findall(arguments)))[:returned]
            offset = self._offsets[path, number][0] if call.startswith("w") else int(last)
            if call.startswith("w") and offset >= 0:
                self._offsets[path, number][0] += returned
            yield Operation("write", path, data=data, offset=offset)
        elif call in ("fsync", "fdatasync"):
            yield Operation("sync", path)
        elif call in ("ftruncate", "fchmod"):
            yield Operation(call[1:], path, offset=int(last) if call == "ftruncate" else 0)

    def _on(self, kind: str, path: str | None, target: str = "", offset: int = 0) -> Iterator[Operation]:
        if path is not None:
            yield Operation(kind, path, target, offset=offset)

    def _relative(self, path: str, opened: list[tuple[str, str]]) -> str | None:
        """Return a path relative to the recorded folder, or None if it is elsewhere."""
        # The current folder of all processes is the recorded one; calls without a folder do not show it.
        absolute = os.path.normpath(self._root / (opened[0][1] if opened else "") / path)
        if absolute == str(self._root):
            return "."
        return absolute.removeprefix(f"{self._root}/") if absolute.startswith(f"{self._root}/") else None


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
