"""Texts for people, and texts as Hydra's command line takes them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_NUMBER = re.compile(r"[+-]?([\d_]*\.?[\d_]*(e[+-]?[\d_]+)?|inf|nan)", re.IGNORECASE)
# A word of a value: in quotes, or up to the next comma or bracket.
_WORD = re.compile(r"""\s*("(\\.|[^"\\])*"|'(\\.|[^'\\])*'|(\\.|[^\\,()\[\]'"])+?)\s*(?=[,()\[\]]|\Z)""")
_SWITCHES = {"true", "false"}


def inert(value: Any) -> Any:
    """Plain data as OmegaConf has to be given it, to find no interpolation in its texts."""
    if isinstance(value, dict):
        return {key: inert(one) for key, one in value.items()}
    if isinstance(value, list):
        return [inert(one) for one in value]
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value) if isinstance(value, str) else value


def quoted(text: str) -> str:
    """As a value, or an element of a list, in quotes where Hydra would read something else without.

    Hydra's grammar: a backslash stands for itself but before a quote; OmegaConf takes `${` for an interpolation unless
    a backslash stands before it.
    """
    if _PLAIN.fullmatch(text) and not _NUMBER.fullmatch(text) and text.lower() not in {"null", *_SWITCHES}:
        return text
    text = re.sub(r'(\\*)"', lambda match: match[1] * 2 + r"\"", inert(text))
    return '"' + re.sub(r"(\\+)\Z", lambda match: match[1] * 2, text) + '"'


def quote_numbers(value: str) -> str:
    """A value of Hydra's command line with quotes around every word that would be a number, or true or false."""

    def mended(word: re.Match[str]) -> str:
        other = _NUMBER.fullmatch(word[1]) or word[1].lower() in _SWITCHES
        return f'"{word[1]}"' if other else word[0]

    return _WORD.sub(mended, value)


def sanitize_line(text: str, kept: str = "") -> str:
    """In one line, with a question mark for every control character that a hostile or unlucky name would bring.

    Args:
        kept: characters that stay all the same.
    """
    # Categories C: control, format (which turns the direction of writing), half of a character; Zl, Zp: line ends.
    control = ("C", "Zl", "Zp")
    return "".join(c if c in kept or not unicodedata.category(c).startswith(control) else "?" for c in text)


def listed(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Names for a sentence, the first few of them."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def format_duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
