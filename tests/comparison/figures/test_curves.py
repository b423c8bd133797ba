"""Figures over the course of a study: best log loss so far, and learning curves."""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np
import pandas as pd
import pytest
import studies
from plots import EPOCHS, all_figures, completed, lines, trace, write_night
from studies import CHOICES

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import best_so_far, learning_curves
from catsdogs.comparison.study_data import read_study_data


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def test_best_so_far_over_trials(study_data, figures):
    plot, style = figures["best-0"].plot, theme.styles(study_data)
    for label in study_data.jobs:
        losses = study_data.trials.loc[study_data.trials["label"] == label, "val_log_loss"].to_numpy(dtype=float)
        expected = np.fmin.accumulate(losses)
        steps = trace(plot, style[label]["name"])
        assert steps.line.shape == "hv"
        at = np.searchsorted(steps.x, np.arange(1, 13), side="right") - 1
        assert np.array(steps.y)[at] == pytest.approx(expected, rel=1e-4)
        assert steps.x[-1] == 12
        # A point per improvement, and one that ends the line.
        assert list(steps.marker.size) == [7] * len(set(expected)) + [0] * int(expected[-2] == expected[-1])
    best = completed(study_data)["val_log_loss"].min()
    assert plot.layout.shapes[0].y0 == pytest.approx(best, rel=1e-4)
    assert f"{best:.4f}" in plot.layout.annotations[0].text


def test_best_so_far_over_time(study_data, figures):
    plot, style, trials = figures["best-1"].plot, theme.styles(study_data), completed(study_data)
    assert plot.layout.xaxis.title.text.startswith("minutes")
    after = (trials["ended"] - pd.Timestamp(studies.STARTED)).dt.total_seconds() / 60
    for label in study_data.jobs:
        part, steps = trials["label"] == label, trace(plot, style[label]["name"])
        first, best = after[part].min(), trials.loc[part, "val_log_loss"].min()
        assert (steps.x[0], steps.y[-1]) == pytest.approx((first, best), rel=1e-4)
    of_all = trace(plot, "best of all")
    ordered = trials.assign(after=after).sort_values("after")
    falls = ordered["val_log_loss"].cummin().drop_duplicates()
    # The line continues to the end although the last trial failed.
    ended = (study_data.trials["ended"].max() - pd.Timestamp(studies.STARTED)).total_seconds() / 60
    assert list(of_all.y) == pytest.approx([*falls, falls.min()], rel=1e-4)
    assert list(of_all.x) == pytest.approx([*ordered["after"].loc[falls.index], ended], rel=1e-4)


def test_studies_of_different_days_start_at_zero(tmp_path):
    for name, days in (("one", 0), ("two", 9)):
        studies.write_job(tmp_path / name, CHOICES, started=studies.STARTED + datetime.timedelta(days=days))
    plot = best_so_far(read_study_data([tmp_path / "one", tmp_path / "two"]))[1].plot
    assert max(max(steps.x) for steps in plot.data) < 10
    assert {"best of one", "best of two"} <= {one.name for one in plot.data}


def test_learning_curves_match_the_recorded_epochs(study_data, figures):
    style, plot = theme.styles(study_data), figures["curve-0"].plot
    best_of = dict(zip(study_data.leaderboard["label"], study_data.leaderboard["best_trial"], strict=True))
    for label in study_data.jobs:
        own = [one for one in plot.data if one.name == style[label]["name"]]
        thick = max(own, key=lambda one: one.line.width)
        for one in own:
            for x, y, trial in lines(one):
                table = study_data.epochs[(study_data.epochs["label"] == label) & (study_data.epochs["trial"] == trial)]
                assert x == list(table["epoch"])
                assert y == pytest.approx(table["val_log_loss"].to_numpy(), rel=1e-4)
                assert (trial == best_of[label]) == (one is thick)
        assert sorted(trial for one in own for _, _, trial in lines(one)) == sorted(map(str, range(12)))
    # Rings mark completed trials that stopped early.
    rings, done = trace(plot, "stopped early"), completed(study_data)
    early = done[done["epochs"] < EPOCHS]
    expected = {(style[row["label"]]["name"], row["trial"], row["epochs"]) for row in early.to_dict("records")}
    assert 0 < len(expected) < len(done)
    assert {(*data[:2], x) for data, x in zip(rings.customdata, rings.x, strict=True)} == expected


def test_identical_learning_rates_are_plotted_once(study_data, figures):
    plot, style = figures["curve-1"].plot, theme.styles(study_data)
    for label in study_data.jobs:
        curves = [line for one in plot.data if one.name == style[label]["name"] for line in lines(one)]
        # The best trial, and the longest one.
        assert len(curves) == 2
        assert max(len(x) for x, _, _ in curves) == EPOCHS
        for x, y, _ in curves:
            assert y == pytest.approx([3e-4 * (1 - (epoch - 1) / EPOCHS) for epoch in x], rel=1e-4)
    assert plot.layout.yaxis.type is None


def test_each_execution_of_a_trial_is_a_line(study_data):
    rows = [[execution, epoch, 0.1 * execution + 0.01 * epoch] for execution in (0, 1) for epoch in (1, 2, 3)]
    table = pd.DataFrame(rows, columns=["execution", "epoch", "val_log_loss"])
    table = table.assign(label=next(iter(study_data.jobs)), trial="0")
    (curve,) = learning_curves(dataclasses.replace(study_data, epochs=table))
    curves = [line for one in curve.plot.data if one.name != "stopped early" for line in lines(one)]
    assert sorted(y[0] for _, y, _ in curves) == pytest.approx([0.01, 0.11])
