"""Settings without effect: those that the user typed are refused, with the reason.

A new setting that is ignored in some configurations gets a row in `_ALWAYS`, `_OF_SEARCH` or `_OF_RETRAIN`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser

from catsdogs.base.errors import UserError
from catsdogs.config.hyperparameters import unfreeze_depths, with_values
from catsdogs.config.schema import MOST_VIEWS, SEARCHABLE, ModelConfig, RetrainConfig, SearchConfig, leaves


class NoEffect(NamedTuple):
    """A setting, or a group with all of its settings, and the configurations in which it has no effect."""

    key: str
    applies: Callable[[Any], bool]
    reason: str  # completes "no effect, because"
    fix: str = ""  # an alternative to removing the setting


def _moves_pixels(config: SearchConfig) -> bool:
    used = config.augmentation
    return any((used.rotation_degrees, used.shift_fraction, used.zoom_fraction, used.shear_degrees))


def _equal_views(config: SearchConfig) -> bool:
    return config.augmentation.is_identity


def _single_view(config: SearchConfig) -> bool:
    """Return whether test-time augmentation averages nothing; `auto` without validation images only flips."""
    one_of_kind = {
        "none": True,
        "views": config.tta.views == 1 or _equal_views(config),
        "auto": config.augmentation.flip_probability == 0,
    }
    return one_of_kind.get(config.tta.kind, False)


def _only_equal_views(config: SearchConfig) -> bool:
    kinds = set(config.tta.kinds or ()) if config.tta.kind == "auto" else {config.tta.kind}
    return kinds - {"none"} == {"views"} and _equal_views(config)


def _without_validation(config: RetrainConfig) -> bool:
    """Return whether no model is validated on images that it was not trained on."""
    by_folds = config.ensemble.kind in ("folds", "trials") or config.evaluate_with == "folds"
    return not by_folds and (config.fit_on == "all" or config.split.folds > 1)


def _no_predictions(config: RetrainConfig) -> bool:
    kept = config.evaluate_with == "auto" and config.split.folds > 1 and config.fit.keep_weights_gib > 0
    kept = kept and config.select.top_k == 1  # the weights of a selection are not kept
    return _without_validation(config) and not kept and not _single_view(config)


def _untested_kinds(config: RetrainConfig) -> bool:
    return config.tta.kind == "auto" and _no_predictions(config)


def _only_random(config: SearchConfig) -> bool:
    """Return whether the Bayesian oracle proposes all trials at random."""
    initial = config.tuner.arguments.get("num_initial_points") or 3 * len(config.space)
    return config.tuner.oracle == "bayesian" and (config.tuner.max_trials or 0) <= initial


def _frozen(config: SearchConfig) -> bool:
    return unfreeze_depths(config) == [0]


def _constant(config: SearchConfig) -> bool:
    return config.schedule.kind == "constant"


_EQUAL = "the augmentation changes nothing, so all views are equal"
_UNTESTED = "no out-of-sample images remain to compare kinds on"
_NO_PREDICTIONS = "no out-of-sample predictions with test-time augmentation exist"
_CONSTANT = "schedule.kind=constant keeps the learning rate"
_OWN_VALIDATION = "data.validation, or a part of data.train, has the validation images"

_ALWAYS = (
    NoEffect("data.sample", lambda c: c.data.sample is not None and c.data.train is not None, "data.train is set"),
    NoEffect("data.sample.test_images", lambda c: c.data.test is not None, "data.test is set"),
    *(
        NoEffect(f"data.{name}_column", lambda c: c.data.labels is None, "data.labels is not set")
        for name in ("id", "class", "group")
    ),
    NoEffect(
        "data.validation_fraction",
        lambda c: c.split.folds > 1,
        "split.folds above 1 determines the split",
        "set split.folds=1",
    ),
    NoEffect("data.validation_fraction", lambda c: c.data.validation is not None, _OWN_VALIDATION),
    NoEffect("backbone.train_batch_norm", _frozen, "no layer is unfrozen", "set model.unfreeze_depth"),
    NoEffect("augmentation.border", lambda c: not _moves_pixels(c), "no transform moves pixels"),
    NoEffect("schedule.final_fraction", _constant, _CONSTANT, "set schedule=cosine"),
    NoEffect("model.head_batch_norm_momentum", lambda c: not c.model.head_batch_norm, "model.head_batch_norm=false"),
    NoEffect(
        "model.head_init",
        lambda c: c.model.head_batch_norm or (c.model.dense_units > 0 and "dense_units" not in c.space),
        "only a linear classifier starts from a regression",
        "set model.dense_units=0 model.head_batch_norm=false",
    ),
    NoEffect("model.l2_scope", lambda c: c.model.l2 == 0 and "l2" not in c.space, "model.l2=0", "set model.l2"),
    NoEffect("model.l2_scope", _frozen, "no layer of the backbone is trained", "set model.unfreeze_depth"),
    NoEffect("features.dtype", lambda c: c.features.mode == "live", "features.mode=live stores no activations"),
    NoEffect("features.max_gib", lambda c: c.features.mode == "live", "features.mode=live stores no activations"),
    NoEffect("features.views", _equal_views, _EQUAL),
    NoEffect("tta.views", lambda c: not c.tta.uses_views, "only tta=views and tta=auto with views in tta.kinds use it"),
    NoEffect("tta.kinds", lambda c: c.tta.kind != "auto", "only tta=auto compares kinds", "set tta=auto"),
    NoEffect("tta", _only_equal_views, _EQUAL, "set tta=none"),
    NoEffect("tta.views", _equal_views, _EQUAL),
    NoEffect("tta.average", lambda c: c.tta.kind == "auto", "tta=auto chooses the average", "set tta=flip"),
    NoEffect("tta.average", _single_view, "there is only one view", "set tta=flip"),
)

_OF_SEARCH = (
    *(
        NoEffect(
            f"{'model' if group is ModelConfig else 'schedule'}.{name}",
            lambda c, name=name: name in c.space,  # type: ignore[misc]  # mypy cannot infer the default
            f"space.{name} is searched",
            f"add ~space.{name}",
        )
        for name, group in SEARCHABLE.items()
    ),
    NoEffect("space.final_fraction", _constant, _CONSTANT, "set schedule=cosine"),
    NoEffect("tuner.max_trials", lambda c: not c.space and c.tuner.max_trials != 1, "the space is empty", "set space"),
    NoEffect("select.repeats", lambda c: c.select.top_k == 1, "select.top_k=1 trains no trial again", "raise it"),
)

_ACTIVATIONS = tuple(f"features.{name}" for name in ("mode", "views", "dtype", "max_gib"))

_OF_RETRAIN = (
    *(
        NoEffect(key, lambda c: True, "only the search uses it")
        for key in ("space", "tuner", "select", "timeout", "varied", "fit.executions_per_trial", "fit.keep_weights_gib")
    ),
    *(
        NoEffect(key, lambda c: c.ensemble.kind == "trials", "ensemble=trials rebuilds trials and trains nothing")
        for key in ("trial", "fit_on", "evaluate_with", "schedule", "label_smoothing", "model", "fit", *_ACTIVATIONS)
    ),
    NoEffect("tta.kinds", _untested_kinds, _UNTESTED, "set tta to one kind"),
    NoEffect("tta.views", _untested_kinds, _UNTESTED, "set tta to one kind"),
    NoEffect("fit.patience", _without_validation, "no validation images remain for early stopping"),
    NoEffect("fit.epochs", _without_validation, "no validation images remain; it is that of the trial"),
    *(
        NoEffect(key, lambda c: c.fit_on == "all" and _without_validation(c), "fit_on=all trains on all images")
        for key in ("data.validation_fraction", "data.split_seed", "split.group_by", "split.holdout_fraction")
    ),
    NoEffect("evaluate_with", lambda c: c.ensemble.kind == "folds", "ensemble=folds uses the models of the folds"),
    NoEffect("evaluate_with", lambda c: c.split.folds == 1, "with split.folds=1 there are no models of folds"),
    NoEffect("submission", lambda c: c.data.test is None and c.data.train is not None, "data.test=null"),
    NoEffect("submission.threshold", lambda c: c.submission.kind != "class", "submission.kind=probability"),
    NoEffect("calibrate", _no_predictions, _NO_PREDICTIONS, "set tta=none"),
    NoEffect(
        "submission.threshold",
        lambda c: c.submission.threshold == "auto" and _no_predictions(c),
        _NO_PREDICTIONS,
        "set tta=none",
    ),
)

# Settings that do not change the trials of a job on given images, see `study.identity`.
_UNRELATED = ("study", "studies_dir", "cache", "data", "split", "tta", "timeout", "varied")
_STORAGE = ("features.mode", "features.engine", "features.max_gib", "fit.keep_weights_gib")
_NOT_TRAINED = (
    *(NoEffect(key, lambda c: True, "") for key in _UNRELATED + _STORAGE),
    NoEffect("tuner", lambda c: not c.space, ""),
    NoEffect("tuner.arguments", _only_random, ""),
)


def check_search(jobs: Sequence[tuple[SearchConfig, Sequence[str]]]) -> None:
    """Raise a `UserError` for a typed setting without effect in any job, given with its overrides from Hydra."""
    rows = _OF_SEARCH + _ALWAYS
    _check([(config, [one for one in words if not one.startswith("~")]) for config, words in jobs], rows)


def check_retrain(config: RetrainConfig, overrides: Sequence[str], trial: str, values: Mapping[str, Any]) -> None:
    """Raise a `UserError` for a typed setting without effect on the final model.

    `overrides` are those of Hydra; `trial` and `values` are the chosen trial and its hyperparameters.
    """
    searched = tuple(
        NoEffect(f"{group}.{name}", lambda c: True, f"trial={trial} sets {name}={value:.4g}", "choose another trial")
        for name, value in values.items()
        for group in ("model", "schedule")
    )
    trained = with_values(dataclasses.replace(config, space={}), dict(values))
    _check([(trained, overrides)], searched + _OF_RETRAIN + _ALWAYS)


def _check(jobs: Sequence[tuple[Any, Sequence[str]]], rows: Sequence[NoEffect]) -> None:
    """Refuse a typed setting, or group of settings, if a row covers all of it in every job that sets it."""
    uses: dict[str, list[tuple[str, NoEffect | None]]] = {}
    for config, words in jobs:
        settings = dict(leaves(dataclasses.asdict(config)))
        for word, override in zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True):
            key, value = override.key_or_group, override.value()
            if value == {} and not override.is_delete():
                fix = ", or use space=fixed" if key == "space" else ""
                raise UserError(f"{word}: no effect, because an empty mapping keeps all settings; remove it{fix}")
            typed = {key: word}
            if isinstance(value, dict) and _row(key, config, rows) is None:
                typed = {f"{key}.{name}": f"{key}.{name}={one}" for name, one in leaves(value)}
            for one, shown in typed.items():
                parts = [name for name in settings if name.startswith(f"{one}.")] or [one]
                found = [_row(part, config, rows) for part in parts]
                uses.setdefault(one, []).append((shown, None if None in found else found[0]))
    for of_jobs in uses.values():
        row = of_jobs[0][1]
        if row is not None and all(other is not None for _, other in of_jobs):
            first, *others = dict.fromkeys(word for word, _ in of_jobs)
            shown = ",".join([first.lstrip("+"), *(word.partition("=")[2] for word in others)])
            raise UserError(f"{shown}: no effect, because {row.reason}; remove it{row.fix and f', or {row.fix}'}")


def _row(key: str, config: Any, rows: Sequence[NoEffect]) -> NoEffect | None:
    return next((row for row in rows if f"{key}.".startswith(f"{row.key}.") and row.applies(config)), None)


def effective(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that have an effect on the trials of a job, by dotted key; the images are not among them."""
    rows = _OF_SEARCH + _ALWAYS + _NOT_TRAINED
    settings = {key: value for key, value in leaves(dataclasses.asdict(config)) if _row(key, config, rows) is None}
    # Larger values change nothing.
    settings["fit.patience"] = min(config.fit.patience, config.fit.epochs - 1)
    if "features.views" in settings:
        settings["features.views"] = min(config.features.views or MOST_VIEWS, config.fit.epochs)
    return settings


def different(config: SearchConfig, other: SearchConfig) -> list[str]:
    """Return the dotted keys of settings that differ, without the names of folders and jobs."""
    then, now = (dict(leaves(dataclasses.asdict(one))) for one in (config, other))
    return [key for key in now if now[key] != then.get(key) and key not in ("study", "varied")]
