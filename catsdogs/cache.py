"""Entry point: what the cache holds, and clearing it. Runs without TensorFlow.

python -m catsdogs.cache [show | clear [--unused-days DAYS | --everything] [--dry-run]] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import binary_size
from catsdogs.config.locations import add_cache_option, default_cache
from catsdogs.features.store import Store

# Folders of the cache beside `features`.
_FOLDERS = {
    "pixels": "decoded images",
    "archives": "unpacked archives",
    "catalogues": "tables of images",
    "near_duplicates": "perceptual hashes",
    "sample": "drawn archives",
}


def _cache(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    cache = options.cache
    if not cache.exists():
        print(f"Cache: {cache} has not been made yet, so there is nothing in it.")
    elif options.action == "show":
        _show(cache)
    else:
        _clear(cache, options.unused_days or 0.0, options.everything, options.dry_run)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-cache",
        description="Show what the cache holds, or clear it. Whatever is cleared is made again when it is needed.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "clear"),
        default="show",
        help="show: what is stored (default); clear: remove stored activations",
    )
    add_cache_option(parser, "folder of the cache")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--unused-days", type=float, metavar="DAYS", help="clear: only activations not used for so many days"
    )
    which.add_argument(
        "--everything",
        action="store_true",
        help=f"clear: also delete folders {', '.join(_FOLDERS)} of the cache with all that is in them, your own files "
        "too; only while nothing else runs",
    )
    parser.add_argument("--dry-run", action="store_true", help="clear: say what would be freed, and remove nothing")
    options = parser.parse_args(arguments)
    options.cache = options.cache.expanduser()  # no shell does it in --cache=~/folder
    cache, days = options.cache, options.unused_days
    if days is not None and not (days >= 0 and math.isfinite(days)):
        raise UserError(f"--unused-days {days:g}: give a number of days, 0 or more")
    if options.action == "show" and (days is not None or options.everything or options.dry_run):
        raise UserError("show: --unused-days, --everything and --dry-run are for clear; leave them out")
    if cache != default_cache() and not cache.exists():
        raise UserError(f"--cache {cache}: there is no such folder; give that of an existing cache")
    if cache.exists() and not cache.is_dir():
        raise UserError(f"{cache}: this is no folder; give that of the cache with --cache FOLDER")
    return options


def _show(cache: Path) -> None:
    entries = Store(cache / "features", 0).entries()
    used = f", last used {(time.time() - entries[0].last_used) / 86400:.1f} days ago" if entries else ""
    total = _bytes_in(cache / "features")
    print(f"features: {len(entries)} stored activations, {binary_size(total)}{used}")
    for name, what in _FOLDERS.items():
        size = _bytes_in(cache / name)
        total += size
        print(f"{name}: {what}, {binary_size(size)}")
    print(f"Total: {binary_size(total)} in {cache}; {binary_size(shutil.disk_usage(cache).free)} free on its disk")


def _clear(cache: Path, unused_days: float, everything: bool, dry_run: bool) -> None:
    done = "Would free" if dry_run else "Freed"
    store = Store(cache / "features", 0)
    began = time.time()
    freed = store.clear(unused_days, dry_run)
    print(f"{done} {binary_size(freed)} of stored activations in {store.folder}")
    staying = sum(entry.last_used <= began - unused_days * 86400 for entry in store.entries())
    if staying and not dry_run:
        print(f"{staying} of them stayed: being filled right now, or not yours to remove")
    if not everything:
        return
    for name, what in _FOLDERS.items():
        size = _bytes_in(cache / name)
        if not dry_run and (cache / name).exists():
            try:
                shutil.rmtree(cache / name)
            except OSError as error:
                raise UserError(
                    f"{error.filename or cache / name}: cannot be removed ({error.strerror or error}); "
                    "check its permissions"
                ) from error
        print(f"{done} {binary_size(size)} of {what}: the whole folder {cache / name}")
        freed += size
    print(f"{done} {binary_size(freed)} in all")


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # removed by another process meanwhile
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def main() -> int:
    return exit_status_of(_cache)


if __name__ == "__main__":
    sys.exit(main())
