"""Entry point: checks the installation, the devices, the weights and the data, and says what to do.

python -m catsdogs.doctor [--train train.zip] [--test test.zip] [--weights FILE]
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

# Pixels of 25,000 training and 12,500 test images at 224 take 5.6 GB, their files 1.2 GB.
_KAGGLE_BYTES = 7 * 10**9


@dataclass(frozen=True)
class Finding:
    """What one check found: whether all is well, and what to do if not."""

    good: bool
    what: str
    remedy: str = ""


def _doctor(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="catsdogs-doctor", description="Check the installation, devices, weights and data, and say what to do."
    )
    parser.add_argument("--train", type=Path, help="zip or folder of labelled images to check")
    parser.add_argument("--test", type=Path, help="zip or folder of test images to check")
    parser.add_argument("--weights", default="imagenet", help="weights of MobileNetV2 to check (default: %(default)s)")
    add_cache_option(parser, "folder of the cache")
    options = parser.parse_args(arguments)
    bad = 0
    for finding in _findings(options):
        print(f"{'ok     ' if finding.good else 'PROBLEM'}  {finding.what}")
        if not finding.good:
            bad += 1
            print(f"         {finding.remedy}")
    print("\nAll is well." if not bad else f"\n{bad} problem{'s' if bad > 1 else ''}; see above.")
    return 1 if bad else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    """One after the other, as some take seconds."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(supported, f"Python {platform.python_version()}", "install Python 3.11, 3.12 or 3.13")
    yield from _packages()
    for name, folder in (("conf", conf_dir()), ("sweeps", sweeps_dir())):
        yield Finding(folder.is_dir(), f"{name}/ at {folder}", "reinstall catsdogs: the folder is part of it")
    yield _cache(options.cache)
    yield _devices()
    yield _weights(options.weights)
    for key, source in (("data.train", options.train), ("data.test", options.test)):
        if source is not None:
            yield _data(source, key, options.cache)


def _packages() -> Iterator[Finding]:
    """Every dependency that catsdogs declares, against the version that is installed."""
    try:
        declared = importlib.metadata.requires("catsdogs") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(False, "catsdogs is not installed", "pip install -e . in the checkout")
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
            yield Finding(False, f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        remedy = f"catsdogs is tested with {requirement.specifier}; pip install '{requirement}'"
        yield Finding(fits, f"{requirement.name} {version}", remedy)


def _cache(cache: Path) -> Finding:
    remedy = "set CATSDOGS_CACHE, or pass cache=FOLDER, to a folder that you may write to on a larger disk"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        return Finding(False, f"cache {cache} cannot be written: {error.strerror}", remedy)
    free = shutil.disk_usage(cache).free
    what = f"cache {cache}, {free / 1e9:.0f} GB free; Kaggle's archives need {_KAGGLE_BYTES / 1e9:.0f} GB at 224 pixels"
    return Finding(free >= _KAGGLE_BYTES, what, remedy)


def _devices() -> Finding:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras

        devices = keras.distribution.list_devices()
    except Exception as error:
        return Finding(False, f"Keras does not start: {error}", "pip install --force-reinstall tensorflow keras")
    found = f"{keras.backend.backend()} on {', '.join(devices)}, {os.cpu_count()} processors"
    hint = "" if any("gpu" in device.lower() for device in devices) else "; no GPU, so expect hours for whole studies"
    return Finding(True, found + hint)


def _weights(weights: str) -> Finding:
    from catsdogs.config.schema import BackboneConfig
    from catsdogs.network.backbones import build_backbone

    backbone = BackboneConfig("keras.applications.MobileNetV2", {"alpha": 1.0}, weights, 224, "minus_one_to_one", False)
    try:
        build_backbone(backbone)
    except UserError as error:
        return Finding(False, f"weights of MobileNetV2: {weights}", str(error))
    return Finding(True, f"weights of MobileNetV2: {weights}")


def _data(source: Path, key: str, cache: Path) -> Finding:
    from catsdogs.data.archive import open_images
    from catsdogs.data.catalog import build_catalog

    try:
        table = build_catalog(open_images(source, cache), cache)
    except UserError as error:
        return Finding(False, f"{key}={source}", str(error))
    cats, dogs = int((table["label"] == 0).sum()), int((table["label"] == 1).sum())
    what = f"{key}={source}: {len(table)} images, {cats} cats, {dogs} dogs"
    bad = table[table["problem"] != ""]
    if len(bad):
        what += f", {len(bad)} with a problem that will be left out, {bad['path'].iloc[0]} for one"
    usable = key == "data.test" or (cats > 0 and dogs > 0)
    remedy = "training needs both classes, named as cat.1.jpg and dog.1.jpg or in folders cats and dogs"
    return Finding(usable, what, remedy)


def main() -> int:
    return exit_status_of(_doctor)


if __name__ == "__main__":
    sys.exit(main())
