"""Properties of all figures: size, legends, names and escaping; and figures of a final model."""

import dataclasses
import json
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import studies
from plots import EFFECTS, PAIRS, all_figures, ends, lines, trace, with_values, write_night
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from studies import CHOICES

from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import best_so_far, learning_curves
from catsdogs.comparison.figures.final_model import final_figures
from catsdogs.comparison.figures.search import effects, job_intervals
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.tables import TITLES
from catsdogs.scoring.classes import Classes

KINDS = {"p_dog": "without TTA", "p_dog_tta": "with TTA"}

HOSTILE = [
    "<script>alert(1)</script>",
    "<a href='x'>%{x}</a> %{customdata[0]} $x^2$ &amp; &#60;b&#62;",
    "quotes \" ' `\nand\tlines\u202e\x00" + "long " * 60,
]


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def texts(value, path=""):
    """Yield each text in a JSON value, after its key."""
    if isinstance(value, str):
        yield path, value
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from texts(inner, key)
    for inner in value if isinstance(value, list) else ():
        yield from texts(inner, path)


def test_figures_are_complete_and_jobs_have_one_legend_entry(study_data, figures):
    assert len(figures) == 14
    names = {style["name"] for style in theme.styles(study_data).values()}
    for name, figure in figures.items():
        assert figure.caption
        assert len(figure.alternative) > 30
        assert figure.table in TITLES
        assert figure.height > 0
        # The page sets the theme and the width.
        assert not {"template", "width", "title"} & set(json.loads(figure.json)["layout"]), name
        if name.startswith(("slice", "best", "curve")):
            of_jobs = [one for one in figure.plot.data if one.name in names]
            assert sorted(one.name for one in of_jobs if one.showlegend is not False) == sorted(names)
            assert all(one.legendgroup == one.name for one in of_jobs)


def test_many_jobs_are_not_in_legends_but_distinguishable(tmp_path):
    for number in range(13):
        studies.write_job(tmp_path / "s", {**CHOICES, "augmentation": f"a{number}"}, trials=3, seed=number, epochs=4)
    study_data = read_study_data([tmp_path / "s"])
    styles = theme.styles(study_data)
    names = {style["name"] for style in styles.values()}
    traces = [one for figure in all_figures(study_data).values() for one in figure.plot.data]
    assert not [one.name for one in traces if one.name in names and one.showlegend is not False]
    assert len({tuple(style["marker"].values()) for style in styles.values()}) == len(names) == 13
    # A new best job changes no color.
    assert list(styles) != sorted(styles)
    assert [styles[label]["marker"]["color"] for label in sorted(styles)] == [*theme.PALETTE, *theme.PALETTE[:5]]


def test_hostile_names_are_escaped_everywhere(tmp_path):
    for number, name in enumerate(HOSTILE):
        columns = {"<i>%{y}</i>": ["<u>a</u>", "%{z}", "c", "c"]}
        with_values(tmp_path / "s", {"augmentation": name}, columns, name=f"job{number}", seed=number, failed_trials=1)
    studies.write_final(tmp_path / "s")
    figures = all_figures(read_study_data([tmp_path / "s"]))
    assert "slice-3" in figures
    markup = re.compile(r"</?b>|<br>|<extra></extra>")
    fields = {"name", "text", "ticktext", "customdata", "hovertemplate", "texttemplate", "legendgroup"}
    written = ""
    tables = [rows.map(lambda cell: HOSTILE[1] + cell if isinstance(cell, str) else cell) for rows in (EFFECTS, PAIRS)]
    for figure in (*figures.values(), effects(*tables)):
        for field, text in texts(json.loads(figure.plot.to_json())):
            if field in fields:
                written += text
                plain = markup.sub("", text)
                assert not {"<", "$"} & set(plain), (figure.name, field, text)
                assert "%{" not in plain or field.endswith("template"), (figure.name, field, text)
                assert len(re.sub("&[^;]*;", "x", plain)) < 400, (figure.name, field)
    assert "&lt;script&gt;" in written


@pytest.mark.parametrize(("trials", "failed"), [(0, 0), (1, 1), (1, 0)])
def test_study_that_has_just_started(tmp_path, trials, failed):
    studies.write_job(tmp_path / "s", CHOICES, trials=trials, failed_trials=failed, status="running", epochs=3)
    study_data = read_study_data([tmp_path / "s"])
    assert parallel_coordinates(study_data) is job_intervals(study_data, {}) is None
    assert hyperparameter_slices(study_data) == []
    assert len(learning_curves(study_data)) == 3 * trials
    best = [figure.plot.layout for figure in best_so_far(study_data)]
    assert len(best) == 2 * (trials - failed)
    assert all(layout.yaxis.rangemode == "nonnegative" for layout in best)
    assert all(layout.xaxis.dtick == 1 for layout in best[:1])
    assert not any(layout.showlegend for layout in best)


def test_figures_of_a_large_study_are_small(tmp_path):
    studies.write_study(tmp_path / "s", trials=500, failed_trials=20, epochs=30, winner=100)
    studies.write_final(tmp_path / "s", images=2000)
    figures = all_figures(read_study_data([tmp_path / "s"]))
    assert sum(len(figure.plot.to_json()) for figure in figures.values()) < 1_350_000
    assert sum(len(lines(one)) for one in figures["curve-0"].plot.data) == 2000


def test_short_names_are_the_varied_choices(study_data, tmp_path):
    expected = {f"mobilenet_v2-{a}-cosine-{s}": f"{a} · {s}" for a in ("light", "none") for s in ("none", "mild")}
    assert theme.short_names(study_data) == expected
    studies.write_job(tmp_path / "one", CHOICES)
    assert list(theme.short_names(read_study_data([tmp_path / "one"])).values()) == ["mobilenet_v2-light-cosine-none"]
    for size in ("16", "32"):
        fit = {"epochs": 3, "batch_size": int(size)}
        studies.write_job(tmp_path / "two", {**CHOICES, "fit.batch_size": size}, trials=2, config={"fit": fit})
    assert set(theme.short_names(read_study_data([tmp_path / "two"])).values()) == {"batch_size 16", "batch_size 32"}
    # The same choices in two studies.
    for study in ("three", "four"):
        studies.write_study(tmp_path / study, trials=2)
    names = theme.short_names(read_study_data([tmp_path / "three", tmp_path / "four"]))
    assert names["three/mobilenet_v2-light-cosine-none"] == "three: light · none"
    assert len(set(names.values())) == 8


def test_shortened_names_are_unique(tmp_path):
    # Equal after shortening; the third equals the shortened form of the others.
    long = ["a" * 60 + middle + "b" * 60 for middle in ("x", "y")]
    for number, name in enumerate([*long, "a" * 14 + "…" + "b" * 13, "line\nend", "line\x00end"]):
        studies.write_job(tmp_path / "s", {**CHOICES, "augmentation": name}, name=f"job{number}", trials=2)
    study_data = read_study_data([tmp_path / "s"])
    names = {style["name"] for style in theme.styles(study_data).values()}
    assert len(names) == 5
    assert all(len(name) <= 28 for name in names)
    assert len(set(theme.short_names(study_data).values())) == 5


def predicted(study_data, column):
    table = study_data.final_models["night"].predictions.query("split == 'validation'")
    return table["label"].to_numpy(dtype=int), table[column].to_numpy(dtype=float)


@pytest.mark.parametrize(("column", "kind"), list(KINDS.items()))
def test_reliability_and_det(study_data, figures, column, kind):
    labels, p_dog = predicted(study_data, column)
    check_reliability(figures["reliability-0"].plot, kind, labels, np.stack([1 - p_dog, p_dog], axis=1))

    plot = figures["det-0"].plot
    curve = trace(plot, f"{kind}: ROC AUC {roc_auc_score(labels, p_dog):.4f}")
    threshold, false_dogs, missed = np.array(curve.customdata, dtype=float).T
    for at in (1, len(threshold) // 2, -1):
        positive = p_dog >= threshold[at] - 1e-6
        assert false_dogs[at] == pytest.approx(positive[labels == 0].mean(), abs=1e-3)
        assert missed[at] == pytest.approx(1 - positive[labels == 1].mean(), abs=0.011)
    # On the logarithmic axes, 0 is plotted at half an image.
    assert list(curve.x) == pytest.approx(np.maximum(false_dogs, 0.5 / (labels == 0).sum()), rel=1e-4)
    assert list(curve.y) == pytest.approx(np.maximum(missed, 0.5 / (labels == 1).sum()), rel=1e-4)
    (middle,) = [one for one in plot.data if one.name == "at 0.5" and one.legendgroup == kind]
    shares = [0.5, (p_dog > 0.5)[labels == 0].mean(), (p_dog <= 0.5)[labels == 1].mean()]
    assert list(middle.customdata[0]) == pytest.approx(shares, rel=1e-4)
    assert plot.layout.xaxis.type == plot.layout.yaxis.type == "log"
    assert plot.layout.xaxis.ticktext[0] == "0"
    assert plot.layout.xaxis.title.text == "cat predicted as dog (false positive rate)"


def check_reliability(plot, kind, labels, probabilities):
    """Compare the bins of the probability of the predicted class, from 1/K to 1, and their Wilson intervals."""
    dots, bars = trace(plot, kind, "scatter"), trace(plot, kind, "bar")
    correct, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    edges = np.linspace(1 / probabilities.shape[1], 1, 11)
    members = [(confidence > low) & (confidence <= high) for low, high in pairwise(edges)]
    filled = [member for member in members if member.any()]
    assert list(bars.x) == pytest.approx((edges[1:] + edges[:-1]) / 2, rel=1e-4)
    assert list(bars.y) == [int(member.sum()) for member in members]
    assert list(dots.x) == pytest.approx([confidence[member].mean() for member in filled], rel=1e-4)
    assert list(dots.y) == pytest.approx([correct[member].mean() for member in filled], rel=1e-4)
    wilson = [binomtest(int(correct[m].sum()), int(m.sum())).proportion_ci(method="wilson") for m in filled]
    expected = np.array([[end.low for end in wilson], [end.high for end in wilson]])
    assert ends(dots.error_y, dots.y) == pytest.approx(expected, abs=1e-4)


def test_reliability_of_more_than_two_classes(tmp_path):
    classes = Classes(("<b>ant</b>", "bee", "wasp"))
    studies.write_study(tmp_path / "night", trials=1, classes=classes)
    studies.write_final(tmp_path / "night", classes=classes)
    (figure,) = final_figures(read_study_data([tmp_path / "night"]).final_models["night"], 0)
    for seed, kind in ((1.8, "without TTA"), (1.9, "with TTA")):
        probabilities = studies.probabilities(seed, classes=classes)
        check_reliability(figure.plot, kind, studies.labels(classes=classes), probabilities)


@pytest.mark.parametrize("p_dog", [0.0, 0.5, 1.0])
def test_probabilities_of_0_half_and_1_have_a_bin(study_data, p_dog):
    ids = {"id": ["a", "b"], "label": [0.0, 1.0], "split": "validation"}
    table = pd.DataFrame({**ids, "p_dog": p_dog, "p_dog_tta": np.nan})
    figures = final_figures(dataclasses.replace(study_data.final_models["night"], predictions=table), 0)
    assert [figure.name for figure in figures] == ["reliability-0", "det-0"]
    # Bins include their upper end, and the first one 1/K.
    assert np.flatnonzero(trace(figures[0].plot, "without TTA", "bar").y).tolist() == [0 if p_dog == 0.5 else 9]


def test_final_model_without_labels_or_tta(study_data):
    final = study_data.final_models["night"]

    def figures(**columns):
        return final_figures(dataclasses.replace(final, predictions=final.predictions.assign(**columns)), 3)

    assert ["with TTA" in figure.plot.to_json() for figure in figures(p_dog_tta=np.nan)] == [False] * 2
    assert figures(label=np.nan) == []
    (cats,) = figures(label=0.0)
    assert cats.name == "reliability-3"
    # Images of another split do not count.
    assert sum(trace(cats.plot, "without TTA", "bar").y) == studies.IMAGES
