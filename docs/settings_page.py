"""Configuration reference: Markdown from the schema, the meanings of settings, and the files of `conf/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from catsdogs.config import schema
from catsdogs.config.compose import VERSION_BASE, as_typed
from catsdogs.config.descriptions import descriptions, format_value
from catsdogs.config.locations import conf_dir, sweeps_dir
from catsdogs.launching.registration import register

# A test composes them; those of `space.NAME` have the name of a hyperparameter.
EXAMPLES = (Path(__file__).parent / "reference" / "examples.txt").read_text(encoding="utf-8").split()


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """Return the configuration of `search` or `retrain`, without Hydra's own and with interpolations as written."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base=VERSION_BASE):
        return dict(OmegaConf.to_container(compose(command, list(map(as_typed, overrides)))))  # type: ignore[arg-type]


def defaults() -> dict[str, Any]:
    """Return the configuration of `search`, with the settings that only `retrain` has."""
    ConfigStore.instance().store(name="chosen_job", node={})
    return composed("retrain") | composed("search")


def types() -> dict[str, str]:
    """Return type and range of every setting by its dotted key, in Markdown."""
    written = TypeAdapter(schema.RetrainConfig).json_schema()
    arguments = [TypeAdapter(kind).json_schema()["properties"] for kind in set(schema.ORACLE_ARGUMENTS.values())]
    texts = dict(_types(written, "", written["$defs"]))
    texts |= {f"tuner.arguments.{name}": _type(node) for part in arguments for name, node in part.items()}
    return texts | {"submission.threshold": "number above 0, below 1, or `auto`, or `null`"}


def _types(group: Mapping[str, Any], prefix: str, parts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hints = get_type_hints(getattr(schema, group["title"]), include_extras=True)
    for name, node in group["properties"].items():
        key, text = f"{prefix}{name}", _type(node)
        fitted = schema.Fitted in getattr(hints[name], "__metadata__", ())
        yield key, f"{text}, or `auto`" if fitted else text
        for one in node.get("anyOf", [node, node.get("additionalProperties")]):
            if isinstance(one, Mapping) and "$ref" in one:
                inner = f"{key}.NAME." if one is not node and "anyOf" not in node else f"{key}."
                yield from _types(parts[one["$ref"].rpartition("/")[2]], inner, parts)


def _type(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        return ", or ".join(map(_type, node["anyOf"]))
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type", "group of settings" if "$ref" in node else "any value")
    if kind == "array":
        items = _type(node["items"])
        return f"list of {items.removeprefix('one of ')}"
    names = {"null": "`null`", "string": "text", "boolean": "`true` or `false`", "object": "group of settings"}
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    ends = [f"{word} {node[end]:,}" for end, word in words.items() if end in node]
    return ", ".join([names.get(kind, kind), *ends])


def example(key: str) -> str:
    """Return the example of a setting, empty if it has none."""
    if key == "data.sample":
        return "data=sample"
    pattern = re.escape(key).replace("NAME", r"\w+") + "="
    return next((one for one in EXAMPLES if re.match(pattern, one)), "")


def settings() -> str:
    """Return a section of Markdown for each group, with its options and settings."""
    values, kinds, meanings = defaults(), types(), descriptions()
    chosen = dict(group.split("=") for group in _default_options())
    alone = [key for key in meanings if "." not in key and not isinstance(values[key], Mapping)]
    only_retrain = {*schema.setting_keys(schema.RetrainConfig)} - {*schema.setting_keys(schema.SearchConfig)}
    sections = [("Common settings", [key for key in alone if key not in only_retrain])]
    sections += [("Settings of `retrain`", [key for key in alone if key in only_retrain])]
    for group in (key for key in meanings if "." not in key and key not in alone):
        sections.append((f"`{group}`", [key for key in meanings if key.startswith(f"{group}.")]))
    lines = []
    for title, keys in sections:
        lines += [f"## {title}", ""]
        group = title.strip("`")
        if group in meanings:
            only = " Only `retrain` has this group." if group in only_retrain else ""
            lines += [f"{sentence(meanings[group])}{only}", "", *options(group, chosen.get(group))]
        for key in keys:
            lines += _setting(key, values, kinds[key], meanings[key])
    return "\n".join(lines)


def _setting(key: str, values: Mapping[str, Any], kind: str, meaning: str) -> Iterator[str]:
    group, _, name = key.partition(".")
    by_option = {file.stem: _value(OmegaConf.to_container(OmegaConf.load(file)), name) for file in _files(group)}
    present = {option: value for option, value in by_option.items() if value is not _ABSENT}
    default = _value(values, key)
    yield from (f"```{{confval}} {key}", "", sentence(meaning), "", f"- Type: {kind}")
    if default is not _ABSENT:
        yield f"- Default: `{format_value(default)}`"
    if len({*map(str, present.values())}) > 1 or (present and default is _ABSENT):
        texts = (f"`{option}` {format_value(value)}" for option, value in present.items())
        yield f"- By option: {', '.join(texts)}"
    yield from (f"- Example: `{example(key)}`", "```", "")


_ABSENT = object()


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part, _ABSENT) if isinstance(values, Mapping) else _ABSENT
    return values


def _files(group: str) -> list[Path]:
    return sorted((sweeps_dir() if group == "sweeps" else conf_dir() / group).glob("*.yaml"))


def _default_options() -> Iterator[str]:
    for file in ("retrain", "search"):
        entries: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{file}.yaml"))
        for entry in entries["defaults"]:
            if isinstance(entry, Mapping):
                yield from (f"{name}={option}" for name, option in entry.items() if option is not None)


def options(group: str, default: str | None = None) -> list[str]:
    """Return a table of the options of a group, with the comment at the top of each file."""
    rows = []
    for file in _files(group):
        comment = re.match("(#.*\n)*", file.read_text(encoding="utf-8"))[0]  # type: ignore[index]
        lines = [line.removeprefix("#").strip() for line in comment.splitlines()]
        text = " ".join(line for line in lines if not line.startswith(("@package", "python -m")))
        rows.append(f"| `{file.stem}`{' (default)' if file.stem == default else ''} | {text} |")
    return ["| option | meaning |", "|---|---|", *rows, ""] if rows else []


def sentence(text: str) -> str:
    """Return a meaning as a sentence."""
    return (text[0].upper() if text[1:2].isalpha() else text[0]) + text[1:] + "."
