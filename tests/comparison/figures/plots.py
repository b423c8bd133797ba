"""A study for the tests of figures, all figures of it, and functions that read plots."""

from itertools import groupby

import numpy as np
import pandas as pd
import studies
from studies import CHOICES

from catsdogs.comparison.figures.curves import best_so_far, learning_curves
from catsdogs.comparison.figures.final_model import final_figures
from catsdogs.comparison.figures.search import effects, importance_bars, job_intervals
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.importance import Importance
from catsdogs.comparison.study_data import read_study_data
from catsdogs.scoring.intervals import Estimate

EPOCHS = 6

# Two effects of one pair and one of two pairs, with asymmetric intervals.
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


def write_night(folder):
    """Write and read a study of 2 x 2 jobs of 12 trials, of which 2 fail, with a final model."""
    studies.write_study(folder / "night", trials=12, failed_trials=2, epochs=EPOCHS, winner=2)
    studies.write_final(folder / "night")
    return read_study_data([folder / "night"])


def intervals(study_data):
    means = study_data.losses().mean()
    return {label: Estimate(mean, 0.8 * mean, 1.3 * mean, studies.IMAGES) for label, mean in means.items()}


def an_importance(names):
    rows = [[name, 0.5 / (i + 1), 0.4 / (i + 1), 0.7 / (i + 1)] for i, name in enumerate(names)]
    return Importance(pd.DataFrame(rows, columns=["name", "importance", "low", "high"]), 0.5, 40)


def all_figures(study_data):
    figures = [
        job_intervals(study_data, intervals(study_data)),
        effects(EFFECTS, PAIRS),
        parallel_coordinates(study_data),
        importance_bars(an_importance(list(study_data.hyperparameters))),
        *hyperparameter_slices(study_data),
        *best_so_far(study_data),
        *learning_curves(study_data),
        *(figure for final in study_data.final_models.values() for figure in final_figures(final, 0)),
    ]
    return {figure.name: figure for figure in figures if figure is not None}


def completed(study_data):
    return study_data.trials[study_data.trials["val_log_loss"].notna()]


def trace(plot, name, kind=""):
    (match,) = [trace for trace in plot.data if trace.name == name and kind in ("", trace.type)]
    return match


def lines(one):
    """Return x, y and the first customdata of each line in a trace with gaps."""
    vertices = zip(one.x, one.y, one.customdata or [None] * len(one.x), strict=True)
    runs = [list(run) for finite, run in groupby(vertices, lambda vertex: pd.notna(vertex[1])) if finite]
    return [([x for x, _, _ in run], [y for _, y, _ in run], run[0][2]) for run in runs]


def ends(error, middle):
    """Return the low and high ends of error bars."""
    return np.array([np.subtract(middle, error.arrayminus), np.add(middle, error.array)])


def with_values(folder, choices, columns, **options):
    """Add a job with these hyperparameters to a study, and read the study."""
    trials = len(next(iter(columns.values())))
    name = studies.write_job(folder, {**CHOICES, **choices}, trials=trials, **options)
    file = folder / name / "trials.csv"
    pd.read_csv(file, dtype={"trial": str}).assign(**columns).to_csv(file, index=False)
    return read_study_data([folder])
