"""Figures of a final model on the validation images: reliability, ROC curve and confusion matrix.

Each figure shows the model without test-time augmentation (TTA), and with it if `retrain` computed it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from catsdogs.comparison.figures.figure import Figure, add_bars, add_points, blank, error_bars, rounded
from catsdogs.comparison.figures.theme import ACCENT, NEUTRAL
from catsdogs.comparison.study_data import FinalModel
from catsdogs.scoring.intervals import wilson_interval

PLAIN, TTA = "without TTA", "with TTA"

_LOOKS = {PLAIN: {"color": NEUTRAL, "symbol": "circle"}, TTA: {"color": ACCENT, "symbol": "diamond"}}

_BINS = 10

# Labels (N,) in {0, 1} and probabilities (N,) of dog of the validation images, by kind (PLAIN, TTA).
_Predictions = dict[str, tuple[np.ndarray, np.ndarray]]


def final_figures(final: FinalModel, index: int) -> list[Figure]:
    """Return the figures of a final model, with `index` in their names; no ROC curve if one class is missing."""
    predictions = _predictions(final)
    both = {kind: pair for kind, pair in predictions.items() if 0 < pair[0].sum() < len(pair[0])}
    source = f"of the validation images of the final model of study {final.study}."
    return [
        Figure(f"{name}-{index}", plot(data), caption, f"{alternative} {source}", "predictions")
        for name, data, plot, caption, alternative in (
            ("reliability", predictions, _reliability, "Reliability", "Fraction of dogs by predicted probability"),
            ("roc", both, _roc, "ROC curve: errors at every threshold", "False negative and false positive rate"),
            ("confusion", predictions, _confusion, "Confusion matrix", "Counts of cats and dogs by predicted class"),
        )
        if data
    ]


def _predictions(final: FinalModel) -> _Predictions:
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1])]
    predictions = {}
    for kind, column in ((PLAIN, "p_dog"), (TTA, "p_dog_tta")):
        known = table[table[column].between(0, 1)]
        if len(known):
            predictions[kind] = (known["label"].to_numpy(dtype=int), known[column].to_numpy(dtype=float))
    return predictions


def _reliability(predictions: _Predictions) -> go.Figure:
    """Plot the fraction of dogs per bin of probability, with 95% Wilson intervals, above a histogram of the bins."""
    plot = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05, figure=blank(430))
    plot.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line_dash="dot", layer="below", row=1, col=1)
    edges = np.linspace(0, 1, _BINS + 1)
    most = 1
    for kind, (labels, p_dog) in predictions.items():
        binned = pd.DataFrame({"bin": np.searchsorted(edges[1:-1], p_dog), "label": labels, "p_dog": p_dog})
        sums = {"dogs": ("label", "sum"), "n": ("bin", "size")}
        table = binned.groupby("bin").agg(x=("p_dog", "mean"), y=("label", "mean"), **sums)
        ends = [wilson_interval(k, n) for k, n in zip(table["dogs"], table["n"], strict=True)]
        table["low"], table["high"] = zip(*ends, strict=True)
        table["hover"] = [
            f"mean probability of dog {row.x:.1%}<br>{row.dogs:,} of {row.n:,} images are dogs: {row.y:.1%}"
            f"<br>95% CI {row.low:.1%} to {row.high:.1%}"
            for row in table.itertuples()
        ]
        error = error_bars(table["y"], table["low"], table["high"]) | {"thickness": 1.5}
        look = {"name": kind, "legendgroup": kind, "col": 1}
        add_points(plot, table, marker={**_LOOKS[kind], "size": 9}, error_y=error, row=1, **look)
        counts = table["n"].reindex(range(_BINS), fill_value=0)
        hovers = counts.map("{:,} images".format)
        histogram = pd.DataFrame({"x": (edges[:-1] + edges[1:]) / 2, "y": counts, "hover": hovers})
        add_bars(plot, histogram, marker={"color": _LOOKS[kind]["color"]}, showlegend=False, row=2, **look)
        most = max(most, int(counts.max()))
    plot.update_layout(showlegend=len(predictions) > 1, barmode="group", bargap=0.25)
    plot.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    plot.update_xaxes(title_text='predicted probability of "dog"', row=2, col=1)
    plot.update_yaxes(title_text="observed fraction of dogs", tickformat=".0%", range=[-0.03, 1.03], row=1, col=1)
    # Logarithmic, and starting below 1, so that bars of a single image are visible.
    ends = [np.log10(0.6), np.log10(most) + 0.15]
    plot.update_yaxes(title_text="images", type="log", dtick=1, tickformat="~s", range=ends, row=2, col=1)
    return plot


def _roc(predictions: _Predictions) -> go.Figure:
    """Plot the false negative rate against the false positive rate over all thresholds, on logarithmic axes.

    On linear axes, the ROC curve of a good model is only a corner. The axes start with 0, plotted at half an image.
    """
    plot = blank(400, legend=True)
    floors = [1.0, 1.0]
    for kind, (labels, p_dog) in predictions.items():
        half = 0.5 / (labels == 0).sum(), 0.5 / (labels == 1).sum()
        floors = [min(pair) for pair in zip(floors, half, strict=True)]
        # det_curve omits both ends and keeps all points of straight lines.
        false_dogs, true_dogs, thresholds = roc_curve(labels, p_dog)
        predicted = p_dog > 0.5
        # At the first threshold, infinity, no image is predicted as a dog. The last row is the point at 0.5.
        table = pd.DataFrame({"threshold": np.minimum(thresholds, 1.0), "x": false_dogs, "y": 1 - true_dogs})
        table.loc[len(table)] = [0.5, predicted[labels == 0].mean(), (~predicted)[labels == 1].mean()]
        table["hover"] = [rounded(row) for row in table.to_numpy()]
        table[["x", "y"]] = table[["x", "y"]].clip(lower=list(half), axis=1)
        look: dict[str, Any] = {"legendgroup": kind, "hovertemplate": _ERRORS_HOVER}
        name, line = f"{kind}: AUC {roc_auc_score(labels, p_dog):.4f}", {"color": _LOOKS[kind]["color"], "width": 2.5}
        add_points(plot, table[:-1], name=name, mode="lines", line=line, **look)
        at = table[-1:].assign(text="0.5") if kind == list(predictions)[-1] else table[-1:]
        look |= {"showlegend": False, "textposition": "top right"}
        add_points(plot, at, name="at 0.5", marker={**_LOOKS[kind], "size": 11}, **look)
    for axis, floor, title in (
        (plot.layout.xaxis, floors[0], "cats predicted as dogs (false positive rate)"),
        (plot.layout.yaxis, floors[1], "missed dogs (false negative rate)"),
    ):
        shares = [10.0**power for power in range(-6, 1) if 10.0**power > 2.5 * floor]
        texts = ["0", *(f"{100 * share:g}%" for share in shares)]
        axis.update(type="log", title_text=title, tickvals=[*rounded([floor]), *shares], ticktext=texts)
        axis.range = [float(np.log10(floor)) - 0.1, 0.1]
    return plot


_ERRORS_HOVER = (
    "threshold %{customdata[0]}<br>cats predicted as dogs %{customdata[1]:.3~p}<br>missed dogs %{customdata[2]:.3~p}"
    "<extra></extra>"
)


def _confusion(predictions: _Predictions) -> go.Figure:
    """Plot the confusion matrix at a threshold of 0.5; colors are fractions of the actual class."""
    plot = make_subplots(1, len(predictions), shared_yaxes=True, horizontal_spacing=0.06, figure=blank(360))
    for column, (kind, (labels, p_dog)) in enumerate(predictions.items(), start=1):
        counts = confusion_matrix(labels, (p_dog > 0.5).astype(int), labels=[0, 1])
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        texts = [[f"<b>{n:,}</b><br>{n / max(1, sum(row)):.2%}" for n in row] for row in counts]
        look = {"zmin": 0, "zmax": 1, "showscale": False, "xgap": 2, "ygap": 2, "texttemplate": "%{text}"}
        look["hovertemplate"] = f"{kind}<br>%{{y}} %{{x}}: %{{text}}<extra></extra>"
        axes = {"x": ["predicted cat", "predicted dog"], "y": ["cats", "dogs"]}
        plot.add_heatmap(z=[rounded(row) for row in shares], text=texts, **axes, **look, row=1, col=column)
        title = kind if len(predictions) > 1 else None
        plot.update_xaxes(title_text=title, side="top", showgrid=False, row=1, col=column)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot
