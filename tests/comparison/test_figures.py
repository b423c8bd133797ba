from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import studies
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from studies import CHOICES

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import best_so_far, learning_curves
from catsdogs.comparison.figures.figure import Figure
from catsdogs.comparison.figures.final_model import final_figures
from catsdogs.comparison.figures.search import budget, effects, importance_bars, job_intervals
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.comparison.tables import TITLES
from catsdogs.scoring.intervals import Estimate

HOSTILE = [
    "<script>alert(1)</script>",
    "<a href='x'>%{x}</a> %{customdata[0]} $x^2$ &amp; &#60;b&#62;",
    "quotes \" ' `\nand\tlines\u202e\x00" + "long " * 60,
]
EPOCHS = 6
KINDS = {"p_dog": "without TTA", "p_dog_tta": "with TTA"}

# Two effects of one pair, one of two pairs, with uneven intervals.
EFFECTS = pd.DataFrame(
    [
        ["augmentation", "light", "none", -0.030, -0.040, -0.025, True, 1, 2000],
        ["augmentation", "light", "flip", -0.010, -0.015, -0.002, True, 1, 2000],
        ["schedule", "cosine", "constant", -0.004, -0.009, 0.002, False, 2, 2000],
    ],
    columns=["choice", "value", "against", "difference", "low", "high", "decided", "pairs", "images"],
)
PAIRS = pd.DataFrame(
    [
        ["schedule", "cosine", "constant", "a", "b", -0.010],
        ["augmentation", "light", "none", "a", "f", -0.030],
        ["schedule", "cosine", "constant", "c", "d", 0.002],
    ],
    columns=["choice", "value", "against", "label", "label_against", "difference"],
)


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    """2 x 2 jobs of 12 trials, of which 2 fail, and a final model."""
    folder = tmp_path_factory.mktemp("studies") / "night"
    studies.write_study(folder, trials=12, failed_trials=2, epochs=EPOCHS, winner=2)
    studies.write_final(folder)
    return read_study_data([folder])


def intervals(study_data) -> dict[str, Estimate]:
    means = study_data.losses().mean()
    return {label: Estimate(mean, 0.8 * mean, 1.3 * mean, studies.IMAGES) for label, mean in means.items()}


def an_importance(names: list[str]) -> Importance:
    rows = [[name, 0.5 / (i + 1), 0.4 / (i + 1), 0.7 / (i + 1)] for i, name in enumerate(names)]
    return Importance(pd.DataFrame(rows, columns=["name", "importance", "low", "high"]), 0.5, 40)


def all_figures(study_data) -> dict[str, Figure]:
    made = [
        job_intervals(study_data, intervals(study_data)),
        effects(EFFECTS, PAIRS),
        parallel_coordinates(study_data),
        budget(study_data),
        importance_bars(an_importance(list(study_data.hyperparameters))),
        *hyperparameter_slices(study_data),
        *best_so_far(study_data),
        *learning_curves(study_data),
        *(figure for final in study_data.final_models.values() for figure in final_figures(final, 0)),
    ]
    return {figure.name: figure for figure in made if figure is not None}


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def completed(study_data) -> pd.DataFrame:
    return study_data.trials[study_data.trials["val_log_loss"].notna()]


def trace(plot: go.Figure, name: str, kind: str = "") -> Any:
    (found,) = [trace for trace in plot.data if trace.name == name and kind in ("", trace.type)]
    return found


def lines(one) -> list[tuple[list[float], list[float], Any]]:
    """x, y and first customdata of every line in a trace with gaps."""
    vertices = zip(one.x, one.y, one.customdata or [None] * len(one.x), strict=True)
    runs = [list(run) for drawn, run in groupby(vertices, lambda vertex: pd.notna(vertex[1])) if drawn]
    return [([x for x, _, _ in run], [y for _, y, _ in run], run[0][2]) for run in runs]


def ends(error, middle) -> np.ndarray:
    """Low and high of error bars."""
    return np.array([np.subtract(middle, error.arrayminus), np.add(middle, error.array)])


def test_rows_are_those_of_the_table_with_their_intervals_the_first_on_top(study_data, figures):
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
        places = np.concatenate([one.y for one in dots])
        found = np.concatenate([np.column_stack([one.x, *ends(one.error_x, one.x)]) for one in dots])
        assert found == pytest.approx(np.array(table)[places.astype(int)], rel=1e-4)
        assert sorted(places) == list(range(len(names)))
        assert list(plot.layout.yaxis.ticktext) == names
        assert plot.layout.yaxis.range[0] > plot.layout.yaxis.range[1]
        assert plot.layout.xaxis.type is None
    hovers = figures["intervals"].plot.data[0].customdata
    assert all(label in hover for (label, _), hover in zip(jobs, hovers, strict=True))
    assert importance_bars(an_importance(["dropout"])) is None


def test_job_intervals_over_more_than_a_decade_are_logarithmic(study_data):
    one, other = list(study_data.leaderboard["label"])[:2]
    given = {one: Estimate(0.01, 0.009, 0.011, 9), other: Estimate(0.2, None, None, 1)}
    plot = job_intervals(study_data, given).plot
    assert plot.layout.xaxis.type == "log"
    assert plot.data[0].error_x.array[1] == 0
    assert "no interval" in plot.data[0].customdata[1]
    assert job_intervals(study_data, {one: given[one]}) is None


def test_effects_of_several_pairs_show_them_and_noise_looks_different(figures):
    plot = figures["effects-figure"].plot
    decided, undecided = trace(plot, "more than noise"), trace(plot, "may be noise")
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
            "the winning trial": own["trial"] == best,
            "failed trials": own["val_log_loss"].isna(),
            "trials that improved": leaders & (own["trial"] != best),
        }
        for name, mask in expected.items():
            assert parts[name][row] == pytest.approx(own.loc[mask, "seconds"].sum(), rel=1e-3)
        assert parts["set-up and the rest"][row] == pytest.approx(15, rel=1e-3)


def test_parallel_coordinates_hold_every_trial_at_its_values(study_data, figures):
    plot, style = figures["coordinates"].plot, theme.styles(study_data)
    titles = ["augmentation", "label smoothing", "unfreeze depth", "dropout", "l2", "log loss"]
    notes = [note for note in plot.layout.annotations if note.text.startswith("<b>")]
    assert [(note.text, note.y) for note in notes] == [(f"<b>{title}</b>", 5 - i) for i, title in enumerate(titles)]
    through = [line for one in plot.data if one.name in ("completed trials", "best trial") for line in lines(one)]
    found = {tuple(told[:2]): (x, y, told) for x, y, told in through}
    done = completed(study_data)
    assert len(through) == len(found) == len(done) == 40
    loss, l2 = done["val_log_loss"], np.log10(study_data.trials["l2"])
    for row in done.to_dict("records"):
        x, y, told = found[style[row["label"]]["name"], row["trial"]]
        assert y == [5, 4, 3, 2, 1, 0]
        assert told[2].startswith(f"log loss {row['val_log_loss']:.5g}<br>")
        assert f"dropout {row['dropout']:.4g}" in told[2]
        # Sampled values are hardly ever equal; the others are spread a little around theirs.
        expected = [
            ({"light": 0.25, "none": 0.75}[row["augmentation"]], 0.151),
            ({"mild": 0.25, "none": 0.75}[row["label_smoothing"]], 0.151),
            (row["unfreeze_depth"] / 30, 0.041),
            ((row["dropout"] - 0.1) / 0.4, 0.041),
            ((np.log10(row["l2"]) - l2.min()) / (l2.max() - l2.min()), 1e-3),
            ((row["val_log_loss"] - loss.min()) / (loss.max() - loss.min()), 1e-3),
        ]
        assert all(at == pytest.approx(place, abs=near) for at, (place, near) in zip(x, expected, strict=True))
    # Trials with the same value do not hide each other, and the better one is on the left.
    light = sorted((x[-1], x[0]) for x, _, _ in through if x[0] < 0.5)
    assert [at for _, at in light] == sorted({at for _, at in light})
    assert [y for _, y, _ in lines(trace(plot, "failed trials"))] == [[5, 4, 3, 2, 1]] * 8
    assert (plot.data[-1].meta, plot.data[-1].visible, plot.data[-1].x) == ({"role": "highlight"}, False, ())


def test_the_best_trial_is_drawn_last_in_the_best_color(figures):
    plot = figures["coordinates"].plot
    shown = [one for one in plot.data if one.name in ("completed trials", "best trial")]
    last = [[x[-1] for x, _, _ in lines(one)] for one in shown]
    assert [len(losses) for losses in last] == [4] * 9 + [3, 1]
    assert last[-1] == [0]
    assert [one.line.color for one in shown] == [*theme.SCALE[::-1], theme.SCALE[0]]
    # Colors along the axis of log loss are those of the lines.
    scale = [shape for shape in plot.layout.shapes if shape.line.color]
    assert [shape.line.color for shape in scale] == list(theme.SCALE)
    assert [shape.x0 for shape in scale[1:]] == [shape.x1 for shape in scale[:-1]]
    assert all(shape.x0 <= min(x) <= max(x) <= shape.x1 for x, shape in zip(last[-2::-1], scale, strict=True))


def test_slices_show_every_trial(study_data, figures):
    style, done = theme.styles(study_data), completed(study_data)
    failed = study_data.trials.drop(done.index)
    for place, (name, near) in enumerate({"unfreeze_depth": 1.3, "dropout": 0.013, "l2": 0.0}.items()):
        plot = figures[f"slice-{place}"].plot
        for label in study_data.jobs:
            part, points = done[done["label"] == label], trace(plot, style[label]["name"])
            assert list(points.y) == pytest.approx(part["val_log_loss"].to_numpy(), rel=1e-4)
            assert [told[1] for told in points.customdata] == list(part["trial"])
            # Few different numbers are scattered a little.
            assert list(points.x) == pytest.approx(part[name].to_numpy(dtype=float), rel=1e-4, abs=near)
            assert f"dropout {part['dropout'].iloc[0]:.4g}" in points.customdata[0][2]
        assert list(trace(plot, "best trial").y) == pytest.approx([done["val_log_loss"].min()], rel=1e-4)
        crosses = trace(plot, "failed trials")
        assert all(told[2].startswith("failed") for told in crosses.customdata)
        assert list(crosses.x) == pytest.approx(failed[name].to_numpy(dtype=float), rel=1e-4, abs=near)
    assert [figures[f"slice-{place}"].plot.layout.xaxis.type for place in range(3)] == [None, None, "log"]
    assert list(figures["slice-1"].plot.layout.xaxis.tickvals) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def with_values(folder, choices: dict, columns: dict, **more) -> StudyData:
    """A study and a job of it with these hyperparameters."""
    trials = len(next(iter(columns.values())))
    name = studies.write_job(folder, {**CHOICES, **choices}, trials=trials, **more)
    file = folder / name / "trials.csv"
    pd.read_csv(file, dtype={"trial": str}).assign(**columns).to_csv(file, index=False)
    return read_study_data([folder])


def test_values_that_are_no_numbers_get_a_place_each(tmp_path):
    columns = {"optimizer": ["sgd", "adam"] * 3, "nesterov": [True, False, True, False, True, True]}
    study_data = with_values(tmp_path / "s", {}, columns)
    made = {figure.caption: figure.plot for figure in hyperparameter_slices(study_data)}
    places = made["optimizer"].data[0].x
    assert [round(x) for x in places] == [1, 0, 1, 0, 1, 0]
    assert len(set(places)) == 6
    assert made["optimizer"].layout.xaxis.ticktext == ("adam", "sgd")
    assert made["nesterov"].layout.xaxis.ticktext == ("False", "True")
    assert parallel_coordinates(study_data) is not None


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([0.0, 10.0, 30.0] * 3, False, [0, 10, 30]),
        (np.linspace(0.03, 0.97, 40), False, [0.2, 0.4, 0.6, 0.8]),
        (np.geomspace(2e-6, 9e-4, 40), True, [1e-5, 1e-4]),
        (np.geomspace(0.00001, 900, 40), True, [1e-5, 1e-3, 1e-1]),
        (np.geomspace(1.5e-4, 8.5e-4, 40), True, [2e-4, 5e-4]),
    ],
)
def test_ticks_are_round_few_and_at_their_values(tmp_path, values, log, expected):
    study_data = with_values(tmp_path / "s", {}, {"thing": values})
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
    # It goes on to the end, though the last trial failed.
    ended = (study_data.trials["ended"].max() - pd.Timestamp(studies.STARTED)).total_seconds() / 60
    assert list(of_all.y) == pytest.approx([*falls, falls.min()], rel=1e-4)
    assert list(of_all.x) == pytest.approx([*ordered["after"].loc[falls.index], ended], rel=1e-4)


def test_studies_of_different_days_begin_together(tmp_path):
    for name, days in (("one", 0), ("two", 9)):
        studies.write_job(tmp_path / name, CHOICES, started=studies.STARTED + datetime.timedelta(days=days))
    plot = best_so_far(read_study_data([tmp_path / "one", tmp_path / "two"]))[1].plot
    assert max(max(steps.x) for steps in plot.data) < 10
    assert {"best of one", "best of two"} <= {one.name for one in plot.data}


def test_learning_curves_are_the_history(study_data, figures):
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
    assert {(*told[:2], x) for told, x in zip(rings.customdata, rings.x, strict=True)} == expected


def test_learning_rates_that_are_alike_are_drawn_once(study_data, figures):
    plot, style = figures["curve-1"].plot, theme.styles(study_data)
    for label in study_data.jobs:
        found = [line for one in plot.data if one.name == style[label]["name"] for line in lines(one)]
        # The best trial's, and that of the trial that went furthest.
        assert len(found) == 2
        assert max(len(x) for x, _, _ in found) == EPOCHS
        for x, y, _ in found:
            assert y == pytest.approx([3e-4 * (1 - (epoch - 1) / EPOCHS) for epoch in x], rel=1e-4)
    assert plot.layout.yaxis.type is None


def test_executions_of_a_trial_are_lines_of_their_own(study_data):
    rows = [[execution, epoch, 0.1 * execution + 0.01 * epoch] for execution in (0, 1) for epoch in (1, 2, 3)]
    table = pd.DataFrame(rows, columns=["execution", "epoch", "val_log_loss"])
    table = table.assign(label=next(iter(study_data.jobs)), trial="0")
    (curve,) = learning_curves(dataclasses.replace(study_data, epochs=table))
    drawn = [line for one in curve.plot.data if one.name != "stopped early" for line in lines(one)]
    assert sorted(y[0] for _, y, _ in drawn) == pytest.approx([0.01, 0.11])


def said(study_data, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = study_data.final_models["night"].predictions.query("split == 'validation'")
    return table["label"].to_numpy(dtype=int), table[column].to_numpy(dtype=float)


@pytest.mark.parametrize(("column", "kind"), list(KINDS.items()))
def test_reliability_and_roc(study_data, figures, column, kind):
    plot, (labels, p_dog) = figures["reliability-0"].plot, said(study_data, column)
    dots, bars = trace(plot, kind, "scatter"), trace(plot, kind, "bar")
    members = [(p_dog > low / 10) & (p_dog <= (low + 1) / 10) for low in range(10)]
    filled = [member for member in members if member.any()]
    assert list(bars.x) == pytest.approx(np.arange(0.05, 1, 0.1))
    assert list(bars.y) == [int(member.sum()) for member in members]
    assert list(dots.x) == pytest.approx([p_dog[member].mean() for member in filled], rel=1e-4)
    assert list(dots.y) == pytest.approx([labels[member].mean() for member in filled], rel=1e-4)
    wilson = [binomtest(int(labels[m].sum()), int(m.sum())).proportion_ci(method="wilson") for m in filled]
    expected = np.array([[end.low for end in wilson], [end.high for end in wilson]])
    assert ends(dots.error_y, dots.y) == pytest.approx(expected, abs=1e-4)

    plot = figures["roc-0"].plot
    curve = trace(plot, f"{kind}: AUC {roc_auc_score(labels, p_dog):.4f}")
    threshold, false_dogs, missed = np.array(curve.customdata, dtype=float).T
    for at in (1, len(threshold) // 2, -1):
        called = p_dog >= threshold[at] - 1e-6
        assert false_dogs[at] == pytest.approx(called[labels == 0].mean(), abs=1e-3)
        assert missed[at] == pytest.approx(1 - called[labels == 1].mean(), abs=0.011)
    # 0 has no place on a logarithmic axis but that of half an image.
    assert list(curve.x) == pytest.approx(np.maximum(false_dogs, 0.5 / (labels == 0).sum()), rel=1e-4)
    assert list(curve.y) == pytest.approx(np.maximum(missed, 0.5 / (labels == 1).sum()), rel=1e-4)
    (middle,) = [one for one in plot.data if one.name == "at 0.5" and one.legendgroup == kind]
    shares = [0.5, (p_dog > 0.5)[labels == 0].mean(), (p_dog <= 0.5)[labels == 1].mean()]
    assert list(middle.customdata[0]) == pytest.approx(shares, rel=1e-4)
    assert plot.layout.xaxis.type == plot.layout.yaxis.type == "log"
    assert plot.layout.xaxis.ticktext[0] == "0"


@pytest.mark.parametrize(("row", "column"), list(enumerate(KINDS)))
def test_confusion_and_probabilities_count_every_image_once(study_data, figures, row, column):
    labels, p_dog = said(study_data, column)
    odds = np.log(p_dog / (1 - p_dog))
    confusion = figures["confusion-0"].plot.data[row]
    assert confusion.y == ("cats", "dogs")
    bars = {bar.name: bar for bar in figures["probabilities-0"].plot.data[4 * row : 4 * row + 4]}
    for label, called, name in ((0, 0, "cats"), (1, 1, "dogs"), (0, 1, "cats called dogs"), (1, 0, "dogs called cats")):
        mask = (labels == label) & ((p_dog > 0.5) == called)
        assert mask.any()
        assert confusion.text[label][called].startswith(f"<b>{mask.sum():,}</b>")
        assert confusion.z[label][called] == pytest.approx(mask.sum() / (labels == label).sum(), rel=1e-4)
        bins, counts = np.unique(np.ceil(odds[mask]) - 0.5, return_counts=True)
        assert dict(zip(bars[name].x, bars[name].y, strict=True)) == dict(zip(bins, counts, strict=True))


@pytest.mark.parametrize("p_dog", [0.0, 0.5, 1.0])
def test_certain_and_undecided_probabilities_have_a_bin(study_data, p_dog):
    table = pd.DataFrame({"label": [0.0, 1.0], "split": "validation", "p_dog": p_dog, "p_dog_tta": np.nan})
    made = final_figures(dataclasses.replace(study_data.final_models["night"], predictions=table), 0)
    assert [figure.name for figure in made] == ["reliability-0", "roc-0", "confusion-0", "probabilities-0"]
    # Bins are closed above, and 0.5 is called a cat.
    assert np.flatnonzero(trace(made[0].plot, "without TTA", "bar").y).tolist() == [{0.0: 0, 0.5: 4, 1.0: 9}[p_dog]]
    assert np.array(made[2].plot.data[0].z).tolist() == [[float(p_dog <= 0.5), float(p_dog > 0.5)]] * 2
    counts = {bar.name: sum(bar.y) for bar in made[-1].plot.data if bar.y}
    assert counts == ({"dogs": 1, "cats called dogs": 1} if p_dog > 0.5 else {"cats": 1, "dogs called cats": 1})


def test_a_final_model_without_labels_or_tta(study_data):
    final = study_data.final_models["night"]

    def made(**columns):
        return final_figures(dataclasses.replace(final, predictions=final.predictions.assign(**columns)), 3)

    plain = made(p_dog_tta=np.nan)
    assert len(plain) == 4
    assert all("with TTA" not in figure.plot.to_json() for figure in plain)
    assert made(label=np.nan) == []
    cats = made(label=0.0)
    assert [figure.name for figure in cats] == ["reliability-3", "confusion-3", "probabilities-3"]
    # Images of another split do not count.
    assert sum(trace(cats[0].plot, "without TTA", "bar").y) == studies.IMAGES


def texts(value, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text within a JSON value, with the last key to it."""
    if isinstance(value, str):
        yield path, value
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from texts(inner, key)
    for inner in value if isinstance(value, list) else ():
        yield from texts(inner, path)


def test_figures_are_whole_and_their_jobs_have_one_legend_entry(study_data, figures):
    assert len(figures) == 16
    names = {style["name"] for style in theme.styles(study_data).values()}
    for name, figure in figures.items():
        assert figure.caption
        assert len(figure.alternative) > 30
        assert figure.table in TITLES
        assert figure.height > 0
        # Colors of text and paper, and the width, are the page's.
        assert not {"template", "width", "title"} & set(json.loads(figure.json)["layout"]), name
        if name.startswith(("slice", "best", "curve")):
            of_jobs = [one for one in figure.plot.data if one.name in names]
            assert sorted(one.name for one in of_jobs if one.showlegend is not False) == sorted(names)
            assert all(one.legendgroup == one.name for one in of_jobs)


def test_many_jobs_are_not_in_legends_and_look_different(tmp_path):
    for number in range(13):
        studies.write_job(tmp_path / "s", {**CHOICES, "augmentation": f"a{number}"}, trials=3, seed=number, epochs=4)
    study_data = read_study_data([tmp_path / "s"])
    styles = theme.styles(study_data)
    names = {style["name"] for style in styles.values()}
    drawn = [one for figure in all_figures(study_data).values() for one in figure.plot.data]
    assert not [one.name for one in drawn if one.name in names and one.showlegend is not False]
    assert len({tuple(style["marker"].values()) for style in styles.values()}) == len(names) == 13
    # A new leader repaints nothing.
    assert list(styles) != sorted(styles)
    assert [styles[label]["marker"]["color"] for label in sorted(styles)] == [*theme.PALETTE, *theme.PALETTE[:5]]


def test_hostile_names_are_escaped_everywhere(tmp_path):
    for number, name in enumerate(HOSTILE):
        columns = {"<i>%{y}</i>": ["<u>a</u>", "%{z}", "c", "c"]}
        with_values(tmp_path / "s", {"augmentation": name}, columns, name=f"job{number}", seed=number, failed_trials=1)
    studies.write_final(tmp_path / "s")
    figures = all_figures(read_study_data([tmp_path / "s"]))
    assert "slice-3" in figures
    ours = re.compile(r"</?b>|<br>|<extra></extra>")
    fields = {"name", "text", "ticktext", "customdata", "hovertemplate", "texttemplate", "legendgroup"}
    found = ""
    dressed = [
        table.assign(**{name: HOSTILE[1] + table[name] for name in table.select_dtypes(exclude=["number", "bool"])})
        for table in (EFFECTS, PAIRS)
    ]
    for figure in (*figures.values(), effects(*dressed)):
        for field, text in texts(json.loads(figure.plot.to_json())):
            if field in fields:
                found += text
                plain = ours.sub("", text)
                assert not {"<", "$"} & set(plain), (figure.name, field, text)
                assert "%{" not in plain or field.endswith("template"), (figure.name, field, text)
                assert len(re.sub("&[^;]*;", "x", plain)) < 400, (figure.name, field)
    assert "&lt;script&gt;" in found


@pytest.mark.parametrize(
    ("trials", "failed", "parts"), [(0, 0, []), (1, 1, ["failed trials"]), (1, 0, ["the winning trial"])]
)
def test_a_study_that_has_hardly_begun(tmp_path, trials, failed, parts):
    studies.write_job(tmp_path / "s", CHOICES, trials=trials, failed_trials=failed, status="running", epochs=3)
    study_data = read_study_data([tmp_path / "s"])
    assert parallel_coordinates(study_data) is job_intervals(study_data, {}) is None
    assert hyperparameter_slices(study_data) == []
    figure = budget(study_data)
    assert ([bar.name for bar in figure.plot.data] if figure else []) == parts
    assert len(learning_curves(study_data)) == 2 * trials
    best = [figure.plot.layout for figure in best_so_far(study_data)]
    assert len(best) == 2 * (trials - failed)
    assert all(layout.yaxis.rangemode == "nonnegative" for layout in best)
    assert all(layout.xaxis.dtick == 1 for layout in best[:1])
    assert not any(layout.showlegend for layout in best)


def test_large_studies_stay_light(tmp_path):
    studies.write_study(tmp_path / "s", trials=500, failed_trials=20, epochs=30, winner=100)
    studies.write_final(tmp_path / "s", images=2000)
    figures = all_figures(read_study_data([tmp_path / "s"]))
    assert sum(len(figure.plot.to_json()) for figure in figures.values()) < 1_350_000
    drawn = [line for one in figures["curve-0"].plot.data if one.name != "stopped early" for line in lines(one)]
    assert len(drawn) == 2000


def test_short_names_say_what_was_varied(study_data, tmp_path):
    assert theme.short_names(study_data) == {
        f"mobilenet_v2-{a}-cosine-{s}": f"{a} · {s}" for a in ("light", "none") for s in ("none", "mild")
    }
    studies.write_job(tmp_path / "one", CHOICES)
    assert list(theme.short_names(read_study_data([tmp_path / "one"])).values()) == ["mobilenet_v2-light-cosine-none"]
    for size in (16, 32):
        fit = {"epochs": 3, "batch_size": size}
        studies.write_job(tmp_path / "two", {**CHOICES, "fit.batch_size": str(size)}, trials=2, config={"fit": fit})
    studies.write_plan(tmp_path / "two", ["later"], ["-m"])
    found = set(theme.short_names(read_study_data([tmp_path / "two"])).values())
    assert found == {"batch_size 16", "batch_size 32", "later"}
    # The same choices in two studies.
    for study in ("three", "four"):
        studies.write_study(tmp_path / study, trials=2)
    names = theme.short_names(read_study_data([tmp_path / "three", tmp_path / "four"]))
    assert names["three/mobilenet_v2-light-cosine-none"] == "three: light · none"
    assert len(set(names.values())) == 8


def test_names_that_are_cut_keep_their_numbers_and_differ(tmp_path):
    for depth, rate in product(("30", "57"), ("0.0003", "0.0001")):
        made = {**CHOICES, "model.unfreeze_depth": depth, "schedule.peak_lr": rate}
        studies.write_job(tmp_path / "numbers", made, trials=2)
    names = {style["name"] for style in theme.styles(read_study_data([tmp_path / "numbers"])).values()}
    assert len(names) == 4
    assert all(re.search(r"(30|57) · .*000[31]$", name) for name in names)
    # These are the same where they are cut; one is called as another is cut.
    long = ["a" * 60 + middle + "b" * 60 for middle in ("x", "y")]
    for number, name in enumerate([*long, "a" * 14 + "…" + "b" * 13, "line\nend", "line\x00end"]):
        studies.write_job(tmp_path / "s", {**CHOICES, "augmentation": name}, name=f"job{number}", trials=2)
    study_data = read_study_data([tmp_path / "s"])
    names = {style["name"] for style in theme.styles(study_data).values()}
    assert len(names) == 5
    assert all(len(name) <= 28 for name in names)
    assert len(set(theme.short_names(study_data).values())) == 5


def test_shown():
    assert theme.shown("<b>&amp; %{x} $a$</b>") == "&lt;b&gt;&amp;amp; %&#123;x} &#36;a&#36;&lt;/b&gt;"
    assert theme.shown("abcdefghij", 6) == "abc…ij"
