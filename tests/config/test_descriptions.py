"""Every setting has a meaning, which `--help` and the site show, and an example that composes."""

import dataclasses

import pytest
import settings_page
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from catsdogs.config.descriptions import descriptions, format_settings
from catsdogs.config.schema import ORACLE_ARGUMENTS, HyperparameterConfig, RetrainConfig, setting_keys

ARGUMENTS = [(kind, field.name) for kind in ORACLE_ARGUMENTS.values() for field in dataclasses.fields(kind)]
NESTED = {f"space.NAME.{field.name}" for field in dataclasses.fields(HyperparameterConfig)}
NESTED |= {f"tuner.arguments.{name}" for _, name in ARGUMENTS}

GROUPS = {key.partition(".")[0] for key in descriptions() if "." in key}


def test_every_setting_has_a_meaning_and_a_type():
    keys = {*setting_keys(RetrainConfig), *NESTED}
    meanings = descriptions()
    assert meanings.keys() == keys == settings_page.types().keys() | {"space"}
    assert not [key for key, meaning in meanings.items() if len(meaning) < 15 or meaning.endswith(".")]


def test_help_shows_every_setting_with_its_value_and_meaning():
    values = settings_page.defaults()
    values["tuner"]["arguments"] = {"alpha": 0.5}
    printed = " ".join(format_settings(_root_=OmegaConf.create({**values, "hydra": {}})).split())
    # Settings of other options are not listed: data.sample=null, and tta=auto chooses the average.
    hidden = {key for key in descriptions() if key.startswith("data.sample.")} | {"tta.average"}
    for key, meaning in descriptions().items():
        shown = key not in hidden | NESTED or key == "tuner.arguments.alpha"
        assert (" ".join(meaning.replace("`", "").split()) in printed) == shown, key
    assert "split.folds=auto 1: one split by data.validation_fraction" in printed
    assert "tuner.arguments.alpha=0.5 with bayesian: assumed noise" in printed
    assert "space.dropout={kind: float, low: 0.1, high: 0.5, step: 0.1}" in printed
    assert "study=$${now:" in printed  # for string.Template


def test_every_setting_has_an_example_within_its_range():
    assert not [key for key in descriptions() if not settings_page.example(key) and key not in GROUPS]
    examples = [one for one in settings_page.EXAMPLES if not one.startswith("tuner.arguments")]
    names = {field.name for field in dataclasses.fields(RetrainConfig)} - {*settings_page.composed("search")}
    own = [one for one in examples if one.split("=")[0].split(".")[0] in names]
    searched = [one for one in examples if one not in own]
    values = settings_page.composed("search", "data=sample", *searched) | {
        name: value for name, value in settings_page.composed("retrain", *own).items() if name in names
    }
    TypeAdapter(RetrainConfig).validate_python({**values, "cache": "/c"})
    for kind, name in ARGUMENTS:
        value = OmegaConf.from_dotlist([settings_page.example(f"tuner.arguments.{name}")]).tuner.arguments[name]
        TypeAdapter(kind).validate_python({name: value})


def test_the_reference_has_type_range_default_options_and_example():
    page = settings_page.settings()
    assert page.count("```{confval}") == len(descriptions()) - len(GROUPS)
    assert all(page.count(f"## `{group}`") == 1 for group in GROUPS)
    start = page.index("{confval} augmentation.rotation_degrees")
    entry = page[start : page.index("```", start)]
    for text in ("number, at least 0, at most 180", "Default: `8`", "`strong` 25", "augmentation.rotation_degrees=15"):
        assert text in entry
    start = page.index("{confval} fit.batch_size")
    assert "Type: integer, at least 1, at most 65,536, or `auto`\n- Default: `auto`" in page[start : start + 300]


@pytest.mark.parametrize("group", ["experiment", "sweeps", "hydra/launcher", "tta"])
def test_options_have_a_meaning(group):
    rows = settings_page.options(group, "auto")[2:-1]
    assert len(rows) >= 3
    assert not [row for row in rows if len(row.split("|")[2].strip()) < 10 or "@package" in row or "python -m" in row]
