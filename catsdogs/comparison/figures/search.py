"""Figures of the search: scores of the jobs, effects of choices, and importance of hyperparameters."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from catsdogs.base.text import listed
from catsdogs.comparison.figures import figure, theme
from catsdogs.comparison.figures.theme import escape, styles
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import between, counted, loss, minus, signed, words
from catsdogs.scoring.intervals import Estimate


def job_intervals(study_data: StudyData, intervals: dict[str, Estimate]) -> figure.Figure | None:
    """Plot the validation log loss of the jobs in `intervals`, by label, best on top; None for fewer than two."""
    if len(intervals) < 2:
        return None
    style = styles(study_data)
    ranges = {label: _confidence(between(one)) for label, one in intervals.items()}
    table = pd.DataFrame(
        {
            "name": style[label]["name"],
            **style[label]["marker"],
            "x": one.value,
            "low": one.low,
            "high": one.high,
            "text": loss(one.value),
            "hover": f"<b>{escape(label)}</b><br>log loss {one.value:.5g}<br>{ranges[label]}<br>{one.size:,} images",
        }
        for label, one in sorted(intervals.items(), key=lambda item: item[1].value)
    )
    plot = figure.interval_rows(table, "log loss (lower is better)")
    plot.add_vline(x=figure.rounded(table["x"])[0], line_dash="dot", layer="below")
    plot.update_xaxes(figure.loss_axis(table[["x", "low", "high"]].to_numpy().ravel()))
    alternative = "Validation log loss of each job with its 95% CI, as in the leaderboard."
    return figure.Figure("intervals", plot, "Validation log loss of each job, with 95% CI", alternative, "jobs")


def _confidence(interval: str) -> str:
    return f"95% CI {minus(interval)}" if interval else "no CI"


def effects(effects: pd.DataFrame, pairs: pd.DataFrame) -> figure.Figure | None:
    """Plot the result of `choices.choice_effects`, with the pairs of effects of more than one pair; None if empty."""
    if effects.empty:
        return None
    table = pd.DataFrame(map(_effect, effects.to_dict("records")))
    titles = effects["choice"].map(lambda name: f"<b>{escape(words(name), 24)}:</b><br>")
    table["name"] = titles.mask(effects["choice"].duplicated(), "") + table["name"]
    plot = figure.interval_rows(table, "difference in log loss<br>left of 0: first value is better", height=44)
    plot.add_vline(x=0, layer="below", line_width=1.5)
    key = ["choice", "value", "against"]
    single = pairs.merge(effects.loc[effects["pairs"] > 1, key].reset_index(names="y"), on=key)
    if len(single):
        single["hover"] = [
            f"{escape(row['label'])}<br>compared with {escape(row['label_against'])}"
            f"<br>difference {minus(signed(row['difference']))}"
            for row in single.to_dict("records")
        ]
        stroke = {"symbol": "line-ns", "size": 7, "line": {"color": theme.NEUTRAL, "width": 2}}
        figure.add_points(plot, single.assign(x=single["difference"]), name="one pair of jobs", marker=stroke)
    title = "Difference in log loss for each choice"
    alternative = f"{title} with its 95% CI, as in the table of effects."
    return figure.Figure("effects-figure", plot, f"{title}, with 95% CI", alternative, "effects")


def _effect(row: Mapping[Any, Any]) -> dict[str, Any]:
    interval = f"{signed(row['low'])} to {signed(row['high'])}" if pd.notna(row["low"]) else ""
    name = f"{escape(words(row['choice']), 28)}: {escape(row['value'], 28)} – {escape(row['against'], 28)}"
    return {
        "name": f"{escape(row['value'], 12)} – {escape(row['against'], 12)}",
        "x": row["difference"],
        "low": row["low"],
        "high": row["high"],
        "group": "significant" if row["decided"] else "not significant",
        "color": theme.ACCENT if row["decided"] else theme.NEUTRAL,
        "hover": f"<b>{name}</b><br>difference {minus(signed(row['difference']))}<br>{_confidence(interval)}"
        f"<br>{counted(row['pairs'], 'pair')} of jobs, {row['images']:,} images",
    }


def importance_bars(importance: Importance) -> figure.Figure | None:
    """Plot the importance of each hyperparameter and choice, highest on top; None for fewer than two."""
    ranking = importance.table
    if len(ranking) < 2:
        return None
    rows = ranking.to_dict("records")
    names = [escape(words(row["name"]), 24) for row in rows]
    hovers = [
        f"<b>{escape(words(row['name']))}</b><br>importance {row['importance']:z.2f}<br>"
        + minus(f"{row['low']:z.2f} to {row['high']:z.2f} over folds")
        for row in rows
    ]
    table = ranking.assign(name=names, x=ranking["importance"], color=theme.ACCENT, hover=hovers)
    plot = figure.interval_rows(table, "importance (0: none)")
    plot.add_vline(x=0, layer="below", line_width=1.5)
    values = [minus(f"{words(row['name'])} {row['importance']:z.2f}") for row in rows]
    alternative = f"Importance of each hyperparameter for the log loss: {listed(values, between='; ')}."
    return figure.Figure("importance", plot, "Importance of each hyperparameter", alternative, "importance")
