"""Former names of settings, for readers of old studies, and suggestions for unknown names."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# Keys of versions 0.1 and 0.2 -> keys of today.
RENAMED = {
    "studies": "studies_dir",
    "split.holdout": "split.holdout_fraction",
    "split.together": "split.group_by",
    "model.l2_covers": "model.l2_scope",
    "select.top": "select.top_k",
    "select.seeds": "select.repeats",
    "ensemble.size": "ensemble.num_jobs",
    "judged_by": "evaluate_with",
}

# Key of today -> former value -> value of today.
RENAMED_VALUES = {
    "backbone.builder": {"catsdogs.backbones.small_cnn": "catsdogs.network.backbones.small_cnn"},
    "backbone.preprocessing": {"imagenet_standardised": "imagenet_standardized"},
}

# Settings without a successor.
REMOVED = ("fit.max_parameters", "resume", "timeout.trial_seconds")


def with_current_names(settings: Any, group: str = "") -> Any:
    """Return a saved configuration, or choices by dotted key, under current names and without removed settings.

    Validation reports a value that is not a mapping, so it is returned unchanged. `group` is a prefix, with its dot.
    """
    if not isinstance(settings, Mapping):
        return settings
    current: dict[str, Any] = {}
    for name, value in settings.items():
        key = RENAMED.get(group + name, group + name)
        if key in REMOVED or (key != group + name and key.removeprefix(group) in settings):
            continue
        if key == "varied" and isinstance(value, list):
            value = [RENAMED.get(str(one), one) for one in value]
        elif isinstance(value, str):
            value = RENAMED_VALUES.get(key, {}).get(value, value)
        # All groups are at the top level; a study may nest its values without limit.
        current[key.removeprefix(group)] = value if group else with_current_names(value, f"{key}.")
    return current


def with_current_overrides(words: Iterable[str]) -> list[str]:
    """Return the command line of an old study with the current names of its settings."""
    current = []
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if name.startswith(tuple(f"{removed}." for removed in REMOVED)) or name in REMOVED:
            continue
        renamed = RENAMED.get(name, name)
        for former, now in RENAMED_VALUES.get(renamed, {}).items():
            value = value.replace(former, now)
        current.append(key.removesuffix(name) + renamed + equals + value)
    return current


def former_names(choices: Mapping[str, str]) -> dict[str, str]:
    """Return the former settings among the choices of a job: former `key` or `key=value` -> today's."""
    former = {key: RENAMED[key] for key in choices if key in RENAMED}
    for key, values in RENAMED_VALUES.items():
        if (value := choices.get(key)) in values:
            former[f"{key}={value}"] = f"{key}={values[str(value)]}"
    return former


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'NAME'?` for a former name or a close miss, or an empty string."""
    close = [RENAMED[name]] if name in RENAMED else difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(thing: str, hint: str, known: Iterable[str]) -> str:
    """Return `unknown THING`, the hint of `did_you_mean`, and the known names."""
    names = ", ".join(known)
    return f"unknown {thing}{hint}" + (f"{' ' if hint else '; '}known here: {names}" if names else "")


def unknown_setting(key: str, siblings: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return the message about an unknown dotted key, with names of its group and dotted keys elsewhere as hints."""
    group, dot, name = key.rpartition(".")
    if group.endswith(".arguments"):
        return f"{key}: not set in its file; add it with +{key}=VALUE"
    names = sorted(siblings)
    # Shorter keys win, and those of the same group.
    keys = {other.rpartition(".")[2]: other for other in sorted(others, key=len, reverse=True)}
    keys |= {other: group + dot + other for other in names}
    close = difflib.get_close_matches(name, keys, n=1)
    hint = did_you_mean(key, ()) or (f"; did you mean '{keys[close[0]]}'?" if close and "/" not in key else "")
    return f"{key}: {unknown('setting', hint, names)}"
