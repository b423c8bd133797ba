"""Figures of a final model."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pytest
import studies
from plots import all_figures, ends, trace, write_night
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from catsdogs.comparison.figures.final_model import final_figures

KINDS = {"p_dog": "without TTA", "p_dog_tta": "with TTA"}


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def figures(study_data):
    return all_figures(study_data)


def predicted(study_data, column: str) -> tuple[np.ndarray, np.ndarray]:
    table = study_data.final_models["night"].predictions.query("split == 'validation'")
    return table["label"].to_numpy(dtype=int), table[column].to_numpy(dtype=float)


@pytest.mark.parametrize(("column", "kind"), list(KINDS.items()))
def test_reliability_and_roc(study_data, figures, column, kind):
    plot, (labels, p_dog) = figures["reliability-0"].plot, predicted(study_data, column)
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


@pytest.mark.parametrize(("row", "column"), list(enumerate(KINDS)))
def test_confusion_and_probabilities_count_each_image_once(study_data, figures, row, column):
    labels, p_dog = predicted(study_data, column)
    odds = np.log(p_dog / (1 - p_dog))
    confusion = figures["confusion-0"].plot.data[row]
    assert confusion.y == ("cats", "dogs")
    bars = {bar.name: bar for bar in figures["probabilities-0"].plot.data[4 * row : 4 * row + 4]}
    names = [["cats", "cats predicted as dogs"], ["dogs predicted as cats", "dogs"]]
    for label, outcome in product((0, 1), repeat=2):
        name = names[label][outcome]
        mask = (labels == label) & ((p_dog > 0.5) == outcome)
        assert mask.any()
        assert confusion.text[label][outcome].startswith(f"<b>{mask.sum():,}</b>")
        assert confusion.z[label][outcome] == pytest.approx(mask.sum() / (labels == label).sum(), rel=1e-4)
        bins, counts = np.unique(np.ceil(odds[mask]) - 0.5, return_counts=True)
        assert dict(zip(bars[name].x, bars[name].y, strict=True)) == dict(zip(bins, counts, strict=True))


@pytest.mark.parametrize("p_dog", [0.0, 0.5, 1.0])
def test_probabilities_of_0_half_and_1_have_a_bin(study_data, p_dog):
    table = pd.DataFrame({"label": [0.0, 1.0], "split": "validation", "p_dog": p_dog, "p_dog_tta": np.nan})
    figures = final_figures(dataclasses.replace(study_data.final_models["night"], predictions=table), 0)
    assert [figure.name for figure in figures] == ["reliability-0", "roc-0", "confusion-0", "probabilities-0"]
    # Bins include their upper end, and 0.5 is predicted as a cat.
    assert np.flatnonzero(trace(figures[0].plot, "without TTA", "bar").y).tolist() == [{0.0: 0, 0.5: 4, 1.0: 9}[p_dog]]
    assert np.array(figures[2].plot.data[0].z).tolist() == [[float(p_dog <= 0.5), float(p_dog > 0.5)]] * 2
    counts = {bar.name: sum(bar.y) for bar in figures[-1].plot.data if bar.y}
    expected = {"dogs": 1, "cats predicted as dogs": 1} if p_dog > 0.5 else {"cats": 1, "dogs predicted as cats": 1}
    assert counts == expected


def test_final_model_without_labels_or_tta(study_data):
    final = study_data.final_models["night"]

    def figures(**columns):
        return final_figures(dataclasses.replace(final, predictions=final.predictions.assign(**columns)), 3)

    plain = figures(p_dog_tta=np.nan)
    assert len(plain) == 4
    assert all("with TTA" not in figure.plot.to_json() for figure in plain)
    assert figures(label=np.nan) == []
    cats = figures(label=0.0)
    assert [figure.name for figure in cats] == ["reliability-3", "confusion-3", "probabilities-3"]
    # Images of another split do not count.
    assert sum(trace(cats[0].plot, "without TTA", "bar").y) == studies.IMAGES
