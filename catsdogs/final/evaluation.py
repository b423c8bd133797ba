"""Members + images that they have not seen -> how they are combined, averaged over views, and calibrated.

The hold-out has no say in any of it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.config.schema import RetrainConfig, TtaConfig
from catsdogs.data.dataset import Dataset
from catsdogs.data.views import ORIGINAL, View
from catsdogs.features.engine import InferenceEngine, build_engine
from catsdogs.final.members import Member
from catsdogs.final.pipeline import OUTPUTS, Pipeline
from catsdogs.final.tta import choose_tta, predict_views, views_by_kind
from catsdogs.scoring.calibration import CalibrationResult, cross_fitted, fit_if_better
from catsdogs.scoring.combination import Combination, choose, expand_to_models, uniform_mean
from catsdogs.training.trial_data import live_views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What is to be made of the members, and what they say of images that they have not seen.

    Attributes:
        combination: of the members.
        predictions: a row for every image that the search validated on: id, label, split, fold (where there are
            several), and OUTPUTS. The calibrated ones are cross-fitted; how several jobs are combined was chosen on
            these images.
        by: whose outputs these are: of the "final model", or, where it has seen every image, of the "search"'s own
            models or of those of the "folds", each alone.
        verdict: on calibration; None where none was tried.
        tta_table, ensemble_table: how the choices were made; None where nothing was to choose.
    """

    combination: Combination
    pipeline: Pipeline
    predictions: pd.DataFrame
    by: str
    calibration_result: CalibrationResult | None
    tta_table: pd.DataFrame | None
    ensemble_table: pd.DataFrame | None


def evaluate_members(
    config: RetrainConfig, members: Sequence[Member], dataset: Dataset, judges: Sequence[Member] = ()
) -> Evaluation:
    """Decide by the images outside the hold-out that no member has seen.

    Args:
        judges: models of the folds of the members' trials, for members that have seen all images; empty: by the
            members themselves, or by what the search kept of their trials.

    The models of the folds of one trial have seen each other's images: how their outputs are combined cannot be
    measured outside the hold-out, and the mean of their logits is taken. Each is judged alone on its own fold, so that
    the temperature is that of one model, and a little high for their mean. What several jobs say out of fold, by one
    model of each, tells how much each counts and whether probabilities are averaged; its models share that.
    """
    rows = np.flatnonzero(dataset.rows["fold"] >= 0)
    names = ["id", "label", "split", *(["fold"] if config.split.folds > 1 else [])]
    table = dataset.rows.iloc[rows].assign(split="validation").reset_index(drop=True)[names]
    labels = table["label"].to_numpy()
    kinds = views_by_kind(config.tta, config.augmentation)
    views = list(dict.fromkeys(view for over in kinds.values() for view in over))
    outputs = _outputs(config, judges or members, dataset, rows, views)
    by = "folds" if judges or config.ensemble.kind == "folds" else "final model"
    if not judges and all(member.search_predictions is not None for member in members):
        by = "search"
        views, outputs = (
            [ORIGINAL],
            np.stack([member.search_predictions for member in members if member.search_predictions is not None])[
                :, None
            ],
        )

    # How many models every job has: one, or those of its folds.
    models = Counter(member.job.name for member in members)
    # Chosen by what the jobs say of the images as they are.
    over_jobs, ensemble_table = uniform_mean(len(models), "single" if len(models) == 1 else "logit"), None
    if outputs is not None and len(models) > 1:
        over_jobs, ensemble_table = choose(labels, outputs[:, 0], list(models))
        way, count = over_jobs.method, len(ensemble_table)
        log.info("ensemble: %s is best of %d ways on %d images", way, count, len(labels))
    combination = expand_to_models(over_jobs, list(models.values()))
    said = None if outputs is None else np.stack([over_jobs(outputs[:, view]) for view in range(len(views))])
    tta, tta_table = config.tta, None
    if tta.kind == "auto":
        assert said is not None
        by_kind = {kind: said[[views.index(view) for view in over]] for kind, over in kinds.items()}
        kind, average, tta_table = choose_tta(labels, by_kind)
        tta = TtaConfig(kind, tta.views, average)  # type: ignore[arg-type]  # one of each
        how = "" if kind == "none" else f", averaged as {average}"
        log.info("test-time augmentation: %s%s is best on %d images", kind, how, len(labels))
    pipeline = Pipeline(tta, config.augmentation, config.seed, None)

    found = {name: np.full(len(rows), np.nan) for name in OUTPUTS}
    outcome = None
    if said is not None:
        # Nothing was kept of augmented views of the images that the search validated on.
        averaged = pipeline.averages and by != "search"
        p_dog = said[[views.index(view) for view in pipeline.over]] if averaged else None
        found = pipeline.steps(said[views.index(ORIGINAL)], p_dog)
        if config.calibrate and averaged == pipeline.averages:
            last = found[OUTPUTS[1]] if averaged else found[OUTPUTS[0]]
            outcome = fit_if_better(labels, last)
            if outcome.applied:
                pipeline = dataclasses.replace(pipeline, calibration=outcome.calibration)
                found[OUTPUTS[2]] = cross_fitted(labels, last)
        elif config.calibrate:
            log.info("no calibration: what the search kept of images that it had not seen is without these views")
    else:
        log.warning("no honest score on the validation images: nothing was kept of this trial on them")
    return Evaluation(combination, pipeline, table.assign(**found), by, outcome, tta_table, ensemble_table)


def inference_engine(model: Any, engine: str) -> InferenceEngine:
    """The engine that was asked for, or another: what was trained must not be lost to it."""
    try:
        return build_engine(model, engine)
    except UserError as error:
        log.warning("%s; Keras predicts instead", error)
        return build_engine(model, "keras")


def _outputs(
    config: RetrainConfig, members: Sequence[Member], dataset: Dataset, rows: np.ndarray, views: list[View]
) -> np.ndarray | None:
    """(K, V, N) p_dog of every job for rows that its model, or that of a fold, has not seen; None if they have all."""
    if not all(len(member.out_of_fold_rows) for member in members):
        return None
    jobs = list(dict.fromkeys(member.job.name for member in members))
    pixels = live_views(config, dataset.rows, dataset.root)
    found = np.full((len(jobs), len(views), len(rows)), np.nan)
    for number, member in enumerate(members):
        forward = inference_engine(member.model, config.features.engine)
        what = "validation" if len(members) == 1 else f"validation, member {number + 1} of {len(members)}"
        said = predict_views(forward, pixels, member.out_of_fold_rows, views, what)
        found[jobs.index(member.job.name)][:, np.searchsorted(rows, member.out_of_fold_rows)] = said
    return found
