"""Meaning of every setting, and the help text of the commands that have settings."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf


def descriptions() -> dict[str, str]:
    """Return the meaning of every setting and group by its dotted key."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def format_settings(*, _root_: DictConfig) -> str:
    """Return the settings of a composed configuration with values and meanings, for the template of Hydra's help."""
    values: Any = OmegaConf.to_container(_root_, resolve=False)
    del values["hydra"]
    # For string.Template, a dollar is written twice.
    return "\n".join(_lines(values, "", descriptions())).replace("$", "$$")


def _lines(values: Mapping[str, Any], prefix: str, meanings: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)):
        key, parts = f"{prefix}{name}", value if isinstance(value, Mapping) else {}
        meaning = meanings.get(key, "").replace("`", "")
        if parts and not prefix:
            yield f"\n{key}: {meaning}"
        else:
            yield f"  {key}={format_value(value)}"
            yield from textwrap.wrap(meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        shown = {part: parts[part] for part in parts if not prefix or f"{key}.{part}" in meanings}
        yield from _lines(shown, f"{key}.", meanings)


def format_value(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=2**20)).split("\n")[0]
