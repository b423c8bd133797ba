"""Predictions of a final model for the validation images -> reliability, ROC, confusion matrix, probabilities.

Each shows them without test-time augmentation, and with it where `retrain` computed it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from catsdogs.comparison.figures.figure import Figure, bars, blank, interval, points, significant
from catsdogs.comparison.figures.theme import ACCENT, CAT, DOG, FAINT_CAT, FAINT_DOG, NEUTRAL
from catsdogs.comparison.study_data import FinalModel
from catsdogs.scoring.scores import clip

PLAIN, TTA = "without TTA", "with TTA"

_LOOKS = {PLAIN: {"color": NEUTRAL, "symbol": "circle"}, TTA: {"color": ACCENT, "symbol": "diamond"}}

_BINS = 10

# Labels (N,) 0 or 1 and probabilities (N,) of the validation images, by kind.
_Kinds = dict[str, tuple[np.ndarray, np.ndarray]]


def final_figures(final: FinalModel, place: int) -> list[Figure]:
    """The figures of a final model, `place` its number on the page; no ROC curve where one class is missing."""
    kinds = _predictions(final)
    both = {kind: pair for kind, pair in kinds.items() if 0 < pair[0].sum() < len(pair[0])}
    told = f"of the final model of study {final.study} on the validation images."
    return [
        Figure(f"{name}-{place}", draw(given), caption, f"{alternative} {told}", "predictions")
        for name, given, draw, caption, alternative in (
            ("reliability", kinds, _reliability, "Reliability", "Share of dogs against the probability given to dog"),
            ("roc", both, _roc, "ROC curve: errors at every threshold", "ROC curve: dogs missed and cats called dogs"),
            ("confusion", kinds, _confusion, "Confusion matrix", "Counts of cats and dogs by what they are called"),
            ("probabilities", kinds, _probabilities, "Probabilities", "Histogram of the probability of dog, by label,"),
        )
        if given
    ]


def _predictions(final: FinalModel) -> _Kinds:
    """Of the kinds that there are any of."""
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1])]
    found = {}
    for kind, column in ((PLAIN, "p_dog"), (TTA, "p_dog_tta")):
        known = table[table[column].between(0, 1)]
        if len(known):
            found[kind] = (known["label"].to_numpy(dtype=int), known[column].to_numpy(dtype=float))
    return found


def _reliability(kinds: _Kinds) -> go.Figure:
    """Share of dogs among images by what the model said of them, with 95 % Wilson intervals; below, how many images."""
    plot = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05, figure=blank(430))
    plot.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line_dash="dot", layer="below", row=1, col=1)
    edges = np.linspace(0, 1, _BINS + 1)
    most = 1
    for kind, (labels, p_dog) in kinds.items():
        said = pd.DataFrame({"bin": np.searchsorted(edges[1:-1], p_dog), "label": labels, "p_dog": p_dog})
        table = said.groupby("bin").agg(
            x=("p_dog", "mean"), y=("label", "mean"), dogs=("label", "sum"), n=("bin", "size")
        )
        ends = [binomtest(k, n).proportion_ci(method="wilson") for k, n in zip(table["dogs"], table["n"], strict=True)]
        table["low"], table["high"] = zip(*((end.low, end.high) for end in ends), strict=True)
        table["hover"] = [
            f"said {row.x:.1%} dog on average<br>{row.dogs:,} of {row.n:,} images are dogs: {row.y:.1%}"
            f"<br>95 %: {row.low:.1%} to {row.high:.1%}"
            for row in table.itertuples()
        ]
        error = interval(table["y"], table["low"], table["high"]) | {"thickness": 1.5}
        look = {"name": kind, "legendgroup": kind, "col": 1}
        points(plot, table, marker={**_LOOKS[kind], "size": 9}, error_y=error, row=1, **look)
        counts = table["n"].reindex(range(_BINS), fill_value=0)
        counted = pd.DataFrame(
            {"x": (edges[:-1] + edges[1:]) / 2, "y": counts, "hover": counts.map("{:,} images".format)}
        )
        bars(plot, counted, marker={"color": _LOOKS[kind]["color"]}, showlegend=False, row=2, **look)
        most = max(most, int(counts.max()))
    plot.update_layout(showlegend=len(kinds) > 1, barmode="group", bargap=0.25)
    plot.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    plot.update_xaxes(title_text="what the model said: probability of dog", row=2, col=1)
    plot.update_yaxes(title_text="share of dogs", tickformat=".0%", range=[-0.03, 1.03], row=1, col=1)
    _count_images(plot, most, row=2, col=1)
    return plot


def _count_images(plot: go.Figure, most: int, **place: int) -> None:
    """A logarithmic axis on which a single image is seen."""
    ends = [np.log10(0.6), np.log10(most) + 0.15]
    plot.update_yaxes(title_text="images", type="log", dtick=1, tickformat="~s", range=ends, **place)


def _roc(kinds: _Kinds) -> go.Figure:
    """Dogs missed against cats called dogs, for every threshold.

    The ROC curve upside down and on logarithmic axes: that of a good model is only a corner on plain ones. An axis
    begins with 0, drawn at half an image.
    """
    plot = blank(400, legend=True)
    floors = [1.0, 1.0]
    for kind, (labels, p_dog) in kinds.items():
        half = 0.5 / (labels == 0).sum(), 0.5 / (labels == 1).sum()
        floors = [min(pair) for pair in zip(floors, half, strict=True)]
        # Not det_curve, which leaves out both ends and keeps every point of a straight line.
        false_dogs, right_dogs, thresholds = roc_curve(labels, p_dog)
        called = p_dog > 0.5
        # The first threshold is infinite: nothing is called a dog. The last row is the point at 0.5.
        table = pd.DataFrame({"above": np.minimum(thresholds, 1.0), "x": false_dogs, "y": 1 - right_dogs})
        table.loc[len(table)] = [0.5, called[labels == 0].mean(), (~called)[labels == 1].mean()]
        table["hover"] = [significant(row) for row in table.to_numpy()]
        # 0 has no place on a logarithmic axis but that of half an image.
        table[["x", "y"]] = table[["x", "y"]].clip(lower=list(half), axis=1)
        look: dict[str, Any] = {"legendgroup": kind, "hovertemplate": _ERRORS_HOVER}
        name, line = f"{kind}: AUC {roc_auc_score(labels, p_dog):.4f}", {"color": _LOOKS[kind]["color"], "width": 2.5}
        points(plot, table[:-1], name=name, mode="lines", line=line, **look)
        at = table[-1:].assign(text="0.5") if kind == list(kinds)[-1] else table[-1:]
        look |= {"showlegend": False, "textposition": "top right"}
        points(plot, at, name="at 0.5", marker={**_LOOKS[kind], "size": 11}, **look)
    for axis, floor, title in (
        (plot.layout.xaxis, floors[0], "cats called dogs (false positive rate)"),
        (plot.layout.yaxis, floors[1], "dogs missed (1 − true positive rate)"),
    ):
        shares = [10.0**power for power in range(-6, 1) if 10.0**power > 2.5 * floor]
        axis.update(
            type="log",
            title_text=title,
            tickvals=[*significant([floor]), *shares],
            ticktext=["0", *(f"{100 * share:g} %" for share in shares)],
            range=[float(np.log10(floor)) - 0.1, 0.1],
        )
    return plot


_ERRORS_HOVER = (
    "dog above %{customdata[0]}<br>cats called dogs %{customdata[1]:.3~p}<br>dogs missed %{customdata[2]:.3~p}"
    "<extra></extra>"
)


def _confusion(kinds: _Kinds) -> go.Figure:
    """Images by what they show and what they are called, at 0.5; colors are shares of what they show."""
    plot = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.06, figure=blank(360))
    for column, (kind, (labels, p_dog)) in enumerate(kinds.items(), start=1):
        counts = confusion_matrix(labels, (p_dog > 0.5).astype(int), labels=[0, 1])
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        plot.add_heatmap(
            z=[significant(row) for row in shares],
            x=["called cat", "called dog"],
            y=["cats", "dogs"],
            text=[[f"<b>{n:,}</b><br>{n / max(1, sum(row)):.2%}" for n in row] for row in counts],
            texttemplate="%{text}",
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate=f"{kind}<br>%{{y}} %{{x}}: %{{text}}<extra></extra>",
            row=1,
            col=column,
        )
        plot.update_xaxes(title_text=kind if len(kinds) > 1 else None, side="top", showgrid=False, row=1, col=column)
    plot.update_yaxes(autorange="reversed", showgrid=False)
    return plot


def _probabilities(kinds: _Kinds) -> go.Figure:
    """How many cats and dogs got which probability, mistakes in full color.

    On the scale of log-odds, since most probabilities are close to 0 or 1, with a bin per unit.
    """
    plot = make_subplots(
        len(kinds), 1, shared_xaxes=True, vertical_spacing=0.12, figure=blank(60 + 190 * len(kinds), legend=True)
    )
    most, widest = 1, 10.0
    for row, (kind, (labels, p_dog)) in enumerate(kinds.items(), start=1):
        clipped = clip(p_dog)
        # Negative, so that bins are closed above: 0.5 is called a cat.
        odds = -np.log(clipped / (1 - clipped))
        widest = max(widest, float(np.abs(odds).max()))
        for name, label, called, color in _CALLED:
            counts = np.histogram(odds[(labels == label) & ((p_dog > 0.5) == called)], bins=_LOG_ODDS)[0][::-1]
            most = max(most, int(counts.max()))
            # A logarithm of 0 is no bar.
            table = pd.DataFrame({"x": _LOG_ODDS[:-1] + 0.5, "y": counts})[counts > 0]
            table["hover"] = [f"{kind}<br>{count:,} {name}" for count in table["y"]]
            look = {"marker": {"color": color}, "width": 1, "showlegend": row == 1}
            bars(plot, table, name=name, legendgroup=name, **look, row=row, col=1)
        plot.add_vline(x=0, line_dash="dot", row=row, col=1)
        if len(kinds) > 1:
            corner = {"x": 0, "xref": "x domain", "xanchor": "left", "y": 1, "yref": "y domain", "yanchor": "bottom"}
            plot.add_annotation(text=kind, **corner, row=row, col=1)
    told = [0.001, 0.5, 0.999]  # more would overlap on a phone
    plot.update_xaxes(
        tickvals=significant(np.log(p / (1 - p)) for p in told),
        ticktext=[str(p) for p in told],
        tickangle=0,
        range=[-math.ceil(widest) - 0.5, math.ceil(widest) + 0.5],
    )
    plot.update_xaxes(title_text="probability of dog", row=len(kinds), col=1)
    _count_images(plot, most)
    plot.update_layout(barmode="overlay", bargap=0)
    return plot


# Mistakes come last, over the others; what is right is faint.
_CALLED = (
    ("cats", 0, False, FAINT_CAT),
    ("dogs", 1, True, FAINT_DOG),
    ("cats called dogs", 0, True, CAT),
    ("dogs called cats", 1, False, DOG),
)

# Clipped probabilities lie within 16.2.
_LOG_ODDS = np.arange(-17.0, 18.0)
