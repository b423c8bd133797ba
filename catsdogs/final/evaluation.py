"""Choice of combination, test-time augmentation and calibration on validation images, without the holdout."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
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
from catsdogs.network.merging import merge_models
from catsdogs.scoring.calibration import CalibrationResult, cross_fitted, fit_if_better
from catsdogs.scoring.classes import STEPS
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
    config: RetrainConfig,
    members: Sequence[Member],
    dataset: Dataset,
    fold_members: Sequence[Member] = (),
    chosen: tuple[Combination, pd.DataFrame] | None = None,
) -> Evaluation:
    """Choose combination, TTA and calibration on images outside the holdout that no member was trained on.

    Models of the folds of one trial were trained on each other's images, so their combination cannot be evaluated
    outside the holdout: it is the mean of their logits. Each is evaluated alone on its own fold. The temperature is
    therefore that of a single model, slightly too high for the mean. With several jobs, out-of-fold predictions of
    each job choose between the best job and the two means; the models of a job share its weight. `chosen` is the
    combination of the trials of the members, and its table, if they are chosen already.

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
        by = "final model" if not fold_members and members[0].fold is None else "folds"
        jobs, averages, ensemble_table = _predict(config, fold_members or members, dataset, views, chosen)
    tta, choice, tta_table = config.tta, None, None
    if tta.kind == "auto":
        tta, choice, tta_table = _choose_tta(config, labels, averages, views, by)
    pipeline = Pipeline(tta, config.augmentation, config.seed, None, dataset.classes, config.backbone.resize)
    pipeline, steps, result = _calibrate(config, labels, averages, pipeline, by)
    predictions = predictions.join(pd.DataFrame(columns_of(steps, dataset.classes)))
    threshold = _threshold(config.submission, dataset, labels, steps.get(pipeline.last_step))
    combination = expand_to_models(jobs, list(Counter(map(_trial_of, members)).values()))
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
    views: Mapping[Choice, Sequence[View]],
    chosen: tuple[Combination, pd.DataFrame] | None,
) -> tuple[Combination, dict[Choice, np.ndarray], pd.DataFrame | None]:
    """Return `chosen` or the result of `_combine_jobs`, and the averages (N, K) of `views`; each image is out of fold.

    There are no averages if any member was trained on all validation images.
    """
    trials = len({*map(_trial_of, members)})
    if not all(len(member.out_of_fold_rows) for member in members):
        return uniform_mean(trials, "logit" if trials > 1 else "single"), {}, None
    rows, classes = np.flatnonzero(dataset.rows["fold"] >= 0), dataset.classes
    models: dict[int | None, list[Member]] = {}  # of each fold, one for each trial
    for member in members:
        models.setdefault(member.fold, []).append(member)
    engines = {}
    plain = np.empty((trials, len(rows), len(classes)))
    for member in members if chosen is None else ():
        engines[member] = inference_engine(member.model, config.features.engine)
        trial, own = models[member.fold].index(member), member.out_of_fold_rows
        images = live_views(with_size(config, member.model), dataset.rows, dataset.root)
        of_trial = average_views(engines[member], images, own, {NO_TTA: [ORIGINAL]}, classes, "validation images")
        plain[trial, np.searchsorted(rows, own)] = of_trial[NO_TTA]
    combination, table = chosen or _combine_jobs(dataset.rows["label"].to_numpy()[rows], plain, members)
    averages = {choice: np.empty(plain.shape[1:]) for choice in views}
    for of_fold in models.values():
        own = of_fold[0].out_of_fold_rows
        places = np.searchsorted(rows, own)
        model = combined_model(of_fold, combination)
        forward = next((engines[one] for one in of_fold if one in engines and one.model is model), None)
        # The models were run on these pixels unless they are resized in the combination.
        same_pixels = chosen is None and len({member.model.input_shape for member in of_fold}) == 1
        known = combination(plain[:, places]) if same_pixels else None
        images = live_views(with_size(config, model), dataset.rows, dataset.root)
        forward = forward or inference_engine(model, config.features.engine)
        of_views = average_views(forward, images, own, views, classes, "views of validation images", known)
        for choice, probabilities in of_views.items():
            averages[choice][places] = probabilities
    return combination, averages, table


def combined_model(members: Sequence[Member], combination: Combination) -> keras.Model:
    """Return the model of a combination; with the method "single", that of its only member."""
    if combination.method == "single":
        return members[int(np.argmax(combination.weights))].model
    return merge_models([member.model for member in members], combination)


def with_size(config: RetrainConfig, model: keras.Model) -> RetrainConfig:
    """Return the configuration with the image size of a model."""
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, image_size=model.input_shape[1]))


def _trial_of(member: Member) -> tuple[str, str]:
    return member.job.name, member.trial.trial


def _combine_jobs(
    labels: np.ndarray, plain: np.ndarray, members: Sequence[Member]
) -> tuple[Combination, pd.DataFrame | None]:
    """Choose the combination of the jobs on unaugmented images (M, N, K); return it and the candidates."""
    if len(plain) == 1:
        return uniform_mean(1, "single"), None
    jobs, table = choose(labels, plain, list(dict.fromkeys(member.job.name for member in members)))
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
