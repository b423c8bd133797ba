"""Colors of the data, and names of jobs as figures and tables show them. `report.js` colors texts, axes and grids."""

import html
import re
import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from catsdogs.base.text import short_numbers
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import cut_in_the_middle

# Data has the same colors in both themes, so switching changes only the template. Every color has a contrast of 3 or
# more with both backgrounds (WCAG 2.2, 1.4.11). The palette was optimized to stay distinguishable in normal vision and,
# after Machado et al. 2009, with protanopia, deuteranopia and tritanopia; jobs also differ in their symbols.
PALETTE = ("#1f77d0", "#e0701a", "#39a36a", "#b13d75", "#886116", "#818dcf", "#dd6aaa", "#7262a3")
ACCENT = PALETTE[0]
NEUTRAL = "#868d96"
ALARM = "#d1493f"

# Best to worst through gray, of about equal lightness; color-blind readers can also distinguish blue and orange.
_BETTER = ("#1672d6", "#3d7bca", "#5783bd", "#6e8aaf", "#8490a1")
_WORSE = ("#98908e", "#aa8878", "#b97f60", "#c87445", "#d5681a")
SCALE = _BETTER + _WORSE

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_JOINT = " · "
_NAME_LENGTH = 28  # characters of a job's name in a legend or next to a row

# Values that mean nothing without their key.
_BARE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def styles(study_data: StudyData) -> dict[str, dict[str, Any]]:
    """Return Plotly's style of each job by label, best job first; a job's legend entry hides all of its traces.

    No two jobs have the same name, and up to 24 differ in color, dash or symbol. Styles depend only on the set of
    labels, so a new best job changes no color.
    """
    names = _unique(short_names(study_data), _NAME_LENGTH)
    indices = {label: i for i, label in enumerate(sorted(names))}
    looks = {}
    for rank, label in enumerate(study_data.leaderboard["label"], start=1):
        name, index = escape(names[label]), indices[label]
        color, dash = PALETTE[index % len(PALETTE)], _DASHES[index // len(PALETTE) % len(_DASHES)]
        looks[label] = {"name": name, "legendgroup": name, "legendrank": rank, "line": {"color": color, "dash": dash}}
        looks[label]["marker"] = {"color": color, "symbol": _SYMBOLS[index % len(_SYMBOLS)]}
    return looks


def short_names(study_data: StudyData) -> dict[str, str]:
    """Return a unique name of each job by label, made of the choices in which the jobs differ: `light · none`.

    The names are plain text, not escaped. Numbers include their key (`batch_size 64`). If jobs of two studies have the
    same choices, all names start with the study. A job without recorded choices keeps its own name.
    """
    rows = study_data.leaderboard.to_dict("records")
    names = {}
    for row in rows:
        chosen = {name: short_numbers(str(row[name])) for name in study_data.varied_choices if pd.notna(row[name])}
        parts = (f"{name.rsplit('.', 1)[-1]} {v}" if _BARE.fullmatch(v) else v for name, v in chosen.items())
        names[row["label"]] = _JOINT.join(parts) or row["job"]
    if len(set(names.values())) < len(names) and len(study_data.studies) > 1:
        names = {row["label"]: f"{row['study']}: {names[row['label']]}" for row in rows}
    return _unique(names, sys.maxsize)


def _unique(names: Mapping[str, str], longest: int) -> dict[str, str]:
    """Shorten names to at most `longest` characters; number those that become equal, except for the first."""
    unique: dict[str, str] = {}
    for label in sorted(names):
        suffix, number = "", 1
        while (name := _shorten(names[label], longest - len(suffix)) + suffix) in unique.values():
            number += 1
            suffix = f" ({number})"
        unique[label] = name
    return unique


def _shorten(name: str, longest: int) -> str:
    """Shorten every part of a name, because jobs may differ in any of them."""
    if len(name) > longest:
        parts = name.split(_JOINT)
        each = max(4, (longest + len(_JOINT)) // len(parts) - len(_JOINT))
        name = _JOINT.join(cut_in_the_middle(part, each) for part in parts)
    return cut_in_the_middle(name, longest)


def escape(text: object, limit: int = 60) -> str:
    """Escape text of a study for Plotly, and cut its middle beyond `limit` characters.

    Plotly interprets tags, entities, formulas between `$` and, in a hovertemplate, `%{...}`.
    """
    # Plotly keeps &quot; as text, and quotes need no escape in it.
    escaped = html.escape(cut_in_the_middle(str(text), limit), quote=False)
    return escaped.replace("%{", "%&#123;").replace("$", "&#36;")
