"""Numbers, names and ids -> texts as the page shows them. Nothing is computed from what these give."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from catsdogs.base.text import format_duration
from catsdogs.scoring.intervals import Estimate

MISSING = "–"


def loss(thing: Any) -> str:
    """A log loss, or a difference of two: `0.0276`; of small ones two digits that say something."""
    told = number(thing)
    if math.isnan(told):
        return MISSING
    sign, size = "−" if told < 0 else "", abs(told)
    if size == 0 or size >= 0.001:
        return f"{sign}{size:.4f}"
    return sign + np.format_float_positional(size, precision=2, fractional=False, trim="-")


def signed(thing: Any) -> str:
    told = number(thing)
    return ("+" if told > 0 else "") + loss(told)


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


def counted(number: int, noun: str) -> str:
    """`1 job` or `2,000 jobs`"""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    return MISSING if math.isnan(told) else format_duration(told)


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


def between(interval: Estimate | None, shown: Callable[[Any], str] = loss) -> str:
    return "" if interval is None or interval.low is None else f"{shown(interval.low)} to {shown(interval.high)}"


def format_gains(tta: Mapping[str, Any], calibration: Mapping[str, Any]) -> list[str]:
    """What test-time augmentation and calibration do to the log loss, in a sentence for every split.

    Args:
        tta: by split, as `metrics.json` tells it: log loss without the step minus log loss with it, image by image.
        calibration: likewise.
    """
    steps = (
        ("Test-time augmentation", tta, "it harms, so retrain with tta=none"),
        ("Calibration", calibration, "it harms"),
    )
    return [
        _gain_told(what, gain, harm)
        for what, gains, harm in steps
        for gain in gains.values()
        if isinstance(gain.get("size"), int) and not math.isnan(number(gain.get("value")))
    ]


def _gain_told(what: str, gain: Mapping[str, Any], harm: str) -> str:
    value, low, high = (number(gain.get(name)) for name in ("value", "low", "high"))
    if gain.get("kept") is False:
        verdict = "it is left out"
    else:
        verdict = "it helps" if low > 0 else harm if high < 0 else "no more than noise"
    bounds = "" if math.isnan(low) else f" (95 % interval of the gain {signed(low)} to {signed(high)})"
    return (
        f"{what} {'lowers' if value >= 0 else 'raises'} the log loss by {loss(abs(value))}{bounds}, image by image on "
        f"{count(gain['size'])} {gain.get('split')} images: {verdict}."
    )
