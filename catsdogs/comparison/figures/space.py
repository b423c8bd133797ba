"""Trials -> figures of the searched space: parallel coordinates, and each hyperparameter against log loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.figures.figure import (
    TRIAL_HOVER,
    Figure,
    blank,
    for_jobs,
    lines,
    loss_axis,
    points,
    trial_hovers,
)
from catsdogs.comparison.figures.theme import ALARM, NEUTRAL, SCALE, shown
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import loss, words

_AXIS_PIXELS = 72  # from one axis of the parallel coordinates to the next
_MOST_TICKS = 7

# Lines of the parallel coordinates with hovers: so many of the best. Beyond, none could be pointed at.
_HOVERED_LINES = 600


def parallel_coordinates(study_data: StudyData) -> Figure | None:
    """A line per trial through what it was made of, down to its log loss; None with fewer than two completed trials.

    The axes lie flat, one above the other, so that names and values are readable on a phone: varied choices, varied
    hyperparameters, log loss with the best on the left. Colors are tenths of the trials by log loss, and the axis of
    log loss is their scale. Trials with the same value lie side by side, the best on the left.

    The lines of many worse trials have no hover. The last trace, `highlight`, is empty and hidden: the page may fill it
    with the vertices of one trial. Dragging selects, by which the page hides trials.
    """
    trials = study_data.trials.assign(hover=trial_hovers(study_data))
    done = trials[trials["val_log_loss"].notna()].sort_values(["val_log_loss", "label", "trial"])
    names = [name for name in [*study_data.varied_choices, *study_data.hyperparameters] if _varies(done[name])]
    if len(done) < 2 or not names:
        return None
    ordered = pd.concat([done, trials[trials["val_log_loss"].isna()]])
    axes, marks = [], []
    for name in names:
        positions, ticks = _axis(ordered[name], log_sampled(study_data, name))
        axes.append(_side_by_side(positions, most=0.08 if _numeric(ordered[name]) else 0.3))
        marks.append((name, ticks))
    positions, ticks = _axis(ordered["val_log_loss"], log="type" in loss_axis(done["val_log_loss"]))
    axes.append(positions)
    marks.append(("log loss", ticks))
    # An axis on which a trial has no value is passed by.
    vertices = pd.DataFrame(
        {
            "line": np.repeat(np.arange(len(ordered)), len(axes)),
            "x": np.column_stack(axes).ravel().round(3),
            "y": np.tile(np.arange(len(axes))[::-1], len(ordered)),
            "hover": np.repeat(ordered["hover"].to_numpy(), len(axes)),
        }
    ).dropna(subset="x")
    failed = vertices[vertices["line"] >= len(done)]
    plot = blank(_AXIS_PIXELS * len(axes) + 16, legend=len(failed) > 0)

    def draw(part: pd.DataFrame, **look: Any) -> None:
        if len(part):
            hovered = part["line"].iloc[0] < _HOVERED_LINES
            lines(plot, part if hovered else part.drop(columns="hover"), hovertemplate=TRIAL_HOVER, **look)

    bins = min(len(SCALE), len(done))
    firsts = [math.ceil(i * len(done) / bins) for i in range(bins + 1)]  # of the trials of every bin
    color_of = [SCALE[round(i * (len(SCALE) - 1) / max(1, bins - 1))] for i in range(bins)]
    faint = 0.55 if len(done) <= 100 else 0.35
    thin = max(0.4, min(1.0, (100 / len(done)) ** 0.3))
    draw(failed, name="failed trials", line={"color": NEUTRAL, "dash": "dot", "width": 1}, opacity=0.7)
    for i in reversed(range(bins)):
        draw(
            # The best is drawn last.
            vertices[vertices["line"].between(max(1, firsts[i]), firsts[i + 1], inclusive="left")],
            name="completed trials",
            line={"color": color_of[i], "width": round((1.6 if i < bins / 5 else 1.1) * thin, 2)},
            opacity=faint + 0.35 if i < bins / 5 else faint,
            showlegend=False,
        )
    best = {"line": {"color": color_of[0], "width": 3.5}, "showlegend": False}
    draw(vertices[vertices["line"] == 0], name="best trial", **best)
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
    for y, (name, ticks) in zip(reversed(range(len(axes))), marks, strict=True):
        plot.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, layer="below")
        plot.add_annotation(x=-0.04, xanchor="left", y=y, yshift=15, text=f"<b>{shown(words(name), 36)}</b>")
        for at, text in ticks:
            plot.add_annotation(x=round(at, 4), y=y, yshift=-13, text=text)
    # The axis of log loss has the colors of the trials, each up to half way to the next.
    middles = [(positions[first - 1] + positions[first]) / 2 for first in firsts[1:-1]]
    for color, x0, x1 in zip(color_of, [0.0, *middles], [*middles, 1.0], strict=True):
        plot.add_shape(type="line", x0=round(x0, 4), x1=round(x1, 4), y0=0, y1=0, line={"color": color, "width": 6})
    plot.update_xaxes(range=[-0.06, 1.06], visible=False, fixedrange=True)
    plot.update_yaxes(range=[-0.4, len(axes) - 0.55], visible=False, fixedrange=True)
    plot.update_layout(margin={"l": 2, "r": 2, "t": 8, "b": 0}, dragmode="select")
    plot.update_layout(newselection={"line": {"color": NEUTRAL, "dash": "solid", "width": 1}})
    return Figure(
        "coordinates",
        plot,
        caption="Every trial, from its settings to its log loss",
        alternative=f"A line for each of {len(done)} completed trials, through its settings down to its log loss.",
        table="trials",
    )


def _axis(values: pd.Series, log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Where values (N,) lie on an axis from 0 to 1, NaN where there is none, and its ticks, ready for Plotly."""
    if _numeric(values):
        ticks = _ticks(np.unique(values.dropna().astype(float)), log)
        at = np.array([*values, *ticks], dtype=float)
        at = np.log10(at) if log else at
        at -= np.nanmin(at)
        at /= np.nanmax(at) or 1.0
        return at[: len(values)], [(x, f"{tick:.3g}") for x, tick in zip(at[len(values) :], ticks, strict=True)]
    codes, kinds = _kinds(values)
    at = (codes + 0.5) / len(kinds)
    step = math.ceil(len(kinds) / _MOST_TICKS)
    longest = max(6, 48 // len(kinds))
    return at, [((i + 0.5) / len(kinds), shown(kinds[i], longest)) for i in range(0, len(kinds), step)]


def _kinds(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The place of every value in the sorted texts of all, NaN where there is none."""
    codes, kinds = pd.factorize(values.map(str, na_action="ignore"), sort=True)
    return np.where(codes < 0, np.nan, codes), list(kinds)


def _side_by_side(positions: np.ndarray, most: float) -> np.ndarray:
    """Equal positions moved apart, in their order, to fill at most half of the way to the next one, or `most`."""
    places = pd.Series(positions)
    alike = places.groupby(places)
    count = alike.transform("size")
    width = min(0.5 * np.diff(np.unique(places.dropna())).min(initial=1.0), most)
    # As wide as the share of trials asks, so that a value with few trials does not look like many.
    moved = (alike.cumcount() / (count - 1) - 0.5) * width * count / count.max()
    return (places + moved.where(count > 1, 0)).to_numpy()


def hyperparameter_slices(study_data: StudyData) -> list[Figure]:
    """Each hyperparameter that varies against log loss, a point per completed trial, in the order of search.

    Failed trials are crosses along the upper edge. None with fewer than two completed trials.
    """
    done = study_data.trials[study_data.trials["val_log_loss"].notna()]
    names = [name for name in study_data.hyperparameters if _varies(done[name])]
    hovers = trial_hovers(study_data)
    return [
        Figure(
            f"slice-{place}",
            _slice(study_data, name, hovers),
            caption=words(name),
            alternative=f"Log loss of {len(done)} trials against {words(name)}, a point per trial.",
            table="trials",
        )
        for place, name in enumerate(names)
    ]


def _slice(study_data: StudyData, name: str, hovers: pd.Series) -> go.Figure:
    trials = study_data.trials
    log, numeric = log_sampled(study_data, name), _numeric(trials[name])
    codes, kinds = _kinds(trials[name])
    x = trials[name].astype(float) if numeric else pd.Series(codes, index=trials.index)
    distinct = np.unique(x.dropna())
    # Kinds, and numbers of which there are few, are scattered a little, always alike, so that none hides others.
    if not numeric or (len(distinct) <= _MOST_TICKS and not log):
        width = 0.25 * np.diff(distinct).min() if numeric else 0.5
        # Multiples of the golden ratio fill the width evenly however many there are; the first stays where it belongs.
        x += ((x.groupby(x).cumcount() * 0.6180339887 + 0.5) % 1 - 0.5) * width
    table = trials[["label"]].assign(x=x, y=trials["val_log_loss"].astype(float), hover=hovers)[x.notna()]
    done, failed = table[table["y"].notna()], table[table["y"].isna()]
    plot, looks = for_jobs(study_data, set(done["label"]), 320)
    for label, look in looks.items():
        marker = {"marker_size": 8 if len(done) <= 300 else 5, "marker_opacity": 0.85, "hovertemplate": TRIAL_HOVER}
        points(plot, done[done["label"] == label], **look, **marker)
    best = done.loc[[done["y"].idxmin()]].drop(columns="hover")
    middle = math.sqrt(x.min() * x.max()) if log else (x.min() + x.max()) / 2
    ring = {"symbol": "circle-open", "size": 17, "line": {"width": 2}}
    points(
        plot,
        best.assign(text=f"\u00a0\u00a0best {loss(best['y'].iloc[0])}\u00a0\u00a0"),
        name="best trial",
        marker={**ring, "color": looks[best["label"].iloc[0]]["marker"]["color"]},
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
    if not numeric:
        names = [shown(kind, max(8, 56 // len(kinds))) for kind in kinds]
        ends = [-0.5, len(kinds) - 0.5]
        plot.update_xaxes(tickvals=list(range(len(kinds))), ticktext=names, range=ends, showgrid=False)
    elif log:
        plot.update_xaxes(type="log", dtick=1, tickformat=".1~e")
    elif len(distinct) <= _MOST_TICKS:
        plot.update_xaxes(tickvals=_ticks(distinct, log=False))
    plot.update_layout(yaxis={"title_text": "log loss", **loss_axis(done["y"])})
    return plot


def log_sampled(study_data: StudyData, name: str) -> bool:
    """Whether a hyperparameter belongs on a logarithmic axis: a job sampled it so, or it spans over two decades."""
    values = study_data.trials[name].dropna()
    if not _numeric(values) or values.min() <= 0:
        return False
    spaces = [job.result["config"].get("space", {}) for job in study_data.jobs.values()]
    sampled = any(space.get(name, {}).get("sampling") == "log" for space in spaces)
    return bool(sampled or values.max() > 100 * values.min())


def _varies(values: pd.Series) -> bool:
    return values.dropna().astype(str).nunique() > 1


def _numeric(values: pd.Series) -> bool:
    known = values.dropna()
    return len(known) > 0 and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in known)


def _ticks(kinds: np.ndarray, log: bool) -> list[float]:
    """At most seven round numbers within the range of the sorted values, or these themselves where they are few."""
    low, high = float(kinds[0]), float(kinds[-1])
    if len(kinds) <= 5 and (len(kinds) < 3 or log or np.diff(kinds).min() > (high - low) / 12):
        return kinds.tolist()
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            ticks = [tick for d in decades for f in factors if low <= (tick := f * 10.0**d) <= high]
            if len(ticks) >= 3:
                break
        return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)] or [low, high]
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s <= _MOST_TICKS - 1)
    return [float(tick) for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]
