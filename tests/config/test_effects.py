import dataclasses
import re

import pytest
from conftest import FITTED
from test_compose import retrained

from catsdogs.base.errors import UserError
from catsdogs.config.compose import as_typed, to_search_config
from catsdogs.config.effects import check_retrain, check_search, effective
from catsdogs.config.hyperparameters import hyperparameters, unfreeze_depths, with_values
from catsdogs.config.schema import SEARCHABLE

CONSTANT = "schedule=constant"
NO_EFFECT = [
    (["model.dropout=0"], "space.dropout is searched; remove it, or add ~space.dropout"),
    ([CONSTANT, "schedule.final_fraction=0.1"], "schedule.kind=constant"),
    ([CONSTANT, "++space.final_fraction={kind:float,low:0.0,high:0.5}"], "schedule.kind=constant"),
    (["data.train=t.zip", "data.sample={images_per_class:8,test_images:1,seed:1,classes:2}"], "data.train is set"),
    (["data=sample", "data.test=t.zip", "data.sample.test_images=5"], "data.test is set"),
    (["split.folds=3", "data.validation_fraction=0.3"], "split.folds"),
    (["data.validation=valid", "data.validation_fraction=0.3"], "data.validation, or a part"),
    (["space={}"], "an empty mapping keeps all settings; remove it, or use space=fixed"),
    (["space=head", "backbone.train_batch_norm=true"], "no layer is unfrozen"),
    (["model.head_batch_norm=true", "model.head_init=random"], "only a linear classifier"),
    (["space=head", "model.l2_scope=head_and_backbone"], "no layer of the backbone"),
    (["~space.l2", "model.l2=0", "model.l2_scope=head_and_backbone"], "model.l2=0"),
    (["model.head_batch_norm=false", "model.head_batch_norm_momentum=0.99"], "model.head_batch_norm=false"),
    (["augmentation=flip", "augmentation.border=black"], "no transform moves pixels"),
    (["augmentation=none", "features.views=3"], "all views are equal"),
    (["features.mode=live", "features.dtype=float16"], "features.mode=live"),
    (["select.repeats=5"], "select.top_k=1"),
    (["space=fixed", "tuner.max_trials=5"], "the space is empty"),
    (["tta.views=20"], "tta=auto with views in tta.kinds"),
    (["tta=flip", "++tta.kinds=[none,flip]"], "only tta=auto compares kinds"),
    (["augmentation=none", "tta=views"], "all views are equal"),
    (["tta=none", "++tta.average=logit"], "only one view"),
]


@pytest.fixture(scope="module")
def search(composed):
    """Return a function that composes and checks a search with overrides."""

    def check(*overrides):
        data = () if any(word.startswith(("data=", "data.train")) for word in overrides) else ("data.train=train.zip",)
        config = to_search_config(composed(*data, *overrides))
        check_search([(config, [*data, *overrides])])
        return config

    return check


@pytest.mark.parametrize(("overrides", "reason"), NO_EFFECT)
def test_a_typed_setting_without_effect_is_refused_with_the_reason(search, overrides, reason):
    with pytest.raises(UserError) as caught:
        search(*overrides)
    message = str(caught.value)
    assert message.startswith(f"{overrides[-1].lstrip('+')}: no effect, because ")
    assert reason in message
    assert "; remove it" in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["~space.dropout", "model.dropout=0.2"],
        ["experiment=seed_recipe", "model.dropout=0.3", "model.l2_scope=head_and_backbone", "tta.views=5"],
        ["tta.kinds=[none,views]", "tta.views=20"],
        ["augmentation=none", "tta.kinds=[none,flip,views]"],
        ["experiment=debug", "augmentation=none", "features.mode=live", "fit.patience=100"],
        ["select.top_k=3", "select.repeats=5", "augmentation.border=black", "features.views=3"],
    ],
    ids=" ".join,
)
def test_settings_with_an_effect_and_those_of_files_are_accepted(search, overrides):
    search(*overrides)
    with pytest.raises(UserError, match=r"^model\.l2=0: no effect"):
        search("model={l2:0,dense_units:3}")


def test_a_setting_with_an_effect_in_one_job_of_a_study_is_accepted_and_equal_jobs_are_recognized(composed):
    jobs = {}
    for kind in ("constant", "cosine"):
        for final in ("0", "0.1"):
            words = ["data.train=train.zip", f"schedule={kind}", f"schedule.final_fraction={final}"]
            jobs[kind, final] = to_search_config(composed(*words)), words
    check_search(list(jobs.values()))
    with pytest.raises(UserError, match=r"schedule.final_fraction=0,0.1: no effect"):
        check_search([job for (kind, _), job in jobs.items() if kind == "constant"])
    settings = {name: effective(config) for name, (config, _) in jobs.items()}
    assert settings["constant", "0"] == settings["constant", "0.1"]
    assert settings["cosine", "0"] != settings["cosine", "0.1"] != settings["constant", "0"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.dropout=0.2"], "trial=3 sets dropout=0.5"),
        (["model.unfreeze_depth=30"], ""),
        (["tuner.max_trials=9"], "only the search uses it"),
        (["fit_on=all", "fit.patience=9"], "no validation images"),
        (["fit_on=all", "fit.epochs=9"], "that of the trial"),
        (["split.folds=3", "evaluate_with=folds", "fit.epochs=9"], ""),
        (["evaluate_with=search"], "with split.folds=1 there are no models of folds; remove it"),
        (["split.folds=3", "ensemble.kind=folds", "evaluate_with=folds"], "ensemble=folds uses the models"),
        *(
            (["ensemble.kind=trials", setting], "ensemble=trials rebuilds trials and trains nothing")
            for setting in ("trial=3", "fit_on=all", "fit.epochs=9", "schedule.peak_lr=0.1", "features.mode=live")
        ),
        (["split.folds=3", "ensemble.kind=trials", "tta.kinds=[none,flip]"], ""),
        (["submission.threshold=0.5"], "data.test=null"),
        (["fit_on=all", "data.split_seed=5"], "fit_on=all trains on all images"),
        (["split.folds=3", "fit_on=all", "evaluate_with=folds", "data.split_seed=5"], ""),
        (["fit_on=all", "tta.kind=flip", "calibrate=true"], "no out-of-sample predictions"),
        (["data.test=t.zip", "fit_on=all", "tta.kind=flip", "submission.threshold=auto"], "no out-of-sample predict"),
        (["data.test=t.zip", "fit_on=all", "tta.kind=none", "submission.threshold=auto"], ""),
        (["data.test=t.zip", "submission.threshold=auto"], ""),
        (["tta.kinds=[none,crops]"], ""),
        (["split.folds=3", "evaluate_with=auto", "tta.kinds=[none,crops]"], ""),
        (
            ["split.folds=3", "select.top_k=2", "evaluate_with=auto", "tta.kinds=[none,crops]"],
            "no out-of-sample images",
        ),
        (["fit_on=all", "tta.kinds=[none,crops]"], "no out-of-sample images"),
    ],
)
def test_a_setting_without_effect_on_the_final_model_is_refused(composed, overrides, reason):
    # An override of a searched hyperparameter has no effect; that of another one has.
    search = to_search_config(composed("data.train=t.zip", *FITTED, "backbone.image_size=96"))
    kind = ["submission.kind=class"] if "submission.threshold=auto" in overrides else []
    config = retrained(dataclasses.asdict(search), "evaluate_with=search", *kind, *map(as_typed, overrides))
    typed = [one for one in overrides if not one.startswith("select.")]  # that is of the search
    if not reason:
        check_retrain(config, typed, "3", {"dropout": 0.5, "l2": 0.001})
        return
    with pytest.raises(UserError, match=re.escape(f"{overrides[-1]}: no effect, because ") + f".*{reason}"):
        check_retrain(config, typed, "3", {"dropout": 0.5, "l2": 0.001})


def test_searched_values_replace_those_of_the_configuration(config):
    job = config("model.dropout=0.4", "schedule.peak_lr=0.002")
    trial = with_values(job, {"unfreeze_depth": 3.0, "l2": 1e-5, "final_fraction": 0})
    values = hyperparameters(trial)
    assert list(values) == list(SEARCHABLE)
    assert (values["unfreeze_depth"], values["l2"], values["final_fraction"]) == (3, 1e-5, 0.0)
    # recipe.json contains these types.
    assert [type(values[name]) for name in ("unfreeze_depth", "final_fraction")] == [int, float]
    assert (values["dropout"], values["peak_lr"]) == (0.4, 0.002)
    assert with_values(trial, hyperparameters(job)) == job


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{kind: choice, values: [30, 0, 10]}", [0, 10, 30]),
        ("{kind: int, low: 2, high: 10, step: 4}", [2, 6, 10]),
        ("{kind: int, low: 2, high: 5, sampling: log}", [2, 3, 4, 5]),
    ],
)
def test_unfreeze_depths_are_all_depths_of_the_space(config, entry, expected):
    assert unfreeze_depths(config("space=fixed", f"+space={{unfreeze_depth: {entry}}}")) == expected
    assert unfreeze_depths(config("space=fixed", "model.unfreeze_depth=3")) == [3]
