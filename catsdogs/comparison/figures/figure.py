"""A figure with its text alternative, and functions that add the rows of a table to it as traces.

Columns of such a table are ready for Plotly: `x`, `y`, `color`, `symbol`, `size`, `text` (shown next to the point) and
`hover` (a text, or the values that the `hovertemplate` refers to).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from catsdogs.comparison.figures.theme import NEUTRAL, escape, styles
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import value, words
from catsdogs.study.trials import STOPPED

# With more jobs the legend would be larger than the plot; hovers name them instead.
_LEGEND_JOBS = 12

# Hovers list all hyperparameters of a trial up to this number of trials x hyperparameters (about 250 kB of page).
_MOST_HOVER_VALUES = 1_000


@dataclass(frozen=True)
class Figure:
    """A figure of the page: id, title above it, text for readers who cannot see it, and the table with its numbers."""

    name: str
    plot: go.Figure
    caption: str
    alternative: str
    table: str

    @property
    def height(self) -> int:
        """Pixels, reserved before the figure is drawn."""
        return int(self.plot.layout.height)

    @property
    def json(self) -> Markup:
        """JSON for Plotly, safe inside a script element."""
        return htmlsafe_json_dumps(self.plot.to_json(), dumps=str)


def blank(height: int, legend: bool = False) -> go.Figure:
    """Return an empty plot, as wide as its element and `height` pixels high, with the legend below it."""
    plot = go.Figure()
    # Plotly's default template adds 7 kB to every figure; the page applies its own.
    plot.layout.template = None
    below = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    below |= {"y": 0, "yref": "container", "yanchor": "bottom"}
    layout = {"autosize": True, "hovermode": "closest", "margin": {"l": 8, "r": 16, "t": 20, "b": 8}}
    return plot.update_layout(layout, height=height, showlegend=legend, legend=below)


def blank_for_jobs(
    study_data: StudyData, labels: Collection[str], height: int
) -> tuple[go.Figure, dict[str, dict[str, Any]]]:
    """Return an empty plot and the `styles` of these jobs; the legend names them if there are 2 to 12."""
    selected = {label: style for label, style in styles(study_data).items() if label in labels}
    named = 1 < len(selected) <= _LEGEND_JOBS
    looks = {label: style | {"showlegend": named} for label, style in selected.items()}
    # Up to four entries fit into the height; beyond, each takes a row of its own on a phone.
    return blank(height + 30 * max(0, len(selected) - 4) * named, named), looks


def add_points(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """Add a trace with a point per row."""
    marker = {f"marker_{name}": table[name].tolist() for name in ("color", "symbol", "size") if name in table}
    text = {"mode": "markers+text", "text": table["text"].tolist()} if "text" in table else {"mode": "markers"}
    plot.add_scatter(**text | _trace(table, look) | marker)


def add_lines(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """Add one trace with a line per value of `line`, separated by gaps; rows of a line must be adjacent."""
    table = table.reset_index(drop=True)
    starts = np.flatnonzero(table["line"] != table["line"].shift())[1:]
    add_points(plot, table.reindex(np.insert(table.index, starts, -1)), **{"mode": "lines"} | look)


def add_bars(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """Add a trace with a bar per row."""
    plot.add_bar(**_trace(table, look))


def interval_rows(table: pd.DataFrame, title: str, height: int = 34) -> go.Figure:
    """Return a plot with a row of `height` pixels per estimate, the first on top, and this title of the x axis.

    Columns of the table: `name`, `x`, and `low` and `high` of the error bar (NaN: none); `group` adds a legend.
    """
    legend = "group" in table
    plot = blank(height * len(table) + 64 + 66 * legend, legend)
    table = table.assign(y=range(len(table)))
    for group, part in table.groupby("group", sort=False) if legend else [("", table)]:
        error = error_bars(part["x"], part["low"], part["high"])
        error |= {"color": part["color"].iloc[0] if legend else NEUTRAL, "thickness": 2.5}
        add_points(plot, part, name=group, error_x=error, marker_size=11, textposition="top center", cliponaxis=False)
    plot.update_xaxes(title_text=title)
    name_rows(plot, table["name"])
    return plot


def name_rows(plot: go.Figure, names: Iterable[str]) -> None:
    """Label the rows y = 0 to n - 1, with 0 at the top."""
    names = list(names)
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.6]}
    plot.update_yaxes(tickmode="array", showgrid=False, **ticks)


def error_bars(middle: pd.Series, low: pd.Series, high: pd.Series) -> dict[str, Any]:
    """Return Plotly's error bars from low to high, of length 0 if these are NaN."""
    ends = {"array": high.astype(float) - middle, "arrayminus": middle - low.astype(float)}
    return {"type": "data", "symmetric": False, "width": 0, **{k: rounded(v.fillna(0)) for k, v in ends.items()}}


def _trace(table: pd.DataFrame, look: dict[str, Any]) -> dict[str, Any]:
    look = look | {"x": rounded(table["x"]), "y": rounded(table["y"])}
    if "hover" not in table:
        return look | {"hovertemplate": None, "hoverinfo": "skip"}
    hover = table["hover"].astype(object)
    customdata = hover.where(hover.notna(), None).tolist()
    return {"hovertemplate": "%{customdata}<extra></extra>", **look, "customdata": customdata}


# The parts come from `trial_hovers`.
TRIAL_HOVER = "<b>%{customdata[0]}</b>, trial=%{customdata[1]}<br>%{customdata[2]}<extra></extra>"


def trial_hovers(study_data: StudyData) -> pd.Series:
    """Return, aligned with `study_data.trials`: [name of the job, trial, log loss and hyperparameters]."""
    style, trials = styles(study_data), study_data.trials
    complete = len(trials) * len(study_data.hyperparameters) <= _MOST_HOVER_VALUES
    titles = {name: escape(words(name), 28) for name in study_data.hyperparameters if complete}
    hovers = []
    for row in trials.to_dict("records"):
        incomplete = "stopped" if row["status"] == STOPPED else "failed"
        lines = [incomplete if pd.isna(row["val_log_loss"]) else f"log loss {row['val_log_loss']:.5g}"]
        lines += [f"{title} {escape(value(row[name]), 28)}" for name, title in titles.items() if pd.notna(row[name])]
        hovers.append([style[row["label"]]["name"], escape(row["trial"], 20), "<br>".join(lines)])
    return pd.Series(hovers, index=trials.index, dtype=object)


def rounded(values: Iterable[Any]) -> list[float | None]:
    """Round to 5 significant digits, enough for a figure; NaN becomes None, a gap in a line."""
    return [None if pd.isna(value) else float(f"{value:.5g}") for value in values]


def loss_axis(values: Iterable[Any]) -> dict[str, Any]:
    """Return an axis for nonnegative values: logarithmic if all are positive and they span more than a factor of 10.

    A logarithmic axis is labeled at 1, 2 and 5 of every decade, with numbers instead of powers.
    """
    known = pd.Series(list(values), dtype=float).dropna()
    if len(known) and known.min() > 0 and known.max() > 10 * known.min():
        return {"type": "log", "dtick": "D2", "tickformat": ".3~g"}
    # Around a single value, Plotly would include negative numbers.
    return {"rangemode": "nonnegative"}
