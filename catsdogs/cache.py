"""Entry point: what the cache holds, and clearing it. Runs without TensorFlow.

python -m catsdogs.cache [show | clear [--unused-days DAYS | --everything] [--dry-run]] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from catsdogs.activations import Entry
from catsdogs.errors import UserError, exit_status_of
from catsdogs.store import Store

# Folders of the cache beside `features`: what they hold, and the names that catsdogs gives. What has another name is
# somebody else's and stays.
_FOLDERS = {
    "pixels": ("decoded images", re.compile(r"[0-9a-f]{64}\.npy")),
    "archives": ("unpacked archives", re.compile(r"[0-9a-f]{64}")),
    "catalogues": ("tables of images", re.compile(r"[0-9a-f]{64}-v\d+\.csv")),
    "near_duplicates": ("perceptual hashes", re.compile(r"[0-9a-f]{64}-v\d+\.csv")),
    "sample": ("drawn archives", re.compile(r"[0-9a-f]{16}")),
}

# What a killed process leaves of these: a dot, the beginning of the final name, and what `tempfile` makes up.
_UNFINISHED = re.compile(r"\.[0-9a-f]{16,64}(-v\d+)?-[a-z0-9_]{8}(\.npy|\.csv)?")
_SURELY_KILLED_SECONDS = 86400.0  # nothing takes as long to decode or unpack

_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_AGES = ((86400, "day"), (3600, "hour"), (60, "minute"))


def _cache(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    cache = options.cache or Path(os.environ.get("CATSDOGS_CACHE", "~/.cache/catsdogs"))
    cache = cache.expanduser()
    _check(options, cache)
    if not cache.exists():
        print(f"Cache: {cache} has not been made yet, so there is nothing in it.")
    elif options.action == "show":
        _show(cache)
    else:
        _clear(cache, options.unused_days, options.everything, options.dry_run)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="catsdogs-cache",
        description="Show what the cache holds, or clear it. Whatever is cleared is made again when it is needed.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "clear"),
        default="show",
        help="show: a table of what is stored (default); clear: remove stored activations",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="folder of the cache (default: $CATSDOGS_CACHE or ~/.cache/catsdogs)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--unused-days", type=float, metavar="DAYS", help="clear: only activations not used for so many days"
    )
    which.add_argument(
        "--everything",
        action="store_true",
        help="clear: also decoded images, archives and catalogues; only while nothing else runs",
    )
    parser.add_argument("--dry-run", action="store_true", help="clear: say what would be freed, and remove nothing")
    return parser


def _check(options: argparse.Namespace, cache: Path) -> None:
    days = options.unused_days
    if days is not None and not (days >= 0 and math.isfinite(days)):
        raise UserError(f"--unused-days {days:g}: give a number of days, 0 or more")
    if options.action == "show" and (days is not None or options.everything or options.dry_run):
        raise UserError("show: --unused-days, --everything and --dry-run are for clear; leave them out")
    if options.cache is not None and not cache.exists():
        raise UserError(f"--cache {cache}: there is no such folder; give that of an existing cache")
    if cache.exists() and not cache.is_dir():
        raise UserError(f"{cache}: this is no folder; give that of the cache with --cache FOLDER")


def _show(cache: Path) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    entries = Store(cache / "features", 0).entries()
    if entries:
        console.print(_table(entries))
    stored = sum(entry.bytes for entry in entries)
    console.print(Text(f"features: {_count(len(entries), 'stored activation')}, {_size(stored)}"))
    total = _bytes_in(cache / "features")
    for name, (what, pattern) in _FOLDERS.items():
        size = _bytes_in(cache / name)
        total += size
        things = sum(pattern.fullmatch(path.name) is not None for path in _paths(cache / name))
        console.print(Text(f"{name}: {what}, {things} of them, {_size(size)}"))
    free = shutil.disk_usage(cache).free
    # As Text, because rich would take [brackets] in a path for markup.
    console.print(Text(f"Total: {_size(total)} in {cache}; {_size(free)} free on its disk"), soft_wrap=True)


def _table(entries: list[Entry]) -> Table:
    """One row per kind of activations, most recently used first, as `entries` are."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        # Without underscores, lines break between words.
        told = [str(entry.about.get(name, "")).replace("_", " ") for name in ("backbone", "cut", "augmentation")]
        groups.setdefault((*told, str(entry.images), entry.dtype), []).append(entry)
    table = Table(title="Stored activations, last used first", title_justify="left")
    for header in ("backbone", "cut", "augmentation"):
        table.add_column(header, overflow="fold")
    for header in ("views", "images"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    for header in ("size", "last used"):
        table.add_column(header, justify="right", no_wrap=True)
    now = time.time()
    for (backbone, cut, augmentation, images, dtype), members in groups.items():
        texts = [backbone or "–", cut or "–", augmentation or "–", str(len(members)), images, dtype]
        used = _ago(now - max(entry.last_used for entry in members))
        table.add_row(*map(Text, [*texts, _size(sum(entry.bytes for entry in members)), used]))
    return table


def _clear(cache: Path, unused_days: float | None, everything: bool, dry_run: bool) -> None:
    done = "Would free" if dry_run else "Freed"
    store = Store(cache / "features", 0)
    began = time.time()
    freed = store.clear(unused_days or 0.0, dry_run)
    print(f"{done} {_size(freed)} of stored activations in {store.folder}")
    staying = [entry for entry in store.entries() if entry.last_used <= began - (unused_days or 0.0) * 86400]
    if staying and not dry_run:
        print(f"{_count(len(staying), 'stored activation')} stayed: being filled right now, or not yours to remove")
    if not everything:
        return
    for name, (what, pattern) in _FOLDERS.items():
        size = 0
        for path in _made_by_catsdogs(cache / name, pattern):
            size += _bytes_in(path)
            if not dry_run:
                _remove(path)
        print(f"{done} {_size(size)} of {what} in {cache / name}")
        unknown = [path.name for path in _paths(cache / name) if not (dry_run or path.name.startswith("."))]
        if unknown:
            print(f"Left alone in {cache / name}, as catsdogs did not make it: {', '.join(sorted(unknown)[:3])}")
        freed += size
    print(f"{done} {_size(freed)} in all")


def _made_by_catsdogs(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """What catsdogs put into a folder, and what killed processes left there of it."""
    if folder.is_symlink():
        return
    for path in _paths(folder):
        if path.is_symlink():  # never catsdogs' doing; what it leads to is somebody's own
            continue
        old = time.time() - os.lstat(path).st_mtime > _SURELY_KILLED_SECONDS
        if pattern.fullmatch(path.name) or (old and _UNFINISHED.fullmatch(path.name)):
            yield path


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot be removed ({error.strerror}); check its permissions") from error


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error


def _bytes_in(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_file() and not path.is_symlink():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # removed by another process meanwhile
                continue
    return size


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _ago(seconds: float) -> str:
    for unit, name in _AGES:
        if seconds >= unit:
            return f"{_count(int(seconds // unit), name)} ago"
    return "just now"


def main() -> int:
    return exit_status_of(_cache)


if __name__ == "__main__":
    sys.exit(main())
