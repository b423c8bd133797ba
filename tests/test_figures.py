from __future__ import annotations

import colorsys
import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import studies
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from catsdogs.comparison import curve_figures, final_figures, search_figures, space_figures, theme
from catsdogs.comparison.evidence import Evidence, Final, read_evidence
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.paired import Interval

HOSTILE = [
    "<script>alert(1)</script>",
    "%{x} %{customdata[0]} $x^2$ &amp; &#60;b&#62;",
    "quotes \" ' `\nand\tlines\u202e\x00",
    "long " * 60,
]
EPOCHS = 6


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """2 x 2 jobs of 12 trials, of which 2 fail, and a final model."""
    folder = tmp_path_factory.mktemp("studies") / "night"
    started = studies.STARTED
    for number, (augmentation, smoothing) in enumerate((a, s) for a in ("light", "none") for s in ("none", "mild")):
        studies.write_job(
            folder,
            choices(augmentation=augmentation, label_smoothing=smoothing),
            trials=12,
            failed_trials=2,
            skill=1.8 if augmentation == "light" else 1.2,
            seed=number,
            epochs=EPOCHS,
            started=started + datetime.timedelta(minutes=10 * number),
        )
    mix_losses(folder)
    studies.write_final(folder)
    return read_evidence([folder])


def choices(**made: str) -> dict[str, str]:
    return {
        "backbone": "mobilenet_v2",
        "augmentation": "light",
        "schedule": "cosine",
        "label_smoothing": "none",
        **made,
    }


def mix_losses(folder: Path) -> None:
    """Let some later trial be the best of each job: `write_job` makes the first one that."""
    for number, file in enumerate(sorted(folder.glob("*/trials.csv"))):
        table = pd.read_csv(file, dtype={"trial": str})
        factors = np.random.default_rng(number).uniform(0.5, 1.5, len(table))
        table["val_log_loss"] *= factors
        table.to_csv(file, index=False)
        history = pd.read_csv(file.with_name("history.csv"), dtype={"trial": str})
        history["val_log_loss"] *= history["trial"].map(dict(zip(table["trial"], factors, strict=True)))
        history.to_csv(file.with_name("history.csv"), index=False)
        best = table.loc[table["val_log_loss"].idxmin()]
        result = json.loads(file.with_name("result.json").read_text())
        result["best_trial"] |= {"trial": best["trial"], "val_log_loss": best["val_log_loss"]}
        file.with_name("result.json").write_text(json.dumps(result))


def intervals(evidence: Evidence) -> dict[str, Interval]:
    losses = evidence.losses()
    return {
        label: Interval(losses[label].mean(), 0.8 * losses[label].mean(), 1.3 * losses[label].mean(), len(losses))
        for label in losses
    }


def effects_and_pairs() -> tuple[pd.DataFrame, pd.DataFrame]:
    effects = pd.DataFrame(
        [
            ["schedule", "cosine", "constant", -0.004, -0.009, 0.002, False, 2, 2000],
            ["augmentation", "light", "flip", -0.010, -0.015, -0.005, True, 1, 2000],
            ["augmentation", "light", "none", -0.030, -0.040, -0.020, True, 1, 2000],
        ],
        columns=["choice", "value", "against", "difference", "low", "high", "decided", "pairs", "images"],
    )
    pairs = pd.DataFrame(
        [
            ["schedule", "cosine", "constant", "a", "b", -0.010, -0.02, 0.0, 2000],
            ["schedule", "cosine", "constant", "c", "d", 0.002, -0.01, 0.01, 2000],
            ["augmentation", "light", "flip", "a", "e", -0.010, -0.015, -0.005, 2000],
            ["augmentation", "light", "none", "a", "f", -0.030, -0.04, -0.02, 2000],
        ],
        columns=["choice", "value", "against", "label", "label_against", "difference", "low", "high", "images"],
    )
    return effects, pairs


def all_figures(evidence: Evidence) -> dict[str, go.Figure]:
    made: dict[str, go.Figure | None] = {
        "intervals": search_figures.job_intervals(evidence, intervals(evidence)),
        "effects": search_figures.effects(*effects_and_pairs()),
        "parallel": space_figures.parallel_coordinates(evidence),
        "budget": search_figures.budget(evidence),
        "importance": search_figures.importance_bars(an_importance(list(evidence.hyperparameters))),
        **{f"slice {name}": drawn for name, drawn in space_figures.hyperparameter_slices(evidence).items()},
        **{f"best {name}": drawn for name, drawn in curve_figures.best_so_far(evidence).items()},
        **{f"curves {name}": drawn for name, drawn in curve_figures.learning_curves(evidence).items()},
    }
    for final in evidence.finals.values():
        for draw in (
            final_figures.reliability,
            final_figures.roc,
            final_figures.confusion,
            final_figures.probabilities,
        ):
            made[draw.__name__] = draw(final)
    return {name: drawn for name, drawn in made.items() if drawn is not None}


def an_importance(names: list[str]) -> Importance:
    rows = [[name, 0.5 / (i + 1), 0.4 / (i + 1), 0.7 / (i + 1)] for i, name in enumerate(names)]
    return Importance(pd.DataFrame(rows, columns=["name", "importance", "low", "high"]), 0.5, 40)


def completed(evidence: Evidence) -> pd.DataFrame:
    return evidence.trials[evidence.trials["val_log_loss"].notna()]


def trace(drawn: go.Figure, name: str) -> Any:
    (found,) = [trace for trace in drawn.data if trace.name == name]
    return found


def lines(one: Any) -> list[tuple[list[float], list[float], Any]]:
    """x, y and first customdata of every line in a trace with gaps."""
    found: list[tuple[list[float], list[float], Any]] = []
    told = one.customdata if one.customdata is not None else [None] * len(one.x)
    new = True
    for x, y, data in zip(one.x, one.y, told, strict=True):
        if y is None or math.isnan(y):
            new = True
            continue
        if new:
            found.append(([], [], data))
        new = False
        found[-1][0].append(x)
        found[-1][1].append(y)
    return found


# Jobs and choices


def test_job_intervals_are_the_intervals_best_on_top(evidence: Evidence) -> None:
    given = intervals(evidence)
    drawn = search_figures.job_intervals(evidence, given)
    assert drawn is not None
    (dots,) = drawn.data
    order = sorted(given, key=lambda label: given[label].value)
    assert list(dots.x) == pytest.approx([given[label].value for label in order], rel=1e-4)
    assert np.add(dots.x, dots.error_x.array) == pytest.approx([given[label].high for label in order], rel=1e-4)
    assert np.subtract(dots.x, dots.error_x.arrayminus) == pytest.approx(
        [given[label].low for label in order], rel=1e-4
    )
    assert [row[0] for row in dots.customdata] == order
    # The first row is the upper one.
    assert drawn.layout.yaxis.range[0] > drawn.layout.yaxis.range[1]
    assert list(drawn.layout.yaxis.ticktext) == [theme.styles(evidence)[label].name for label in order]
    assert drawn.layout.xaxis.type is None


def test_job_intervals_over_more_than_a_decade_are_logarithmic(evidence: Evidence) -> None:
    labels = list(evidence.board["label"])
    given = {labels[0]: Interval(0.01, 0.009, 0.011, 9), labels[1]: Interval(0.2, None, None, 1)}
    drawn = search_figures.job_intervals(evidence, given)
    assert drawn is not None
    assert drawn.layout.xaxis.type == "log"
    assert drawn.data[0].error_x.array[1] == 0
    assert search_figures.job_intervals(evidence, {labels[0]: Interval(0.01, 0.009, 0.011, 9)}) is None


def test_effects_are_grouped_by_choice_the_largest_first() -> None:
    effects, pairs = effects_and_pairs()
    drawn = search_figures.effects(effects, pairs)
    assert drawn is not None
    decided, undecided = trace(drawn, "more than noise"), trace(drawn, "may be noise")
    assert (list(decided.x), list(decided.y)) == ([-0.03, -0.01], [0, 1])
    assert (list(undecided.x), list(undecided.y)) == ([-0.004], [2])
    assert np.add(decided.x, decided.error_x.array) == pytest.approx([-0.02, -0.005])
    assert np.subtract(undecided.x, undecided.error_x.arrayminus) == pytest.approx([-0.009])
    assert decided.marker.color != undecided.marker.color
    assert list(drawn.layout.yaxis.ticktext) == [
        "<b>augmentation:</b><br>light – none",
        "light – flip",
        "<b>schedule:</b><br>cosine – constant",
    ]
    single = trace(drawn, "one pair of jobs")
    assert (list(single.x), list(single.y)) == ([-0.01, 0.002], [2, 2])
    low, high = drawn.layout.xaxis.range
    assert low < -0.04
    assert high > 0.002
    assert search_figures.effects(effects.iloc[:0], pairs.iloc[:0]) is None


def test_importance_is_the_table() -> None:
    given = an_importance(["dropout", "l2"])
    drawn = search_figures.importance_bars(given)
    assert drawn is not None
    assert list(drawn.data[0].x) == list(given.table["importance"])
    assert np.add(drawn.data[0].x, drawn.data[0].error_x.array) == pytest.approx(given.table["high"])
    assert list(drawn.layout.yaxis.ticktext) == ["dropout", "l2"]
    # The marker of what does not matter is not over its name.
    assert drawn.layout.xaxis.range[0] < min(0, given.table["low"].min())
    assert search_figures.importance_bars(an_importance(["dropout"])) is None


def test_budget_accounts_for_every_second(evidence: Evidence) -> None:
    drawn = search_figures.budget(evidence)
    assert drawn is not None
    parts = {bar.name: np.array(bar.x) * 60 for bar in drawn.data}
    board = evidence.board
    assert drawn.layout.xaxis.title.text == "minutes"
    assert sum(parts.values()) == pytest.approx(board["seconds"].to_numpy(dtype=float), rel=1e-3)
    trials = evidence.trials
    for row, (label, best) in enumerate(zip(board["label"], board["best_trial"], strict=True)):
        own = trials[trials["label"] == label]
        assert parts["the winning trial"][row] == pytest.approx(
            own.loc[own["trial"] == best, "seconds"].sum(), rel=1e-3
        )
        assert parts["failed trials"][row] == pytest.approx(
            own.loc[own["val_log_loss"].isna(), "seconds"].sum(), rel=1e-3
        )
        assert parts["set-up and the rest"][row] == pytest.approx(15, rel=1e-3)
        improved, leader = 0.0, math.inf
        for loss, seconds, trial in zip(own["val_log_loss"], own["seconds"], own["trial"], strict=True):
            if loss < leader:
                leader = loss
                improved += seconds if trial != best else 0
        assert parts["trials that improved"][row] == pytest.approx(improved, rel=1e-3)


# The searched space


def test_parallel_coordinates_hold_every_trial_at_its_values(evidence: Evidence) -> None:
    drawn = space_figures.parallel_coordinates(evidence)
    assert drawn is not None
    names = ["augmentation", "label_smoothing", "unfreeze_depth", "dropout", "l2"]
    titles = [note.text for note in drawn.layout.annotations if note.text.startswith("<b>")]
    assert titles == [f"<b>{name.replace('_', ' ')}</b>" for name in [*names, "log loss"]]
    style = theme.styles(evidence)
    through = [line for one in drawn.data if one.name in ("completed trials", "best trial") for line in lines(one)]
    found = {tuple(told[:2]): (x, y, told) for x, y, told in through}
    done = completed(evidence)
    assert len(through) == len(found) == len(done) == 40
    loss, l2 = done["val_log_loss"], np.log10(done["l2"])
    for row in done.to_dict("records"):
        x, y, told = found[style[row["label"]].name, row["trial"]]
        assert y == [5, 4, 3, 2, 1, 0]
        assert told[2] == pytest.approx(row["val_log_loss"], rel=1e-4)
        assert x[5] == pytest.approx((row["val_log_loss"] - loss.min()) / (loss.max() - loss.min()), abs=1e-3)
        # Sampled values are hardly ever equal; the others are spread a little around theirs.
        everywhere = np.log10(evidence.trials["l2"])
        place = (np.log10(row["l2"]) - everywhere.min()) / (everywhere.max() - everywhere.min())
        assert x[4] == pytest.approx(place, abs=1e-3)
        assert x[3] == pytest.approx((row["dropout"] - 0.1) / 0.4, abs=0.041)
        assert x[2] == pytest.approx(row["unfreeze_depth"] / 30, abs=0.041)
        assert x[1] == pytest.approx({"mild": 0.25, "none": 0.75}[row["label_smoothing"]], abs=0.151)
        assert x[0] == pytest.approx({"light": 0.25, "none": 0.75}[row["augmentation"]], abs=0.151)
    assert l2.nunique() == len(done)


def test_the_best_trial_is_drawn_last_in_the_best_colour(evidence: Evidence) -> None:
    drawn = space_figures.parallel_coordinates(evidence)
    assert drawn is not None
    shown = [one for one in drawn.data if one.name in ("completed trials", "best trial")]
    worst = [max(told[2] for _, _, told in lines(one)) for one in shown]
    assert worst == sorted(worst, reverse=True)
    assert len(shown) == 11
    best = shown[-1]
    assert best.customdata[0][2] == pytest.approx(completed(evidence)["val_log_loss"].min(), rel=1e-4)
    assert best.line.color == theme.SCALE[0]
    assert shown[0].line.color == theme.SCALE[-1]
    # Colours along the axis of log loss are those of the lines.
    scale = [shape for shape in drawn.layout.shapes if shape.line.color]
    assert [shape.line.color for shape in scale] == list(theme.SCALE)
    assert [shape.x0 for shape in scale[1:]] == [shape.x1 for shape in scale[:-1]]


def test_failed_trials_and_the_highlight_of_parallel_coordinates(evidence: Evidence) -> None:
    drawn = space_figures.parallel_coordinates(evidence)
    assert drawn is not None
    failed = lines(trace(drawn, "failed trials"))
    assert len(failed) == 8
    assert all(y == [5, 4, 3, 2, 1] for _, y, _ in failed)
    highlight = drawn.data[-1]
    assert highlight.meta == {"role": "highlight"}
    assert highlight.visible is False
    assert len(highlight.x) == 0


def test_slices_show_every_completed_trial(evidence: Evidence) -> None:
    slices = space_figures.hyperparameter_slices(evidence)
    assert list(slices) == ["unfreeze_depth", "dropout", "l2"]
    style, done = theme.styles(evidence), completed(evidence)
    for name, drawn in slices.items():
        for label in evidence.jobs:
            part, points = done[done["label"] == label], trace(drawn, style[label].name)
            assert list(points.y) == pytest.approx(part["val_log_loss"].to_numpy(), rel=1e-4)
            assert [told[0] for told in points.customdata] == list(part["trial"])
            # Few different numbers are scattered a little.
            near = {"unfreeze_depth": 1.3, "dropout": 0.013, "l2": 0.0}[name]
            assert list(points.x) == pytest.approx(part[name].to_numpy(dtype=float), rel=1e-4, abs=near)
            assert f"dropout {part['dropout'].iloc[0]:.4g}" in points.customdata[0][1]
        best = trace(drawn, "best trial")
        assert list(best.y) == pytest.approx([done["val_log_loss"].min()], rel=1e-4)
        assert len(trace(drawn, "failed trials").x) == 8
    assert slices["l2"].layout.xaxis.type == "log"
    assert slices["dropout"].layout.xaxis.type is None


def test_values_that_are_no_numbers_get_a_place_each(tmp_path: Path) -> None:
    studies.write_job(tmp_path / "s", choices(), trials=6)
    file = tmp_path / "s" / "mobilenet_v2-light-cosine-none" / "trials.csv"
    table = pd.read_csv(file, dtype={"trial": str})
    table["optimizer"] = ["sgd", "adam", "sgd", "adam", "sgd", "adam"]
    table["nesterov"] = [True, False, True, False, True, True]
    table.to_csv(file, index=False)
    evidence = read_evidence([tmp_path / "s"])
    drawn = space_figures.hyperparameter_slices(evidence)["optimizer"]
    points = drawn.data[0]
    assert [round(x) for x in points.x] == [1, 0, 1, 0, 1, 0]
    assert len(set(points.x)) == 6
    assert list(drawn.layout.xaxis.ticktext) == ["adam", "sgd"]
    again = space_figures.hyperparameter_slices(read_evidence([tmp_path / "s"]))["optimizer"]
    assert drawn.to_json() == again.to_json()
    booleans = space_figures.hyperparameter_slices(evidence)["nesterov"]
    assert list(booleans.layout.xaxis.ticktext) == ["False", "True"]
    assert space_figures.parallel_coordinates(evidence) is not None


def test_an_axis_is_logarithmic_where_it_was_sampled_so_or_is_wide(evidence: Evidence) -> None:
    assert space_figures.log_sampled(evidence, "l2")
    assert not space_figures.log_sampled(evidence, "dropout")
    assert not space_figures.log_sampled(evidence, "unfreeze_depth")
    label, job = next(iter(evidence.jobs.items()))
    space = {"dropout": {"kind": "float", "sampling": "log"}}
    told = dataclasses.replace(job, result={**job.result, "config": {"space": space}})
    sampled = dataclasses.replace(evidence, jobs={**evidence.jobs, label: told})
    assert space_figures.log_sampled(sampled, "dropout")


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([0, 10, 30], False, [0, 10, 30]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], False, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (np.linspace(0.03, 0.97, 40), False, [0.2, 0.4, 0.6, 0.8]),
        (np.geomspace(2e-6, 9e-4, 40), True, [1e-5, 1e-4]),
        (np.geomspace(1.5e-4, 8.5e-4, 40), True, [2e-4, 5e-4]),
        ([7.0, 7.0], True, [7.0]),
    ],
)
def test_ticks_are_round_and_few(values: list[float], log: bool, expected: list[float]) -> None:
    ticks = space_figures._ticks(np.array(values, dtype=float), log)
    assert set(np.round(expected, 12)) <= set(np.round(ticks, 12))
    assert len(ticks) <= 7
    assert min(values) <= min(ticks)
    assert max(ticks) <= max(values)


# How it went


def test_best_so_far_over_trials(evidence: Evidence) -> None:
    drawn = curve_figures.best_so_far(evidence)["trials"]
    style = theme.styles(evidence)
    for label in evidence.jobs:
        losses = evidence.trials.loc[evidence.trials["label"] == label, "val_log_loss"].to_numpy(dtype=float)
        expected = np.fmin.accumulate(losses)
        steps = trace(drawn, style[label].name)
        assert steps.line.shape == "hv"
        at = np.searchsorted(steps.x, np.arange(1, 13), side="right") - 1
        assert np.array(steps.y)[at] == pytest.approx(expected, rel=1e-4)
        assert steps.x[-1] == 12
        # A point per improvement, and one that ends the line.
        assert len(steps.x) == len(set(expected)) + (expected[-2] == expected[-1])
    best = completed(evidence)["val_log_loss"].min()
    assert drawn.layout.shapes[0].y0 == pytest.approx(best, rel=1e-4)
    assert f"{best:.3g}" in drawn.layout.annotations[0].text


def test_best_so_far_over_time(evidence: Evidence) -> None:
    drawn = curve_figures.best_so_far(evidence)["time"]
    style, trials = theme.styles(evidence), completed(evidence)
    assert drawn.layout.xaxis.title.text.startswith("minutes")
    after = (trials["ended"] - pd.Timestamp(studies.STARTED)).dt.total_seconds() / 60
    for label in evidence.jobs:
        part = trials["label"] == label
        steps = trace(drawn, style[label].name)
        assert steps.x[0] == pytest.approx(after[part].min(), rel=1e-4)
        assert steps.y[-1] == pytest.approx(trials.loc[part, "val_log_loss"].min(), rel=1e-4)
    of_all = trace(drawn, "best of all")
    ordered = trials.assign(after=after).sort_values("after")
    falls = ordered["val_log_loss"].cummin().drop_duplicates()
    # It goes on to the end, though the last trial failed.
    ended = (evidence.trials["ended"].max() - pd.Timestamp(studies.STARTED)).total_seconds() / 60
    assert (of_all.x[-1], of_all.y[-1]) == pytest.approx((ended, falls.min()), rel=1e-4)
    assert list(of_all.y)[: len(falls)] == pytest.approx(falls.to_numpy(), rel=1e-4)
    assert list(of_all.x)[: len(falls)] == pytest.approx(ordered["after"].loc[falls.index].to_numpy(), rel=1e-4)


def test_studies_of_different_days_begin_together(tmp_path: Path) -> None:
    for name, days in (("one", 0), ("two", 9)):
        studies.write_job(tmp_path / name, choices(), started=studies.STARTED + datetime.timedelta(days=days))
    drawn = curve_figures.best_so_far(read_evidence([tmp_path / "one", tmp_path / "two"]))["time"]
    assert max(max(steps.x) for steps in drawn.data) < 10
    assert {"one: mobilenet_v2-light-cosine-none", "best of one", "best of two"} & {one.name for one in drawn.data} >= {
        "best of one",
        "best of two",
    }


def test_learning_curves_are_the_history(evidence: Evidence) -> None:
    style = theme.styles(evidence)
    best_of = dict(zip(evidence.board["label"], evidence.board["best_trial"], strict=True))
    drawn = curve_figures.learning_curves(evidence)["val_log_loss"]
    for label in evidence.jobs:
        own = [one for one in drawn.data if one.name == style[label].name]
        thick = max(own, key=lambda one: one.line.width)
        assert thick.line.width >= 2.5
        for one in own:
            for x, y, trial in lines(one):
                table = evidence.epochs[(evidence.epochs["label"] == label) & (evidence.epochs["trial"] == trial)]
                assert x == list(table["epoch"])
                assert y == pytest.approx(table["val_log_loss"].to_numpy(), rel=1e-4)
                assert (trial == best_of[label]) == (one is thick)
        found = sorted(trial for one in own for _, _, trial in lines(one))
        assert found == sorted(str(number) for number in range(12))
        assert sum(bool(one.showlegend) for one in own) == 1


def test_rings_mark_completed_trials_that_stopped_early(evidence: Evidence) -> None:
    rings = trace(curve_figures.learning_curves(evidence)["val_log_loss"], "stopped early")
    done = completed(evidence)
    early = done[done["epochs"] < EPOCHS]
    style = theme.styles(evidence)
    expected = {(style[row["label"]].name, row["trial"], row["epochs"]) for row in early.to_dict("records")}
    assert 0 < len(expected) < len(done)
    assert {(*told, x) for told, x in zip(rings.customdata, rings.x, strict=True)} == expected


def test_learning_rates_that_are_alike_are_drawn_once(evidence: Evidence) -> None:
    drawn = curve_figures.learning_curves(evidence)["learning_rate"]
    style = theme.styles(evidence)
    for label in evidence.jobs:
        found = [line for one in drawn.data if one.name == style[label].name for line in lines(one)]
        # The best trial's, and that of the trial that went furthest.
        assert len(found) == 2
        for x, y, _ in found:
            assert y == pytest.approx([3e-4 * (1 - (epoch - 1) / EPOCHS) for epoch in x], rel=1e-4)
    assert drawn.layout.yaxis.type is None


def test_executions_of_a_trial_are_lines_of_their_own(evidence: Evidence) -> None:
    label = next(iter(evidence.jobs))
    rows = [
        {"label": label, "trial": "0", "execution": e, "epoch": i, "val_log_loss": 0.1 * e + 0.01 * i}
        for e in (0, 1)
        for i in (1, 2, 3)
    ]
    twice = dataclasses.replace(evidence, epochs=pd.DataFrame(rows))
    figures = curve_figures.learning_curves(twice)
    assert list(figures) == ["val_log_loss"]
    drawn = [line for one in figures["val_log_loss"].data if one.name != "stopped early" for line in lines(one)]
    assert sorted(y[0] for _, y, _ in drawn) == pytest.approx([0.01, 0.11])


# The final model


@pytest.fixture(scope="module")
def final(evidence: Evidence) -> Final:
    return evidence.finals["night"]


def said(final: Final, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = final.predictions[final.predictions["split"] == "validation"]
    return table["label"].to_numpy(dtype=int), table[column].to_numpy(dtype=float)


KINDS = {"p_dog": "without TTA", "p_dog_tta": "with TTA"}


def test_reliability_shows_shares_counts_and_wilson_intervals(final: Final) -> None:
    drawn = final_figures.reliability(final)
    assert drawn is not None
    for column, kind in KINDS.items():
        labels, p_dog = said(final, column)
        dots, bars = (next(one for one in drawn.data if one.name == kind and one.type == t) for t in ("scatter", "bar"))
        members = [(p_dog > low / 10) & (p_dog <= (low + 1) / 10) for low in range(10)]
        filled = [member for member in members if member.any()]
        assert list(bars.y) == [int(member.sum()) for member in members]
        assert list(dots.x) == pytest.approx([p_dog[member].mean() for member in filled], rel=1e-4)
        assert list(dots.y) == pytest.approx([labels[member].mean() for member in filled], rel=1e-4)
        for i, member in enumerate(filled):
            wilson = binomtest(int(labels[member].sum()), int(member.sum())).proportion_ci(method="wilson")
            assert dots.y[i] + dots.error_y.array[i] == pytest.approx(wilson.high, abs=1e-4)
            assert dots.y[i] - dots.error_y.arrayminus[i] == pytest.approx(wilson.low, abs=1e-4)


def test_roc_is_the_curve_and_names_its_area(final: Final) -> None:
    drawn = final_figures.roc(final)
    assert drawn is not None
    for column, kind in KINDS.items():
        labels, p_dog = said(final, column)
        curve = next(one for one in drawn.data if one.name.startswith(kind))
        assert curve.name == f"{kind}: AUC {roc_auc_score(labels, p_dog):.4f}"
        threshold, false_dogs, missed = np.array(curve.customdata, dtype=float).T
        for at in (1, len(threshold) // 2, -1):
            called = p_dog >= threshold[at] - 1e-6
            assert false_dogs[at] == pytest.approx(called[labels == 0].mean(), abs=1e-3)
            assert missed[at] == pytest.approx(1 - called[labels == 1].mean(), abs=0.011)
        # 0 has no place on a logarithmic axis but that of half an image.
        assert min(curve.x) == pytest.approx(0.5 / (labels == 0).sum(), rel=1e-4)
    assert drawn.layout.xaxis.type == drawn.layout.yaxis.type == "log"
    assert drawn.layout.xaxis.ticktext[0] == "0"


def test_confusion_counts_images(final: Final) -> None:
    drawn = final_figures.confusion(final)
    assert drawn is not None
    for one, column in zip(drawn.data, KINDS, strict=True):
        labels, p_dog = said(final, column)
        for label, name in enumerate(one.y):
            assert name == ("cats", "dogs")[label]
            for called in (0, 1):
                images = int(((labels == label) & ((p_dog > 0.5) == called)).sum())
                assert one.text[label][called].startswith(f"<b>{images:,}</b>")
                assert one.z[label][called] == pytest.approx(images / (labels == label).sum(), rel=1e-4)


def test_probabilities_count_every_image_once_and_mistakes_apart(final: Final) -> None:
    drawn = final_figures.probabilities(final)
    assert drawn is not None
    for row, column in enumerate(KINDS):
        labels, p_dog = said(final, column)
        bars = {bar.name: bar for bar in drawn.data[4 * row : 4 * row + 4]}
        count = {name: sum(images or 0 for images in bar.y) for name, bar in bars.items()}
        assert count == {
            "cats": int(((labels == 0) & (p_dog <= 0.5)).sum()),
            "dogs": int(((labels == 1) & (p_dog > 0.5)).sum()),
            "cats called dogs": int(((labels == 0) & (p_dog > 0.5)).sum()),
            "dogs called cats": int(((labels == 1) & (p_dog <= 0.5)).sum()),
        }
        assert count["cats called dogs"] > 0
        assert all(x > 0 for x, images in zip(bars["dogs"].x, bars["dogs"].y, strict=True) if images)
        assert all(
            x < 0 for x, images in zip(bars["dogs called cats"].x, bars["dogs called cats"].y, strict=True) if images
        )


@pytest.mark.parametrize("p_dog", [0.0, 0.5, 1.0])
def test_certain_and_undecided_probabilities_have_a_bin(final: Final, p_dog: float) -> None:
    table = pd.DataFrame({"id": ["a", "b"], "label": [0.0, 1.0], "split": "validation", "p_dog": p_dog})
    sure = dataclasses.replace(final, predictions=table.assign(p_dog_tta=np.nan))
    drawn = final_figures.probabilities(sure)
    assert drawn is not None
    called = "dogs" if p_dog > 0.5 else "cats"
    filled = {bar.name for bar in drawn.data for images in bar.y if images}
    assert filled == {called, "cats called dogs" if called == "dogs" else "dogs called cats"}
    assert sum(images or 0 for bar in drawn.data for images in bar.y) == 2
    for draw in (final_figures.reliability, final_figures.roc, final_figures.confusion):
        assert draw(sure) is not None


def test_a_final_model_without_labels_or_tta(final: Final) -> None:
    plain = dataclasses.replace(final, predictions=final.predictions.assign(p_dog_tta=np.nan))
    unlabelled = dataclasses.replace(final, predictions=final.predictions.assign(label=np.nan))
    cats = dataclasses.replace(final, predictions=final.predictions.assign(label=0.0))
    for draw in (final_figures.reliability, final_figures.roc, final_figures.confusion, final_figures.probabilities):
        drawn = draw(plain)
        assert drawn is not None
        assert "with TTA" not in drawn.to_json()
        assert draw(unlabelled) is None
        assert (draw(cats) is None) == (draw is final_figures.roc)


# What holds for all


def every(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value within a JSON value, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from every(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from every(inner, path)
    else:
        yield path, value


def test_figures_leave_text_and_grid_to_the_template_and_width_to_the_page(evidence: Evidence) -> None:
    figures = all_figures(evidence)
    assert len(figures) == 16
    for name, drawn in figures.items():
        value = json.loads(drawn.to_json())
        assert "template" not in value["layout"], name
        assert "width" not in value["layout"], name
        assert "title" not in value["layout"], name
        assert value["layout"]["height"] > 0
        assert value["layout"]["autosize"] is True
        assert value["layout"]["hovermode"] == "closest"
        for path, _ in every(value):
            assert not re.search(r"font|gridcolor|linecolor|bgcolor|plot_bgcolor|zerolinecolor", path), (name, path)
        assert {one["type"] for one in value["data"]} <= {"scatter", "bar", "heatmap"}, name
        for one in value["data"]:
            assert one.get("hoverinfo") == "skip" or one["hovertemplate"].endswith("<extra></extra>"), name


def test_jobs_have_one_legend_entry_that_hides_all_of_theirs(evidence: Evidence) -> None:
    names = {style.name for style in theme.styles(evidence).values()}
    for figures in (
        space_figures.hyperparameter_slices(evidence),
        curve_figures.best_so_far(evidence),
        curve_figures.learning_curves(evidence),
    ):
        for drawn in figures.values():
            entries = [one.name for one in drawn.data if one.name in names and one.showlegend is not False]
            assert sorted(entries) == sorted(names)
            assert all(one.legendgroup == one.name for one in drawn.data if one.name in names)


def test_many_jobs_are_not_in_legends(tmp_path: Path) -> None:
    for number in range(theme.LEGEND_JOBS + 1):
        studies.write_job(tmp_path / "s", choices(augmentation=f"a{number}"), trials=3, seed=number, epochs=4)
    evidence = read_evidence([tmp_path / "s"])
    names = {style.name for style in theme.styles(evidence).values()}
    for name, drawn in all_figures(evidence).items():
        assert not [
            one.name
            for one in drawn.data
            if drawn.layout.showlegend and one.name in names and one.showlegend is not False
        ], name
    looks = {(style.colour, style.symbol) for style in theme.styles(evidence).values()}
    assert len(looks) == len(names) == 13


def test_hostile_names_are_escaped_everywhere(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        studies.write_job(tmp_path / "s", choices(augmentation=name), name=f"job{number}", seed=number, failed_trials=1)
        file = tmp_path / "s" / f"job{number}" / "trials.csv"
        table = pd.read_csv(file, dtype={"trial": str})
        table["trial"] = ["<b>0</b>", "%{x}", "2", "3"]
        table["<i>%{y}</i>"] = ["<u>a</u>", "%{z}", "c", "c"]
        table.to_csv(file, index=False)
    studies.write_final(tmp_path / "s")
    evidence = read_evidence([tmp_path / "s"])
    figures = all_figures(evidence)
    assert "slice <i>%{y}</i>" in figures
    effects, pairs = effects_and_pairs()
    texts = ["choice", "value", "against", "label", "label_against"]
    dress = {name: "<a href='x'>%{x}</a>" + name for name in texts}
    hostile = [
        table.assign(**{name: text + table[name] for name, text in dress.items() if name in table})
        for table in (effects, pairs)
    ]
    drawn = search_figures.effects(*hostile)
    assert drawn is not None
    assert len(drawn.data) == 3
    figures["effects"] = drawn
    ours = re.compile(r"</?b>|<br>|<extra></extra>")
    fields = {"name", "text", "ticktext", "customdata", "hovertemplate", "texttemplate", "legendgroup"}
    found = ""
    for name, drawn in figures.items():
        for path, text in every(json.loads(drawn.to_json())):
            if isinstance(text, str) and path.rsplit(".", 1)[-1] in fields:
                found += text
                plain = ours.sub("", text)
                assert "<" not in plain, (name, path, text)
                assert "$" not in plain, (name, path, text)
                if not path.endswith("template"):
                    assert "%{" not in plain, (name, path, text)
                assert len(re.sub("&[^;]*;", "x", plain)) < 400, (name, path)
    assert "&lt;script&gt;" in found


@pytest.mark.parametrize("failed", [0, 1])
def test_one_trial(tmp_path: Path, failed: int) -> None:
    studies.write_job(tmp_path / "s", choices(), trials=1, failed_trials=failed, status="running", epochs=3)
    evidence = read_evidence([tmp_path / "s"])
    assert space_figures.parallel_coordinates(evidence) is None
    assert space_figures.hyperparameter_slices(evidence) == {}
    assert search_figures.job_intervals(evidence, {}) is None
    best = curve_figures.best_so_far(evidence)
    assert set(best) == (set() if failed else {"trials", "time"})
    assert all(drawn.layout.yaxis.rangemode == "nonnegative" for drawn in best.values())
    assert all(drawn.layout.xaxis.dtick == 1 for name, drawn in best.items() if name == "trials")
    assert set(curve_figures.learning_curves(evidence)) == {"val_log_loss", "learning_rate"}
    drawn = search_figures.budget(evidence)
    assert drawn is not None
    assert [bar.name for bar in drawn.data] == ["failed trials" if failed else "the winning trial"]


def test_a_study_that_has_only_begun_has_no_figures(tmp_path: Path) -> None:
    studies.write_job(tmp_path / "s", choices(), trials=0, status="running")
    evidence = read_evidence([tmp_path / "s"])
    assert search_figures.budget(evidence) is None
    assert space_figures.parallel_coordinates(evidence) is None
    assert curve_figures.best_so_far(evidence) == {}
    assert curve_figures.learning_curves(evidence) == {}
    assert space_figures.hyperparameter_slices(evidence) == {}


def test_large_studies_stay_light(tmp_path: Path) -> None:
    """500 trials of up to 30 epochs in each of 4 jobs."""
    for number, smoothing in enumerate(("none", "mild", "strong", "full")):
        studies.write_job(
            tmp_path / "s", choices(label_smoothing=smoothing), trials=500, failed_trials=20, seed=number, epochs=30
        )
    mix_losses(tmp_path / "s")
    studies.write_final(tmp_path / "s", images=2000)
    evidence = read_evidence([tmp_path / "s"])
    sizes = {name: len(drawn.to_json()) for name, drawn in all_figures(evidence).items()}
    assert sum(sizes.values()) < 1_200_000, sizes
    curves = curve_figures.learning_curves(evidence)["val_log_loss"]
    label = evidence.board["label"].iloc[0]
    thin = next(one for one in curves.data if one.legendgroup == theme.styles(evidence)[label].name)
    table = evidence.epochs[
        (evidence.epochs["label"] == label) & (evidence.epochs["trial"] != evidence.board["best_trial"].iloc[0])
    ]
    drawn = [y for _, values, _ in lines(thin) for y in values]
    ordered = table.sort_values(["trial", "execution", "epoch"], kind="stable")["val_log_loss"]
    assert drawn == pytest.approx(ordered.to_numpy(), rel=1e-4)


# Names, colours, words


def test_short_names_say_what_was_varied(evidence: Evidence) -> None:
    assert theme.short_names(evidence) == {
        f"mobilenet_v2-{a}-cosine-{s}": f"{a} · {s}" for a in ("light", "none") for s in ("none", "mild")
    }


def test_short_names_of_one_job_and_of_numbers(tmp_path: Path) -> None:
    studies.write_job(tmp_path / "one", choices())
    assert list(theme.short_names(read_evidence([tmp_path / "one"])).values()) == ["mobilenet_v2-light-cosine-none"]
    for size in ("16", "32"):
        fit = {"epochs": 3, "batch_size": int(size)}
        studies.write_job(tmp_path / "two", {**choices(), "fit.batch_size": size}, trials=2, config={"fit": fit})
    assert set(theme.short_names(read_evidence([tmp_path / "two"])).values()) == {"batch_size 16", "batch_size 32"}


def test_short_names_of_waiting_and_damaged_jobs(tmp_path: Path) -> None:
    studies.write_study(tmp_path / "s")
    plan = ["mobilenet_v2-heavy-cosine-none", "mobilenet_v2-light-cosine-none"]
    studies.write_plan(tmp_path / "s", plan, ["-m"])
    damaged = tmp_path / "s" / "other"
    damaged.mkdir()
    (damaged / "result.json").write_text("{")
    names = theme.short_names(read_evidence([tmp_path / "s"]))
    assert names["mobilenet_v2-heavy-cosine-none"] == "heavy · none"
    assert names["mobilenet_v2-light-cosine-none"] == "light · none"
    assert names["other"] == "other"


def test_short_names_tell_studies_apart(tmp_path: Path) -> None:
    for study in ("one", "two"):
        studies.write_study(tmp_path / study, trials=2)
    names = theme.short_names(read_evidence([tmp_path / "one", tmp_path / "two"]))
    assert names["one/mobilenet_v2-light-cosine-none"] == "one: light · none"
    assert len(set(names.values())) == 8


def test_long_names_keep_the_beginning_of_every_choice(tmp_path: Path) -> None:
    for backbone in ("mobilenet_v2_small", "efficientnet_v2_b0"):
        for schedule in ("cosine_restarts", "constant_warmup"):
            made = choices(backbone=backbone, schedule=schedule)
            studies.write_job(tmp_path / "s", made, trials=2)
    names = {style.name for style in theme.styles(read_evidence([tmp_path / "s"])).values()}
    assert "mobilenet_v… · cosine_rest…" in names
    assert len(names) == 4


def test_long_names_keep_their_numbers(tmp_path: Path) -> None:
    for depth in ("30", "57"):
        for rate in ("0.0003", "0.0001"):
            made = {**choices(), "model.unfreeze_depth": depth, "schedule.peak_lr": rate}
            studies.write_job(tmp_path / "s", made, trials=2)
    names = {style.name for style in theme.styles(read_evidence([tmp_path / "s"])).values()}
    assert names == {f"unfreeze… {d} · peak… {r}" for d in (30, 57) for r in ("0.0003", "0.0001")}


def test_names_that_are_cut_alike_still_differ(tmp_path: Path) -> None:
    for middle in ("x", "y"):
        name = "a" * 60 + middle + "b" * 60
        studies.write_job(tmp_path / "s", choices(augmentation=name), name=f"job{middle}", trials=2)
    styles = theme.styles(read_evidence([tmp_path / "s"]))
    assert len({style.name for style in styles.values()}) == 2
    assert all(len(style.name) <= 28 for style in styles.values())


def test_colours_do_not_depend_on_the_order() -> None:
    labels = [f"job{number}" for number in range(20)]
    assert theme.colours(labels) == theme.colours(labels[::-1])
    assert len(set(theme.colours(labels[:8]).values())) == 8


def test_colours_stand_out_from_light_and_dark_paper() -> None:
    for colour in (*theme.PALETTE, *theme.SCALE, theme.NEUTRAL, theme.ALARM):
        for paper in ("#ffffff", "#14171b"):
            assert contrast(colour, paper) >= 3, (colour, paper)
    for template, paper in ((theme.LIGHT, "#ffffff"), (theme.DARK, "#14171b")):
        for text in (template["layout"]["font"]["color"], template["layout"]["xaxis"]["tickfont"]["color"]):
            assert contrast(text, paper) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: relative luminance of the lighter over that of the darker, both raised by 0.05."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_neighbours_in_the_palette_differ_in_hue() -> None:
    hues = [colorsys.rgb_to_hls(*(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)))[0] for c in theme.PALETTE[:4]]
    apart = [abs(a - b) for i, a in enumerate(hues) for b in hues[:i]]
    assert min(min(gap, 1 - gap) for gap in apart) > 0.1


@pytest.mark.parametrize("template", [theme.LIGHT, theme.DARK])
def test_templates_are_valid_and_plain(template: dict[str, Any]) -> None:
    go.layout.Template(template)
    assert json.loads(json.dumps(template)) == template
    assert template["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("light", 60, "light"),
        ("<b>&amp;</b>", 60, "&lt;b&gt;&amp;amp;&lt;/b&gt;"),
        ("two\nlines\t and\u202e more", 60, "two lines and more"),
        ("%{x} $a$", 60, "%&#123;x} &#36;a&#36;"),
        ("abcdefghij", 6, "abc…ij"),
        ("\n", 60, "–"),
        (0.5, 60, "0.5"),
    ],
)
def test_shown(text: object, limit: int, expected: str) -> None:
    assert theme.shown(text, limit) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0276196, "0.02762"), (5.1067e-06, "5.107e-06"), (30, "30"), (30.0, "30"), (True, "True"), (-0.5, "−0.5")],
)
def test_number(value: Any, expected: str) -> None:
    assert theme.number(value) == expected
