"""Command `doctor`: check the installation, devices, weights and data, and suggest a fix for each problem.

python -m catsdogs.doctor [--train train.zip] [--validation valid.zip] [--test test.zip] [--labels FILE]
    [--backbone NAME] [--weights FILE|FOLDER]
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.text import binary_size, counted, listed
from catsdogs.config.locations import add_cache_option, conf_dir, expanded, sweeps_dir, typed_path
from catsdogs.network.startup import check_backend, start_keras

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
    parser.add_argument("--train", type=typed_path, help="zip or folder of labeled images to check")
    parser.add_argument("--validation", type=typed_path, help="zip or folder of labeled validation images to check")
    parser.add_argument("--test", type=typed_path, help="zip or folder of test images to check")
    parser.add_argument("--labels", type=typed_path, help="table of their labels, as for data.labels")
    about = "of the weights to check (default: mobilenet_v2; with a file as --weights, those that it fits)"
    parser.add_argument("--backbone", choices=_backbones(), help=about)
    about = "weights to check: imagenet, a .weights.h5, .h5 or .keras file, a folder of these, or a study "
    parser.add_argument("--weights", type=expanded, help=about + "(default: those of the backbone)")
    add_cache_option(parser, "folder of the cache")
    options = parser.parse_args(arguments)
    for name in ("validation", "test", "labels"):
        if options.train is None and (path := getattr(options, name)):
            parser.error(f"--{name} {path}: checked against the training images; add --train PATH")
    backend = check_backend()
    problems = 0
    for finding in _findings(options, backend):
        print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.text}")
        if not finding.ok:
            problems += 1
            print(f"         {finding.fix}")
    print(f"\n{counted(problems, 'problem')} found, see above" if problems else "\nAll checks passed")
    return 1 if problems else 0


def _findings(options: argparse.Namespace, backend: str) -> Iterator[Finding]:
    """Yield each result as soon as it is known, because some checks take seconds."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(supported, f"Python {platform.python_version()}", "install Python 3.11, 3.12 or 3.13")
    yield from _packages(backend)
    for name, folder in (("conf", conf_dir()), ("sweeps", sweeps_dir())):
        yield Finding(folder.is_dir(), f"{name}/ at {folder}", "reinstall catsdogs, which contains this folder")
    yield _cache(options.cache)
    devices = _devices()
    yield devices
    if devices.ok:
        if options.backbone is None and options.weights not in (None, "imagenet"):
            yield _fitting(options.weights)
        else:
            yield _weights(options.backbone or "mobilenet_v2", options.weights)
    if options.train is not None:
        yield from _data(options)


def _packages(backend: str) -> Iterator[Finding]:
    try:
        declared = importlib.metadata.requires("catsdogs") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(False, "catsdogs is not installed", "run in the checkout: pip install -e .")
        return
    for requirement in map(Requirement, declared):
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed or (requirement.name == "tensorflow" and backend != "tensorflow"):
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
    from catsdogs.base.files import check_writable, free_bytes

    fix = "set CATSDOGS_CACHE, or pass --cache here and cache= to search, to a writable folder on a larger disk"
    try:
        check_writable(cache, "cache", fix)
    except UserError as error:
        return Finding(False, str(error).partition(";")[0], fix)
    free = free_bytes(cache)
    needed = f"Kaggle's archives at 224 pixels need {binary_size(_KAGGLE_BYTES)}"
    return Finding(free >= _KAGGLE_BYTES, f"cache {cache}: {binary_size(free)} free; {needed}", fix)


def _devices() -> Finding:
    try:
        start_keras()
        import keras

        devices = keras.distribution.list_devices()
    except Exception as error:
        return Finding(False, f"Keras cannot start ({error})", "run: pip install --force-reinstall tensorflow keras")
    text = f"{keras.backend.backend()} on {', '.join(devices)}, {os.cpu_count()} processors"
    hint = "" if any("gpu" in device.lower() for device in devices) else "; no GPU found: full studies can take hours"
    return Finding(True, text + hint)


def _weights(name: str, weights: str | None) -> Finding:
    """Check weights of a backbone, by default those of its file in `conf/backbone/`."""
    from omegaconf import OmegaConf

    from catsdogs.config.checks import weights_file
    from catsdogs.config.schema import BackboneConfig
    from catsdogs.network.backbones import build_backbone, pretrained_file

    file = conf_dir() / "backbone" / f"{name}.yaml"
    settings: Any = OmegaConf.to_container(OmegaConf.load(file))
    weights = weights or settings["weights"]
    if weights is None:
        return Finding(True, f"weights of {name}: none needed, because it is trained from scratch")
    if weights == "???":
        fix = f"pass --weights FILE; the first lines of {file} say where to find it"
        return Finding(False, f"weights of {name}: not set, because Keras has none to download", fix)
    backbone = BackboneConfig(**{**settings, "weights": weights, "resize": "squeeze", "image_size": 224})
    try:
        backbone.weights = weights_file(backbone)
        build_backbone(backbone)
        source = f"imagenet at 224 pixels, {pretrained_file(backbone)}" if weights == "imagenet" else backbone.weights
    except UserError as error:
        return Finding(False, f"weights of {name}: {weights}", str(error))
    return Finding(True, f"weights of {name}: {source}")


def _fitting(weights: str) -> Finding:
    """Find the backbones of `conf/` that a file of weights fits."""
    fitting = [name for name in _backbones() if _weights(name, weights).ok]
    fix = f"use weights of one of {', '.join(_backbones())}, or a builder of your own"
    return Finding(bool(fitting), f"weights {weights}: of {', '.join(fitting) or 'no backbone in conf/'}", fix)


def _backbones() -> list[str]:
    return sorted(file.stem for file in (conf_dir() / "backbone").glob("*.yaml"))


def _data(options: argparse.Namespace) -> Iterator[Finding]:
    """Load the images as a search does, which logs the skipped ones; report which are used, and duplicates."""
    from catsdogs.config.schema import DataConfig, SplitConfig
    from catsdogs.data.dataset import load_dataset

    settings: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(DataConfig))
    settings |= {"ignore": [], "validation_fraction": 0.2, "split_seed": 0, "max_unpacked_gib": 1e5}
    for key in ("train", "validation", "test", "labels"):
        settings[key] = None if (path := getattr(options, key)) is None else str(path)
    try:
        dataset = load_dataset(DataConfig(**settings), options.cache, SplitConfig(0.0, 1, "near_duplicates"))
    except (UserError, OSError) as error:
        problem, _, fix = str(error).partition("; ")
        yield Finding(False, problem, fix)
        return
    for note in dataset.notes:
        yield Finding(True, note)
    if dataset.test is not None:
        found, labeled = dataset.test["id"][dataset.test["in_training"]].tolist(), dataset.test["label"].notna().any()
        text = f"{len(found):,} of {len(dataset.test):,} images in data.test are exact or near-duplicates of others"
        fix = f"no model is scored on these: {listed(found)}; remove them from one of the two"
        yield Finding(not (found and labeled), text, fix)


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_doctor)


if __name__ == "__main__":
    sys.exit(main())
