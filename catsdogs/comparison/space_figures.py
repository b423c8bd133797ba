"""Trials -> figures of the searched space: parallel coordinates, and each hyperparameter against log loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.figures import (
    LOG_AXIS,
    TRIAL_HOVER,
    Figure,
    blank,
    blank_for_jobs,
    lines,
    of_job,
    points,
    trial_hovers,
    wide_range,
)
from catsdogs.comparison.formats import loss, words
from catsdogs.comparison.theme import ALARM, NEUTRAL, SCALE, shown, styles

_AXIS_PIXELS = 72  # from one axis of the parallel coordinates to the next
_MOST_TICKS = 7

# Lines of the parallel coordinates with hovers: so many of the best. Beyond, none could be pointed at.
_HOVERED_LINES = 600


def parallel_coordinates(evidence: Evidence) -> Figure | None:
    """A line per trial through what it was made of, down to its log loss; None with fewer than two completed trials.

    The axes lie flat, one above the other, so that names and values are readable on a phone: varied choices, varied
    hyperparameters, log loss with the best on the left. Colors are tenths of the trials by log loss, and the axis of
    log loss is their scale. Trials with the same value lie side by side, the best on the left.

    The lines of many worse trials have no hover. The last trace, `highlight`, is empty and hidden: the page may fill it
    with the vertices of one trial. Dragging selects, by which the page hides trials.
    """
    trials = evidence.trials
    done = trials[trials["val_log_loss"].notna()].sort_values(["val_log_loss", "label", "trial"])
    names = [name for name in [*evidence.varied_choices, *evidence.hyperparameters] if _varies(done[name])]
    if len(done) < 2 or not names:
        return None
    ordered = pd.concat([done, trials[trials["val_log_loss"].isna()]])
    hovers = trial_hovers(evidence, times=len(names) + 1)[ordered.index]
    ordered = ordered.reset_index(drop=True)
    axes = [_axis(name, ordered[name], log_sampled(evidence, name)) for name in names]
    axes.append(_axis(_LOG_LOSS, ordered["val_log_loss"], wide_range(done["val_log_loss"]), spread=False))
    # An axis on which a trial has no value is passed by.
    vertices = pd.DataFrame(
        {
            "line": np.repeat(np.arange(len(ordered)), len(axes)),
            "x": np.column_stack([axis.positions for axis in axes]).ravel().round(3),
            "y": np.tile(np.arange(len(axes))[::-1], len(ordered)),
            "hover": np.repeat(hovers.to_numpy(), len(axes)),
        }
    ).dropna(subset="x")

    def draw(part: pd.DataFrame, hovered: bool, **look: Any) -> None:
        if hovered:
            lines(plot, part, hovertemplate=TRIAL_HOVER, **look)
        else:
            lines(plot, part.drop(columns="hover"), **look)

    bins = min(len(SCALE), len(done))
    bin_of = np.arange(len(done)) * bins // len(done)
    color_of = [SCALE[round(i * (len(SCALE) - 1) / max(1, bins - 1))] for i in range(bins)]
    faint = 0.55 if len(done) <= 100 else 0.35
    thin = max(0.4, min(1.0, (100 / len(done)) ** 0.3))
    failed = vertices[vertices["line"] >= len(done)]
    plot = blank(_AXIS_PIXELS * len(axes) + 16, legend=len(failed) > 0)
    if len(failed):
        look = {"line": {"color": NEUTRAL, "dash": "dot", "width": 1}, "opacity": 0.7}
        draw(failed, len(ordered) <= _HOVERED_LINES, name="failed trials", **look)
    for i in reversed(range(bins)):
        members = np.flatnonzero(bin_of == i)
        members = members[members > 0]  # the best is drawn last
        if len(members):
            draw(
                vertices[vertices["line"].isin(members)],
                members[0] < _HOVERED_LINES,
                name="completed trials",
                line={"color": color_of[i], "width": round((1.6 if i < bins / 5 else 1.1) * thin, 2)},
                opacity=faint + 0.35 if i < bins / 5 else faint,
                showlegend=False,
            )
    best = {"line": {"color": color_of[0], "width": 3.5}, "showlegend": False}
    draw(vertices[vertices["line"] == 0], True, name="best trial", **best)
    plot.add_scatter(
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
    _draw_axes(plot, axes)
    _draw_scale(plot, axes[-1], bin_of, color_of)
    return Figure(
        "coordinates",
        plot,
        caption="Every trial, from its settings to its log loss",
        alternative=f"A line for each of {len(done)} completed trials, through its settings down to its log loss.",
        table="trials",
    )


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
            ((math.log10(tick) if log else tick) - low, f"{tick:.3g}")
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


def _draw_axes(plot: go.Figure, axes: list[_Axis]) -> None:
    for i, axis in enumerate(axes):
        y = len(axes) - 1 - i
        plot.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, layer="below")
        plot.add_annotation(x=-0.04, xanchor="left", y=y, yshift=15, text=f"<b>{shown(words(axis.name), 36)}</b>")
        for at, text in axis.ticks:
            plot.add_annotation(x=round(at, 4), y=y, yshift=-13, text=text)
    plot.update_xaxes(range=[-0.06, 1.06], visible=False, fixedrange=True)
    plot.update_yaxes(range=[-0.4, len(axes) - 0.55], visible=False, fixedrange=True)
    plot.update_layout(margin={"l": 2, "r": 2, "t": 8, "b": 0}, dragmode="select")
    plot.update_layout(newselection={"line": {"color": NEUTRAL, "dash": "solid", "width": 1}})


def _draw_scale(plot: go.Figure, axis: _Axis, bin_of: np.ndarray, color_of: list[str]) -> None:
    """Color the axis of log loss by the tenths of the trials, each up to half way to the next."""
    positions = axis.positions[: len(bin_of)]
    borders = [0.0]
    for i in range(1, len(color_of)):
        borders.append(float(positions[bin_of == i - 1].max() + positions[bin_of == i].min()) / 2)
    borders.append(1.0)
    for color, start, end in zip(color_of, borders[:-1], borders[1:], strict=True):
        plot.add_shape(type="line", x0=round(start, 4), x1=round(end, 4), y0=0, y1=0, line={"color": color, "width": 6})


def hyperparameter_slices(evidence: Evidence) -> list[Figure]:
    """Each hyperparameter that varies against log loss, a point per completed trial, in the order of search.

    Failed trials are crosses along the upper edge. None with fewer than two completed trials.
    """
    done = evidence.trials[evidence.trials["val_log_loss"].notna()]
    names = [name for name in evidence.hyperparameters if _varies(done[name])]
    hovers = trial_hovers(evidence, times=len(names))
    return [
        Figure(
            f"slice-{place}",
            _slice(evidence, name, hovers),
            caption=words(name),
            alternative=f"Log loss of {len(done)} trials against {words(name)}, a point per trial.",
            table="trials",
        )
        for place, name in enumerate(names)
    ]


def _slice(evidence: Evidence, name: str, hovers: pd.Series) -> go.Figure:
    values, losses = evidence.trials[name], evidence.trials["val_log_loss"]
    kinds = None if _numeric(values) else sorted({str(value) for value in values.dropna()})
    log = log_sampled(evidence, name)
    x = _places(values, kinds, log)
    table = pd.DataFrame({"label": evidence.trials["label"], "x": x, "y": losses.astype(float), "hover": hovers})
    table = table[values.notna()]
    done, failed = table[table["y"].notna()], table[table["y"].isna()]
    style = {label: one for label, one in styles(evidence).items() if (done["label"] == label).any()}
    plot = blank_for_jobs(320, list(style))
    marker = {"size": 8 if len(done) <= 300 else 5, "opacity": 0.85}
    for label, one in style.items():
        look = {"color": one.colour, "symbol": one.symbol, **marker}
        points(plot, done[done["label"] == label], **of_job(plot, one), marker=look, hovertemplate=TRIAL_HOVER)
    best = done.loc[[done["y"].idxmin()]].drop(columns="hover")
    best = best.assign(text=f"\u00a0\u00a0best {loss(best['y'].iloc[0])}\u00a0\u00a0")
    middle = math.sqrt(x.min() * x.max()) if log else (x.min() + x.max()) / 2
    ring = {"symbol": "circle-open", "size": 17, "line": {"width": 2}}
    points(
        plot,
        best,
        name="best trial",
        marker={**ring, "color": style[best["label"].iloc[0]].colour},
        textposition="middle left" if best["x"].iloc[0] > middle else "middle right",
        cliponaxis=False,
        showlegend=False,
    )
    if len(failed):
        cross = {"symbol": "x", "size": 7, "color": ALARM}
        above: dict[str, Any] = {"yaxis": "y2", "cliponaxis": False, "hovertemplate": TRIAL_HOVER}
        points(plot, failed.assign(y=0.985), name="failed trials", marker=cross, **above)
        plot.update_layout(yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True})
        plot.update_layout(showlegend=True)
    plot.update_xaxes(title_text=shown(words(name), 40))
    if kinds is not None:
        plot.update_xaxes(
            tickvals=list(range(len(kinds))),
            ticktext=[shown(kind, max(8, 56 // len(kinds))) for kind in kinds],
            range=[-0.5, len(kinds) - 0.5],
            showgrid=False,
        )
    elif log:
        plot.update_xaxes(type="log", dtick=1, tickformat=".1~e")
    elif len(few := values[done.index].unique()) <= _MOST_TICKS:
        plot.update_xaxes(tickvals=_ticks(few.astype(float), log=False))
    plot.update_layout(yaxis={"title_text": "log loss", **(LOG_AXIS if wide_range(done["y"]) else {})})
    return plot


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
