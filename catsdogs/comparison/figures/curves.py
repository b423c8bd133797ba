"""Figures over the course of a study: best log loss so far, and learning curves."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from catsdogs.comparison.figures import figure
from catsdogs.comparison.figures.theme import escape
from catsdogs.comparison.study_data import StudyData
from catsdogs.pages.formats import loss, words

# Thin curves name their trial up to this number of epochs; beyond, the names would take as many bytes as the curves.
_NAMED_EPOCHS = 6_000


def best_so_far(study_data: StudyData) -> list[figure.Figure]:
    """Plot the best log loss so far, over the trials of each job and over the time since the start of its study.

    The list is empty without a completed trial, and has only the first figure if no job recorded the end of its trials.
    """
    trials = study_data.trials
    losses = trials["val_log_loss"].astype(float)
    if losses.isna().all():
        return []
    best = loss(losses.min())
    table = trials[["label", "trial"]].assign(y=losses, hover=figure.trial_hovers(study_data))
    plot = _best_plot(study_data, table.assign(x=table.groupby("label").cumcount() + 1))
    note = {"text": f"best {best}", "xanchor": "right", "yanchor": "top"}
    plot.add_hline(y=figure.rounded([losses.min()])[0], line_dash="dot", layer="below", annotation=note)
    _count_axis(plot, "trials of the job", int(table["label"].value_counts().max()))
    plots = {"trials": plot}
    ended = pd.to_datetime(trials["ended"], utc=True)
    started = ended - pd.to_timedelta(trials["seconds"].astype(float), unit="s")
    after = (ended - started.groupby(trials["study"]).transform("min")).dt.total_seconds()
    if losses[after.notna()].notna().any():
        unit, seconds = _time_unit(float(after.max()))
        timed = table.assign(x=after / seconds)[after.notna()].sort_values("x", kind="stable")
        plots["time"] = _best_plot(study_data, timed)
        plots["time"].update_xaxes(title_text=f"{unit} since the study started")
    about = f"Lowest log loss so far of each job, over {{}}; the lowest of all jobs is {best}."
    return [
        figure.Figure(f"best-{index}", plot, f"Best log loss so far, over {name}", about.format(name), "trials")
        for index, (name, plot) in enumerate(plots.items())
    ]


def _best_plot(study_data: StudyData, table: pd.DataFrame) -> go.Figure:
    """Plot a step line per job; the rows of `table` are in the order of x."""
    plot, looks = figure.blank_for_jobs(study_data, set(table.loc[table["y"].notna(), "label"]), 340)
    for label in reversed(looks):
        steps = _steps(table[table["label"] == label])
        ends = steps["hover"].map(lambda parts: [*parts[:2], "no improvement"])
        hover = steps["hover"].where(steps["improved"], ends)
        steps = steps.assign(size=np.where(steps["improved"], 7, 0), hover=hover)
        look = {"mode": "lines+markers", "line_shape": "hv", "line_width": 3 if label == next(iter(looks)) else 1.8}
        look |= {"marker_line_width": 0, "marker_opacity": 1}
        figure.add_points(plot, steps, **looks[label], hovertemplate=figure.TRIAL_HOVER, **look)
    plot.update_xaxes(rangemode="tozero")
    plot.update_yaxes(title_text="validation log loss", **figure.loss_axis(table["y"]))
    return plot


def _steps(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that improved on all before them, and the last trial, which ends the line; y is the best."""
    best = trials["y"].cummin().ffill()
    steps = trials.assign(y=best, improved=best < best.shift().fillna(np.inf))
    return steps[steps["improved"] | (steps.index == steps.index[-1])]


def _time_unit(longest: float) -> tuple[str, float]:
    """Return a readable unit for up to `longest` seconds, and its length in seconds."""
    if longest >= 2 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest >= 120 else ("seconds", 1.0)


def _count_axis(plot: go.Figure, title: str, longest: int) -> None:
    # By default, Plotly labels fractions on a short axis.
    plot.update_xaxes(title_text=title, tickformat="d", dtick=1 if longest <= 12 else None)


def learning_curves(study_data: StudyData) -> list[figure.Figure]:
    """Plot log losses and learning rate over epochs: thin lines for all trials of a job, a thick line for its best.

    Identical learning rates of a job are plotted once. The list is empty without recorded epochs, and has only the
    figures of recorded columns. Both log losses have the same axis.
    """
    epochs = study_data.epochs
    if epochs.empty or epochs["val_log_loss"].isna().all():
        return []
    both = epochs[[name for name in ("val_log_loss", "log_loss") if name in epochs]].to_numpy(dtype=float)
    axis = figure.loss_axis(both.ravel())
    low, high = np.nanmin(both), np.nanmax(both)
    axis["range"] = [np.log10(low) - 0.05, np.log10(high) + 0.05] if "type" in axis else [0, 1.05 * high]
    # Earlier versions recorded only the rate at the end of an epoch, which is 0 after the last one of a cosine.
    complete = "max_learning_rate" in epochs and epochs["max_learning_rate"].notna().all()
    rate = ("max_learning_rate", "Highest learning rate") if complete else ("learning_rate", "Last learning rate")
    titles = {
        "val_log_loss": "Validation log loss",
        "log_loss": "Training log loss",
        rate[0]: f"{rate[1]} of each epoch",
    }
    plots = list[figure.Figure]()
    for column, title in titles.items():
        if column in epochs and epochs[column].notna().any():
            plot = _curves(study_data, column, 380 if "log_loss" in column else 260)
            loss = "log_loss" in column
            name = title.lower() if loss else "learning rate"  # the complete title is longer than the axis
            plot.update_yaxes(title_text=name, **(axis if loss else _rate_axis(epochs, column)))
            about = f"{title}, over epochs: a thin line per trial, and a thick line for the best trial of each job."
            plots.append(figure.Figure(f"curve-{len(plots)}", plot, f"{title}, over epochs", about, "epochs"))
    return plots


def _rate_axis(epochs: pd.DataFrame, column: str) -> dict[str, Any]:
    # A schedule that ends at 0 needs a linear axis, so only the peaks count.
    axis = figure.loss_axis(epochs.groupby(["label", "trial"])[column].max()) | {"exponentformat": "e"}
    # Otherwise, a curve along 0 would be clipped.
    return axis | {"rangemode": "normal"} if epochs[column].nunique() > 1 else axis


def _curves(study_data: StudyData, column: str, height: int) -> go.Figure:
    epochs, board = study_data.epochs, study_data.leaderboard
    plot, looks = figure.blank_for_jobs(study_data, set(epochs["label"]), height)
    best = board.set_index("label")["best_trial"]
    if column == "log_loss" and len(epochs) > _NAMED_EPOCHS:
        # The page would double; overfitting of the best trials matters most.
        epochs = epochs[epochs["trial"] == epochs["label"].map(best)]
    table = epochs.dropna(subset=column).sort_values(["trial", "execution", "epoch"], kind="stable")
    table = table.assign(
        line=table.groupby(["label", "trial", "execution"], sort=False).ngroup(),
        x=table["epoch"],
        y=table[column],
        hover=table["trial"].map(lambda trial: escape(trial, 20)),
        best=table["trial"] == table["label"].map(best),
    )
    name = words(column.removeprefix("val_").removeprefix("max_"))
    hover = f"<b>%{{fullData.name}}</b>, trial=%{{customdata}}<br>epoch %{{x}}, {name} %{{y}}<extra></extra>"
    parts = {
        key: part if name == "log loss" else _without_repeated(part) for key, part in table.groupby(["label", "best"])
    }
    count = int(study_data.trials["label"].isin(looks).sum())
    for label in reversed(looks):
        if (label, False) in parts:
            part = parts[label, False]
            look = looks[label] | {"line": {"color": looks[label]["line"]["color"]}, "marker_size": 5}
            look |= {"line_width": 1 if count <= 300 else 0.5, "opacity": 0.4 if count <= 60 else 0.2}
            look["mode"] = "lines" if part["line"].duplicated().any() else "markers"
            look["showlegend"] = look["showlegend"] and (label, True) not in parts
            part = part if len(epochs) <= _NAMED_EPOCHS else part.drop(columns="hover")
            figure.add_lines(plot, part, **look, hovertemplate=hover)
    for label in [label for label in reversed(looks) if (label, True) in parts]:
        look = {"mode": "lines+markers", "line_width": 3, "marker_size": 6}
        figure.add_lines(plot, parts[label, True], **looks[label], **look, hovertemplate=hover)
    first, last = int(epochs["epoch"].min()), int(epochs["epoch"].max())
    plot.update_xaxes(range=[first - 0.02 * last, 1.02 * last])
    _count_axis(plot, "epoch", last)
    return plot


def _without_repeated(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the lines with a point that no longer line has."""
    points = part.assign(y=part["y"].map("{:.5g}".format), length=part.groupby("line")["x"].transform("size"))
    points = points.sort_values("length", ascending=False, kind="stable")
    return part[part["line"].isin(points.loc[~points.duplicated(["x", "y"]), "line"])]
