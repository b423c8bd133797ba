"""Figures of the search: jobs, effects of choices, importance, the search space and learning curves."""

import numpy as np
import pandas as pd
import plots
import pytest
import studies
from plots import all_figures, completed, ends, lines, trace

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.search import importance_bars
from catsdogs.comparison.figures.space import parallel_coordinates


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return plots.write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def test_rows_match_the_table_from_top_to_bottom(study_data, figures):
    jobs = sorted(plots.intervals(study_data).items(), key=lambda item: item[1].value)
    style, importance = theme.styles(study_data), plots.an_importance(list(study_data.hyperparameters)).table
    for name, table, names in (
        ("intervals", [[one.value, one.low, one.high] for _, one in jobs], [style[label]["name"] for label, _ in jobs]),
        (
            "effects-figure",
            plots.EFFECTS[["difference", "low", "high"]],
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
    assert importance_bars(plots.an_importance(["dropout"])) is None


def test_parallel_coordinates_show_each_trial_at_its_values(study_data, figures):
    plot, style = figures["coordinates"].plot, theme.styles(study_data)
    titles = ["augmentation", "label smoothing", "unfreeze depth", "dropout", "l2", "log loss"]
    notes = [note for note in plot.layout.annotations if note.text.startswith("<b>")]
    assert [(note.text, note.y) for note in notes] == [(f"<b>{title}</b>", 5 - i) for i, title in enumerate(titles)]
    polylines = [line for one in plot.data if one.name in ("completed trials", "best trial") for line in lines(one)]
    by_trial = {tuple(data[:2]): (x, y, data) for x, y, data in polylines}
    done = completed(study_data)
    assert len(polylines) == len(by_trial) == len(done) == 40
    loss, l2 = done["val_log_loss"], np.log10(study_data.trials["l2"])
    for row in done.to_dict("records"):
        x, y, data = by_trial[style[row["label"]]["name"], row["trial"]]
        assert y == [5, 4, 3, 2, 1, 0]
        assert data[2].startswith(f"log loss {row['val_log_loss']:.5g}<br>")
        assert f"dropout {row['dropout']:.4g}" in data[2]
        # Equal values are spread; sampled ones are rarely equal.
        expected = [
            ({"light": 0.25, "none": 0.75}[row["augmentation"]], 0.151),
            ({"mild": 0.25, "none": 0.75}[row["label_smoothing"]], 0.151),
            (row["unfreeze_depth"] / 30, 0.041),
            ((row["dropout"] - 0.1) / 0.4, 0.041),
            ((np.log10(row["l2"]) - l2.min()) / (l2.max() - l2.min()), 1e-3),
            ((row["val_log_loss"] - loss.min()) / (loss.max() - loss.min()), 1e-3),
        ]
        assert all(at == pytest.approx(value, abs=near) for at, (value, near) in zip(x, expected, strict=True))
    # Trials with the same value do not overlap, and the better one is on the left.
    light = sorted((x[-1], x[0]) for x, _, _ in polylines if x[0] < 0.5)
    assert [at for _, at in light] == sorted({at for _, at in light})
    assert [y for _, y, _ in lines(trace(plot, "incomplete trials"))] == [[5, 4, 3, 2, 1]] * 8
    assert (plot.data[-1].meta, plot.data[-1].visible, plot.data[-1].x) == ({"role": "highlight"}, False, ())


def test_slices_show_each_trial(study_data, figures):
    style, done = theme.styles(study_data), completed(study_data)
    failed = study_data.trials.drop(done.index)
    for index, (name, near) in enumerate({"unfreeze_depth": 2.6, "dropout": 0.026, "l2": 0.0}.items()):
        plot = figures[f"slice-{index}"].plot
        for label in study_data.jobs:
            part, points = done[done["label"] == label], trace(plot, style[label]["name"])
            assert list(points.y) == pytest.approx(part["val_log_loss"].to_numpy(), rel=1e-4)
            assert [data[1] for data in points.customdata] == list(part["trial"])
            # Numbers with few distinct values are spread.
            assert list(points.x) == pytest.approx(part[name].to_numpy(dtype=float), rel=1e-4, abs=near)
            assert f"dropout {part['dropout'].iloc[0]:.4g}" in points.customdata[0][2]
        assert list(trace(plot, "best trial").y) == pytest.approx([done["val_log_loss"].min()], rel=1e-4)
        crosses = trace(plot, "incomplete trials")
        assert all(data[2].startswith("failed") for data in crosses.customdata)
        assert list(crosses.x) == pytest.approx(failed[name].to_numpy(dtype=float), rel=1e-4, abs=near)
    assert [figures[f"slice-{index}"].plot.layout.xaxis.type for index in range(3)] == [None, None, "log"]
    assert list(figures["slice-1"].plot.layout.xaxis.tickvals) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([0.0, 10.0, 30.0] * 3, False, [0, 10, 30]),
        (np.linspace(0.03, 0.97, 40), False, [0.2, 0.4, 0.6, 0.8]),
        (np.geomspace(0.00001, 900, 40), True, [1e-5, 1e-3, 1e-1]),
        (np.geomspace(1.5e-4, 8.5e-4, 40), True, [2e-4, 5e-4]),
    ],
)
def test_ticks_are_few_round_numbers(tmp_path, values, log, expected):
    study_data = plots.with_values(tmp_path / "s", {}, {"thing": values})
    if log:
        next(iter(study_data.jobs.values())).result["config"]["space"] = {"thing": {"sampling": "log"}}
    notes = parallel_coordinates(study_data).plot.layout.annotations
    (height,) = [note.y for note in notes if note.text == "<b>thing</b>"]
    ticks = {float(note.text): note.x for note in notes if note.y == height and not note.text.startswith("<b>")}
    assert set(expected) <= set(ticks)
    assert len(ticks) <= 7
    scale = np.log10 if log else np.asarray
    low, high = scale(min(values)), scale(max(values))
    for value, x in ticks.items():
        assert x == pytest.approx((scale(value) - low) / (high - low), abs=1e-3)
        assert -1e-9 <= x <= 1 + 1e-9


def test_best_so_far_over_trials(study_data, figures):
    plot, style = figures["best-0"].plot, theme.styles(study_data)
    for label in study_data.jobs:
        losses = study_data.trials.loc[study_data.trials["label"] == label, "val_log_loss"]
        expected = np.fmin.accumulate(losses.to_numpy(dtype=float))
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


@pytest.mark.parametrize(("name", "column"), [("curve-0", "val_log_loss"), ("curve-1", "log_loss")])
def test_learning_curves_match_the_recorded_epochs(study_data, figures, name, column):
    style, plot = theme.styles(study_data), figures[name].plot
    assert plot.layout.yaxis.range == figures["curve-0"].plot.layout.yaxis.range
    best_of = dict(zip(study_data.leaderboard["label"], study_data.leaderboard["best_trial"], strict=True))
    for label in study_data.jobs:
        own = [one for one in plot.data if one.name == style[label]["name"]]
        thick = max(own, key=lambda one: one.line.width)
        for one in own:
            for x, y, trial in lines(one):
                table = study_data.epochs[(study_data.epochs["label"] == label) & (study_data.epochs["trial"] == trial)]
                assert x == list(table["epoch"])
                assert y == pytest.approx(table[column].to_numpy(), rel=1e-4)
                assert (trial == best_of[label]) == (one is thick)
        assert sorted(trial for one in own for _, _, trial in lines(one)) == sorted(map(str, range(12)))


def test_identical_learning_rates_are_plotted_once(study_data, figures):
    plot, style = figures["curve-2"].plot, theme.styles(study_data)
    for label in study_data.jobs:
        curves = [line for one in plot.data if one.name == style[label]["name"] for line in lines(one)]
        # The best trial, and the longest one.
        assert len(curves) == 2
        assert max(len(x) for x, _, _ in curves) == plots.EPOCHS
        for x, y, _ in curves:
            assert y == pytest.approx([3e-4 * (1 - (epoch - 1) / plots.EPOCHS) for epoch in x], rel=1e-4)
    assert plot.layout.yaxis.type is None
