"""Colours, Plotly templates for light and dark, and how names are written in pictures and tables."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import cut_in_the_middle

# What carries data has the same colour on light and on dark paper, so that a page switches by its template. Every
# colour here has a contrast of 3 or more with both (WCAG 2.2, 1.4.11). The palette was searched for what stays apart in
# normal sight and, after Machado et al. 2009, without red, green or blue cones; jobs have symbols besides.
PALETTE = ("#1f77d0", "#e0701a", "#39a36a", "#b13d75", "#886116", "#818dcf", "#dd6aaa", "#7262a3")
ACCENT = PALETTE[0]
FAINT_ACCENT = "rgba(31,119,208,0.5)"
NEUTRAL = "#868d96"
FAINT_NEUTRAL = "rgba(134,141,150,0.6)"
ALARM = "#d1493f"
CAT, DOG = PALETTE[1], PALETTE[0]
FAINT_CAT, FAINT_DOG = "rgba(224,112,26,0.45)", "rgba(31,119,208,0.45)"

# From the best to the worst by way of grey, about equally light all along; blue and orange are apart for everybody.
_BETTER = ("#1672d6", "#3d7bca", "#5783bd", "#6e8aaf", "#8490a1")
_WORSE = ("#98908e", "#aa8878", "#b97f60", "#c87445", "#d5681a")
SCALE = _BETTER + _WORSE

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_JOINT = " · "
_NAME_LENGTH = 28  # characters of a job's name in a legend or beside a row

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def _template(text: str, quiet: str, grid: str, line: str, surface: str, veil: str, cells: list[str]) -> dict[str, Any]:
    """A Plotly template; `surface` is what lies behind hovers, `veil` behind words that lines pass."""
    clear = "rgba(0,0,0,0)"
    font = {"color": text, "family": _FONT, "size": 13}
    axis = {
        "automargin": True,
        "gridcolor": grid,
        "linecolor": line,
        "tickfont": {"color": quiet, "size": 12},
        "ticks": "",
        "title": {"font": {"color": quiet, "size": 12}, "standoff": 8},
        "zeroline": False,
    }
    return {
        "layout": {
            "annotationdefaults": {"bgcolor": veil, "font": {"color": text, "size": 12}, "showarrow": False},
            "font": font,
            "hoverlabel": {"align": "left", "bgcolor": surface, "bordercolor": line, "font": font},
            "legend": {"bgcolor": clear, "font": {"color": text, "size": 12}},
            "paper_bgcolor": clear,
            "plot_bgcolor": clear,
            "shapedefaults": {"line": {"color": line, "width": 1}},
            "xaxis": axis,
            "yaxis": axis,
        },
        "data": {
            "bar": [{"marker": {"line": {"color": surface, "width": 1}}}],
            "heatmap": [{"colorscale": [[0.0, cells[0]], [1.0, cells[1]]]}],
        },
    }


LIGHT: dict[str, Any] = _template(
    text="#1f2328",
    quiet="#59636e",
    grid="#e8eaed",
    line="#9aa2ab",
    surface="#ffffff",
    veil="rgba(255,255,255,0.75)",
    cells=["#f3f6fa", "#7fb3e6"],
)
DARK: dict[str, Any] = _template(
    text="#e6e9ed",
    quiet="#a3acb6",
    grid="#2a2f36",
    line="#6b737d",
    surface="#1b1f24",
    veil="rgba(20,23,27,0.75)",
    cells=["#20262d", "#235f9c"],
)


# Values that say nothing without their key.
_BARE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def styles(study_data: StudyData) -> dict[str, dict[str, Any]]:
    """By label, best job first, how Plotly draws each job everywhere; its entry in a legend hides all of its traces.

    No two jobs have the same name, and up to 24 do not look the same in the rest either. The same set of labels gives
    the same looks, so that a new leader repaints nothing.
    """
    names = _distinct(short_names(study_data), _NAME_LENGTH)
    place = {label: i for i, label in enumerate(sorted(names))}
    return {
        label: {
            "name": shown(names[label]),
            "legendgroup": shown(names[label]),
            "legendrank": rank,
            "line": {
                "color": PALETTE[place[label] % len(PALETTE)],
                "dash": _DASHES[place[label] // len(PALETTE) % len(_DASHES)],
            },
            "marker": {
                "color": PALETTE[place[label] % len(PALETTE)],
                "symbol": _SYMBOLS[place[label] % len(_SYMBOLS)],
            },
        }
        for rank, label in enumerate(study_data.leaderboard["label"], start=1)
    }


def short_names(study_data: StudyData) -> dict[str, str]:
    """By label, what each job chose where the jobs differ, such as `light · none`; no two names are equal.

    Plain text, not escaped. Numbers come with their key, as in `batch_size 64`; the study leads where the choices of
    two studies are the same; a job whose choices nobody knows keeps its own name.
    """
    rows = study_data.leaderboard.to_dict("records")
    names = {
        row["label"]: _JOINT.join(
            _told(name, str(row[name])) for name in study_data.varied_choices if pd.notna(row[name])
        )
        or row["job"]
        for row in rows
    }
    if len(set(names.values())) < len(names) and len(study_data.studies) > 1:
        names = {row["label"]: f"{row['study']}: {names[row['label']]}" for row in rows}
    return _distinct(names, sys.maxsize)


def _told(name: str, value: str) -> str:
    """A value of a choice, with the last part of its key where it says nothing alone."""
    return f"{name.rsplit('.', 1)[-1]} {value}" if _BARE.fullmatch(value) else value


def _distinct(names: Mapping[str, str], longest: int) -> dict[str, str]:
    """Names of at most so many characters; of those that are the same then, all but the first get a number."""
    made: dict[str, str] = {}
    for label in sorted(names):
        end, number = "", 1
        while (name := _fitted(names[label], longest - len(end)) + end) in made.values():
            number += 1
            end = f" ({number})"
        made[label] = name
    return made


def _fitted(name: str, longest: int) -> str:
    """A name that is too long with each of its parts cut, since jobs may differ in any."""
    if len(name) > longest:
        parts = name.split(_JOINT)
        each = max(4, (longest + len(_JOINT)) // len(parts) - len(_JOINT))
        name = _JOINT.join(cut_in_the_middle(part, each) for part in parts)
    return cut_in_the_middle(name, longest)


def shown(text: object, limit: int = 60) -> str:
    """Text of the study_data that Plotly shows as it is; of more than `limit` characters it loses its middle.

    Plotly reads tags, entities, formulas between `$` and, in a hovertemplate, `%{...}`: all are escaped.
    """
    # Plotly knows no &quot;, and quotes mean nothing to it.
    escaped = html.escape(cut_in_the_middle(str(text), limit), quote=False)
    return escaped.replace("%{", "%&#123;").replace("$", "&#36;")
