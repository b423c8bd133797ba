"""Evidence -> figures of how it went: the best so far over trials and time, learning curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.figures.figure import (
    TRIAL_HOVER,
    Figure,
    for_jobs,
    improved,
    lines,
    loss_axis,
    points,
    significant,
    trial_hovers,
)
from catsdogs.comparison.figures.search import time_unit
from catsdogs.comparison.figures.theme import NEUTRAL, shown
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import loss, words

# Epochs for which the thin curves name their trial; beyond, the names would weigh as much as the curves.
_NAMED_EPOCHS = 6_000


def best_so_far(study_data: StudyData) -> list[Figure]:
    """The best log loss so far, over each job's own trials and over the wall time since its study began.

    None without a completed trial; only the first where no job tells when its trials ended.
    """
    trials = study_data.trials
    losses = trials["val_log_loss"].astype(float)
    if losses.isna().all():
        return []
    best = loss(losses.min())
    table = trials[["label", "trial", "study"]].assign(y=losses, hover=trial_hovers(study_data))
    plot = _best(study_data, table.assign(x=table.groupby("label").cumcount() + 1))
    note = {"text": f"best {best}", "xanchor": "right", "yanchor": "top"}
    plot.add_hline(y=significant([losses.min()])[0], line_dash="dot", layer="below", annotation=note)
    _count_axis(plot, "trials of the job", int(table["label"].value_counts().max()))
    plots = {"trials": plot}
    ended = pd.to_datetime(trials["ended"], utc=True)
    # The first trial of a study began when it ended, less its seconds.
    began = ended - pd.to_timedelta(trials["seconds"].astype(float), unit="s")
    after = (ended - began.groupby(trials["study"]).transform("min")).dt.total_seconds()
    if losses[after.notna()].notna().any():
        unit, seconds = time_unit(float(after.max()))
        timed = table.assign(x=after / seconds)[after.notna()].sort_values("x", kind="stable")
        plots["time"] = _best(study_data, timed, of_all=timed["label"].nunique() > 1)
        plots["time"].update_xaxes(title_text=f"{unit} since the study began")
    return [
        Figure(
            f"best-{place}",
            plot,
            caption=f"Best so far, over {name}",
            alternative=f"Lowest log loss found so far by each job, over {name}; the lowest of all is {best}.",
            table="trials",
        )
        for place, (name, plot) in enumerate(plots.items())
    ]


def _best(study_data: StudyData, table: pd.DataFrame, of_all: bool = False) -> go.Figure:
    """Steps down, a line per job, `of_all`: also one per study; the trials are in the order of x."""
    plot, looks = for_jobs(study_data, set(table.loc[table["y"].notna(), "label"]), 340)
    for study, part in table.groupby("study", sort=False) if of_all else ():
        points(
            plot,
            _steps(part).drop(columns="hover"),
            name="best of all" if table["study"].nunique() == 1 else f"best of {shown(study, 24)}",
            mode="lines",
            line={"color": NEUTRAL, "width": 7, "shape": "hv"},
            opacity=0.45,
        )
    for label in reversed(looks):
        steps = _steps(table[table["label"] == label])
        # The last trial only ends the line, unless it improved.
        ends = steps["hover"].map(lambda parts: [*parts[:2], "no better than the best before"])
        points(
            plot,
            steps.assign(size=np.where(steps["improved"], 7, 0), hover=steps["hover"].where(steps["improved"], ends)),
            **looks[label],
            hovertemplate=TRIAL_HOVER,
            mode="lines+markers",
            line_shape="hv",
            line_width=3 if label == next(iter(looks)) else 1.8,
            marker_line_width=0,
            marker_opacity=1,
        )
    plot.update_xaxes(rangemode="tozero")
    plot.update_yaxes(title_text="log loss on validation", **loss_axis(table["y"]))
    return plot


def _steps(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials that improved on all before them, and the last one, where the line ends; y is the best so far."""
    found = trials.assign(y=trials["y"].cummin().ffill(), improved=improved(trials["y"]))
    return found[found["improved"] | (found.index == found.index[-1])]


def _count_axis(plot: go.Figure, title: str, longest: int) -> None:
    """Plotly would write halves where it is short."""
    plot.update_xaxes(title_text=title, tickformat="d", dtick=1 if longest <= 12 else None)


def learning_curves(study_data: StudyData) -> list[Figure]:
    """Log loss and learning rate over epochs: thin for all trials of a job, thick for its best one.

    A ring marks trials that early stopping ended before their budget. None where no history is left; no learning rate
    where it tells none. Learning rates of trials that were scheduled alike are drawn once.
    """
    epochs = study_data.epochs
    if epochs.empty or epochs["val_log_loss"].isna().all():
        return []
    plot = _curves(study_data, "val_log_loss", 380)
    plot.update_yaxes(title_text="log loss on validation", **loss_axis(epochs["val_log_loss"]))
    _add_stopped(plot, study_data)
    plots = {"Log loss on validation": plot}
    if "learning_rate" in epochs and epochs["learning_rate"].notna().any():
        plots["Learning rate"] = plot = _curves(study_data, "learning_rate", 260)
        # A schedule that ends at 0 has its shape on a linear axis.
        peaks = epochs.groupby(["label", "trial"])["learning_rate"].max()
        rates = epochs["learning_rate"].nunique()
        axis = loss_axis(peaks) | ({"rangemode": "normal"} if rates > 1 else {})  # a curve along 0 would be cut
        plot.update_yaxes(title_text="learning rate", exponentformat="e", **axis)
    return [
        Figure(
            f"curve-{place}",
            plot,
            caption=f"{title}, by epoch",
            alternative=f"{title} over epochs: thin lines for all trials, thick for the best of each job.",
            table="epochs",
        )
        for place, (title, plot) in enumerate(plots.items())
    ]


def _curves(study_data: StudyData, column: str, height: int) -> go.Figure:
    epochs, board = study_data.epochs, study_data.leaderboard
    plot, looks = for_jobs(study_data, set(epochs["label"]), height)
    table = epochs.dropna(subset=column).sort_values(["trial", "execution", "epoch"], kind="stable")
    table = table.assign(
        line=table.groupby(["label", "trial", "execution"], sort=False).ngroup(),
        x=table["epoch"],
        y=table[column],
        hover=table["trial"].map(lambda trial: shown(trial, 20)),
        best=table["trial"] == table["label"].map(board.set_index("label")["best_trial"]),
    )
    said = words(column.removeprefix("val_"))
    hover = f"<b>%{{fullData.name}}</b>, trial %{{customdata}}<br>epoch %{{x}}, {said} %{{y}}<extra></extra>"
    parts = {key: part if said == "log loss" else _unlike(part) for key, part in table.groupby(["label", "best"])}
    count = int(study_data.trials["label"].isin(looks).sum())
    for label in reversed(looks):
        if (label, False) in parts:
            part = parts[label, False]
            look = looks[label] | {"line": {"color": looks[label]["line"]["color"]}}
            lines(
                plot,
                part if len(epochs) <= _NAMED_EPOCHS else part.drop(columns="hover"),
                **look | {"showlegend": look["showlegend"] and (label, True) not in parts},
                hovertemplate=hover,
                mode="lines" if part["line"].duplicated().any() else "markers",
                line_width=1 if count <= 300 else 0.5,
                marker_size=5,
                opacity=0.4 if count <= 60 else 0.2,
            )
    best = [label for label in reversed(looks) if (label, True) in parts]
    for place, label in enumerate(best):
        part = parts[label, True]
        # A schedule that several jobs share is seen in the colours of all.
        shared = sum(np.array_equal(part[["x", "y"]], parts[other, True][["x", "y"]]) for other in best[place + 1 :])
        look = {"mode": "lines+markers", "line_width": 3 + 3 * min(shared, 2), "marker_size": 6}
        lines(plot, part, **looks[label], **look, hovertemplate=hover)
    first, last = int(epochs["epoch"].min()), int(epochs["epoch"].max())
    plot.update_xaxes(range=[first - 0.02 * last, 1.02 * last])
    _count_axis(plot, "epoch", last)
    return plot


def _unlike(part: pd.DataFrame) -> pd.DataFrame:
    """Only the lines that no other one contains."""
    seen: dict[Any, set[Any]] = {
        line: set(zip(table["x"], significant(table["y"]), strict=True)) for line, table in part.groupby("line")
    }
    kept: list[Any] = []
    for line in sorted(seen, key=lambda line: -len(seen[line])):
        if not any(seen[line] <= seen[other] for other in kept):
            kept.append(line)
    return part[part["line"].isin(kept)]


def _add_stopped(plot: go.Figure, study_data: StudyData) -> None:
    """A ring where a completed trial ended before the last epoch that it might have trained."""
    last = study_data.epochs.sort_values("epoch", kind="stable").groupby(["label", "trial", "execution"]).tail(1)
    trials = study_data.trials.assign(hover=trial_hovers(study_data))
    done = trials.loc[trials["val_log_loss"].notna(), ["label", "trial", "epoch_budget", "hover"]]
    ends = last.merge(done, on=["label", "trial"])
    ends = ends[(ends["epoch"] < ends["epoch_budget"].astype(float)) & ends["val_log_loss"].notna()]
    if ends.empty:
        return
    few = len(ends) <= 200
    ring = {"symbol": "circle-open", "size": 8 if few else 4, "color": NEUTRAL, "opacity": 0.8}
    points(
        plot,
        ends.assign(x=ends["epoch"], y=ends["val_log_loss"]),
        name="stopped early",
        hovertemplate=TRIAL_HOVER.replace("<extra>", "<br>stopped early, after epoch %{x}<extra>"),
        marker={**ring, "line": {"width": 1.2 if few else 0.8}},
    )
    plot.update_layout(showlegend=True)
