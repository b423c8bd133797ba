"""Choice of combination, test-time augmentation and calibration on validation images, without the holdout."""

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
from catsdogs.final.pipeline import OUTPUTS, Pipeline, choose_tta, describe_choice, predict_views, views_by_kind
from catsdogs.scoring.calibration import CalibrationResult, cross_fitted, fit_if_better
from catsdogs.scoring.combination import Combination, choose, expand_to_models, uniform_mean
from catsdogs.training.trial_data import live_views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Choices for the final model, and its outputs for images that it was not trained on.

    Each row of `predictions` is a validation image of the search: id, label, split, fold (with several folds), OUTPUTS.
    Calibrated outputs are cross-fitted. The combination of several jobs was chosen on these images. They are predicted
    by the "final model" or, if it was trained on all images, by single models of the "search" or of the "folds".
    """

    combination: Combination  # of the members
    pipeline: Pipeline
    predictions: pd.DataFrame
    validated_by: str
    calibration_result: CalibrationResult | None  # None: not tried
    tta_choice: dict[str, Any] | None  # for `metrics.json`: the kind that tta=auto took; None: the user set the kind
    tta_table: pd.DataFrame | None  # candidates; None: only one
    ensemble_table: pd.DataFrame | None  # candidates; None: only one


@dataclass(frozen=True)
class _Outputs:
    p_dog: np.ndarray | None  # (K, V, N) of K jobs or, once combined, (V, N); None: no model has unseen images
    views: list[View]
    validated_by: str

    def of(self, views: Sequence[View]) -> np.ndarray:
        """Return p_dog (V, N) of some of the views, after the jobs are combined."""
        assert self.p_dog is not None
        return self.p_dog[[self.views.index(view) for view in views]]


def evaluate_members(
    config: RetrainConfig, members: Sequence[Member], dataset: Dataset, fold_members: Sequence[Member] = ()
) -> Evaluation:
    """Choose combination, TTA and calibration on images outside the holdout that no member was trained on.

    Models of the folds of one trial were trained on each other's images, so their combination cannot be evaluated
    outside the holdout: it is the mean of their logits. Each is evaluated alone on its own fold. The temperature is
    therefore that of a single model, slightly too high for the mean. With several jobs, out-of-fold predictions of
    each job choose between the best job and the two means; the models of a job share its weight.

    `fold_members`: models of the folds, which evaluate members that are trained on all images. If empty, the members
    evaluate themselves, or the predictions of the search are used.
    """
    rows = np.flatnonzero(dataset.rows["fold"] >= 0)
    columns = ["id", "label", "split", *(["fold"] if config.split.folds > 1 else [])]
    predictions = dataset.rows.iloc[rows].assign(split="validation").reset_index(drop=True)[columns]
    labels = predictions["label"].to_numpy()
    tta_views = views_by_kind(config.tta, config.augmentation)
    saved = [member.search_predictions for member in members if member.search_predictions is not None]
    if len(saved) == len(members) and not fold_members:
        outputs = _Outputs(np.stack(saved)[:, None], [ORIGINAL], "search")
    else:
        views = list(dict.fromkeys(view for kind_views in tta_views.values() for view in kind_views))
        p_dog = _predict(config, fold_members or members, dataset, rows, views)
        outputs = _Outputs(p_dog, views, "folds" if fold_members or config.ensemble.kind == "folds" else "final model")
    combination, outputs, ensemble_table = _combine_jobs(labels, outputs, members)
    tta, choice, tta_table = config.tta, None, None
    if tta.kind == "auto":
        tta, choice, tta_table = _choose_tta(config, labels, outputs, tta_views)
    pipeline = Pipeline(tta, config.augmentation, config.seed, None)
    pipeline, steps, result = _calibrate(config, labels, outputs, pipeline)
    predictions, by = predictions.assign(**steps), outputs.validated_by
    return Evaluation(combination, pipeline, predictions, by, result, choice, tta_table, ensemble_table)


def _choose_tta(
    config: RetrainConfig, labels: np.ndarray, outputs: _Outputs, tta_views: dict[str, list[View]]
) -> tuple[TtaConfig, dict[str, Any], pd.DataFrame | None]:
    """Return the kind that tta=auto takes, its description, and the table of `choose_tta`; None if not tested."""
    if outputs.p_dog is None or outputs.validated_by == "search":
        flips = config.augmentation.flip_probability > 0
        seen = "labeled image" if config.fit_on == "all" else "image outside the holdout"
        reason = f"the augmentation of the job {'flips' if flips else 'does not flip'} images"
        reason += f"; this was not tested, because the model was trained on every {seen}"
        untested = TtaConfig("flip" if flips else "none")
        return untested, {"kind": untested.kind, "tested": False, "reason": reason}, None
    kind, average, table = choose_tta(labels, {kind: outputs.of(views) for kind, views in tta_views.items()})
    split = "out-of-fold" if config.split.folds > 1 else "validation"
    tta = TtaConfig(kind, config.tta.views, average)  # type: ignore[arg-type]  # values of the two Literals
    return tta, describe_choice(table) | {"split": split}, table


def inference_engine(model: Any, engine: str) -> InferenceEngine:
    """Return the requested inference engine, or fall back to Keras so that the trained model is not lost."""
    try:
        return build_engine(model, engine)
    except UserError as error:
        log.warning("%s; using Keras instead", error)
        return build_engine(model, "keras")


def _predict(
    config: RetrainConfig, members: Sequence[Member], dataset: Dataset, rows: np.ndarray, views: list[View]
) -> np.ndarray | None:
    """Return p_dog (K, V, N) of K jobs for `rows`; None if any member was trained on all of them."""
    if not all(len(member.out_of_fold_rows) for member in members):
        return None
    jobs = list(dict.fromkeys(member.job.name for member in members))
    pixels = live_views(config, dataset.rows, dataset.root)
    p_dog = np.full((len(jobs), len(views), len(rows)), np.nan)
    for number, member in enumerate(members, start=1):
        forward = inference_engine(member.model, config.features.engine)
        images = "validation images" if len(members) == 1 else f"validation images, member {number}/{len(members)}"
        outputs = predict_views(forward, pixels, member.out_of_fold_rows, views, images)
        p_dog[jobs.index(member.job.name)][:, np.searchsorted(rows, member.out_of_fold_rows)] = outputs
    return p_dog


def _combine_jobs(
    labels: np.ndarray, outputs: _Outputs, members: Sequence[Member]
) -> tuple[Combination, _Outputs, pd.DataFrame | None]:
    """Choose the combination on unaugmented images; return that of the models, combined outputs and the candidates."""
    models = Counter(member.job.name for member in members)
    jobs, table = uniform_mean(len(models), "single" if len(models) == 1 else "logit"), None
    if outputs.p_dog is not None:
        if len(models) > 1:
            jobs, table = choose(labels, outputs.p_dog[:, 0], list(models))
            log.info("ensemble: %s is best of %d methods on %s images", jobs.method, len(table), f"{len(labels):,}")
        combined = np.stack([jobs(outputs.p_dog[:, view]) for view in range(len(outputs.views))])
        outputs = dataclasses.replace(outputs, p_dog=combined)
    return expand_to_models(jobs, list(models.values())), outputs, table


def _calibrate(
    config: RetrainConfig, labels: np.ndarray, outputs: _Outputs, pipeline: Pipeline
) -> tuple[Pipeline, dict[str, np.ndarray], CalibrationResult | None]:
    """Return the pipeline with calibration if it helps, OUTPUTS for the validation images, and the result."""
    if outputs.p_dog is None:
        log.warning(
            "no validation score: the model was trained on the validation images, and the search has no predictions of "
            "this trial with these settings"
        )
        return pipeline, {name: np.full(len(labels), np.nan) for name in OUTPUTS}, None
    # The search saved no predictions of augmented views.
    with_tta = pipeline.uses_tta and outputs.validated_by != "search"
    steps = pipeline.steps(outputs.of([ORIGINAL])[0], outputs.of(pipeline.views) if with_tta else None)
    if not config.calibrate:
        return pipeline, steps, None
    if with_tta != pipeline.uses_tta:
        log.info("calibration not applied: the search saved no predictions with test-time augmentation to fit it on")
        return pipeline, steps, None
    uncalibrated = steps[OUTPUTS[1]] if with_tta else steps[OUTPUTS[0]]
    result = fit_if_better(labels, uncalibrated)
    if result.applied:
        pipeline = dataclasses.replace(pipeline, calibration=result.calibration)
        steps[OUTPUTS[2]] = cross_fitted(labels, uncalibrated)
    return pipeline, steps, result
