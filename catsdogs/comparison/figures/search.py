"""Evidence -> figures of the search: jobs with intervals, effects of choices, hyperparameters, where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.text import listed
from catsdogs.comparison.figures.figure import (
    Figure,
    bars,
    blank,
    improved,
    loss_axis,
    name_rows,
    points,
    rows,
    significant,
)
from catsdogs.comparison.figures.theme import (
    ACCENT,
    ALARM,
    FAINT_ACCENT,
    FAINT_NEUTRAL,
    NEUTRAL,
    short_names,
    shown,
    styles,
)
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import between, loss, signed, words
from catsdogs.scoring.intervals import Estimate


def job_intervals(study_data: StudyData, intervals: dict[str, Estimate]) -> Figure | None:
    """Log loss with its 95 % interval, a row per job, best on top; None with fewer than two jobs.

    Args:
        intervals: by label; jobs without one are not drawn.
    """
    if len(intervals) < 2:
        return None
    style, names = styles(study_data), short_names(study_data)
    ends = {label: between(one) or "no interval" for label, one in intervals.items()}
    table = pd.DataFrame(
        {
            "name": style[label]["name"],
            **style[label]["marker"],
            "x": one.value,
            "low": one.low,
            "high": one.high,
            "text": loss(one.value),
            "hover": f"<b>{shown(label)}</b><br>log loss {one.value:.5g}<br>95 %: {ends[label]}<br>{one.size:,} images",
        }
        for label, one in sorted(intervals.items(), key=lambda item: item[1].value)
    )
    plot = rows(table, "log loss, lower is better")
    plot.add_vline(x=significant(table["x"])[0], line_dash="dot", layer="below")
    plot.update_xaxes(loss_axis(table[["x", "low", "high"]].to_numpy().ravel()))
    told = [f"{names[label]} {loss(one.value)} ({ends[label]})" for label, one in intervals.items()]
    return Figure(
        "intervals",
        plot,
        caption="Log loss of every job, with its 95 % interval",
        alternative=f"Log loss on validation with its 95 % interval: {listed(told, between='; ')}.",
        table="jobs",
    )


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
    plot = rows(table, "difference in log loss<br>left of 0: first is better", height=44)
    plot.add_vline(x=0, layer="below", line_width=1.5)
    # Single pairs of jobs are short strokes across the row of their effect.
    key = ["choice", "value", "against"]
    single = pairs.merge(effects.loc[effects["pairs"] > 1, key].reset_index(names="y"), on=key)
    hovers = [
        f"{shown(row['label'])}<br>against {shown(row['label_against'])}<br>difference {signed(row['difference'])}"
        for row in single.to_dict("records")
    ]
    if len(single):
        stroke = {"symbol": "line-ns", "size": 7, "line": {"color": NEUTRAL, "width": 2}}
        single = single.assign(x=single["difference"], hover=hovers)
        points(plot, single, name="one pair of jobs", marker=stroke)
    told = [
        f"{words(row['choice'])} {row['value']} against {row['against']} {signed(row['difference'])}"
        for row in effects.to_dict("records")
    ]
    return Figure(
        "effects-figure",
        plot,
        caption="Difference in log loss, by choice",
        alternative=f"Difference in log loss with its 95 % interval, by choice: {listed(told, between='; ')}.",
        table="effects",
    )


def _effect(row: Mapping[Any, Any]) -> dict[str, Any]:
    ends = f"95 %: {signed(row['low'])} to {signed(row['high'])}" if pd.notna(row["low"]) else "no interval"
    return {
        "name": f"{shown(row['value'], 12)} – {shown(row['against'], 12)}",
        "x": row["difference"],
        "low": row["low"],
        "high": row["high"],
        "group": "more than noise" if row["decided"] else "may be noise",
        "color": ACCENT if row["decided"] else NEUTRAL,
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
    plot.add_vline(x=0, layer="below", line_width=1.5)
    told = [f"{words(row['name'])} {row['importance']:.2f}" for row in found.to_dict("records")]
    return Figure(
        "importance",
        plot,
        caption="Importance of each hyperparameter",
        alternative=f"Importance of each hyperparameter with its interval: {listed(told, between='; ')}",
        table="importance",
    )


_PARTS: dict[str, dict[str, Any]] = {
    "the winning trial": {"color": ACCENT},
    "trials that improved": {"color": FAINT_ACCENT},
    "trials that did not": {"color": FAINT_NEUTRAL},
    "failed trials": {"color": ALARM},
    "set-up and the rest": {"color": NEUTRAL, "pattern": {"shape": "/", "size": 5, "solidity": 0.25}},
}


def budget(study_data: StudyData) -> Figure | None:
    """Where the time of each job went: trials by what they gave, and what no trial accounts for.

    Trials that improved are those that were the best of their job when they ended. The rest of a job's seconds is
    reading data, filling the store, building models; unknown while it runs.
    """
    board, trials = study_data.leaderboard.set_index("label"), study_data.trials
    losses, label = trials["val_log_loss"].astype(float), trials["label"]
    part = np.select(
        [
            losses.isna(),
            trials["trial"] == label.map(board["best_trial"]),
            losses.groupby(label).transform(improved).astype(bool),
        ],
        ["failed trials", "the winning trial", "trials that improved"],
        "trials that did not",
    )
    spent = trials["seconds"].astype(float).groupby([label, part]).sum().unstack()
    table = spent.reindex(index=board.index, columns=list(_PARTS)).fillna(0.0)
    table["set-up and the rest"] = (board["seconds"] - table.sum(axis=1)).clip(lower=0).fillna(0.0)
    totals = table.sum(axis=1)
    table, totals = table[totals > 0], totals[totals > 0]
    if table.empty:
        return None
    unit, seconds = time_unit(float(totals.max()))
    plot = blank(34 * len(table) + 116, legend=True)
    for name, look in _PARTS.items():
        hovers = [
            f"<b>{shown(label)}</b><br>{name}: {time / seconds:.3g} {unit}, {time / total:.0%}"
            for label, time, total in zip(table.index, table[name], totals, strict=True)
        ]
        if table[name].any():
            drawn = pd.DataFrame({"x": table[name] / seconds, "y": range(len(table)), "hover": hovers})
            bars(plot, drawn, name=name, orientation="h", width=0.6, marker=look)
    plot.update_layout(barmode="stack", legend_traceorder="normal")
    plot.update_xaxes(title_text=unit)
    style = styles(study_data)
    name_rows(plot, [style[label]["name"] for label in table.index])
    return Figure(
        "budget",
        plot,
        caption="Where the time went",
        alternative="Time that each job spent, divided by what came of it.",
        table="trials",
    )


def time_unit(longest: float) -> tuple[str, float]:
    """The unit in which so many seconds read well, and the seconds in it."""
    if longest >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest >= 120 else ("seconds", 1.0)
