"""Figures of the search space: parallel coordinates, and log loss against each hyperparameter."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.figures import figure
from catsdogs.comparison.figures.theme import ALARM, NEUTRAL, SCALE, escape
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import loss, words
from catsdogs.study.trials import STOPPED

_AXIS_PIXELS = 72  # from one axis of the parallel coordinates to the next
_MOST_TICKS = 7

# Best lines of the parallel coordinates that have a hover; more could not be pointed at.
_HOVERED_LINES = 600


class _Axis(NamedTuple):
    """A horizontal axis, with positions (N,) of the trials from 0 to 1 (NaN: no value), and escaped ticks."""

    name: str
    positions: np.ndarray
    ticks: list[tuple[float, str]]


def parallel_coordinates(study_data: StudyData) -> figure.Figure | None:
    """Plot trials as lines through their choices and hyperparameters to their log loss; None for fewer than two.

    The axes are horizontal, to be readable on a phone. Lower log losses are on the left, also among trials with an
    equal value, which are spread. Colors are tenths of the trials by log loss. The page fills the last trace,
    `highlight`, with the trial under the pointer, and hides the trials outside of a selection on an axis.
    """
    trials = study_data.trials.assign(hover=figure.trial_hovers(study_data))
    done = trials[trials["val_log_loss"].notna()].sort_values(["val_log_loss", "label", "trial"])
    names = [name for name in [*study_data.varied_choices, *study_data.hyperparameters] if _varies(done[name])]
    if len(done) < 2 or not names:
        return None
    ordered = pd.concat([done, trials[trials["val_log_loss"].isna()]])
    axes = []
    for name in names:
        positions, ticks = _axis(ordered[name], log_sampled(study_data, name))
        positions = _side_by_side(pd.Series(positions), most=0.08 if _numeric(ordered[name]) else 0.3).to_numpy()
        axes.append(_Axis(words(name), positions, ticks))
    log = "type" in figure.loss_axis(done["val_log_loss"])
    axes.append(_Axis("log loss", *_axis(ordered["val_log_loss"], log)))
    plot = figure.blank(_AXIS_PIXELS * len(axes) + 16, legend=len(ordered) > len(done))
    _add_trials(plot, _vertices(ordered["hover"], axes), len(done))
    _add_axes(plot, axes, len(done))
    plot.update_xaxes(range=[-0.06, 1.06], visible=False, fixedrange=True)
    plot.update_yaxes(range=[-0.4, len(axes) - 0.55], visible=False, fixedrange=True)
    plot.update_layout(margin={"l": 2, "r": 2, "t": 8, "b": 0}, dragmode="select")
    plot.update_layout(newselection={"line": {"color": NEUTRAL, "dash": "solid", "width": 1}})
    alternative = f"{len(done)} completed trials, each a line from its choices and hyperparameters to its log loss."
    return figure.Figure("coordinates", plot, "Settings and log loss of each trial", alternative, "trials")


def _vertices(hovers: pd.Series, axes: list[_Axis]) -> pd.DataFrame:
    """Return a row per trial and axis: line (index of the trial), x, y, hover. A line skips axes without a value."""
    columns = {
        "line": np.repeat(np.arange(len(hovers)), len(axes)),
        "x": np.column_stack([axis.positions for axis in axes]).ravel().round(3),
        "y": np.tile(np.arange(len(axes))[::-1], len(hovers)),
        "hover": np.repeat(hovers.to_numpy(), len(axes)),
    }
    return pd.DataFrame(columns).dropna(subset="x")


def _color_bins(count: int) -> tuple[list[str], list[int]]:
    """Divide `count` ordered trials into up to ten bins; return their colors, and their first indices and `count`."""
    bins = min(len(SCALE), count)
    colors = [SCALE[round(i * (len(SCALE) - 1) / max(1, bins - 1))] for i in range(bins)]
    return colors, [math.ceil(i * count / bins) for i in range(bins + 1)]


def _add_trials(plot: go.Figure, vertices: pd.DataFrame, completed: int) -> None:
    """Add a line per trial, the best of the `completed` ones last, and the empty trace for the highlighted one."""

    def add(part: pd.DataFrame, **look: Any) -> None:
        if len(part):
            part = part if part["line"].iloc[0] < _HOVERED_LINES else part.drop(columns="hover")
            figure.add_lines(plot, part, hovertemplate=figure.TRIAL_HOVER, **look)

    colors, firsts = _color_bins(completed)
    faint = 0.55 if completed <= 100 else 0.35
    thin = max(0.4, min(1.0, (100 / completed) ** 0.3))
    failed = vertices[vertices["line"] >= completed]
    add(failed, name="incomplete trials", line={"color": NEUTRAL, "dash": "dot", "width": 1}, opacity=0.7)
    for i, color in reversed(list(enumerate(colors))):
        top = i < len(colors) / 5
        add(
            # From 1: the best trial is added last.
            vertices[vertices["line"].between(max(1, firsts[i]), firsts[i + 1], inclusive="left")],
            name="completed trials",
            line={"color": color, "width": round((1.6 if top else 1.1) * thin, 2)},
            opacity=faint + 0.35 if top else faint,
            showlegend=False,
        )
    best = vertices[vertices["line"] == 0]
    add(best, name="best trial", line={"color": colors[0], "width": 3.5}, showlegend=False)
    highlight: dict[str, Any] = {"line": {"color": ALARM, "width": 3.5}, "marker": {"color": ALARM, "size": 8}}
    highlight |= {"mode": "lines+markers", "hoverinfo": "skip", "visible": False, "showlegend": False}
    plot.add_scatter(name="highlight", meta={"role": "highlight"}, x=[], y=[], **highlight)


def _add_axes(plot: go.Figure, axes: list[_Axis], completed: int) -> None:
    """Add lines, names and ticks of the axes, and the colors of the trials to the last one."""
    for y, axis in zip(reversed(range(len(axes))), axes, strict=True):
        plot.add_shape(type="line", x0=0, x1=1, y0=y, y1=y, layer="below")
        plot.add_annotation(x=-0.04, xanchor="left", y=y, yshift=15, text=f"<b>{escape(axis.name, 36)}</b>")
        for x, text in axis.ticks:
            # At the ends of an axis, a centered label would be cut on a phone.
            anchor = "left" if x < 0.04 else "right" if x > 0.96 else "center"
            plot.add_annotation(x=round(x, 4), xanchor=anchor, y=y, yshift=-13, text=text)
    # Colors change halfway between the last trial of a bin and the first of the next.
    colors, firsts = _color_bins(completed)
    losses = axes[-1].positions
    middles = [(losses[first - 1] + losses[first]) / 2 for first in firsts[1:-1]]
    for color, x0, x1 in zip(colors, [0.0, *middles], [*middles, 1.0], strict=True):
        plot.add_shape(type="line", x0=round(x0, 4), x1=round(x1, 4), y0=0, y1=0, line={"color": color, "width": 6})


def _axis(values: pd.Series, log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return `positions` and `ticks` of an `_Axis` for values (N,)."""
    if _numeric(values):
        ticks = _ticks(np.unique(values.dropna().astype(float)), log)
        positions = np.array([*values, *ticks], dtype=float)
        positions = np.log10(positions) if log else positions
        positions -= np.nanmin(positions)
        positions /= np.nanmax(positions) or 1.0
        labels = list[tuple[float, str]]()
        for at, text in zip(positions[len(values) :], (f"{tick:.3g}" for tick in ticks), strict=True):
            # Half the characters of both labels must fit between them on a phone, where one takes 2% of the axis.
            if not labels or at - labels[-1][0] > 0.011 * (len(text) + len(labels[-1][1])) + 0.02:
                labels.append((at, text))
        return positions[: len(values)], labels
    codes, categories = _categories(values)
    step = math.ceil(len(categories) / _MOST_TICKS)
    longest = max(6, 48 // len(categories))
    labels = [((i + 0.5) / len(categories), escape(categories[i], longest)) for i in range(0, len(categories), step)]
    return (codes + 0.5) / len(categories), labels


def _categories(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the index (N,) of each value among the sorted categories, NaN for a missing value, and the categories."""
    codes, categories = pd.factorize(values.map(str, na_action="ignore"), sort=True)
    return np.where(codes < 0, np.nan, codes), list(categories)


def _side_by_side(positions: pd.Series, most: float) -> pd.Series:
    """Spread equal positions in their order, over at most `most` and half the distance to the nearest other one."""
    groups = positions.groupby(positions)
    count = groups.transform("size")
    width = min(0.5 * np.diff(np.unique(positions.dropna())).min(initial=1.0), most)
    # Proportional to the number of trials, so that a value with few trials does not look frequent.
    offset = (groups.cumcount() / (count - 1) - 0.5) * width * count / count.max()
    return positions + offset.where(count > 1, 0)


def hyperparameter_slices(study_data: StudyData) -> list[figure.Figure]:
    """Plot log loss against each hyperparameter that varies, with a point per completed trial.

    Stopped and failed trials are crosses at the upper edge. The list is empty for fewer than two completed trials.
    """
    done = study_data.trials[study_data.trials["val_log_loss"].notna()]
    names = [name for name in study_data.hyperparameters if _varies(done[name])]
    hovers = figure.trial_hovers(study_data)
    about = f"Log loss of {len(done)} completed trials by {{}}, a point per trial."
    return [
        figure.Figure(f"slice-{i}", plot, f"Log loss by {title}", about.format(title), "trials")
        for i, (plot, title) in enumerate((_slice(study_data, name, hovers), words(name)) for name in names)
    ]


def _slice(study_data: StudyData, name: str, hovers: pd.Series) -> go.Figure:
    trials = study_data.trials
    log, numeric = log_sampled(study_data, name), _numeric(trials[name])
    codes, categories = _categories(trials[name])
    x = trials[name].astype(float) if numeric else pd.Series(codes, index=trials.index)
    distinct = np.unique(x.dropna())
    # Categories, and numbers with few distinct values, are spread so that no point hides others.
    if not numeric or (len(distinct) <= _MOST_TICKS and not log):
        x = _side_by_side(x, most=math.inf)
    table = trials[["label"]].assign(x=x, y=trials["val_log_loss"].astype(float), hover=hovers)[x.notna()]
    done, failed = table[table["y"].notna()], table[table["y"].isna()]
    plot, looks = figure.blank_for_jobs(study_data, set(done["label"]), 320)
    for label, look in looks.items():
        marker = {
            "marker_size": 8 if len(done) <= 300 else 5,
            "marker_opacity": 0.85,
            "hovertemplate": figure.TRIAL_HOVER,
        }
        figure.add_points(plot, done[done["label"] == label], **look, **marker)
    best = done.loc[[done["y"].idxmin()]].drop(columns="hover")
    best = best.assign(text=f"\u00a0\u00a0best {loss(best['y'].iloc[0])}\u00a0\u00a0")
    middle = math.sqrt(x.min() * x.max()) if log else (x.min() + x.max()) / 2
    ring = {"symbol": "circle-open", "size": 17, "line": {"width": 2}}
    ring["color"] = looks[best["label"].iloc[0]]["marker"]["color"]
    side = "middle left" if best["x"].iloc[0] > middle else "middle right"
    look = {"textposition": side, "cliponaxis": False, "showlegend": False}
    figure.add_points(plot, best, name="best trial", marker=ring, **look)
    if len(failed):
        colors = np.where(trials.loc[failed.index, "status"] == STOPPED, NEUTRAL, ALARM).tolist()
        cross = {"symbol": "x", "size": 7, "color": colors}
        above: dict[str, Any] = {"yaxis": "y2", "cliponaxis": False, "hovertemplate": figure.TRIAL_HOVER}
        figure.add_points(plot, failed.assign(y=0.985), name="incomplete trials", marker=cross, **above)
        axis = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
        plot.update_layout(yaxis2=axis, showlegend=True)
    plot.update_xaxes(title_text=escape(words(name), 40))
    if not numeric:
        names = [escape(category, max(8, 56 // len(categories))) for category in categories]
        ends = [-0.5, len(categories) - 0.5]
        plot.update_xaxes(tickvals=list(range(len(categories))), ticktext=names, range=ends, showgrid=False)
    elif log:
        plot.update_xaxes(type="log", dtick=1, tickformat=".1~e")
    elif len(distinct) <= _MOST_TICKS:
        plot.update_xaxes(tickvals=distinct)
    plot.update_layout(yaxis={"title_text": "log loss", **figure.loss_axis(done["y"])})
    return plot


def log_sampled(study_data: StudyData, name: str) -> bool:
    """Return whether a hyperparameter needs a logarithmic axis: sampled on one, or spanning over two decades."""
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


def _ticks(values: np.ndarray, log: bool) -> list[float]:
    """Return up to seven round numbers within the range of the sorted distinct values, or the values if few."""
    low, high = float(values[0]), float(values[-1])
    if len(values) <= 5 and (len(values) < 3 or log or np.diff(values).min() > (high - low) / 12):
        return values.tolist()
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
