"""Numbers, names and ids -> texts as the page shows them. Nothing is computed from what these give."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from catsdogs.comparison.paired import Interval
from catsdogs.progress import duration

MISSING = "–"

# What a list element of Hydra may look like without quotes and stay a text. Names that YAML takes for something else
# and everything with other characters are quoted.
_NAMED = 6  # things that a sentence lists


def loss(thing: Any) -> str:
    """`0.0276`; of small ones two digits that say something, as the sentences of the answer have them."""
    told = number(thing)
    if math.isnan(told):
        return MISSING
    if told == 0 or abs(told) >= 0.001:
        return f"{told:.4f}"
    return np.format_float_positional(told, precision=2, fractional=False, trim="-")


def signed(thing: Any) -> str:
    told = number(thing)
    sign = "+" if told > 0 else "−" if told < 0 else ""
    return MISSING if math.isnan(told) else sign + loss(abs(told))


def percent(thing: Any, decimals: int = 1) -> str:
    told = number(thing)
    return MISSING if math.isnan(told) else f"{100 * told:.{decimals}f} %"


def probability(thing: Any) -> str:
    """`99.8 %`; never 0 or 100 where it is not."""
    told = number(thing)
    if 0 < told < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < told < 1 else percent(told)


def count(thing: Any) -> str:
    """`2,000`"""
    told = number(thing)
    return MISSING if math.isnan(told) else f"{told:,.0f}"


def value(thing: Any) -> str:
    """A hyperparameter or any other single value."""
    if thing is None or (isinstance(thing, float) and math.isnan(thing)):
        return MISSING
    if isinstance(thing, float):
        return str(int(thing)) if thing.is_integer() and abs(thing) < 1e15 else f"{thing:.4g}"
    return str(thing)


def breakable(text: Any) -> Markup:
    """A name that may be wrapped after its joints."""
    parts = re.split(r"(?<=[-_/,])", str(text))
    return Markup("<wbr>").join(parts)


def number(thing: Any) -> float:
    try:
        told = float(thing)
    except (TypeError, ValueError):
        return math.nan
    return told if math.isfinite(told) else math.nan


def time_spent(seconds: Any) -> str:
    told = number(seconds)
    return MISSING if math.isnan(told) else duration(told)


def day_and_time(when: datetime.datetime) -> str:
    """`23 November 2026, 08:06 UTC`"""
    when = when.astimezone(datetime.UTC)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def words(name: Any) -> str:
    return str(name).replace("_", " ")


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def cut_in_the_middle(text: str, longest: int) -> str:
    """Names of jobs differ at their ends."""
    tail = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"


def between(interval: Interval | None) -> str:
    return "" if interval is None or interval.low is None else f"{loss(interval.low)} to {loss(interval.high)}"


def listed(parts: Sequence[str], longest: int = _NAMED) -> str:
    more = len(parts) - longest
    return "; ".join(parts[:longest]) + (f"; and {more} more" if more > 0 else "")


def signed_between(interval: Interval) -> str:
    return "" if interval.low is None else f"{signed(interval.low)} to {signed(interval.high)}"
