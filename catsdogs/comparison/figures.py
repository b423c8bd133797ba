"""A figure whole, with what says the same in words, and the few kinds of traces that draw a table.

Names, colors and hover text are columns of the table, ready for Plotly: `color`, `symbol`, `size`, `text` (beside the
point) and `hover`: a text, or the parts of one for the `hovertemplate` that the look gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.formats import value, words
from catsdogs.comparison.theme import NEUTRAL, Style, shown, styles

# Jobs named in a legend; with more of them the legend would be larger than the plot, and hovers name them.
_LEGEND_JOBS = 12

# Hovers tell all values of a trial while that stays below this number of values (some 250 kB of page).
_MOST_TOLD = 6_000

# For `wide_range` axes: labels at 1, 2 and 5 of every decade, as numbers and not as powers.
LOG_AXIS = {"type": "log", "dtick": "D2", "tickformat": ".3~g"}


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
        return json_for_html(self.plot.to_json())


def json_for_html(thing: Any) -> Markup:
    """JSON in which no HTML parser finds the end of its element, and no JavaScript parser that of a line."""
    text = thing if isinstance(thing, str) else json.dumps(thing, ensure_ascii=False, separators=(",", ":"))
    for character in "&<>\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


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


def blank_for_jobs(height: int, jobs: Sequence[str]) -> go.Figure:
    """An empty plot that names the jobs in its legend, if they are several and not too many.

    Of four entries the legend takes no room from the height, beyond that a row for each on a phone.
    """
    named = 1 < len(jobs) <= _LEGEND_JOBS
    return blank(height + 30 * max(0, len(jobs) - 4) * named, named)


def of_job(plot: go.Figure, style: Style, named: bool = True) -> dict[str, Any]:
    """Looks of a trace of a job, which its entry in the legend of `blank_for_jobs` hides; `named`: with that entry."""
    return {
        "name": style.name,
        "legendgroup": style.name,
        "legendrank": style.rank,
        "showlegend": bool(named and plot.layout.showlegend),
    }


def points(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """A point per row at x, y."""
    marker = {name: table[name].tolist() for name in ("color", "symbol", "size") if name in table}
    mode = "markers+text" if "text" in table else "markers"
    plot.add_scatter(**{"mode": mode, **_drawn(table), **look, "marker": marker | look.get("marker", {})})


def lines(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """Many lines as one trace with gaps: rows with the same `line`, which follow each other."""
    table = table.reset_index(drop=True)
    starts = np.flatnonzero(table["line"] != table["line"].shift())[1:]
    points(plot, table.reindex(np.insert(table.index, starts, -1)), **{"mode": "lines", **look})


def bars(plot: go.Figure, table: pd.DataFrame, **look: Any) -> None:
    """A bar per row."""
    plot.add_bar(**_drawn(table), **look)


def rows(table: pd.DataFrame, title: str, groups: Sequence[str] = (), height: int = 34) -> go.Figure:
    """A row per value x with its interval low, high (NaN: none), the first on top.

    Args:
        table: with column `group` where there are `groups`, which the legend names.
        title: of the axis.
        height: pixels of a row.
    """
    plot = blank(height * len(table) + 64 + 66 * bool(groups), legend=bool(groups))
    table = table.assign(y=range(len(table)))
    for group in groups or ("",):
        part = table[table["group"] == group] if groups else table
        if len(part):
            color = part["color"].iloc[0] if groups else NEUTRAL
            ends = {"error_x": interval(part["x"], part["low"], part["high"]) | {"color": color, "thickness": 2.5}}
            points(plot, part, name=group, marker={"size": 11}, textposition="top center", cliponaxis=False, **ends)
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


def _drawn(table: pd.DataFrame) -> dict[str, Any]:
    drawn: dict[str, Any] = {"x": significant(table["x"]), "y": significant(table["y"])}
    if "text" in table:
        drawn["text"] = table["text"].tolist()
    if "hover" not in table:
        return drawn | {"hoverinfo": "skip"}
    hover = table["hover"].astype(object)
    return drawn | {
        "customdata": hover.where(hover.notna(), None).tolist(),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


# A trial, by the parts that `trial_hovers` gives.
TRIAL_HOVER = "<b>%{customdata[0]}</b>, trial %{customdata[1]}<br>%{customdata[2]}<extra></extra>"


def trial_hovers(evidence: Evidence, times: int) -> pd.Series:
    """By place in `evidence.trials`: name of the job, trial, and its log loss with the hyperparameters.

    Args:
        times: how often each text will be in the page; the hyperparameters are left out where they would be most of it.
    """
    style, trials = styles(evidence), evidence.trials
    told = len(trials) * len(evidence.hyperparameters) * times <= _MOST_TOLD
    heads = {name: shown(words(name), 28) for name in evidence.hyperparameters if told}
    hovers = [
        [
            style[row["label"]].name,
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


def wide_range(values: Iterable[Any]) -> bool:
    """Whether positive values span more than a factor of 10 and so ask for a logarithmic axis."""
    known = pd.Series(list(values), dtype=float).dropna()
    return bool(len(known) and known.min() > 0 and known.max() > 10 * known.min())
