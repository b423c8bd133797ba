"""Command that shows or clears the cache, without importing TensorFlow.

python -m catsdogs.cache [show | clear [--unused-days DAYS | --everything] [--dry-run]] [--cache FOLDER]
"""

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
from catsdogs.base.files import walk
from catsdogs.base.text import binary_size
from catsdogs.config.locations import add_cache_option
from catsdogs.features.store import Store

# Folders of the cache, except `features`.
_FOLDERS = {
    "pixels": "decoded images",
    "archives": "unpacked archives",
    "catalogues": "tables of images",
    "near_duplicates": "perceptual hashes",
    "sample": "synthetic archives",
}


def _cache(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    cache = options.cache
    if not cache.exists():
        print(f"Cache: {cache} does not exist yet")
    elif options.action == "show":
        _show(cache)
    else:
        _clear(cache, options.unused_days or 0.0, options.everything, options.dry_run)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-cache",
        description="Show the contents of the cache, or clear it. Cleared data is recreated when it is needed.",
    )
    about = "show: list the contents; clear: remove stored activations (default: show)"
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show", help=about)
    add_cache_option(parser, "folder of the cache")
    selection = parser.add_mutually_exclusive_group()
    about = "with clear: remove only activations unused for DAYS days"
    selection.add_argument("--unused-days", type=float, metavar="DAYS", help=about)
    about = f"with clear: also delete the folders {', '.join(_FOLDERS)} and all files in them, including your own; "
    about += "use only while no other command runs"
    selection.add_argument("--everything", action="store_true", help=about)
    about = "with clear: report what would be removed, without removing anything"
    parser.add_argument("--dry-run", action="store_true", help=about)
    options = parser.parse_args(arguments)
    cache, days = options.cache, options.unused_days
    if days is not None and not (days >= 0 and math.isfinite(days)):
        raise UserError(f"--unused-days {days:g}: must be a finite number of days, at least 0")
    if options.action == "show" and (days is not None or options.everything or options.dry_run):
        raise UserError("--unused-days, --everything, --dry-run: not supported with show; use clear, or remove them")
    if cache.exists() and not cache.is_dir():
        raise UserError(f"{cache}: not a folder; pass the cache folder with --cache FOLDER")
    return options


def _show(cache: Path) -> None:
    entries = Store(cache / "features", 0).entries()
    used = f", last used {(time.time() - entries[0].last_used) / 86400:.1f} days ago" if entries else ""
    total = _bytes_in(cache / "features")
    print(f"features: {len(entries)} stored activations, {binary_size(total)}{used}")
    for name, contents in _FOLDERS.items():
        size = _bytes_in(cache / name)
        total += size
        print(f"{name}: {contents}, {binary_size(size)}")
    print(f"Total: {binary_size(total)} in {cache}; {binary_size(shutil.disk_usage(cache).free)} free on its disk")


def _clear(cache: Path, unused_days: float, everything: bool, dry_run: bool) -> None:
    action = "Would free" if dry_run else "Freed"
    store = Store(cache / "features", 0)
    cutoff = time.time() - unused_days * 86400
    freed = store.clear(unused_days, dry_run)
    print(f"{action} {binary_size(freed)} of stored activations in {store.folder}")
    skipped = sum(entry.last_used <= cutoff for entry in store.entries())
    if skipped and not dry_run:
        print(f"Skipped {skipped} stored activations: being filled, or permission denied")
    if not everything:
        return
    for name, contents in _FOLDERS.items():
        size = _bytes_in(cache / name)
        if not dry_run and (cache / name).exists():
            try:
                shutil.rmtree(cache / name)
            except OSError as error:
                folder, reason = error.filename or cache / name, error.strerror or error
                raise UserError(f"{folder}: cannot be removed; check its permissions ({reason})") from error
        print(f"{action} {binary_size(size)} of {contents} in {cache / name}")
        freed += size
    print(f"{action} {binary_size(freed)} in total")


def _bytes_in(folder: Path) -> int:
    size = 0
    for parent, _, names in walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # just removed by another process
                size += os.lstat(os.path.join(parent, name)).st_size
    return size


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_cache)


if __name__ == "__main__":
    sys.exit(main())
