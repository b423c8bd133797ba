"""Trials -> figures of the searched space: parallel coordinates, and each hyperparameter against log loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.formats import words
from catsdogs.comparison.theme import (
    ALARM,
    LEGEND_JOBS,
    LOG_AXIS,
    NEUTRAL,
    SCALE,
    Style,
    figure,
    legend_room,
    loss,
    number,
    shown,
    significant,
    styles,
    wide_range,
)

_AXIS_PIXELS = 72  # from one axis of the parallel coordinates to the next
_MOST_TICKS = 7

# Hovers tell all values of a trial while that stays below this number of values (some 250 kB of page).
_MOST_TOLD = 6_000

# Lines of the parallel coordinates with hovers: so many of the best. Beyond, none could be pointed at.
_HOVERED_LINES = 600


def parallel_coordinates(evidence: Evidence) -> go.Figure | None:
    """A line per trial through what it was made of, down to its log loss; None with fewer than two completed trials.

    The axes lie flat, one above the other, so that names and values are readable on a phone: varied choices, varied
    hyperparameters, log loss with the best on the left. Colours are tenths of the trials by log loss, and the axis of
    log loss is their scale. Trials with the same value lie side by side, the best on the left.

    Every vertex of a line has customdata [job, trial, log loss, values], the job as `theme.Style.name`; the lines of
    many worse trials have none, and no hover. The last trace, `highlight`, is empty and hidden: the page may fill it
    with the vertices of one trial. Dragging selects, by which the page hides trials.
    """
    trials = evidence.trials
    done = trials[trials["val_log_loss"].notna()].sort_values(["val_log_loss", "label", "trial"])
    names = [name for name in [*evidence.varied_choices, *evidence.hyperparameters] if _varies(done[name])]
    if len(done) < 2 or not names:
        return None
    failed = trials[trials["val_log_loss"].isna()]
    ordered = pd.concat([done, failed]).reset_index(drop=True)
    axes = [_axis(name, ordered[name], log_sampled(evidence, name)) for name in names]
    axes.append(_axis(_LOG_LOSS, ordered["val_log_loss"], wide_range(done["val_log_loss"]), spread=False))
    style = styles(evidence)
    told = _values_told(evidence, ordered, len(axes))
    lines = _Lines(axes, ordered, style, told)

    drawn = figure(_AXIS_PIXELS * len(axes) + 16, legend=len(failed) > 0)
    if len(failed):
        drawn.add_scatter(
            name="failed trials",
            **lines.through(range(len(done), len(ordered)), len(ordered) <= _HOVERED_LINES, "failed"),
            line={"color": NEUTRAL, "dash": "dot", "width": 1},
            opacity=0.7,
        )
    bins = min(len(SCALE), len(done))
    bin_of = np.arange(len(done)) * bins // len(done)
    colour_of = [SCALE[round(i * (len(SCALE) - 1) / max(1, bins - 1))] for i in range(bins)]
    faint = 0.55 if len(done) <= 100 else 0.35
    thin = max(0.4, min(1.0, (100 / len(done)) ** 0.3))
    for i in reversed(range(bins)):
        members = [int(row) for row in np.flatnonzero(bin_of == i) if row > 0]
        if members:
            drawn.add_scatter(
                name="completed trials",
                **lines.through(members, hover=members[0] < _HOVERED_LINES),
                line={"color": colour_of[i], "width": round((1.6 if i < bins / 5 else 1.1) * thin, 2)},
                opacity=faint + 0.35 if i < bins / 5 else faint,
                showlegend=False,
            )
    drawn.add_scatter(
        name="best trial", **lines.through([0]), line={"color": colour_of[0], "width": 3.5}, showlegend=False
    )
    drawn.add_scatter(
        name="highlight",
        meta={"role": "highlight"},
        x=[],
        y=[],
        mode="lines+markers",
        line={"color": ALARM, "width": 3.5},
        marker={"color": ALARM, "size": 8},
        hoverinfo="skip",
        visible=False,
        showlegend=False,
    )
    _draw_axes(drawn, axes)
    _draw_scale(drawn, axes[-1], bin_of, colour_of)
    return drawn


_LOG_LOSS = "log loss"


@dataclass(frozen=True)
class _Axis:
    """One axis of the parallel coordinates.

    Attributes:
        positions: (N,) along the axis, which goes from 0 to 1, NaN where a trial has no such value.
        ticks: position and text, ready for Plotly.
    """

    name: str
    positions: np.ndarray
    ticks: list[tuple[float, str]]


def _axis(name: str, values: pd.Series, log: bool, spread: bool = True) -> _Axis:
    """
    Args:
        values: (N,) of the trials, best first, failed ones last.
        spread: lay equal values side by side, in the order of the trials.
    """
    if _numeric(values):
        numbers = values.to_numpy(dtype=float)
        raw = np.log10(numbers) if log else numbers
        low, high = float(np.nanmin(raw)), float(np.nanmax(raw))
        positions = (raw - low) / (high - low) if high > low else np.where(np.isnan(raw), np.nan, 0.5)
        ticks = [
            ((math.log10(tick) if log else tick) - low, number(tick, 3))
            for tick in _ticks(numbers[~np.isnan(numbers)], log)
        ]
        ticks = [(at / (high - low) if high > low else 0.5, text) for at, text in ticks]
    else:
        kinds = sorted({str(value) for value in values.dropna()})
        place = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
        positions = np.array([math.nan if pd.isna(value) else place[str(value)] for value in values])
        each = math.ceil(len(kinds) / _MOST_TICKS)
        ticks = [(place[kind], shown(kind, max(6, 48 // len(kinds)))) for kind in kinds[::each]]
    most = 0.08 if _numeric(values) else 0.3
    return _Axis(name, _side_by_side(positions, most) if spread else positions, ticks)


def _side_by_side(positions: np.ndarray, most: float) -> np.ndarray:
    """Equal positions moved apart, in their order, to fill at most half of the way to the next one, or `most`."""
    places, counts = np.unique(positions[~np.isnan(positions)], return_counts=True)
    if len(places) == 0 or counts.max() == 1:
        return positions
    width = min(0.5 * float(np.diff(places).min()) if len(places) > 1 else 0.5, most)
    moved = positions.copy()
    for place in places:
        rows = np.flatnonzero(positions == place)
        if len(rows) > 1:
            # As wide as the share of trials asks, so that a value with few trials does not look like many.
            moved[rows] += np.linspace(-0.5, 0.5, len(rows)) * width * len(rows) / counts.max()
    return moved


class _Lines:
    """Trials as polylines through the axes."""

    def __init__(self, axes: list[_Axis], trials: pd.DataFrame, style: dict[str, Style], told: list[str]) -> None:
        self._axes = axes
        self._told = [
            [style[row["label"]].name, shown(row["trial"], 20), *significant([row["val_log_loss"]]), text]
            for row, text in zip(trials.to_dict("records"), told, strict=True)
        ]
        self._x = [significant(axis.positions, 3) for axis in axes]

    def through(
        self, rows: Sequence[int], hover: bool = True, said: str = "log loss %{customdata[2]}"
    ) -> dict[str, Any]:
        """One trace for these trials, with gaps between them; an axis on which a trial has no value is passed by."""
        x: list[float | None] = []
        y: list[int | None] = []
        told: list[list[Any] | None] = []
        for row in rows:
            for height, places in enumerate(self._x):
                place = places[row]
                if place is not None:
                    x.append(place)
                    y.append(len(self._x) - 1 - height)
                    told.append(self._told[row])
            x.append(None)
            y.append(None)
            told.append(None)
        line = {"x": x, "y": y, "mode": "lines"}
        if not hover:
            return {**line, "hoverinfo": "skip"}
        return {
            **line,
            "customdata": told,
            "hovertemplate": "<b>%{customdata[0]}</b>, trial %{customdata[1]}<br>"
            f"{said}%{{customdata[3]}}<extra></extra>",
        }


def _draw_axes(drawn: go.Figure, axes: list[_Axis]) -> None:
    for i, axis in enumerate(axes):
        y = len(axes) - 1 - i
        drawn.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, layer="below")
        drawn.add_annotation(x=-0.04, xanchor="left", y=y, yshift=15, text=f"<b>{shown(words(axis.name), 36)}</b>")
        for at, text in axis.ticks:
            drawn.add_annotation(x=round(at, 4), y=y, yshift=-13, text=text)
    drawn.update_xaxes(range=[-0.06, 1.06], visible=False, fixedrange=True)
    drawn.update_yaxes(range=[-0.4, len(axes) - 0.55], visible=False, fixedrange=True)
    drawn.update_layout(margin={"l": 2, "r": 2, "t": 8, "b": 0}, dragmode="select")
    drawn.update_layout(newselection={"line": {"color": NEUTRAL, "dash": "solid", "width": 1}})


def _draw_scale(drawn: go.Figure, axis: _Axis, bin_of: np.ndarray, colour_of: list[str]) -> None:
    """Colour the axis of log loss by the tenths of the trials, each up to half way to the next."""
    positions = axis.positions[: len(bin_of)]
    borders = [0.0]
    for i in range(1, len(colour_of)):
        borders.append(float(positions[bin_of == i - 1].max() + positions[bin_of == i].min()) / 2)
    borders.append(1.0)
    for colour, start, end in zip(colour_of, borders[:-1], borders[1:], strict=True):
        drawn.add_shape(
            type="line", x0=round(start, 4), x1=round(end, 4), y0=0, y1=0, line={"color": colour, "width": 6}
        )


def hyperparameter_slices(evidence: Evidence) -> dict[str, go.Figure]:
    """Each hyperparameter that varies against log loss, a point per completed trial; by name, in the order of search.

    Failed trials are crosses along the upper edge. Empty with fewer than two completed trials.
    """
    trials = evidence.trials
    names = [name for name in evidence.hyperparameters if _varies(trials.loc[trials["val_log_loss"].notna(), name])]
    trials = trials.assign(told=_values_told(evidence, trials, len(names)))
    done, failed = trials[trials["val_log_loss"].notna()], trials[trials["val_log_loss"].isna()]
    return {name: _slice(evidence, name, done, failed) for name in names}


def _slice(evidence: Evidence, name: str, done: pd.DataFrame, failed: pd.DataFrame) -> go.Figure:
    style = styles(evidence)
    kinds = None if _numeric(evidence.trials[name]) else sorted({str(v) for v in evidence.trials[name].dropna()})
    log = log_sampled(evidence, name)
    x_of = _places(evidence.trials[name], kinds, log)
    done, failed = done[done[name].notna()], failed[failed[name].notna()]
    jobs = [label for label in style if (done["label"] == label).any()]
    size = 8 if len(done) <= 300 else 5
    ends = x_of.min(), x_of.max()
    middle = math.sqrt(ends[0] * ends[1]) if log else sum(ends) / 2
    named = 1 < len(jobs) <= LEGEND_JOBS
    drawn = figure(320 + legend_room(len(jobs) if named else 0), legend=named or len(failed) > 0)
    head = "" if len(jobs) < 2 else "<b>%{fullData.name}</b>, "
    for label in jobs:
        part = done[done["label"] == label]
        drawn.add_scatter(
            name=style[label].name,
            legendgroup=style[label].name,
            showlegend=named,
            x=significant(x_of[part.index]),
            y=significant(part["val_log_loss"]),
            mode="markers",
            marker={"color": style[label].colour, "symbol": style[label].symbol, "size": size, "opacity": 0.85},
            customdata=[[shown(row["trial"], 20), row["told"]] for row in part.to_dict("records")],
            hovertemplate=head + "trial %{customdata[0]}<br>log loss %{y}%{customdata[1]}<extra></extra>",
        )
    best = done.loc[[done["val_log_loss"].astype(float).idxmin()]]
    drawn.add_scatter(
        name="best trial",
        x=significant(x_of[best.index]),
        y=significant(best["val_log_loss"]),
        mode="markers+text",
        marker={
            "symbol": "circle-open",
            "size": 17,
            "color": style[best["label"].iloc[0]].colour,
            "line": {"width": 2},
        },
        text=[f"\u00a0\u00a0best {loss(best['val_log_loss'].iloc[0])}\u00a0\u00a0"],
        textposition="middle left" if x_of[best.index].iloc[0] > middle else "middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    if len(failed):
        drawn.add_scatter(
            name="failed trials",
            x=significant(x_of[failed.index]),
            y=[0.985] * len(failed),
            yaxis="y2",
            mode="markers",
            marker={"symbol": "x", "size": 7, "color": ALARM},
            cliponaxis=False,
            customdata=[
                [style[row["label"]].name, shown(row["trial"], 20), row["told"]] for row in failed.to_dict("records")
            ],
            hovertemplate="<b>%{customdata[0]}</b>, trial %{customdata[1]}<br>failed%{customdata[2]}<extra></extra>",
        )
        drawn.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
    drawn.update_xaxes(title_text=shown(words(name), 40))
    if kinds is not None:
        drawn.update_xaxes(
            tickvals=list(range(len(kinds))),
            ticktext=[shown(kind, max(8, 56 // len(kinds))) for kind in kinds],
            range=[-0.5, len(kinds) - 0.5],
            showgrid=False,
        )
    elif log:
        drawn.update_xaxes(type="log", dtick=1, tickformat=".1~e")
    elif done[name].nunique() <= _MOST_TICKS:
        drawn.update_xaxes(tickvals=_ticks(done[name].to_numpy(dtype=float), log=False))
    drawn.update_layout(yaxis={"title_text": "log loss", **(LOG_AXIS if wide_range(done["val_log_loss"]) else {})})
    return drawn


def _places(values: pd.Series, kinds: list[str] | None, log: bool) -> pd.Series:
    """Where the trials are along the axis: at their number, or at the place of their kind, counted from 0.

    Kinds, and numbers of which there are few, are scattered a little, always alike, so that trials do not hide others.
    """
    if kinds is None:
        places = values.astype(float)
        distinct = np.unique(places.dropna())
        if log or not 1 < len(distinct) <= _MOST_TICKS:
            return places
        width = 0.25 * float(np.diff(distinct).min())
    else:
        places = values.map(lambda value: math.nan if pd.isna(value) else float(kinds.index(str(value))))
        width = 0.5
    turn = values.groupby(places).cumcount()
    # Multiples of the golden ratio fill the width evenly however many there are; the first stays where it belongs.
    return places + ((turn * 0.6180339887 + 0.5) % 1 - 0.5) * width


def log_sampled(evidence: Evidence, name: str) -> bool:
    """Whether a hyperparameter belongs on a logarithmic axis: a job sampled it so, or it spans over two decades."""
    values = evidence.trials[name].dropna() if name in evidence.trials else pd.Series(dtype=float)
    if values.empty or not _numeric(values):
        return False
    values = values.astype(float)
    if values.min() <= 0:
        return False
    return bool(values.max() > 100 * values.min()) or any(
        _nested(job.result, "config", "space", name, "sampling") == "log" for job in evidence.jobs.values()
    )


def _nested(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _varies(values: pd.Series) -> bool:
    return values.dropna().astype(str).nunique() > 1


def _numeric(values: pd.Series) -> bool:
    known = values.dropna()
    return len(known) > 0 and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in known)


def _ticks(values: np.ndarray, log: bool) -> list[float]:
    """At most seven round numbers within the range of values, or the values themselves where they are few."""
    kinds = np.unique(values)
    low, high = float(kinds[0]), float(kinds[-1])
    if len(kinds) <= 5 and (len(kinds) < 3 or log or np.diff(kinds).min() > (high - low) / 12):
        return kinds.tolist()
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            ticks = [f * 10.0**d for d in decades for f in factors]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) >= 3:
                break
        return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)] or [low, high]
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s <= _MOST_TICKS - 1)
    return [float(tick) for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]


def _values_told(evidence: Evidence, trials: pd.DataFrame, times: int) -> list[str]:
    """The hyperparameters of each trial for hovers, a line each; empty where they would be most of the page.

    Args:
        times: how often each text will be in the page.
    """
    names = evidence.hyperparameters
    if len(trials) * len(names) * times > _MOST_TOLD:
        return [""] * len(trials)
    heads = {name: shown(words(name), 28) for name in names}
    return [
        "".join(f"<br>{heads[name]} {number(row[name])}" for name in names if pd.notna(row[name]))
        for row in trials.to_dict("records")
    ]
