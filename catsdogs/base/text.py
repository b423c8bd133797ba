"""Texts for people, and texts in the syntax of Hydra's command line."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_NUMBER = re.compile(r"[+-]?([\d_]*\.?[\d_]*(e[+-]?[\d_]+)?|inf|nan)", re.IGNORECASE)
# One word of a value: quoted, or up to the next comma or bracket.
_WORD = re.compile(r"""\s*("(\\.|[^"\\])*"|'(\\.|[^'\\])*'|(\\.|[^\\,()\[\]'"])+?)\s*(?=[,()\[\]]|\Z)""")
_NOT_PLAIN = re.compile(r"[^\w\s$%*@?|/\\:=+.{}-]", re.ASCII)
_SWITCHES = {"true", "false"}
MOST_CHARACTERS = 2000  # of an error message, which may contain a value of any length


def escape_interpolations(value: Any) -> Any:
    """Escape `${` in plain data, so that OmegaConf interpolates nothing."""
    if isinstance(value, dict):
        return {key: escape_interpolations(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(one) for one in value]
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value) if isinstance(value, str) else value


def quoted(text: str) -> str:
    """Quote a value, or an element of a list, if Hydra would otherwise read something else.

    In Hydra's grammar a backslash is literal except before a quote; for OmegaConf, `${` starts an interpolation unless
    a backslash precedes it.
    """
    if _PLAIN.fullmatch(text) and not _NUMBER.fullmatch(text) and text.lower() not in {"null", *_SWITCHES}:
        return text
    text = re.sub(r'(\\*)"', lambda match: match[1] * 2 + r"\"", escape_interpolations(text))
    return '"' + re.sub(r"(\\+)\Z", lambda match: match[1] * 2, text) + '"'


def quote_words(value: str, *, numbers: bool, null: bool = False) -> str:
    """Quote every word of a value that contains a character at which Hydra's lexer stops, such as `~` or an umlaut.

    With `numbers`, also words that Hydra would read as a number, true or false; with `null`, also null.
    """

    def quote(word: re.Match[str]) -> str:
        if _NOT_PLAIN.search(word[1]) and word[1][0] not in "\"'":
            return '"' + re.sub(r"\\([\\()\[\]{}:=, ])", r"\1", word[1]) + '"'
        typed = numbers and (_NUMBER.fullmatch(word[1]) or word[1].lower() in _SWITCHES)
        return f'"{word[1]}"' if typed or (null and word[1].lower() == "null") else word[0]

    return _WORD.sub(quote, value)


def sanitize_line(text: str, keep: str = "") -> str:
    """Replace line ends and control characters, except `keep`, by question marks; file names may contain them."""
    # Categories C: control, format (such as writing direction), surrogates; Zl, Zp: line ends.
    if text.isprintable():  # fast for most texts
        return text
    control = ("C", "Zl", "Zp")
    return "".join(c if c in keep or not unicodedata.category(c).startswith(control) else "?" for c in text)


def one_line(text: str) -> str:
    """Return `sanitize_line` of a text, without the middle of one that would fill the terminal."""
    line = sanitize_line(text)
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 500]} ... {line[-400:]}"


def listed(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Join the first names for a message; the others are counted."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key that compares digits as numbers: 1, 2, 10, 100. Different texts have different keys."""
    parts = re.split(r"(\d+)", text)  # text at even positions, digits at odd ones, so keys are comparable
    # Python refuses to convert more digits.
    return tuple(int(part[:4300]) if position % 2 else part for position, part in enumerate(parts)), text


def counted(number: int, noun: str) -> str:
    """Format an integer with its noun: `1 job`, `2,000 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_numbers(text: str) -> str:
    """Round fractions with more than 8 digits, such as those that a sweeper chose, to 4: `0.30000000000000004`."""
    return re.sub(r"\d+\.0*[1-9]\d{7,}(e-?\d+)?", lambda match: f"{float(match[0]):.4g}", text)


def joined(names: Sequence[str]) -> str:
    """Join all names: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def format_duration(seconds: float) -> str:
    """Format a duration: `42 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def time_left(seconds: float) -> str:
    """Return `, about 12 min left`, or "" if less than half a second is left."""
    return f", about {format_duration(seconds)} left" if seconds >= 0.5 else ""


def binary_size(count: float) -> str:
    """Format a size: `12 bytes`, `1.0 KiB`, `3.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
