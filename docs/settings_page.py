"""Configuration reference: Markdown from the schema, the meanings of settings, and the files of `conf/`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from catsdogs.config import automatic, schema
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
    texts = {key: type_text(node) for key, node in flat(TypeAdapter(schema.RetrainConfig).json_schema())}
    for kind in schema.ORACLE_ARGUMENTS.values():
        texts |= {f"tuner.arguments.{key}": type_text(node) for key, node in flat(TypeAdapter(kind).json_schema())}
    texts |= {f"{group}.{name}": f"{texts[f'{group}.{name}']}, or `auto`" for group, name in automatic._SETTINGS}
    return texts | {"submission.threshold": "number above 0, below 1, or `auto`, or `null`"}


def flat(
    written: Mapping[str, Any], part: Mapping[str, Any] | None = None, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a JSON schema, or of a part of it, with their schemas; NAME stands for any name."""
    for name, node in (part or written).get("properties", {}).items():
        key = f"{prefix}{name}"
        yield key, node
        for one in node.get("anyOf", [node]):
            items = one.get("additionalProperties")
            for inner, step in ((one, ""), (items if isinstance(items, Mapping) else {}, "NAME.")):
                if "$ref" in inner:
                    yield from flat(written, written["$defs"][inner["$ref"].rpartition("/")[2]], f"{key}.{step}")


def type_text(node: Mapping[str, Any]) -> str:
    """Return type and range of a JSON schema in Markdown."""
    if "anyOf" in node:
        return ", or ".join(map(type_text, node["anyOf"]))
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type", "group" if "$ref" in node else "any value")
    if kind == "array":
        return f"list of {type_text(node.get('items', {})).removeprefix('one of ')}"
    names = {"null": "`null`", "string": "text", "boolean": "`true` or `false`", "object": "group"}
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    ends = [
        f"{word} {node[end]:,}" for end, word in words.items() if end in node and (end != "maximum" or node[end] < 1e9)
    ]
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
