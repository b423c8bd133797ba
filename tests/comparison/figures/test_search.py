"""Figures of the search: jobs, effects of choices, importance and time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from plots import EFFECTS, PAIRS, all_figures, an_importance, ends, intervals, trace, write_night

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.search import effects, importance_bars, job_intervals
from catsdogs.scoring.intervals import Estimate


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def test_rows_match_the_table_from_top_to_bottom(study_data, figures):
    jobs = sorted(intervals(study_data).items(), key=lambda item: item[1].value)
    style, importance = theme.styles(study_data), an_importance(list(study_data.hyperparameters)).table
    for name, table, names in (
        ("intervals", [[one.value, one.low, one.high] for _, one in jobs], [style[label]["name"] for label, _ in jobs]),
        (
            "effects-figure",
            EFFECTS[["difference", "low", "high"]],
            ["<b>augmentation:</b><br>light – none", "light – flip", "<b>schedule:</b><br>cosine – constant"],
        ),
        ("importance", importance[["importance", "low", "high"]], ["unfreeze depth", "dropout", "l2"]),
    ):
        plot = figures[name].plot
        dots = [one for one in plot.data if one.error_x.array is not None]
        index = np.concatenate([one.y for one in dots])
        points = np.concatenate([np.column_stack([one.x, *ends(one.error_x, one.x)]) for one in dots])
        assert points == pytest.approx(np.array(table)[index.astype(int)], rel=1e-4)
        assert sorted(index) == list(range(len(names)))
        assert list(plot.layout.yaxis.ticktext) == names
        assert plot.layout.yaxis.range[0] > plot.layout.yaxis.range[1]
        assert plot.layout.xaxis.type is None
    hovers = figures["intervals"].plot.data[0].customdata
    assert all(label in hover for (label, _), hover in zip(jobs, hovers, strict=True))
    assert importance_bars(an_importance(["dropout"])) is None


def test_job_intervals_over_a_decade_are_logarithmic(study_data):
    one, other = list(study_data.leaderboard["label"])[:2]
    estimates = {one: Estimate(0.01, 0.009, 0.011, 9), other: Estimate(0.2, None, None, 1)}
    plot = job_intervals(study_data, estimates).plot
    assert plot.layout.xaxis.type == "log"
    assert plot.data[0].error_x.array[1] == 0
    assert "no CI" in plot.data[0].customdata[1]
    assert job_intervals(study_data, {one: estimates[one]}) is None


def test_effects_show_their_pairs_and_significance(figures):
    plot = figures["effects-figure"].plot
    decided, undecided = trace(plot, "significant"), trace(plot, "not significant")
    assert (decided.y, undecided.y) == ((0, 1), (2,))
    assert decided.marker.color[0] != undecided.marker.color[0]
    single = trace(plot, "one pair of jobs")
    assert (single.x, single.y) == ((-0.01, 0.002), (2, 2))
    assert effects(EFFECTS.iloc[:0], PAIRS.iloc[:0]) is None
    assert len(effects(EFFECTS.iloc[:2], PAIRS).plot.data) == 1


def test_budget_accounts_for_every_second(study_data, figures):
    plot = figures["budget"].plot
    parts = {bar.name: np.array(bar.x) * 60 for bar in plot.data}
    board = study_data.leaderboard
    assert plot.layout.xaxis.title.text == "minutes"
    assert sum(parts.values()) == pytest.approx(board["seconds"].to_numpy(dtype=float), rel=1e-3)
    for row, (label, best) in enumerate(zip(board["label"], board["best_trial"], strict=True)):
        own = study_data.trials[study_data.trials["label"] == label]
        leaders = own["val_log_loss"] < own["val_log_loss"].cummin().ffill().shift(fill_value=math.inf)
        expected = {
            "best trial": own["trial"] == best,
            "failed trials": own["val_log_loss"].isna(),
            "improving trials": leaders & (own["trial"] != best),
        }
        for name, mask in expected.items():
            assert parts[name][row] == pytest.approx(own.loc[mask, "seconds"].sum(), rel=1e-3)
        assert parts["setup and overhead"][row] == pytest.approx(15, rel=1e-3)
