"""Predictions of a final model for the validation images -> reliability, ROC, confusion matrix, probabilities.

Each shows them without test-time augmentation, and with it where `retrain` computed it.
"""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from catsdogs.comparison.evidence import Final
from catsdogs.comparison.theme import ACCENT, CAT, DOG, FAINT_CAT, FAINT_DOG, NEUTRAL, figure, significant
from catsdogs.scores import clip

PLAIN, TTA = "without TTA", "with TTA"

_BINS = 10


def _predictions(final: Final) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels (N,) 0 or 1 and probabilities (N,) of the validation images by kind, only where there are any."""
    table = final.predictions
    table = table[(table["split"] == "validation") & table["label"].isin([0, 1])]
    found = {}
    for kind, column in ((PLAIN, "p_dog"), (TTA, "p_dog_tta")):
        known = table[table[column].between(0, 1)]
        if len(known):
            found[kind] = (known["label"].to_numpy(dtype=int), known[column].to_numpy(dtype=float))
    return found


_LOOKS = {PLAIN: {"color": NEUTRAL, "symbol": "circle"}, TTA: {"color": ACCENT, "symbol": "diamond"}}


def reliability(final: Final) -> go.Figure | None:
    """Share of dogs among images by what the model said of them, with 95 % Wilson intervals; below, how many images."""
    kinds = _predictions(final)
    if not kinds:
        return None
    drawn = make_subplots(
        2, 1, shared_xaxes=True, row_heights=[0.76, 0.24], vertical_spacing=0.05, figure=figure(430, True)
    )
    drawn.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line_dash="dot", layer="below", row=1, col=1)
    edges = np.linspace(0, 1, _BINS + 1)
    largest = 1
    for kind, (labels, p_dog) in kinds.items():
        share, said = calibration_curve(labels, p_dog, n_bins=_BINS, strategy="uniform")
        # The bins of calibration_curve, which does not tell how many images are in each.
        bins = np.searchsorted(edges[1:-1], p_dog)
        images = np.bincount(bins, minlength=_BINS)
        dogs = np.bincount(bins, weights=labels, minlength=_BINS).astype(int)
        filled, largest = images > 0, max(largest, int(images.max()))
        ranges = [
            binomtest(int(k), int(n)).proportion_ci(method="wilson")
            for k, n in zip(dogs[filled], images[filled], strict=True)
        ]
        told = [
            [f"{k:,} of {n:,} images are dogs", f"{r.low:.1%} to {r.high:.1%}"]
            for k, n, r in zip(dogs[filled], images[filled], ranges, strict=True)
        ]
        drawn.add_scatter(
            name=kind,
            legendgroup=kind,
            x=significant(said),
            y=significant(share),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": significant(max(0.0, r.high - s) for r, s in zip(ranges, share, strict=True)),
                "arrayminus": significant(max(0.0, s - r.low) for r, s in zip(ranges, share, strict=True)),
                "thickness": 1.5,
                "width": 0,
            },
            mode="markers",
            marker={**_LOOKS[kind], "size": 9},
            customdata=told,
            hovertemplate="said %{x:.3~p} dog on average<br>%{customdata[0]}: %{y:.3~p}<br>"
            "95 %: %{customdata[1]}<extra></extra>",
            row=1,
            col=1,
        )
        drawn.add_bar(
            name=kind,
            legendgroup=kind,
            showlegend=False,
            x=significant((edges[:-1] + edges[1:]) / 2),
            y=images.tolist(),
            marker={"color": _LOOKS[kind]["color"]},
            hovertemplate="%{y:,} images<extra></extra>",
            row=2,
            col=1,
        )
    drawn.update_layout(showlegend=len(kinds) > 1, barmode="group", bargap=0.25)
    drawn.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    drawn.update_xaxes(title_text="what the model said: probability of dog", row=2, col=1)
    drawn.update_yaxes(title_text="share of dogs", tickformat=".0%", range=[-0.03, 1.03], row=1, col=1)
    drawn.update_yaxes(title_text="images", type="log", dtick=1, tickformat="~s", row=2, col=1)
    drawn.update_yaxes(range=[np.log10(0.6), np.log10(largest) + 0.15], row=2, col=1)
    return drawn


def roc(final: Final) -> go.Figure | None:
    """Dogs missed against cats called dogs, for every threshold; None where one class is missing.

    The ROC curve upside down and on logarithmic axes: that of a good model is only a corner on plain ones. An axis
    begins with 0, drawn at half an image.
    """
    kinds = {kind: pair for kind, pair in _predictions(final).items() if 0 < pair[0].sum() < len(pair[0])}
    if not kinds:
        return None
    drawn = figure(400, legend=True)
    floors = [1.0, 1.0]
    for kind, (labels, p_dog) in kinds.items():
        false_dogs, right_dogs, thresholds = roc_curve(labels, p_dog)
        missed = 1 - right_dogs
        half = 0.5 / (len(labels) - labels.sum()), 0.5 / labels.sum()
        floors = [min(pair) for pair in zip(floors, half, strict=True)]
        area = roc_auc_score(labels, p_dog)
        drawn.add_scatter(
            name=f"{kind}: AUC {area:.4f}",
            legendgroup=kind,
            x=significant(np.maximum(false_dogs, half[0])),
            y=significant(np.maximum(missed, half[1])),
            mode="lines",
            line={"color": _LOOKS[kind]["color"], "width": 2.5},
            # The first threshold is infinite: nothing is called a dog.
            customdata=list(
                zip(significant(np.minimum(thresholds, 1.0)), significant(false_dogs), significant(missed), strict=True)
            ),
            hovertemplate="dog above %{customdata[0]}<br>cats called dogs %{customdata[1]:.3~p}"
            "<br>dogs missed %{customdata[2]:.3~p}<extra></extra>",
        )
        called = p_dog > 0.5
        at = float(called[labels == 0].mean()), float((~called)[labels == 1].mean())
        drawn.add_scatter(
            name="at 0.5",
            legendgroup=kind,
            showlegend=False,
            x=significant([max(at[0], half[0])]),
            y=significant([max(at[1], half[1])]),
            mode="markers+text",
            marker={**_LOOKS[kind], "size": 11},
            text=["0.5"] if kind == list(kinds)[-1] else None,
            textposition="top right",
            customdata=[significant(at)],
            hovertemplate="dog above 0.5<br>cats called dogs %{customdata[0]:.3~p}<br>dogs missed %{customdata[1]:.3~p}"
            "<extra></extra>",
        )
    for axis, floor, title in (
        (drawn.layout.xaxis, floors[0], "cats called dogs (false positive rate)"),
        (drawn.layout.yaxis, floors[1], "dogs missed (1 − true positive rate)"),
    ):
        shares = [10.0**power for power in range(-6, 1) if 10.0**power > 2.5 * floor]
        axis.update(
            type="log",
            title_text=title,
            tickvals=[*significant([floor]), *shares],
            ticktext=["0", *(f"{100 * share:g} %" for share in shares)],
            range=[float(np.log10(floor)) - 0.1, 0.1],
        )
    return drawn


def confusion(final: Final) -> go.Figure | None:
    """Images by what they show and what they are called, at 0.5; colours are shares of what they show."""
    kinds = _predictions(final)
    if not kinds:
        return None
    drawn = make_subplots(1, len(kinds), shared_yaxes=True, horizontal_spacing=0.06, figure=figure(60 + 300))
    for column, (kind, (labels, p_dog)) in enumerate(kinds.items(), start=1):
        counts = confusion_matrix(labels, (p_dog > 0.5).astype(int), labels=[0, 1])
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        drawn.add_heatmap(
            z=[significant(row) for row in shares],
            x=["called cat", "called dog"],
            y=["cats", "dogs"],
            text=[
                [f"<b>{n:,}</b><br>{share:.2%}" for n, share in zip(*rows, strict=True)]
                for rows in zip(counts, shares, strict=True)
            ],
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
        drawn.update_xaxes(title_text=kind if len(kinds) > 1 else None, side="top", showgrid=False, row=1, col=column)
    drawn.update_yaxes(autorange="reversed", showgrid=False)
    return drawn


def probabilities(final: Final) -> go.Figure | None:
    """How many cats and dogs got which probability, mistakes in full colour.

    On the scale of log-odds, since most probabilities are close to 0 or 1, with a bin per unit; counts are logarithmic,
    so that a single mistake is seen.
    """
    kinds = _predictions(final)
    if not kinds:
        return None
    drawn = make_subplots(
        len(kinds), 1, shared_xaxes=True, vertical_spacing=0.12, figure=figure(60 + 190 * len(kinds), True)
    )
    largest, widest = 1, 10.0
    for row, (kind, (labels, p_dog)) in enumerate(kinds.items(), start=1):
        clipped = clip(p_dog)
        # Negative, so that bins are closed above: 0.5 is called a cat.
        odds = -np.log(clipped / (1 - clipped))
        for name, label, called, colour in _CALLED:
            counts = np.histogram(odds[(labels == label) & ((p_dog > 0.5) == called)], bins=_LOG_ODDS)[0][::-1]
            largest, widest = max(largest, int(counts.max())), max(widest, float(np.abs(odds).max()))
            drawn.add_bar(
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                x=(_LOG_ODDS[:-1] + 0.5).tolist(),
                # A logarithm of 0 is no bar.
                y=[int(count) or None for count in counts],
                width=1,
                marker={"color": colour},
                hovertemplate=f"{kind}<br>%{{y:,}} {name}<extra></extra>",
                row=row,
                col=1,
            )
        drawn.add_vline(x=0, line_dash="dot", row=row, col=1)
        if len(kinds) > 1:
            drawn.add_annotation(
                text=kind, x=0, xref="x domain", xanchor="left", y=1, yref="y domain", yanchor="bottom", row=row, col=1
            )
    told = [0.001, 0.5, 0.999]  # more would overlap on a phone
    drawn.update_xaxes(
        tickvals=significant(np.log(p / (1 - p)) for p in told),
        ticktext=[str(p) for p in told],
        tickangle=0,
        range=[-math.ceil(widest) - 0.5, math.ceil(widest) + 0.5],
    )
    drawn.update_xaxes(title_text="probability of dog", row=len(kinds), col=1)
    drawn.update_yaxes(
        title_text="images", type="log", dtick=1, tickformat="~s", range=[np.log10(0.6), np.log10(largest) + 0.15]
    )
    drawn.update_layout(barmode="overlay", bargap=0)
    return drawn


# Mistakes come last, over the others; what is right is faint.
_CALLED = (
    ("cats", 0, False, FAINT_CAT),
    ("dogs", 1, True, FAINT_DOG),
    ("cats called dogs", 0, True, CAT),
    ("dogs called cats", 1, False, DOG),
)

# Clipped probabilities lie within 16.2.
_LOG_ODDS = np.arange(-17.0, 18.0)
