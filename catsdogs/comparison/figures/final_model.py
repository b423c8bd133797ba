"""Figures of a final model on validation images: reliability and, for two classes, detection error tradeoff (DET).

Each figure shows the model without test-time augmentation (TTA), and with it if `retrain` computed it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import roc_auc_score, roc_curve

from catsdogs.comparison.figures.figure import Figure, add_bars, add_points, blank, error_bars, rounded
from catsdogs.comparison.figures.theme import ACCENT, NEUTRAL, escape
from catsdogs.comparison.final_models import FinalModel
from catsdogs.scoring.intervals import wilson_interval

PLAIN, TTA = "without TTA", "with TTA"

_LOOKS = {PLAIN: {"color": NEUTRAL, "symbol": "circle"}, TTA: {"color": ACCENT, "symbol": "diamond"}}

_BINS = 10
_NAME_LENGTH = 24  # characters of a class in the title of an axis

# Labels (N,) and probabilities (N, K) of the validation images, by kind (PLAIN, TTA).
_Predictions = dict[str, tuple[np.ndarray, np.ndarray]]


def final_figures(final: FinalModel, index: int) -> list[Figure]:
    """Return the figures of a final model, with `index` in their names; no DET curve if one class is missing."""
    tables = {kind: final.validation(step) for kind, step in ((PLAIN, ""), (TTA, "_tta"))}
    predictions = {kind: (table["label"].to_numpy(), final.classes.read(table)) for kind, table in tables.items()}
    predictions = {kind: pair for kind, pair in predictions.items() if len(pair[0])}
    source = f"of the validation images of the final model of study {final.study}."
    both = {kind: pair for kind, pair in predictions.items() if len(np.unique(pair[0])) == len(final.classes) == 2}
    return [
        Figure(f"{name}-{index}", plot(data, final.classes.names), caption, f"{alternative} {source}", "predictions")
        for name, data, plot, caption, alternative in (
            ("reliability", predictions, _reliability, "Reliability", "Fraction of correct predictions by probability"),
            ("det", both, _det, "DET curve: errors at every threshold", "False negative and false positive rate"),
        )
        if data
    ]


def _reliability(predictions: _Predictions, names: Sequence[str]) -> go.Figure:
    """Plot accuracy by probability of the predicted class, at least 1/K, with 95% Wilson intervals, and a histogram."""
    plot = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05, figure=blank(430))
    low = 1 / len(names)
    plot.add_shape(type="line", x0=low, x1=1, y0=low, y1=1, line_dash="dot", layer="below", row=1, col=1)
    edges = np.linspace(low, 1, _BINS + 1)
    most = 1
    for kind, (labels, probabilities) in predictions.items():
        correct, confidence = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
        bins = np.searchsorted(edges[1:-1], confidence)
        binned = pd.DataFrame({"bin": bins, "correct": correct, "confidence": confidence})
        sums = {"correct": ("correct", "sum"), "n": ("bin", "size")}
        table = binned.groupby("bin").agg(x=("confidence", "mean"), y=("correct", "mean"), **sums)
        ends = [wilson_interval(k, n) for k, n in zip(table["correct"], table["n"], strict=True)]
        table["low"], table["high"] = zip(*ends, strict=True)
        table["hover"] = [
            f"mean probability {row.x:.1%}<br>{row.correct:,} of {row.n:,} images correct: {row.y:.1%}"
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
    plot.update_xaxes(range=[low - 0.02, 1.02], tickformat=".0%")
    plot.update_xaxes(title_text="probability of the predicted class", row=2, col=1)
    plot.update_yaxes(title_text="fraction of correct predictions", tickformat=".0%", range=[-0.03, 1.03], row=1, col=1)
    # Logarithmic, and starting below 1, so that bars of a single image are visible.
    ends = [np.log10(0.6), np.log10(most) + 0.15]
    plot.update_yaxes(title_text="images", type="log", dtick=1, tickformat="~s", range=ends, row=2, col=1)
    return plot


def _det(predictions: _Predictions, names: Sequence[str]) -> go.Figure:
    """Plot the false negative rate against the false positive rate over all thresholds, on logarithmic axes.

    On linear axes, the curve of a good model is only a corner. The axes start with 0, plotted at half an image.
    """
    plot = blank(400, legend=True)
    floors = [1.0, 1.0]
    first, second = (escape(name, _NAME_LENGTH) for name in names)
    false_positive, false_negative = f"{first} predicted as {second}", f"{second} predicted as {first}"
    hover = f"{false_positive} %{{customdata[1]:.3~p}}<br>{false_negative} %{{customdata[2]:.3~p}}<extra></extra>"
    hover = f"threshold %{{customdata[0]}}<br>{hover}"
    for kind, (labels, probabilities) in predictions.items():
        positive = probabilities[:, 1]
        half = 0.5 / (labels == 0).sum(), 0.5 / (labels == 1).sum()
        floors = [min(pair) for pair in zip(floors, half, strict=True)]
        # sklearn's det_curve omits both ends and keeps all points of straight lines.
        false_positives, true_positives, thresholds = roc_curve(labels, positive)
        predicted = positive > 0.5
        # At the first threshold, infinity, no image is predicted as the second class. The last row is the point at 0.5.
        table = pd.DataFrame({"threshold": np.minimum(thresholds, 1), "x": false_positives, "y": 1 - true_positives})
        table.loc[len(table)] = [0.5, predicted[labels == 0].mean(), (~predicted)[labels == 1].mean()]
        table["hover"] = [rounded(row) for row in table.to_numpy()]
        table[["x", "y"]] = table[["x", "y"]].clip(lower=list(half), axis=1)
        look: dict[str, Any] = {"legendgroup": kind, "hovertemplate": hover}
        line = {"color": _LOOKS[kind]["color"], "width": 2.5}
        name = f"{kind}: ROC AUC {roc_auc_score(labels, positive):.4f}"
        add_points(plot, table[:-1], name=name, mode="lines", line=line, **look)
        at = table[-1:].assign(text="0.5") if kind == list(predictions)[-1] else table[-1:]
        look |= {"showlegend": False, "textposition": "top right"}
        add_points(plot, at, name="at 0.5", marker={**_LOOKS[kind], "size": 11}, **look)
    for axis, floor, title in (
        (plot.layout.xaxis, floors[0], f"{false_positive} (false positive rate)"),
        (plot.layout.yaxis, floors[1], f"{false_negative} (false negative rate)"),
    ):
        shares = [10.0**power for power in range(-6, 1) if 10.0**power > 2.5 * floor]
        texts = ["0", *(f"{100 * share:g}%" for share in shares)]
        axis.update(type="log", title_text=title, tickvals=[*rounded([floor]), *shares], ticktext=texts)
        axis.range = [float(np.log10(floor)) - 0.1, 0.1]
    return plot
