"""Command `doctor`: check the installation, devices, weights and data, and suggest a fix for each problem.

python -m catsdogs.doctor [--train train.zip] [--validation valid.zip] [--test test.zip] [--weights FILE]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.config.locations import add_cache_option, conf_dir, sweeps_dir

# Pixels of 25,000 training and 12,500 test images at 224 px take 5.3 GiB, their files 1.1 GiB.
_KAGGLE_BYTES = 7 * 10**9


@dataclass(frozen=True)
class Finding:
    """Result of one check, and the fix if it is not `ok`."""

    ok: bool
    text: str
    fix: str = ""


def _doctor(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="catsdogs-doctor",
        description="Check the installation, devices, weights and data, and suggest a fix for each problem.",
    )
    parser.add_argument("--train", type=Path, help="zip or folder of labeled images to check")
    parser.add_argument("--validation", type=Path, help="zip or folder of your own labeled validation images to check")
    parser.add_argument("--test", type=Path, help="zip or folder of test images to check")
    parser.add_argument("--weights", default="imagenet", help="weights of MobileNetV2 to check (default: %(default)s)")
    add_cache_option(parser, "folder of the cache")
    options = parser.parse_args(arguments)
    problems = 0
    for finding in _findings(options):
        print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.text}")
        if not finding.ok:
            problems += 1
            print(f"         {finding.fix}")
    print(f"\n{problems} problem{'s' if problems > 1 else ''} found, see above" if problems else "\nAll checks passed")
    return 1 if problems else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    """Yield each result as soon as it is known, because some checks take seconds."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(supported, f"Python {platform.python_version()}", "install Python 3.11, 3.12 or 3.13")
    yield from _packages()
    for name, folder in (("conf", conf_dir()), ("sweeps", sweeps_dir())):
        yield Finding(folder.is_dir(), f"{name}/ at {folder}", "reinstall catsdogs, which contains this folder")
    yield _cache(options.cache)
    yield _devices()
    yield _weights(options.weights)
    for role in ("train", "validation", "test"):
        if (source := getattr(options, role)) is not None:
            yield from _data(source, role, options.cache)
    for role in ("validation", "test"):
        if options.train is not None and (source := getattr(options, role)) is not None:
            yield from _leakage(options.train, source, role, options.cache)


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with the dependencies that catsdogs declares."""
    try:
        declared = importlib.metadata.requires("catsdogs") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(False, "catsdogs is not installed", "run in the checkout: pip install -e .")
        return
    for line in declared:
        requirement = Requirement(line)
        if requirement.name == "tensorflow" and os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{requirement.name} is not installed", f"run: pip install '{requirement}'")
            continue
        supported = requirement.specifier.contains(version, prereleases=True)
        fix = f"catsdogs requires {requirement.specifier}; run: pip install '{requirement}'"
        yield Finding(supported, f"{requirement.name} {version}", fix)


def _cache(cache: Path) -> Finding:
    from catsdogs.base.text import binary_size

    fix = "set CATSDOGS_CACHE, or pass --cache here and cache= to search, to a writable folder on a larger disk"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        return Finding(False, f"cache {cache}: cannot be written ({error.strerror})", fix)
    free = shutil.disk_usage(cache).free
    needed = f"Kaggle's archives at 224 pixels need {binary_size(_KAGGLE_BYTES)}"
    return Finding(free >= _KAGGLE_BYTES, f"cache {cache}: {binary_size(free)} free; {needed}", fix)


def _devices() -> Finding:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras

        devices = keras.distribution.list_devices()
    except Exception as error:
        return Finding(False, f"Keras cannot start ({error})", "run: pip install --force-reinstall tensorflow keras")
    text = f"{keras.backend.backend()} on {', '.join(devices)}, {os.cpu_count()} processors"
    hint = "" if any("gpu" in device.lower() for device in devices) else "; no GPU found: full studies can take hours"
    return Finding(True, text + hint)


def _weights(weights: str) -> Finding:
    from catsdogs.config.schema import BackboneConfig
    from catsdogs.network.backbones import build_backbone

    if weights != "imagenet" and not Path(weights).expanduser().is_file():
        return Finding(False, f"--weights {weights}", "file not found; pass imagenet or a .weights.h5 or .h5 file")
    backbone = BackboneConfig("keras.applications.MobileNetV2", {"alpha": 1.0}, weights, 224, "minus_one_to_one", False)
    try:
        build_backbone(backbone)
    except UserError as error:
        return Finding(False, f"weights of MobileNetV2: {weights}", str(error))
    return Finding(True, f"weights of MobileNetV2: {weights}")


def _data(source: Path, role: str, cache: Path) -> Iterator[Finding]:
    """Check the images that a setting uses: those of its part, and the validation part of training images."""
    from catsdogs.data.archive import open_images
    from catsdogs.data.catalog import build_catalog, stray_message
    from catsdogs.data.parts import Parts

    try:
        folder = open_images(source, cache)
        parts = Parts.of(f"data.{role}={source}", build_catalog(folder, cache))
        roles = [role, "validation"] if role == "train" and parts.folder("validation") else [role]
        tables = {parts.note(*roles) or parts.source: parts.images(role)}
        if len(roles) > 1:
            tables[f"{parts.source}, part {parts.folder('validation')}"] = parts.images("validation")
    except UserError as error:
        yield Finding(False, f"data.{role}={source}", str(error))
        return
    for name, table in tables.items():
        cats, dogs = int((table["label"] == 0).sum()), int((table["label"] == 1).sum())
        text = f"{name}: {len(table):,} images, class cat {cats:,}, class dog {dogs:,}"
        unusable = table[table["problem"] != ""]
        if len(unusable):
            text += f"; {len(unusable):,} cannot be used, for example {unusable['path'].iloc[0]}"
        stray = stray_message(list(table["id"]), list(table["path"])) if role == "test" else ""
        text += "".join(f"; {message}" for message in (folder.skipped_message, stray) if message)
        both_classes = cats > 0 and dogs > 0
        fix = "training needs both classes; labels are read from file names (cat.1.jpg) or from folder names (cats/)"
        yield Finding(role == "test" or both_classes, text, fix)


def _leakage(train: Path, other: Path, role: str, cache: Path) -> Iterator[Finding]:
    """Compare validation or test images with the images of data.train; test images also with its validation part."""
    import pandas as pd

    from catsdogs.base.text import listed
    from catsdogs.data.archive import open_images
    from catsdogs.data.catalog import build_catalog
    from catsdogs.data.near_duplicates import copies_of
    from catsdogs.data.parts import Parts

    try:
        folders = [open_images(source, cache) for source in (other, train)]
        parts = [Parts.of("", build_catalog(folder, cache)) for folder in folders]
        images, rows = parts[0].images(role), parts[1].images("train")
        if role == "test" and parts[1].folder("validation"):
            rows = pd.concat([rows, parts[1].images("validation")])
        found = images[copies_of(images, folders[0].root, rows, folders[1].root, cache)]
    except UserError as error:
        yield Finding(False, f"data.{role} cannot be compared with data.train", str(error))
        return
    count = f"{len(found):,} of {len(images):,} images"
    text = f"{count} in data.{role} are exact or near-duplicates of images in data.train"
    if images["label"].isna().any():
        yield Finding(True, text)
        return
    names = listed(found["id"].tolist())
    yield Finding(found.empty, text, f"no model is scored on these: {names}; remove them from one of the two")


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_doctor)


if __name__ == "__main__":
    sys.exit(main())
