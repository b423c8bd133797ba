"""Figures of the search space."""

from __future__ import annotations

import numpy as np
import pytest
from plots import all_figures, completed, lines, trace, with_values, write_night

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


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
    assert [y for _, y, _ in lines(trace(plot, "failed trials"))] == [[5, 4, 3, 2, 1]] * 8
    assert (plot.data[-1].meta, plot.data[-1].visible, plot.data[-1].x) == ({"role": "highlight"}, False, ())


def test_best_trial_is_the_last_trace_in_the_best_color(figures):
    plot = figures["coordinates"].plot
    shown = [one for one in plot.data if one.name in ("completed trials", "best trial")]
    last = [[x[-1] for x, _, _ in lines(one)] for one in shown]
    assert [len(losses) for losses in last] == [4] * 9 + [3, 1]
    assert last[-1] == [0]
    assert [one.line.color for one in shown] == [*theme.SCALE[::-1], theme.SCALE[0]]
    # The axis of log loss has the colors of the lines.
    scale = [shape for shape in plot.layout.shapes if shape.line.color]
    assert [shape.line.color for shape in scale] == list(theme.SCALE)
    assert [shape.x0 for shape in scale[1:]] == [shape.x1 for shape in scale[:-1]]
    assert all(shape.x0 <= min(x) <= max(x) <= shape.x1 for x, shape in zip(last[-2::-1], scale, strict=True))


def test_slices_show_each_trial(study_data, figures):
    style, done = theme.styles(study_data), completed(study_data)
    failed = study_data.trials.drop(done.index)
    for index, (name, near) in enumerate({"unfreeze_depth": 1.3, "dropout": 0.013, "l2": 0.0}.items()):
        plot = figures[f"slice-{index}"].plot
        for label in study_data.jobs:
            part, points = done[done["label"] == label], trace(plot, style[label]["name"])
            assert list(points.y) == pytest.approx(part["val_log_loss"].to_numpy(), rel=1e-4)
            assert [data[1] for data in points.customdata] == list(part["trial"])
            # Numbers with few distinct values are spread.
            assert list(points.x) == pytest.approx(part[name].to_numpy(dtype=float), rel=1e-4, abs=near)
            assert f"dropout {part['dropout'].iloc[0]:.4g}" in points.customdata[0][2]
        assert list(trace(plot, "best trial").y) == pytest.approx([done["val_log_loss"].min()], rel=1e-4)
        crosses = trace(plot, "failed trials")
        assert all(data[2].startswith("failed") for data in crosses.customdata)
        assert list(crosses.x) == pytest.approx(failed[name].to_numpy(dtype=float), rel=1e-4, abs=near)
    assert [figures[f"slice-{index}"].plot.layout.xaxis.type for index in range(3)] == [None, None, "log"]
    assert list(figures["slice-1"].plot.layout.xaxis.tickvals) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_categories_have_an_index_each(tmp_path):
    columns = {"optimizer": ["sgd", "adam"] * 3, "nesterov": [True, False, True, False, True, True]}
    study_data = with_values(tmp_path / "s", {}, columns)
    plots = {figure.caption: figure.plot for figure in hyperparameter_slices(study_data)}
    positions = plots["Log loss by optimizer"].data[0].x
    assert [round(x) for x in positions] == [1, 0, 1, 0, 1, 0]
    assert len(set(positions)) == 6
    assert plots["Log loss by optimizer"].layout.xaxis.ticktext == ("adam", "sgd")
    assert plots["Log loss by nesterov"].layout.xaxis.ticktext == ("False", "True")
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
def test_ticks_are_few_round_numbers(tmp_path, values, log, expected):
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
