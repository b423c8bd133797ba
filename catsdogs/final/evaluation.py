"""Choice of combination, test-time augmentation and calibration on validation images, without the holdout."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.config.schema import RetrainConfig, SubmissionConfig, TtaConfig
from catsdogs.data.dataset import Dataset
from catsdogs.data.views import ORIGINAL, View
from catsdogs.features.engine import InferenceEngine, build_engine
from catsdogs.final.members import Member
from catsdogs.final.pipeline import (
    NO_TTA,
    Choice,
    Forward,
    Outputs,
    Pipeline,
    average_views,
    choose_tta,
    columns_of,
    describe_choice,
    final_output,
    tta_choices,
)
from catsdogs.final.submission import best_threshold, predicted_classes
from catsdogs.scoring.calibration import CalibrationResult, cross_fitted, fit_if_better
from catsdogs.scoring.classes import STEPS, Classes
from catsdogs.scoring.combination import Combination, choose, expand_to_models, uniform_mean
from catsdogs.training.trial_data import live_views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Choices for the final model, and its outputs for images that it was not trained on.

    Each row of `predictions` is a validation image of the search: id, label, split, fold (with several folds), and the
    columns of the steps that were computed. Calibrated outputs are cross-fitted. The combination of several jobs was
    chosen on these images. They are predicted by the "final model" or, if it was trained on all images, by single
    models of the "search" or of the "folds".
    """

    combination: Combination  # of the members
    pipeline: Pipeline
    threshold: float | None  # of a submission of class names; None: the likeliest class
    predictions: pd.DataFrame
    validated_by: str
    calibration_result: CalibrationResult | None  # None: not tried
    tta_choice: dict[str, Any] | None  # for `metrics.json`: the kind that tta=auto took; None: the user set the kind
    tta_table: pd.DataFrame | None  # candidates; None: only one
    ensemble_table: pd.DataFrame | None  # candidates; None: only one


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
    columns = ["id", "label", "split", *(["fold"] if config.split.folds > 1 else [])]
    predictions = dataset.rows[dataset.rows["fold"] >= 0].assign(split="validation").reset_index(drop=True)[columns]
    labels = predictions["label"].to_numpy()
    views = tta_choices(config.tta, config.augmentation)
    saved = [member.search_predictions for member in members if member.search_predictions is not None]
    if len(saved) == len(members) and not fold_members:
        plain = np.stack(saved)
        jobs, ensemble_table = _combine_jobs(labels, plain, members)
        averages, by = {NO_TTA: jobs(plain)}, "search"
    else:
        by = "folds" if fold_members or config.ensemble.kind == "folds" else "final model"
        jobs, averages, ensemble_table = _predict(config, fold_members or members, dataset, predictions, views)
    tta, choice, tta_table = config.tta, None, None
    if tta.kind == "auto":
        tta, choice, tta_table = _choose_tta(config, labels, averages, views, by)
    pipeline = Pipeline(tta, config.augmentation, config.seed, None, dataset.classes, config.backbone.resize)
    pipeline, steps, result = _calibrate(config, labels, averages, pipeline, by)
    predictions = predictions.join(pd.DataFrame(columns_of(steps, dataset.classes)))
    threshold = _threshold(config.submission, dataset, labels, steps.get(pipeline.last_step))
    combination = expand_to_models(jobs, list(Counter(member.job.name for member in members).values()))
    return Evaluation(combination, pipeline, threshold, predictions, by, result, choice, tta_table, ensemble_table)


def _threshold(
    config: SubmissionConfig, dataset: Dataset, labels: np.ndarray, probabilities: np.ndarray | None
) -> float | None:
    if dataset.test is None or config.kind != "class" or len(dataset.classes) > 2:
        return None  # not used
    if config.threshold != "auto":
        return config.threshold
    if probabilities is None:
        reason = "no out-of-sample predictions with its test-time augmentation exist; set a number"
        raise UserError(f"submission.threshold=auto: cannot be chosen, because {reason}")
    threshold = best_threshold(labels, probabilities)
    errors = [int((predicted_classes(probabilities, one) != labels).sum()) for one in (threshold, 0.5)]
    log.info("submission.threshold=auto: %.4g, with %d errors on validation images (0.5: %d)", threshold, *errors)
    return threshold


def _choose_tta(
    config: RetrainConfig,
    labels: np.ndarray,
    averages: Mapping[Choice, np.ndarray],
    views: Mapping[Choice, Sequence[View]],
    by: str,
) -> tuple[TtaConfig, dict[str, Any], pd.DataFrame | None]:
    """Return the kind that tta=auto takes, its description, and the table of `choose_tta`; None if not tested."""
    if not averages or by == "search":
        flips = config.augmentation.flip_probability > 0
        seen = "labeled image" if config.fit_on == "all" else "image outside the holdout"
        reason = f"the augmentation of the job {'flips' if flips else 'does not flip'} images"
        reason += f"; this was not tested, because the model was trained on every {seen}"
        untested = TtaConfig("flip" if flips else "none")
        return untested, {"kind": untested.kind, "tested": False, "reason": reason}, None
    (kind, average), table = choose_tta(labels, averages, views)
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
    config: RetrainConfig,
    members: Sequence[Member],
    dataset: Dataset,
    predictions: pd.DataFrame,
    views: Mapping[Choice, Sequence[View]],
) -> tuple[Combination, dict[Choice, np.ndarray], pd.DataFrame | None]:
    """Return the result of `_combine_jobs`, and the averages (N, K) of `views`; each image is out of fold.

    There are no averages if any member was trained on all validation images.
    """
    if not all(len(member.out_of_fold_rows) for member in members):
        return uniform_mean(len(_jobs(members)), "logit" if len(_jobs(members)) > 1 else "single"), {}, None
    rows, labels, classes = np.flatnonzero(dataset.rows["fold"] >= 0), predictions["label"].to_numpy(), dataset.classes
    images = live_views(config, dataset.rows, dataset.root)
    models: dict[int | None, list[Forward]] = {}  # of each fold, one for each job
    fold_rows = {member.fold: member.out_of_fold_rows for member in members}
    for member in members:
        models.setdefault(member.fold, []).append(inference_engine(member.model, config.features.engine))
    plain = np.empty((len(_jobs(members)), len(rows), len(classes)))
    for fold, own in fold_rows.items():
        for job, model in enumerate(models[fold]):
            of_job = average_views(model, images, own, {NO_TTA: [ORIGINAL]}, classes, "validation images")
            plain[job, np.searchsorted(rows, own)] = of_job[NO_TTA]
    jobs, table = _combine_jobs(labels, plain, members)
    averages = {choice: np.empty(plain.shape[1:]) for choice in views}
    averages[NO_TTA] = jobs(plain)
    others = {choice: each for choice, each in views.items() if choice != NO_TTA}
    for fold, own in fold_rows.items():
        places = np.searchsorted(rows, own)
        forward, known = _combined(models[fold], jobs, classes), averages[NO_TTA][places]
        of_fold = average_views(forward, images, own, others, classes, "views of validation images", known)
        for choice, probabilities in of_fold.items():
            averages[choice][places] = probabilities
    return jobs, averages, table


def _combined(models: Sequence[Forward], jobs: Combination, classes: Classes) -> Forward:
    """Return the forward pass of the combination of models."""

    def forward(pixels: np.ndarray) -> list[np.ndarray]:
        members = [classes.from_output(model(pixels)[0]) for model in models]
        return [classes.to_output(jobs(np.stack(members)))]

    return forward


def _jobs(members: Sequence[Member]) -> list[str]:
    return list(dict.fromkeys(member.job.name for member in members))


def _combine_jobs(
    labels: np.ndarray, plain: np.ndarray, members: Sequence[Member]
) -> tuple[Combination, pd.DataFrame | None]:
    """Choose the combination of the jobs on unaugmented images (M, N, K); return it and the candidates."""
    if len(plain) == 1:
        return uniform_mean(1, "single"), None
    jobs, table = choose(labels, plain, _jobs(members))
    log.info("ensemble: %s is best of %d methods on %s images", jobs.method, len(table), f"{len(labels):,}")
    return jobs, table


def _calibrate(
    config: RetrainConfig, labels: np.ndarray, averages: Mapping[Choice, np.ndarray], pipeline: Pipeline, by: str
) -> tuple[Pipeline, Outputs, CalibrationResult | None]:
    """Return the pipeline with calibration if it helps, its outputs for the validation images, and the result."""
    if not averages:
        log.warning(
            "no validation score: the model was trained on the validation images, and the search has no predictions of "
            "this trial with these settings"
        )
        return pipeline, {}, None
    # The search saved no predictions of augmented views.
    with_tta = pipeline.uses_tta and by != "search"
    steps = pipeline.steps(averages[NO_TTA], averages[pipeline.tta.kind, pipeline.tta.average] if with_tta else None)
    if not config.calibrate:
        return pipeline, steps, None
    if with_tta != pipeline.uses_tta:
        log.info("calibration not applied: the search saved no predictions with test-time augmentation to fit it on")
        return pipeline, steps, None
    uncalibrated = final_output(steps)
    result = fit_if_better(labels, uncalibrated)
    if result.applied:
        pipeline = dataclasses.replace(pipeline, calibration=result.calibration)
        steps[STEPS[2]] = cross_fitted(labels, uncalibrated)
    return pipeline, steps, result
