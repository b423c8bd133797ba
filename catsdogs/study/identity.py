"""Identity of a job: the settings, images, weights and packages that determine its results, and their changes."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catsdogs.base.files import json_digest
from catsdogs.base.provenance import versions
from catsdogs.config.hyperparameters import unfreeze_depths
from catsdogs.config.schema import MOST_VIEWS, SearchConfig

# Keys that do not affect the results of a job: folders, settings of later steps, and timeouts.
_NOT_IN_IDENTITY = {
    *("study", "studies_dir", "cache", "varied", "timeout"),
    *("select", "tta", "job", "trial", "fit_on", "ensemble", "calibrate", "evaluate_with", "submission"),
}
_NOT_IN_IDENTITY_OF = {
    # The digest of the images counts, which covers labels and classes.
    "data": {
        *("train", "validation", "test", "max_unpacked_gib"),
        *("labels", "id_column", "class_column", "group_column", "classes"),
    },
    "split": {"group_by"},  # a different split changes the digest of the images
    "fit": {"keep_weights_gib"},
    "features": {"mode", "engine", "max_gib"},  # storage and inference engine change activations only by rounding
}

# Packages that compute pixels, weights and proposals: an unfinished job needs the same versions.
_VERSIONS_THAT_MATTER = ("catsdogs", "keras", "keras-tuner", "numpy", "opencv-python-headless", "pillow")


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration, as plain values, that determines the results of a job."""
    plain = {key: value for key, value in settings.items() if key not in _NOT_IN_IDENTITY}
    for group, excluded in _NOT_IN_IDENTITY_OF.items():
        plain[group] = {k: v for k, v in settings.get(group, {}).items() if k not in excluded}
    if "epochs" in plain.get("fit", {}):
        # The resulting number of views counts, not the setting.
        plain["features"]["views"] = min(plain["fit"]["epochs"], plain["features"].get("views") or MOST_VIEWS)
    return plain


def activations(config: SearchConfig) -> str:
    """Return a digest of what determines the stored activations of a job; jobs of a study may share them."""
    plain = identity(dataclasses.asdict(config))
    names = ("data", "split", "backbone", "augmentation", "features", "seed")
    return json_digest([*(plain[name] for name in names), unfreeze_depths(config)])[:16]


_installed = functools.cache(versions)  # reading versions takes some 10 ms, and a study may have a thousand jobs


def fingerprint(config: SearchConfig, digest: str) -> dict[str, Any]:
    """Return the parts of a job that must not change before it is resumed: settings, images, weights and packages.

    The number of trials is not part of it, because trials may be added. `digest`: `Dataset.digest`.
    """
    parts = {"config": _resumable(dataclasses.asdict(config)), "data": digest}
    return parts | {"weights": _weights(config.backbone.weights), "versions": _relevant_versions(_installed())}


def changes(result: Mapping[str, Any], now: dict[str, Any], *, unfinished: bool) -> list[str]:
    """Return `key: A -> B` for everything in the fingerprint that changed; values missing in `result` match any.

    `result`: a `result.json` with a configuration. `unfinished`: more trials would run, which need the same packages.
    """
    changed = _differences(_resumable(result["config"]), now["config"])
    weights = result.get("weights")
    if weights is not None:
        # The digest of the file counts, not its path.
        changed = [change for change in changed if not change.startswith("backbone.weights: ")]
        if weights != now["weights"]:
            changed.insert(0, f"backbone.weights: {weights[:19]} -> {now['weights'][:19]}")
    if unfinished:
        known = _relevant_versions(result["versions"])
        changed += _differences(known, {name: now["versions"].get(name) for name in known})
    moved = result["data"].get("digest") not in (None, now["data"])
    return (["images, labels or split"] if moved else []) + changed


def _resumable(config: dict[str, Any]) -> dict[str, Any]:
    plain = identity(config)
    plain["tuner"] = {key: value for key, value in plain.get("tuner", {}).items() if key != "max_trials"}
    # As read from JSON: lists instead of tuples, and strings as keys.
    return json.loads(json.dumps(plain))


def _relevant_versions(installed: dict[str, str]) -> dict[str, str]:
    """Return major.minor versions of packages that affect results; of catsdogs, patch releases count too."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    names = [name for name in (*_VERSIONS_THAT_MATTER, backend) if name in installed]
    return {name: installed[name] if name == "catsdogs" else ".".join(installed[name].split(".")[:2]) for name in names}


def _weights(weights: str | None) -> str:
    if weights in (None, "imagenet"):
        return str(weights)
    state = Path(str(weights)).stat()
    return _digest(str(weights), state.st_mtime_ns, state.st_size)


@functools.lru_cache
def _digest(file: str, changed_ns: int, size: int) -> str:
    """Return the digest of a file; cached, because the jobs of a study share it."""
    with Path(file).open("rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(set(then) | set(now)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changed.append(f"{prefix}{key}: {str(a)[:80]} -> {str(b)[:80]}")
    return changed
