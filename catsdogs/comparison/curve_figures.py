"""Evidence -> figures of how it went: the best so far over trials and time, learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.formats import words
from catsdogs.comparison.search_figures import time_unit
from catsdogs.comparison.theme import (
    LEGEND_JOBS,
    LOG_AXIS,
    NEUTRAL,
    Style,
    figure,
    legend_room,
    loss,
    number,
    shown,
    significant,
    styles,
    wide_range,
)

_LOG_LOSS = "log loss on validation"

# Epochs for which the thin curves name their trial; beyond, the names would weigh as much as the curves.
_NAMED_EPOCHS = 6_000


def best_so_far(evidence: Evidence) -> dict[str, go.Figure]:
    """The best log loss so far: `trials` over each job's own trials, `time` over the wall time since its study began.

    Empty without a completed trial; no `time` where no job tells when its trials ended.
    """
    trials = evidence.trials.assign(number=evidence.trials.groupby("label").cumcount() + 1)
    if trials["val_log_loss"].notna().sum() == 0:
        return {}
    figures = {"trials": _best_over_trials(evidence, trials)}
    ended = pd.to_datetime(trials["ended"], utc=True)
    # The first trial of a study began when it ended, less its seconds.
    began = (
        (ended - pd.to_timedelta(trials["seconds"].astype(float), unit="s")).groupby(trials["study"]).transform("min")
    )
    trials = trials.assign(after=(ended - began).dt.total_seconds())
    timed = trials[trials["after"].notna()]
    if timed["val_log_loss"].notna().any():
        figures["time"] = _best_over_time(evidence, timed)
    return figures


def _best_over_trials(evidence: Evidence, trials: pd.DataFrame) -> go.Figure:
    style = styles(evidence)
    jobs = _with_completed(style, trials)
    named = 1 < len(jobs) <= LEGEND_JOBS
    drawn = figure(340 + legend_room(len(jobs) if named else 0), legend=named)
    for label in reversed(jobs):
        part = trials[trials["label"] == label]
        _add_steps(drawn, evidence, style[label], part, part["number"].astype(float), label == jobs[0], named)
    best = float(trials["val_log_loss"].min())
    drawn.add_hline(
        y=significant([best])[0],
        line_dash="dot",
        layer="below",
        annotation={"text": f"best {loss(best)}", "xanchor": "right", "yanchor": "top"},
    )
    most = int(trials["number"].max())
    drawn.update_xaxes(title_text="trials of the job", rangemode="tozero", tickformat="d", **_whole_steps(most))
    _log_loss_axis(drawn, trials["val_log_loss"])
    return drawn


def _best_over_time(evidence: Evidence, trials: pd.DataFrame) -> go.Figure:
    style = styles(evidence)
    jobs = _with_completed(style, trials)
    unit, seconds = time_unit(float(trials["after"].max()))
    named = 1 < len(jobs) <= LEGEND_JOBS
    drawn = figure(340 + legend_room(len(jobs) if named else 0), legend=named)
    if len(jobs) > 1:
        for study, part in trials.groupby("study", sort=False):
            part = part.sort_values("after")
            best = part["val_log_loss"].astype(float).cummin().ffill()
            kept = _corners(part["val_log_loss"].astype(float))
            drawn.add_scatter(
                name="best of all" if trials["study"].nunique() == 1 else f"best of {shown(study, 24)}",
                x=significant(part["after"][kept] / seconds),
                y=significant(best[kept]),
                mode="lines",
                line={"color": NEUTRAL, "width": 7, "shape": "hv"},
                opacity=0.45,
                hoverinfo="skip",
            )
    for label in reversed(jobs):
        part = trials[trials["label"] == label].sort_values("after")
        _add_steps(drawn, evidence, style[label], part, part["after"] / seconds, label == jobs[0], named)
    drawn.update_xaxes(title_text=f"{unit} since the study began", rangemode="tozero")
    _log_loss_axis(drawn, trials["val_log_loss"])
    return drawn


def _with_completed(style: dict[str, Style], trials: pd.DataFrame) -> list[str]:
    """Labels of jobs with a completed trial, best first."""
    completed = set(trials.loc[trials["val_log_loss"].notna(), "label"])
    return [label for label in style if label in completed]


def _corners(losses: pd.Series) -> np.ndarray:
    """(N,) bool: trials that improved on all before them, and the last one, where the line ends."""
    best = losses.cummin().ffill()
    kept = (best < best.shift().fillna(np.inf)).to_numpy(copy=True)
    kept[-1] = bool(best.notna().iloc[-1])
    return kept


def _add_steps(
    drawn: go.Figure, evidence: Evidence, style: Style, trials: pd.DataFrame, x: pd.Series, leads: bool, named: bool
) -> None:
    losses = trials["val_log_loss"].astype(float)
    best = losses.cummin().ffill()
    kept = _corners(losses)
    improved = (losses == best).to_numpy()[kept]
    rows = trials[kept].to_dict("records")
    drawn.add_scatter(
        name=style.name,
        legendgroup=style.name,
        legendrank=style.rank,
        showlegend=named,
        x=significant(x[kept]),
        y=significant(best[kept]),
        mode="lines+markers",
        line={"color": style.colour, "dash": style.dash, "shape": "hv", "width": 3 if leads else 1.8},
        # The last point only ends the line, unless it improved.
        marker={
            "size": [7 if better else 0 for better in improved],
            "opacity": 1,
            "symbol": style.symbol,
            "line": {"width": 0},
        },
        customdata=[
            [
                shown(row["trial"], 20) if better else f"none better up to {shown(row['trial'], 20)}",
                "".join(
                    f"<br>{shown(words(name), 28)} {number(row[name])}"
                    for name in evidence.hyperparameters
                    if better and pd.notna(row[name])
                ),
            ]
            for row, better in zip(rows, improved, strict=True)
        ],
        hovertemplate="<b>%{fullData.name}</b>, trial %{customdata[0]}<br>log loss %{y}%{customdata[1]}<extra></extra>",
    )


def _log_loss_axis(drawn: go.Figure, losses: pd.Series) -> None:
    drawn.update_yaxes(title_text=_LOG_LOSS, **(LOG_AXIS if wide_range(losses) else _not_below_zero(losses)))


def _not_below_zero(values: pd.Series) -> dict[str, str]:
    """For the axis of a single value, around which Plotly would draw negative ones too."""
    return {"rangemode": "nonnegative"} if values.nunique() == 1 else {}


def _whole_steps(longest: int) -> dict[str, int]:
    """For an axis that counts, on which Plotly would write halves where it is short."""
    return {"dtick": 1} if longest <= 12 else {}


def learning_curves(evidence: Evidence) -> dict[str, go.Figure]:
    """`val_log_loss` and `learning_rate` over epochs: thin for all trials of a job, thick for its best one.

    In `val_log_loss` a ring marks trials that early stopping ended before their budget. Empty where no history is left;
    no `learning_rate` where it tells none. Learning rates of trials that were scheduled alike are drawn once.
    """
    epochs = evidence.epochs
    if epochs.empty or epochs["val_log_loss"].notna().sum() == 0:
        return {}
    if "execution" not in epochs:
        epochs = epochs.assign(execution=0)
    epochs = epochs.assign(trial=epochs["trial"].astype(str))
    figures = {"val_log_loss": _curves(evidence, epochs, "val_log_loss", _LOG_LOSS)}
    _add_stopped(figures["val_log_loss"], evidence, epochs)
    if "learning_rate" in epochs and epochs["learning_rate"].notna().any():
        figures["learning_rate"] = _curves(evidence, epochs, "learning_rate", "learning rate")
    return figures


def _curves(evidence: Evidence, epochs: pd.DataFrame, column: str, title: str) -> go.Figure:
    style = styles(evidence)
    present = set(epochs["label"])
    jobs = [label for label in style if label in present]
    best_of = dict(zip(evidence.board["label"], evidence.board["best_trial"], strict=True))
    named = 1 < len(jobs) <= LEGEND_JOBS
    height = 380 if column == "val_log_loss" else 260
    drawn = figure(height + legend_room(len(jobs) if named else 0), legend=named)
    lines = evidence.trials["label"].isin(jobs).sum()
    thick = []
    for label in reversed(jobs):
        part = epochs[epochs["label"] == label]
        best = part["trial"] == best_of[label]
        others = _lines(part[~best], column)
        look = {
            "legendgroup": style[label].name,
            "legendrank": style[label].rank,
            "name": style[label].name,
            "showlegend": named,
        }
        if len(others):
            drawn.add_scatter(
                **{**look, "showlegend": named and not best.any()},
                **_points(others, column, named=len(epochs) <= _NAMED_EPOCHS),
                mode="lines" if others.groupby("line")["epoch"].count().max() > 1 else "markers",
                line={"color": style[label].colour, "width": 1 if lines <= 300 else 0.5},
                marker={"color": style[label].colour, "size": 5},
                opacity=0.4 if lines <= 60 else 0.2,
            )
        if best.any():
            thick.append((label, look, _lines(part[best], column)))
    for i, (label, look, table) in enumerate(thick):
        # A schedule that several jobs share is seen in the colours of all.
        shared = sum(_same(table, other[2], column) for other in thick[i + 1 :])
        drawn.add_scatter(
            **look,
            **_points(table, column, named=True),
            mode="lines+markers",
            line={"color": style[label].colour, "dash": style[label].dash, "width": 3 + 3 * min(shared, 2)},
            marker={"size": 6, "symbol": style[label].symbol},
        )
    longest = int(epochs["epoch"].max())
    drawn.update_xaxes(title_text="epoch", tickformat="d", **_whole_steps(longest))
    margin = 0.02 * longest
    drawn.update_xaxes(range=[int(epochs["epoch"].min()) - margin, longest + margin])
    positive = epochs.loc[epochs[column] > 0, column]
    # A schedule that ends at 0 has its shape on a linear axis.
    log = wide_range(positive) if column == "val_log_loss" else wide_range(_peaks(epochs))
    drawn.update_yaxes(
        title_text=title,
        **(LOG_AXIS if log else _not_below_zero(epochs[column])),
        **({} if log or column == "val_log_loss" else {"exponentformat": "e"}),
    )
    return drawn


def _same(table: pd.DataFrame, other: pd.DataFrame, column: str) -> bool:
    return significant(table["epoch"]) == significant(other["epoch"]) and significant(table[column]) == significant(
        other[column]
    )


def _peaks(epochs: pd.DataFrame) -> pd.Series:
    return epochs.groupby(["label", "trial"])["learning_rate"].max()


def _lines(part: pd.DataFrame, column: str) -> pd.DataFrame:
    """Epochs with a number for the line they belong to; of learning rates, only lines that no other one contains."""
    part = part[part[column].notna()].sort_values(["trial", "execution", "epoch"], kind="stable")
    part = part.assign(line=part.groupby(["trial", "execution"], sort=False).ngroup())
    if column == "val_log_loss" or part.empty:
        return part
    seen: dict[Any, set[Any]] = {
        line: set(zip(table["epoch"], significant(table[column]), strict=True)) for line, table in part.groupby("line")
    }
    kept: list[Any] = []
    for line in sorted(seen, key=lambda line: -len(seen[line])):
        if not any(seen[line] <= seen[other] for other in kept):
            kept.append(line)
    return part[part["line"].isin(kept)]


def _points(table: pd.DataFrame, column: str, named: bool) -> dict[str, Any]:
    """One trace for many lines, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    trial: list[str | None] = []
    for _, line in table.groupby("line", sort=False):
        x += [*line["epoch"].astype(int), None]
        y += [*significant(line[column]), None]
        trial += [*([shown(line["trial"].iloc[0], 20)] * len(line)), None]
    points: dict[str, Any] = {"x": x[:-1], "y": y[:-1]}
    if not named:
        # Plotly writes arrays in binary, in half the room; the gap is in y alone.
        epochs = np.array([epoch or 0 for epoch in x[:-1]])
        return {
            "x": epochs.astype(np.min_scalar_type(epochs.max())),
            "y": np.array(y[:-1], dtype=np.float32),
            "hoverinfo": "skip",
        }
    said = "log loss" if column == "val_log_loss" else "learning rate"
    return {
        **points,
        "customdata": trial[:-1],
        "hovertemplate": "<b>%{fullData.name}</b>, trial %{customdata}<br>"
        f"epoch %{{x}}, {said} %{{y}}<extra></extra>",
    }


def _add_stopped(drawn: go.Figure, evidence: Evidence, epochs: pd.DataFrame) -> None:
    """A ring where a completed trial ended before the last epoch that it might have trained."""
    last = epochs.sort_values("epoch", kind="stable").groupby(["label", "trial", "execution"], sort=False).tail(1)
    done = evidence.trials.loc[evidence.trials["val_log_loss"].notna(), ["label", "trial", "epoch_budget"]]
    ends = last.merge(done.assign(trial=done["trial"].astype(str)), on=["label", "trial"])
    ends = ends[(ends["epoch"] < ends["epoch_budget"].astype(float)) & ends["val_log_loss"].notna()]
    if ends.empty:
        return
    style = styles(evidence)
    few = len(ends) <= 200
    drawn.add_scatter(
        name="stopped early",
        x=ends["epoch"].astype(int).tolist(),
        y=significant(ends["val_log_loss"]),
        mode="markers",
        marker={
            "symbol": "circle-open",
            "size": 8 if few else 4,
            "color": NEUTRAL,
            "line": {"width": 1.2 if few else 0.8},
            "opacity": 0.8,
        },
        customdata=[[style[row["label"]].name, shown(row["trial"], 20)] for row in ends.to_dict("records")],
        hovertemplate="<b>%{customdata[0]}</b>, trial %{customdata[1]}<br>"
        "stopped early, after epoch %{x}<extra></extra>",
    )
    drawn.update_layout(showlegend=True)
