"""A job -> all that decides its numbers, and what of that has changed since it began."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catsdogs.base.provenance import versions
from catsdogs.config.schema import MOST_VIEWS, SearchConfig

# Keys that change no number of a job: where things are, what is done after it, and when it is given up. Where the
# images are does not count either, as their digest does.
_NOT_IN_IDENTITY = {
    *("study", "studies_dir", "cache", "varied", "timeout"),
    *("select", "tta", "job", "trial", "fit_on", "ensemble", "calibrate", "evaluate_with"),
}
_NOT_IN_IDENTITY_OF = {
    "data": {"train", "test", "max_unpacked_gib"},
    # Where it changes the split it changes the digest of the images.
    "split": {"group_by"},
    # Where activations are kept, and who computes them, does not change them by more than rounding.
    "features": {"mode", "engine", "max_gib"},
}

# Packages that an unfinished job must go on with: those that compute pixels, weights and proposals.
_VERSIONS_THAT_MATTER = ("catsdogs", "keras", "keras-tuner", "numpy", "opencv-python-headless", "pillow")


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration, as plain values, that decides a job's numbers."""
    plain = {key: value for key, value in settings.items() if key not in _NOT_IN_IDENTITY}
    for group, left_out in _NOT_IN_IDENTITY_OF.items():
        plain[group] = {k: v for k, v in settings.get(group, {}).items() if k not in left_out}
    if "epochs" in plain.get("fit", {}):
        # How many views there are counts, not how it was said.
        plain["features"]["views"] = min(plain["fit"]["epochs"], plain["features"].get("views") or MOST_VIEWS)
    return plain


def differences(result: Mapping[str, Any], config: SearchConfig, digest: str) -> list[str]:
    """`key was A, now B` for everything that makes the job of this `result.json` another than the one at hand.

    Args:
        digest: `Dataset.digest` now; a job that did not come far enough to write its own matches any.
    """
    return _images(result, digest) + _differences(identity(result["config"]), identity(dataclasses.asdict(config)))


# Asking takes a few hundredths of a second, and a study may have a thousand jobs.
_installed = functools.cache(versions)


def fingerprint(config: SearchConfig, digest: str) -> dict[str, Any]:
    """What a job must keep to be continued: its configuration, images, backbone weights and packages.

    How many trials it will have is not part of it: more may be asked for later.

    Args:
        digest: `Dataset.digest`.
    """
    return {
        "config": _continued(dataclasses.asdict(config)),
        "data": digest,
        "weights": _weights(config.backbone.weights),
        "versions": _series(_installed()),
    }


def changes(result: Mapping[str, Any], now: dict[str, Any], *, unfinished: bool) -> list[str]:
    """`key was A, now B` for everything that a job must keep and that differs; what its result lacks matches any.

    Args:
        result: what is in its `result.json`, the configuration at least.
        now: of `fingerprint`.
        unfinished: whether further trials would be made: only those need the same packages.
    """
    found = _differences(_continued(result["config"]), now["config"])
    weights = result.get("weights")
    if weights is not None:
        # Where the file lies does not count where its digest is known.
        found = [told for told in found if not told.startswith("backbone.weights was ")]
        if weights != now["weights"]:
            found.insert(0, f"backbone.weights was {weights[:19]}, now {now['weights'][:19]}")
    if unfinished:
        known = _series(result["versions"])
        found += _differences(known, {name: now["versions"].get(name) for name in known})
    return _images(result, now["data"]) + found


def _continued(config: dict[str, Any]) -> dict[str, Any]:
    plain = identity(config)
    plain["tuner"] = {key: value for key, value in plain.get("tuner", {}).items() if key != "max_trials"}
    # As a JSON file gives it back: without tuples and with texts as keys.
    return json.loads(json.dumps(plain))


def _series(found: dict[str, str]) -> dict[str, str]:
    """Versions up to the second number, as patches mend; of catsdogs, whose patches may mend numbers, all of it."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    names = [name for name in (*_VERSIONS_THAT_MATTER, backend) if name in found]
    return {name: found[name] if name == "catsdogs" else ".".join(found[name].split(".")[:2]) for name in names}


def _weights(weights: str | None) -> str:
    """`imagenet`, `None`, or the digest of a file."""
    if weights in (None, "imagenet"):
        return str(weights)
    state = Path(str(weights)).stat()
    return _digest(str(weights), state.st_mtime_ns, state.st_size)


@functools.lru_cache
def _digest(file: str, changed_ns: int, size: int) -> str:
    """Of a file as it is now: the jobs of a study share it."""
    with Path(file).open("rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def _images(result: Mapping[str, Any], now: str) -> list[str]:
    if result["data"].get("digest") in (None, now):
        return []
    return [
        "the images, their labels or their split have changed (older studies were split as with split.group_by=copies)"
    ]


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`key was A, now B` for every leaf that differs."""
    found = []
    for key in sorted(set(then) | set(now)):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {a}, now {b}")
    return found
