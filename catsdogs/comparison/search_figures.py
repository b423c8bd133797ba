"""Evidence -> figures of the search: jobs with intervals, effects of choices, hyperparameters, where the time went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import WAITING, Evidence
from catsdogs.comparison.formats import words
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.paired import Interval
from catsdogs.comparison.theme import (
    ACCENT,
    ALARM,
    FAINT_ACCENT,
    FAINT_NEUTRAL,
    LOG_AXIS,
    NEUTRAL,
    figure,
    loss,
    number,
    shown,
    significant,
    styles,
    wide_range,
)

_ROW = 34  # pixels of a row with one line of text
_BELOW = 64  # pixels of tick labels and a title below the rows
_LOG_LOSS = "log loss, lower is better"


def job_intervals(evidence: Evidence, intervals: dict[str, Interval]) -> go.Figure | None:
    """Log loss with its 95 % interval, a row per job, best on top; None with fewer than two jobs.

    Args:
        intervals: by label; jobs without one are not drawn.
    """
    labels = sorted(intervals, key=lambda label: intervals[label].value)
    if len(labels) < 2:
        return None
    style = styles(evidence)
    values = [intervals[label] for label in labels]
    lows = [interval.value if interval.low is None else interval.low for interval in values]
    highs = [interval.value if interval.high is None else interval.high for interval in values]
    told = [
        [
            shown(label),
            "no interval" if interval.low is None else f"95 %: {number(interval.low)} to {number(interval.high)}",
            f"{interval.size:,} images",
        ]
        for label, interval in zip(labels, values, strict=True)
    ]
    drawn = figure(_ROW * len(labels) + _BELOW)
    drawn.add_scatter(
        x=significant(interval.value for interval in values),
        y=list(range(len(labels))),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": significant(high - interval.value for high, interval in zip(highs, values, strict=True)),
            "arrayminus": significant(interval.value - low for low, interval in zip(lows, values, strict=True)),
            "color": NEUTRAL,
            "thickness": 2.5,
            "width": 0,
        },
        mode="markers+text",
        marker={
            "color": [style[label].colour for label in labels],
            "size": 11,
            "symbol": [style[label].symbol for label in labels],
        },
        text=[loss(interval.value) for interval in values],
        textposition="top center",
        cliponaxis=False,
        customdata=told,
        hovertemplate="<b>%{customdata[0]}</b><br>log loss %{x:.5g}<br>%{customdata[1]}<br>%{customdata[2]}"
        "<extra></extra>",
    )
    drawn.add_vline(x=significant([values[0].value])[0], line_dash="dot", layer="below")
    drawn.update_xaxes(title_text=_LOG_LOSS, **(LOG_AXIS if wide_range(lows + highs) else {}))
    _rows(drawn, [style[label].name for label in labels])
    return drawn


def effects(effects: pd.DataFrame, pairs: pd.DataFrame) -> go.Figure | None:
    """What each choice changes: the difference in log loss with its interval, left of zero where the first is better.

    Args:
        effects: of `choices.choice_effects`.
        pairs: of `choices.choice_pairs`; drawn where several of them make one effect.
    """
    if effects.empty:
        return None
    size = effects["difference"].abs()
    strongest = size.groupby(effects["choice"]).transform("max")
    table = effects.assign(_size=size, _strongest=strongest)
    table = table.sort_values(["_strongest", "choice", "_size"], ascending=[False, True, False]).reset_index(drop=True)
    several = bool((table["pairs"] > 1).any())
    drawn = figure(44 * len(table) + _BELOW + 66, legend=True)
    decided = table["decided"].astype(bool)
    for name, part, colour in (
        ("more than noise", table[decided], ACCENT),
        ("may be noise", table[~decided], NEUTRAL),
    ):
        if part.empty:
            continue
        told = [
            [
                f"{shown(words(row['choice']), 28)}: {shown(row['value'], 28)} – {shown(row['against'], 28)}",
                f"95 %: {number(row['low'])} to {number(row['high'])}" if pd.notna(row["low"]) else "no interval",
                f"{row['pairs']} pair{'s' if row['pairs'] != 1 else ''} of jobs, {row['images']:,} images",
            ]
            for row in part.to_dict("records")
        ]
        drawn.add_scatter(
            name=name,
            x=significant(part["difference"]),
            y=part.index.tolist(),
            error_x={
                "type": "data",
                "symmetric": False,
                "array": significant((part["high"] - part["difference"]).fillna(0)),
                "arrayminus": significant((part["difference"] - part["low"]).fillna(0)),
                "thickness": 3,
                "width": 0,
            },
            mode="markers",
            marker={"color": colour, "size": 11},
            customdata=told,
            hovertemplate="<b>%{customdata[0]}</b><br>difference %{x:.4g}<br>%{customdata[1]}<br>%{customdata[2]}"
            "<extra></extra>",
        )
    if several:
        _add_pairs(drawn, table, pairs)
    drawn.add_vline(x=0, layer="below", line_width=1.5)
    ends = np.array([0.0, *table["low"].dropna(), *table["high"].dropna(), *table["difference"]])
    if several:
        ends = np.append(ends, pairs["difference"].dropna())
    margin = 0.06 * (ends.max() - ends.min() or 1.0)
    drawn.update_xaxes(
        title_text="difference in log loss<br>left of 0: first is better",
        range=[ends.min() - margin, ends.max() + margin],
    )
    first = ~table["choice"].duplicated()
    _rows(
        drawn,
        [
            (f"<b>{shown(words(row['choice']), 24)}:</b><br>" if heads else "")
            + f"{shown(row['value'], 12)} – {shown(row['against'], 12)}"
            for row, heads in zip(table.to_dict("records"), first, strict=True)
        ],
    )
    return drawn


def _add_pairs(drawn: go.Figure, table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Single pairs of jobs as short strokes across the row of their effect."""
    table = table[table["pairs"] > 1]
    rows = dict(zip(zip(table["choice"], table["value"], table["against"], strict=True), table.index, strict=True))
    pairs = pairs[[key in rows for key in zip(pairs["choice"], pairs["value"], pairs["against"], strict=True)]]
    drawn.add_scatter(
        name="one pair of jobs",
        x=significant(pairs["difference"]),
        y=[rows[key] for key in zip(pairs["choice"], pairs["value"], pairs["against"], strict=True)],
        mode="markers",
        marker={"symbol": "line-ns", "size": 7, "line": {"color": NEUTRAL, "width": 2}},
        customdata=[[shown(row["label"]), shown(row["label_against"])] for row in pairs.to_dict("records")],
        hovertemplate="%{customdata[0]}<br>against %{customdata[1]}<br>difference %{x:.4g}<extra></extra>",
    )


def importance_bars(importance: Importance) -> go.Figure | None:
    """How much each hyperparameter and choice matters, with its range, best on top; None for fewer than two."""
    table = importance.table
    if len(table) < 2:
        return None
    drawn = figure(_ROW * len(table) + _BELOW)
    drawn.add_scatter(
        x=significant(table["importance"]),
        y=list(range(len(table))),
        mode="markers",
        marker={"color": ACCENT, "size": 11},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": significant((table["high"] - table["importance"]).fillna(0)),
            "arrayminus": significant((table["importance"] - table["low"]).fillna(0)),
            "color": NEUTRAL,
            "thickness": 2.5,
            "width": 0,
        },
        cliponaxis=False,
        customdata=[
            [shown(words(row["name"])), f"{number(row['low'], 2)} to {number(row['high'], 2)}"]
            for row in table.to_dict("records")
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>importance %{x:.2f}<br>range %{customdata[1]}<extra></extra>",
    )
    drawn.add_vline(x=0, layer="below", line_width=1.5)
    ends = min(0.0, float(table["low"].min())), max(0.0, float(table["high"].max()))
    margin = 0.04 * (ends[1] - ends[0] or 1.0)  # of a marker at 0, beside its name
    drawn.update_xaxes(title_text="importance (0: none)", range=[ends[0] - margin, ends[1] + margin])
    _rows(drawn, [shown(words(name), 24) for name in table["name"]])
    return drawn


def budget(evidence: Evidence) -> go.Figure | None:
    """Where the time of each job went: trials by what they gave, and what no trial accounts for.

    Trials that improved are those that were the best of their job when they ended. The rest of a job's seconds is
    reading data, filling the store, building models; unknown while it runs.
    """
    board = evidence.board[(evidence.board["status"] != WAITING)]
    rows = {
        row["label"]: _times(row, evidence.trials[evidence.trials["label"] == row["label"]])
        for row in board.to_dict("records")
    }
    rows = {label: times for label, times in rows.items() if sum(times.values()) > 0}
    if not rows:
        return None
    style = styles(evidence)
    labels = list(rows)
    unit, seconds = time_unit(max(sum(times.values()) for times in rows.values()))
    drawn = figure(_ROW * len(labels) + _BELOW + 52, legend=True)
    for part, look in _PARTS.items():
        values = [rows[label][part] for label in labels]
        if not any(values):
            continue
        drawn.add_bar(
            name=part,
            orientation="h",
            x=significant(value / seconds for value in values),
            y=list(range(len(labels))),
            width=0.6,
            marker=look,
            customdata=[
                [shown(label), value / sum(rows[label].values())] for label, value in zip(labels, values, strict=True)
            ],
            hovertemplate="<b>%{customdata[0]}</b><br>"
            f"{part}: %{{x:.3~g}} {unit}, %{{customdata[1]:.0%}}<extra></extra>",
        )
    drawn.update_layout(barmode="stack", legend_traceorder="normal")
    drawn.update_xaxes(title_text=unit)
    _rows(drawn, [style[label].name for label in labels])
    return drawn


_PARTS: dict[str, dict[str, Any]] = {
    "the winning trial": {"color": ACCENT},
    "trials that improved": {"color": FAINT_ACCENT},
    "trials that did not": {"color": FAINT_NEUTRAL},
    "failed trials": {"color": ALARM},
    "set-up and the rest": {"color": NEUTRAL, "pattern": {"shape": "/", "size": 5, "solidity": 0.25}},
}


def _times(job: Mapping[Any, Any], trials: pd.DataFrame) -> dict[str, float]:
    """Seconds of a job by what they went into, a value per part."""
    losses, seconds = trials["val_log_loss"].astype(float), trials["seconds"].astype(float).fillna(0)
    done = losses.notna()
    before = losses.cummin().shift(fill_value=math.inf).ffill()
    won = (trials["trial"] == job["best_trial"]) & done
    improved = done & ~won & (losses < before)
    known = pd.notna(job["seconds"])
    return {
        "the winning trial": float(seconds[won].sum()),
        "trials that improved": float(seconds[improved].sum()),
        "trials that did not": float(seconds[done & ~won & ~improved].sum()),
        "failed trials": float(seconds[~done].sum()),
        "set-up and the rest": max(0.0, float(job["seconds"]) - float(seconds.sum())) if known else 0.0,
    }


def time_unit(longest: float) -> tuple[str, float]:
    """The unit in which so many seconds read well, and the seconds in it."""
    if longest >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest >= 120 else ("seconds", 1.0)


def _rows(drawn: go.Figure, names: list[str]) -> None:
    """Rows 0 .. n - 1 from the top, named."""
    drawn.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        range=[len(names) - 0.5, -0.6],
        showgrid=False,
    )
