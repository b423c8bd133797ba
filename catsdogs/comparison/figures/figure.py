"""A figure whole, with what says the same in words, and the few kinds of traces that draw a table.

Names, colors and hover text are columns of the table, ready for Plotly: `color`, `symbol`, `size`, `text` (beside the
point) and `hover`: a text, or what the `hovertemplate` of the look asks for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from catsdogs.comparison.figures.theme import NEUTRAL, shown, styles
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import value, words

# Jobs named in a legend; with more of them the legend would be larger than the plot, and hovers name them.
_LEGEND_JOBS = 12

# Hovers tell all values of a trial while trials x hyperparameters stays below this (some 250 kB of page).
_MOST_TOLD = 1_000


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: its id in the page.
        caption: above it.
        alternative: what it shows, in a sentence, for those who do not see it.
        table: name of the table with its numbers.
    """

    name: str
    plot: go.Figure
    caption: str
    alternative: str
    table: str

    @property
    def height(self) -> int:
        """Pixels, reserved before it is drawn."""
        return int(self.plot.layout.height)

    @property
    def json(self) -> Markup:
        """For Plotly, safe inside an element of a page."""
        return htmlsafe_json_dumps(self.plot.to_json(), dumps=str)


def blank(height: int, legend: bool = False) -> go.Figure:
    """An empty plot in the manner of all: as wide as its place, `height` pixels high, its legend below."""
    plot = go.Figure()
    # Not Plotly's own one, which would add 7 kB to every figure; the page applies LIGHT or DARK.
    plot.layout.template = None
    below = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    return plot.update_layout(
        autosize=True,
        height=height,
        hovermode="closest",
        margin={"l": 8, "r": 16, "t": 20, "b": 8},
        showlegend=legend,
        legend={**below, "y": 0, "yref": "container", "yanchor": "bottom"},
    )


def for_jobs(
    study_data: StudyData, labels: Collection[str], height: int
) -> tuple[go.Figure, dict[str, dict[str, Any]]]:
    """An empty plot that names the jobs in its legend, if they are several and not too many.

    Returns:
        The plot, and the `styles` of these jobs.
    """
    drawn = {label: style for label, style in styles(study_data).items() if label in labels}
    named = 1 < len(drawn) <= _LEGEND_JOBS
    looks = {label: style | {"showlegend": named} for label, style in drawn.items()}
    # Of four entries the legend takes no room from the height, beyond that a row for each on a phone.
    return blank(height + 30 * max(0, len(drawn) - 4) * named, named), looks


def points(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """A point per row at x, y."""
    marker = {f"marker_{name}": table[name].tolist() for name in ("color", "symbol", "size") if name in table}
    text = {"mode": "markers+text", "text": table["text"].tolist()} if "text" in table else {"mode": "markers"}
    plot.add_scatter(**text | _drawn(table, look) | marker)


def lines(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """Many lines as one trace with gaps: rows with the same `line`, which follow each other."""
    table = table.reset_index(drop=True)
    starts = np.flatnonzero(table["line"] != table["line"].shift())[1:]
    points(plot, table.reindex(np.insert(table.index, starts, -1)), **{"mode": "lines"} | look)


def bars(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """A bar per row."""
    plot.add_bar(**_drawn(table, look))


def rows(table: pd.DataFrame, title: str, height: int = 34) -> go.Figure:
    """A row per value x with its interval low, high (NaN: none), the first on top.

    Args:
        table: its column `group`, if it has one, is named in the legend.
        title: of the axis.
        height: pixels of a row.
    """
    legend = "group" in table
    plot = blank(height * len(table) + 64 + 66 * legend, legend)
    table = table.assign(y=range(len(table)))
    for group, part in table.groupby("group", sort=False) if legend else [("", table)]:
        ends = interval(part["x"], part["low"], part["high"])
        ends |= {"color": part["color"].iloc[0] if legend else NEUTRAL, "thickness": 2.5}
        points(plot, part, name=group, error_x=ends, marker_size=11, textposition="top center", cliponaxis=False)
    plot.update_xaxes(title_text=title)
    name_rows(plot, table["name"])
    return plot


def name_rows(plot: go.Figure, names: Iterable[str]) -> None:
    """Rows 0 .. n - 1 from the top."""
    names = list(names)
    places = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.6]}
    plot.update_yaxes(tickmode="array", showgrid=False, **places)


def interval(middle: pd.Series, low: pd.Series, high: pd.Series) -> dict[str, Any]:
    """Error bars from low to high; none where these are NaN."""
    ends = {"array": high.astype(float) - middle, "arrayminus": middle - low.astype(float)}
    return {"type": "data", "symmetric": False, "width": 0, **{k: significant(v.fillna(0)) for k, v in ends.items()}}


def _drawn(table: pd.DataFrame, look: dict[str, Any]) -> dict[str, Any]:
    look = look | {"x": significant(table["x"]), "y": significant(table["y"])}
    if "hover" not in table:
        return look | {"hovertemplate": None, "hoverinfo": "skip"}
    hover = table["hover"].astype(object)
    customdata = hover.where(hover.notna(), None).tolist()
    return {"hovertemplate": "%{customdata}<extra></extra>", **look, "customdata": customdata}


# A trial, by the parts that `trial_hovers` gives.
TRIAL_HOVER = "<b>%{customdata[0]}</b>, trial %{customdata[1]}<br>%{customdata[2]}<extra></extra>"


def trial_hovers(study_data: StudyData) -> pd.Series:
    """By place in `study_data.trials`: name of the job, trial, and its log loss with the hyperparameters."""
    style, trials = styles(study_data), study_data.trials
    told = len(trials) * len(study_data.hyperparameters) <= _MOST_TOLD
    heads = {name: shown(words(name), 28) for name in study_data.hyperparameters if told}
    hovers = [
        [
            style[row["label"]]["name"],
            shown(row["trial"], 20),
            ("failed" if pd.isna(row["val_log_loss"]) else f"log loss {row['val_log_loss']:.5g}")
            + "".join(f"<br>{head} {shown(value(row[key]), 28)}" for key, head in heads.items() if pd.notna(row[key])),
        ]
        for row in trials.to_dict("records")
    ]
    return pd.Series(hovers, index=trials.index, dtype=object)


def significant(values: Iterable[Any]) -> list[float | None]:
    """Numbers as short as a picture needs them; None where there is none, which is a gap in a line."""
    return [None if pd.isna(value) else float(f"{value:.5g}") for value in values]


def improved(losses: pd.Series) -> pd.Series:
    """Which of the losses of trials, in their order, are lower than all before."""
    best = losses.cummin().ffill()
    return best < best.shift().fillna(np.inf)


def loss_axis(values: Iterable[Any]) -> dict[str, Any]:
    """An axis for values of which none is negative: logarithmic if they are positive and span more than a factor of 10.

    It is labelled at 1, 2 and 5 of every decade, with numbers and not with powers.
    """
    known = pd.Series(list(values), dtype=float).dropna()
    if len(known) and known.min() > 0 and known.max() > 10 * known.min():
        return {"type": "log", "dtick": "D2", "tickformat": ".3~g"}
    # Around a single value Plotly would draw negative ones too.
    return {"rangemode": "nonnegative"}
