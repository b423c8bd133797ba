"""Rebuild a folder as it was after each recorded operation, with un-synced changes kept, halved, dropped or unnamed.

kept: the process was killed. The others are power failures: halved and dropped lose half or all of the data that was
not synced, although the names of the files changed; unnamed also loses names in folders that were not synced.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recording import Operation

KEPT, HALVED, DROPPED, UNNAMED = "kept", "halved", "dropped", "unnamed"
VARIANTS = (KEPT, HALVED, DROPPED, UNNAMED)

# Files that no command reads, which `run` checks: states that differ only in their contents are equal.
NEVER_READ = re.compile(r"(^|/)(\.hydra/.*\.yaml|multirun\.yaml|tuner/.*\.json|[a-z]+\.log)$")

Files = dict[str, bytes | str | None]  # content by path: bytes of a file, target of a link, None for a folder


@dataclass(eq=False)
class _Node:
    """A file, link (`target`) or folder (`names`)."""

    names: dict[str, "_Node"] | None = None
    target: str | None = None
    synced_names: dict[str, "_Node"] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys((KEPT, HALVED, DROPPED), b""))
    pending: list[Operation] = field(default_factory=list)  # since the last sync

    def change(self, operation: Operation) -> None:
        self.contents[KEPT] = _changed(self.contents[KEPT], operation)
        self.pending.append(operation)
        total = sum(len(one.data) for one in self.pending)
        half, left = self.contents[DROPPED], total // 2
        for one in self.pending:
            if one.kind == "write":
                one, left = Operation("write", "", data=one.data[:left], offset=one.offset), left - len(one.data[:left])
            half = _changed(half, one)
        self.contents[HALVED] = half

    def sync(self) -> None:
        self.contents = dict.fromkeys(self.contents, self.contents[KEPT])
        self.pending = []
        self.synced_names = dict(self.names or {})


def _changed(content: bytes, operation: Operation) -> bytes:
    if operation.kind == "truncate":
        return content[: operation.offset].ljust(operation.offset, b"\0")
    start = len(content) if operation.offset < 0 else operation.offset
    return content[:start].ljust(start, b"\0") + operation.data + content[start + len(operation.data) :]


class Folder:
    """A folder that the operations change."""

    def __init__(self, files: Files) -> None:
        self._root = _Node(names={})
        for path, content in sorted(files.items()):
            node = _Node(names={}) if content is None else _Node(target=content if isinstance(content, str) else None)
            if isinstance(content, bytes):
                node.contents = dict.fromkeys(node.contents, content)
            self._put(path, node)
        for node in [self._root, *(self._node(path) for path in files)]:
            node.sync()

    def apply(self, operation: Operation) -> None:
        kind, path = operation.kind, operation.path
        if kind == "create":
            if Path(path).name not in self._parent(path):
                self._put(path, _Node())
        elif kind in ("write", "truncate"):
            self._node(path).change(operation)
        elif kind == "sync":
            self._node(path).sync()
        elif kind in ("rename", "link"):
            self._put(operation.target, self._node(path))
        elif kind in ("mkdir", "symlink"):
            self._put(path, _Node(names={}) if kind == "mkdir" else _Node(target=operation.target))
        if kind in ("rename", "unlink", "rmdir"):
            del self._parent(path)[Path(path).name]

    def files(self, variant: str = KEPT) -> Files:
        files: Files = {}
        folders = [("", self._root)]
        while folders:
            parent, folder = folders.pop()
            names = folder.synced_names if variant == UNNAMED else folder.names
            for name, node in (names or {}).items():
                if node.names is not None:
                    files[parent + name] = None
                    folders.append((f"{parent}{name}/", node))
                else:
                    content = node.contents[DROPPED if variant == UNNAMED else variant]
                    files[parent + name] = content if node.target is None else node.target
        return files

    def _node(self, path: str) -> _Node:
        node = self._root
        for name in Path(path).parts:
            assert node.names is not None, path
            node = node.names[name]
        return node

    def _parent(self, path: str) -> dict[str, _Node]:
        names = self._node(str(Path(path).parent)).names
        assert names is not None, path
        return names

    def _put(self, path: str, node: _Node) -> None:
        self._parent(path)[Path(path).name] = node


@dataclass(frozen=True)
class State:
    """The folder after operation `number`."""

    number: int
    operation: Operation
    variant: str
    files: Files

    def __str__(self) -> str:
        return f"{self.number} {self.operation.kind} {self.operation.path}, {self.variant}"


def states(before: Files, operations: list[Operation]) -> Iterator[State]:
    """Yield every state, equal ones included."""
    folder = Folder(before)
    for number, operation in enumerate(operations):
        folder.apply(operation)
        for variant in VARIANTS:
            yield State(number, operation, variant, folder.files(variant))


def readable(files: Files) -> frozenset[tuple[str, bytes | str | None]]:
    """Return names, kinds and contents that a command may read."""
    return frozenset((path, b"" if content and NEVER_READ.search(path) else content) for path, content in files.items())


def read_files(folder: Path) -> Files:
    """Return the contents of a real folder."""
    files: Files = {}
    for path in folder.rglob("*"):
        content = str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        files[str(path.relative_to(folder))] = content
    return files


def write_files(folder: Path, files: Files) -> None:
    """Write the files into a new folder."""
    folder.mkdir()
    for name, content in sorted(files.items()):
        path = folder / name
        if content is None:
            path.mkdir()
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
