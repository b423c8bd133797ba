"""Evidence -> figures of the search: jobs with intervals, effects of choices, hyperparameters, where the time went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import WAITING, Evidence
from catsdogs.comparison.figures import (
    LOG_AXIS,
    Figure,
    bars,
    blank,
    name_rows,
    points,
    rows,
    significant,
    wide_range,
)
from catsdogs.comparison.formats import between, listed, loss, signed, words
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.paired import Interval
from catsdogs.comparison.theme import ACCENT, ALARM, FAINT_ACCENT, FAINT_NEUTRAL, NEUTRAL, short_names, shown, styles


def job_intervals(evidence: Evidence, intervals: dict[str, Interval]) -> Figure | None:
    """Log loss with its 95 % interval, a row per job, best on top; None with fewer than two jobs.

    Args:
        intervals: by label; jobs without one are not drawn.
    """
    if len(intervals) < 2:
        return None
    style, names = styles(evidence), short_names(evidence)
    ends = {label: between(one) or "no interval" for label, one in intervals.items()}
    table = pd.DataFrame(
        {
            "name": style[label].name,
            "x": one.value,
            "low": one.low,
            "high": one.high,
            "color": style[label].colour,
            "symbol": style[label].symbol,
            "text": loss(one.value),
            "hover": f"<b>{shown(label)}</b><br>log loss {one.value:.5g}<br>95 %: {ends[label]}<br>{one.size:,} images",
        }
        for label, one in sorted(intervals.items(), key=lambda item: item[1].value)
    )
    plot = rows(table, "log loss, lower is better")
    plot.add_vline(x=significant(table["x"])[0], line_dash="dot", layer="below")
    if wide_range(table[["x", "low", "high"]].to_numpy().ravel()):
        plot.update_xaxes(LOG_AXIS)
    told = [f"{names[label]} {loss(one.value)} ({ends[label]})" for label, one in intervals.items()]
    return Figure(
        "intervals",
        plot,
        caption="Log loss of every job, with its 95 % interval",
        alternative=f"Log loss on validation with its 95 % interval: {listed(told)}.",
        table="jobs",
    )


_GROUPS = {True: ("more than noise", ACCENT), False: ("may be noise", NEUTRAL)}


def effects(effects: pd.DataFrame, pairs: pd.DataFrame) -> Figure | None:
    """What each choice changes: the difference in log loss with its interval, left of zero where the first is better.

    Args:
        effects: the table `effects` of the page.
        pairs: of `choices.choice_pairs`; drawn where several of them make one effect.
    """
    if effects.empty:
        return None
    table = pd.DataFrame(map(_effect, effects.to_dict("records")))
    heads = effects["choice"].map(lambda name: f"<b>{shown(words(name), 24)}:</b><br>")
    table["name"] = heads.mask(effects["choice"].duplicated(), "") + table["name"]
    groups = [group for group, _ in _GROUPS.values()]
    plot = rows(table, "difference in log loss<br>left of 0: first is better", groups, height=44)
    # Single pairs of jobs are short strokes across the row of their effect.
    key = ["choice", "value", "against"]
    single = pairs.merge(effects.loc[effects["pairs"] > 1, key].reset_index(names="y"), on=key)
    hovers = [
        f"{shown(row['label'])}<br>against {shown(row['label_against'])}<br>difference {signed(row['difference'])}"
        for row in single.to_dict("records")
    ]
    stroke = {"symbol": "line-ns", "size": 7, "line": {"color": NEUTRAL, "width": 2}}
    if len(single):
        single = single.assign(x=single["difference"], hover=hovers)
        points(plot, single, name="one pair of jobs", marker=stroke)
    _around_zero(plot, [*table["x"], *table["low"], *table["high"], *single["difference"]], 0.06)
    told = [
        f"{words(row['choice'])} {row['value']} against {row['against']} {signed(row['difference'])}"
        for row in effects.to_dict("records")
    ]
    return Figure(
        "effects-figure",
        plot,
        caption="Difference in log loss, by choice",
        alternative=f"Difference in log loss with its 95 % interval, by choice: {listed(told)}.",
        table="effects",
    )


def _effect(row: Mapping[Any, Any]) -> dict[str, Any]:
    group, color = _GROUPS[bool(row["decided"])]
    ends = f"95 %: {signed(row['low'])} to {signed(row['high'])}" if pd.notna(row["low"]) else "no interval"
    return {
        "name": f"{shown(row['value'], 12)} – {shown(row['against'], 12)}",
        "x": row["difference"],
        "low": row["low"],
        "high": row["high"],
        "group": group,
        "color": color,
        "hover": f"<b>{shown(words(row['choice']), 28)}: {shown(row['value'], 28)} – {shown(row['against'], 28)}</b>"
        f"<br>difference {signed(row['difference'])}<br>{ends}"
        f"<br>{row['pairs']} {'pair' if row['pairs'] == 1 else 'pairs'} of jobs, {row['images']:,} images",
    }


def importance_bars(importance: Importance) -> Figure | None:
    """How much each hyperparameter and choice matters, with its range, best on top; None for fewer than two."""
    found = importance.table
    if len(found) < 2:
        return None
    table = pd.DataFrame(
        {
            "name": shown(words(row["name"]), 24),
            "x": row["importance"],
            "low": row["low"],
            "high": row["high"],
            "color": ACCENT,
            "hover": f"<b>{shown(words(row['name']))}</b><br>importance {row['importance']:.2f}"
            f"<br>range {row['low']:.2f} to {row['high']:.2f}",
        }
        for row in found.to_dict("records")
    )
    plot = rows(table, "importance (0: none)")
    _around_zero(plot, [*table["low"], *table["high"]], 0.04)  # of a marker at 0, beside its name
    told = [f"{words(row['name'])} {row['importance']:.2f}" for row in found.to_dict("records")]
    return Figure(
        "importance",
        plot,
        caption="Importance of each hyperparameter",
        alternative=f"Importance of each hyperparameter with its interval: {listed(told)}",
        table="importance",
    )


def _around_zero(plot: go.Figure, values: Iterable[float], margin: float) -> None:
    """A line at 0, and an axis that holds it and all values with so much more on both sides."""
    known = np.array([0.0, *values])
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    margin *= high - low or 1.0
    plot.add_vline(x=0, layer="below", line_width=1.5)
    plot.update_xaxes(range=[low - margin, high + margin])


def budget(evidence: Evidence) -> Figure | None:
    """Where the time of each job went: trials by what they gave, and what no trial accounts for.

    Trials that improved are those that were the best of their job when they ended. The rest of a job's seconds is
    reading data, filling the store, building models; unknown while it runs.
    """
    board = evidence.board[evidence.board["status"] != WAITING]
    spent = {
        row["label"]: _times(row, evidence.trials[evidence.trials["label"] == row["label"]])
        for row in board.to_dict("records")
    }
    table = pd.DataFrame.from_dict(spent, orient="index", columns=list(_PARTS), dtype=float)
    totals = table.sum(axis=1)
    table, totals = table[totals > 0], totals[totals > 0]
    if table.empty:
        return None
    unit, seconds = time_unit(float(totals.max()))
    style = styles(evidence)
    plot = blank(34 * len(table) + 116, legend=True)
    for part, look in _PARTS.items():
        hovers = [
            f"<b>{shown(label)}</b><br>{part}: {time / seconds:.3g} {unit}, {time / total:.0%}"
            for label, time, total in zip(table.index, table[part], totals, strict=True)
        ]
        if table[part].any():
            drawn = pd.DataFrame({"x": table[part] / seconds, "y": range(len(table)), "hover": hovers})
            bars(plot, drawn, name=part, orientation="h", width=0.6, marker=look)
    plot.update_layout(barmode="stack", legend_traceorder="normal")
    plot.update_xaxes(title_text=unit)
    name_rows(plot, [style[label].name for label in table.index])
    return Figure(
        "budget",
        plot,
        caption="Where the time went",
        alternative="Time that each job spent, divided by what came of it.",
        table="trials",
    )


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
