"""Colours, Plotly templates for light and dark, and how names are written in pictures and tables."""

from __future__ import annotations

import html
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import Evidence

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
SCALE = (
    "#1672d6",
    "#3d7bca",
    "#5783bd",
    "#6e8aaf",
    "#8490a1",
    "#98908e",
    "#aa8878",
    "#b97f60",
    "#c87445",
    "#d5681a",
)

_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
_JOINT = " · "
_NAME_LENGTH = 28  # characters of a job's name in a legend or beside a row

# Jobs named in a legend; with more of them the legend would be larger than the plot, and hovers name them.
LEGEND_JOBS = 12

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def _template(text: str, quiet: str, grid: str, line: str, surface: str, veil: str, cells: list[str]) -> dict[str, Any]:
    """A Plotly template; `surface` is what lies behind hovers, `veil` behind words that lines pass."""
    clear = "rgba(0,0,0,0)"
    axis = {
        "automargin": True,
        "gridcolor": grid,
        "linecolor": line,
        "tickcolor": line,
        "tickfont": {"color": quiet, "size": 12},
        "ticks": "",
        "title": {"font": {"color": quiet, "size": 12}, "standoff": 8},
        "zeroline": False,
        "zerolinecolor": line,
    }
    return {
        "layout": {
            "annotationdefaults": {"bgcolor": veil, "font": {"color": text, "size": 12}, "showarrow": False},
            "colorway": list(PALETTE),
            "font": {"color": text, "family": _FONT, "size": 13},
            "hoverlabel": {
                "align": "left",
                "bgcolor": surface,
                "bordercolor": line,
                "font": {"color": text, "family": _FONT, "size": 13},
            },
            "legend": {"bgcolor": clear, "font": {"color": text, "size": 12}},
            "modebar": {"activecolor": text, "bgcolor": clear, "color": quiet},
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


@dataclass(frozen=True)
class Style:
    """How one job is drawn everywhere; `name` is ready for Plotly, `rank` counts from 1, the best job."""

    name: str
    rank: int
    colour: str
    dash: str
    symbol: str


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour per job. The same set of labels gives the same colours, so that a new leader repaints nothing."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(sorted(set(labels)))}


def styles(evidence: Evidence) -> dict[str, Style]:
    """By label, best job first; no two jobs look the same in name, and up to 24 not in the rest either."""
    labels = list(evidence.board["label"])
    names, colour_of = short_names(evidence), colours(labels)
    cut = {label: _cut(name) for label, name in names.items()}
    if _twice(cut.values()):
        cut = {label: shown(name, _NAME_LENGTH) for label, name in names.items()}
    alike = _twice(cut.values())
    place = {label: i for i, label in enumerate(sorted(labels))}
    return {
        label: Style(
            rank=rank,
            name=f"{shown(names[label], _NAME_LENGTH - 6)} ({place[label] + 1})" if cut[label] in alike else cut[label],
            colour=colour_of[label],
            dash=_DASHES[place[label] // len(PALETTE) % len(_DASHES)],
            symbol=_SYMBOLS[place[label] % len(_SYMBOLS)],
        )
        for rank, label in enumerate(labels, start=1)
    }


def _cut(name: str) -> str:
    """A short name that is too long, with the longest of its parts cut."""
    parts = name.split(_JOINT)
    for length in range(_NAME_LENGTH, 3, -1):
        cut = _JOINT.join(_cut_part(part, length) for part in parts)
        if len(cut) <= _NAME_LENGTH:
            return shown(cut)
    return shown(name, _NAME_LENGTH)


def _cut_part(part: str, length: int) -> str:
    if len(part) <= length:
        return part
    key, _, value = part.rpartition(" ")
    # Jobs differ in the number, and not in the key before it.
    if key and _BARE.fullmatch(value) and len(value) + 3 <= length:
        return f"{key[: length - len(value) - 2]}… {value}"
    return part[: length - 1] + "…"


def shown(text: object, limit: int = 60) -> str:
    """Any text as one line that Plotly shows as it is.

    Plotly reads tags, entities, formulas between `$` and, in a hovertemplate, `%{...}`: all are escaped. Text of more
    than `limit` characters loses its middle, since names of jobs differ at their ends. Nothing printable becomes `–`.
    """
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split()) or "–"
    if len(line) > limit:
        tail = (limit - 1) // 2
        line = line[: limit - 1 - tail] + "…" + line[len(line) - tail :]
    # Plotly knows no &quot;, and quotes mean nothing to it.
    return html.escape(line, quote=False).replace("%{", "%&#123;").replace("$", "&#36;")


def short_names(evidence: Evidence) -> dict[str, str]:
    """The shortest name by label that tells the jobs apart: what each chose where they differ, such as `light · none`.

    Plain text, not escaped. Numbers come with their key, as in `batch_size 64`; the study leads where the choices of
    two studies are the same; a job whose choices nobody knows keeps its own name. No two names are equal.
    """
    board = evidence.board
    rows = board.astype(object).where(board.notna(), None).to_dict("records")
    chosen = {row["label"]: _choices(row, evidence.choices) for row in rows}
    # A job that only waits has told no choices, but its name does, where the names of the others are made of theirs.
    if all(row["job"] == "-".join(values.values()) for row in rows if (values := chosen[row["label"]])):
        for row in rows:
            parts = str(row["job"]).split("-")
            if not chosen[row["label"]] and len(parts) == len(evidence.choices):
                chosen[row["label"]] = dict(zip(evidence.choices, parts, strict=True))
    known = [values for values in chosen.values() if values]
    varied = [name for name in evidence.choices if len({values.get(name) for values in known}) > 1]
    names = {
        row["label"]: _JOINT.join(
            _said(name, chosen[row["label"]][name]) for name in varied if name in chosen[row["label"]]
        )
        or str(row["job"])
        for row in rows
    }
    if _twice(names.values()) and len(evidence.studies) > 1:
        names = {row["label"]: f"{row['study']}: {names[row['label']]}" for row in rows}
    twice = _twice(names.values())
    names = {label: label if name in twice else name for label, name in names.items()}
    # A job may be called what another one is shortened to.
    return {label: label for label in names} if _twice(names.values()) else names


def _choices(row: dict[Hashable, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: str(row[name]) for name in names if row[name] is not None}


def _said(name: str, value: str) -> str:
    """A value of a choice, with the last part of its key where it says nothing alone."""
    if _BARE.fullmatch(value):
        return f"{name.rsplit('.', 1)[-1]} {value}"
    return value


def _twice(names: Iterable[str]) -> set[str]:
    counts = pd.Series(list(names), dtype=object).value_counts()
    return set(counts[counts > 1].index)


def figure(height: int, legend: bool = False) -> go.Figure:
    """An empty figure in the manner of all: as wide as its place, `height` pixels high, its legend below the plot.

    A legend takes its room from the height; see `legend_room`.
    """
    drawn = go.Figure()
    # Not Plotly's own one, which would add 7 kB to every figure; the page applies LIGHT or DARK.
    drawn.layout.template = None
    drawn.update_layout(
        autosize=True,
        height=height,
        hovermode="closest",
        margin={"l": 8, "r": 16, "t": 20, "b": 8},
        showlegend=legend,
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
    )
    return drawn


def legend_room(entries: int) -> int:
    """Pixels by which a figure grows for its legend: of four entries none, beyond that a row for each on a phone."""
    return 30 * max(0, entries - 4)


def significant(values: Iterable[Any], digits: int = 5) -> list[float | None]:
    """Numbers as short as a picture needs them; None where there is none, which is a gap in a line."""
    return [None if pd.isna(value) else float(f"{value:.{digits}g}") for value in values]


def number(value: Any, digits: int = 4) -> str:
    """As people read it: 0.0276, 5.1e-06, 30; other things as `shown`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return shown(value, 28)
    return f"{value:.{digits}g}".replace("-", "−", 1) if value < 0 else f"{value:.{digits}g}"


def loss(value: float) -> str:
    """A log loss with three digits: 0.0276, 0.100."""
    return f"{value:#.3g}"


def wide_range(values: Iterable[Any]) -> bool:
    """Whether positive values span more than a factor of 10 and so ask for a logarithmic axis."""
    known = pd.Series(list(values), dtype=float).dropna()
    return bool(len(known) and known.min() > 0 and known.max() > 10 * known.min())


# For `wide_range` axes: labels at 1, 2 and 5 of every decade, as numbers and not as powers.
LOG_AXIS = {"type": "log", "dtick": "D2", "tickformat": ".3~g"}
