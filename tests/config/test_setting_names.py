import pytest
from omegaconf import OmegaConf

from catsdogs.config.locations import conf_dir
from catsdogs.config.schema import RetrainConfig, setting_keys
from catsdogs.config.setting_names import REMOVED, RENAMED, RENAMED_VALUES, with_current_names, with_current_overrides

FORMER = {
    "studies": "multirun",
    "split": {"holdout": 0.2, "folds": 5, "together": "copies"},
    "backbone": {"builder": "catsdogs.backbones.small_cnn", "preprocessing": "imagenet_standardised"},
    "fit": {"epochs": 3, "max_parameters": 7},
    "resume": {"failed": "skip"},
    "varied": ["select.top", "seed"],
}
CURRENT = {
    "studies_dir": "multirun",
    "split": {"holdout_fraction": 0.2, "folds": 5, "group_by": "copies"},
    "backbone": {"builder": "catsdogs.network.backbones.small_cnn", "preprocessing": "imagenet_standardized"},
    "fit": {"epochs": 3},
    "varied": ["select.top_k", "seed"],
}


def test_former_names_are_gone_and_current_names_exist():
    keys = {*setting_keys(RetrainConfig)}
    assert not keys & {*RENAMED, *REMOVED}
    assert {*RENAMED.values(), *RENAMED_VALUES} <= keys
    for file in conf_dir().rglob("*.yaml"):
        group = file.parent.name if file.parent != conf_dir() else ""
        names = {f"{group}.{name!s}".lstrip(".") for name in OmegaConf.load(file)}
        assert not names & {*RENAMED, *REMOVED}


def test_a_saved_configuration_gets_current_names():
    assert with_current_names(FORMER) == CURRENT
    assert with_current_names(CURRENT) == CURRENT


@pytest.mark.parametrize("value", [None, 3, "text", [1], {"split": 3, "varied": 5, "select": None}])
def test_a_corrupted_configuration_is_left_for_validation(value):
    assert with_current_names(value) == value


def test_choices_and_command_lines_get_current_names():
    choices = {"split.holdout_fraction": "0.2", "backbone": "small_cnn"}
    assert with_current_names({"split.holdout": "0.2", "backbone": "small_cnn"}) == choices
    words = ["-m", "++split.holdout=0.1,0.2", "backbone.preprocessing=none,imagenet_standardised", "resume.failed=skip"]
    current = ["-m", "++split.holdout_fraction=0.1,0.2", "backbone.preprocessing=none,imagenet_standardized"]
    assert with_current_overrides([*words, "~select.top", "study=s"]) == [*current, "~select.top_k", "study=s"]
