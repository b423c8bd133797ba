"""Effects of choices are estimated from jobs that differ in nothing else."""

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, write_job, write_study

from catsdogs.comparison.choices import (
    MOST_VALUES,
    choice_effects,
    choice_pairs,
    compared_choices,
    unlisted_differences,
)
from catsdogs.comparison.study_data import read_study_data
from catsdogs.scoring.intervals import mean_intervals

CONFIG = {"fit": {"epochs": 3}, "tuner": {"oracle": "random"}, "data": {"limit": None}}


def job(study, skill=1.5, config=None, **choices):
    name, config = "-".join(choices.values()), CONFIG | (config or {})
    write_job(study, {**CHOICES, **choices}, name=name, trials=1, skill=skill, seed=sum(map(ord, name)), config=config)


def test_effects_average_the_pairs_that_differ_in_one_choice(tmp_path):
    study_data = read_study_data([write_study(tmp_path / "night")])
    losses = study_data.losses()
    pairs, effects = choice_pairs(study_data), choice_effects(study_data)
    assert compared_choices(study_data) == ("augmentation", "label_smoothing")
    assert list(pairs["choice"]) == ["augmentation"] * 2 + ["label_smoothing"] * 2
    vectors = [losses[row["label"]] - losses[row["label_against"]] for row in pairs.to_dict("records")]
    for row, vector in zip(pairs.to_dict("records"), vectors, strict=True):
        expected = mean_intervals(vector.to_numpy()[None])[0]
        found = [row[name] for name in ("difference", "low", "high", "images")]
        assert found == pytest.approx([expected.value, expected.low, expected.high, 200])
        labels = (row["label"], row["label_against"])
        one, other = (dict(zip(CHOICES, label.split("-"), strict=True)) for label in labels)
        assert (one[row["choice"]], other[row["choice"]]) == (row["value"], row["against"])
        assert {name for name in CHOICES if one[name] != other[name]} == {row["choice"]}
    augmentation = effects.iloc[0]
    about = augmentation[["choice", "value", "against", "pairs", "images", "decided"]]
    assert list(about) == ["augmentation", "light", "none", 2, 200, True]
    assert augmentation["difference"] == pytest.approx(pairs["difference"][:2].mean())
    expected = mean_intervals(np.mean(vectors[:2], axis=0)[None])[0]
    assert (augmentation["low"], augmentation["high"]) == pytest.approx((expected.low, expected.high))
    # Narrower than a single pair, because noise is averaged over the two pairs.
    assert augmentation["high"] - augmentation["low"] < (pairs["high"] - pairs["low"])[:2].max()
    assert (effects["difference"] <= 0).all()
    assert ((effects["high"] < 0) == effects["decided"]).all()


def test_many_values_are_compared_with_the_best_only(tmp_path):
    # `f` occurs only with the easier `other`: its jobs are not the best of their group.
    for number, name in enumerate("abcdef"):
        if name != "f":
            job(tmp_path / "night", 1.0 + 0.2 * number, schedule=name, augmentation="some")
        job(tmp_path / "night", 2.0 + (0.2 * number if name != "f" else 0.5), schedule=name, augmentation="other")
    study_data = read_study_data([tmp_path / "night"])
    effects, pairs = choice_effects(study_data), choice_pairs(study_data)
    strongest = effects.groupby("choice")["difference"].min().sort_values()
    assert list(effects["choice"].drop_duplicates()) == list(strongest.index)
    schedules = effects[effects["choice"] == "schedule"]
    assert len("abcdef") > MOST_VALUES
    assert set(schedules["value"]) == {"e"}
    assert schedules["difference"].is_monotonic_increasing
    assert dict(zip(schedules["against"], schedules["pairs"], strict=True)) == dict.fromkeys("abcd", 2) | {"f": 1}
    assert len(pairs[pairs["choice"] == "schedule"]) == 9


def test_pairs_with_other_differences_are_excluded_and_reported(tmp_path):
    job(tmp_path / "one", schedule="a")
    job(tmp_path / "one", schedule="b", config={"schedule": {"kind": "constant"}})
    job(tmp_path / "two", schedule="c", config={"tuner": {"oracle": "grid"}, "schedule": {"kind": "cosine"}})
    study_data = read_study_data([tmp_path / "one", tmp_path / "two"])
    effects = choice_effects(study_data)
    assert {*effects["value"], *effects["against"]} == {"a", "b"}
    # A choice owns its own keys, so schedule.kind is not listed.
    assert unlisted_differences(study_data) == ["tuner.oracle"]


@pytest.mark.parametrize(
    ("config", "fair"),
    [
        ({"fit": {"epochs": 9}}, False),
        ({"space": {"dropout": {"kind": "float", "low": 0.1, "high": 0.9}}}, False),
        ({"cache": "other", "study": "other", "studies": "other", "tta": {"kind": "flip"}, "varied": ["other"]}, True),
    ],
)
def test_settings_that_affect_results_must_be_equal(tmp_path, config, fair):
    job(tmp_path / "night", schedule="a")
    job(tmp_path / "night", schedule="b", config=config)
    study_data = read_study_data([tmp_path / "night"])
    assert len(choice_effects(study_data)) == fair
    assert (unlisted_differences(study_data) == []) == fair


def test_a_choice_of_one_key_is_read_from_the_configuration(tmp_path):
    # Only `two` varies the epochs, and records them as typed by the user.
    job(tmp_path / "one", 1.2, schedule="a")
    for epochs in ("3", "1_0"):
        config = {"fit": {"epochs": int(epochs)}}
        job(tmp_path / "two", 1.9, config=config, schedule="b", **{"fit.epochs": epochs})
    job(tmp_path / "one", 1.9, schedule="b", config={"fit": {"epochs": 10}})
    study_data = read_study_data([tmp_path / "one", tmp_path / "two"])
    assert study_data.choices[-1] == "fit.epochs"
    of_epochs = choice_effects(study_data).query("choice == 'fit.epochs'")
    assert {*of_epochs["value"], *of_epochs["against"]} == {"3", "10"}


def test_a_choice_that_is_not_a_key_owns_all_keys_and_unrecorded_choices_make_no_pair(tmp_path):
    job(tmp_path / "one", experiment="a")
    job(tmp_path / "one", experiment="b", config={"fit": {"epochs": 9}})
    study_data = read_study_data([tmp_path / "one"])
    assert list(choice_effects(study_data)["choice"]) == ["experiment"]
    assert unlisted_differences(study_data) == []
    job(tmp_path / "two")
    effects = choice_effects(read_study_data([tmp_path / "one", tmp_path / "two"]))
    assert effects["pairs"].tolist() == [1]
    assert {*effects["value"], *effects["against"]} == {"a", "b"}


def test_the_study_is_a_choice_if_only_it_distinguishes_jobs(tmp_path):
    for study, oracle, skill in (("one", "random", 1.4), ("two", "grid", 1.9)):
        for schedule in "ab":
            job(tmp_path / study, skill, schedule=schedule, config={"tuner": {"oracle": oracle}})
    study_data = read_study_data([tmp_path / "one", tmp_path / "two"])
    assert compared_choices(study_data) == ("schedule", "study")
    effects = choice_effects(study_data).set_index("choice")
    assert list(effects.index) == ["study", "schedule"]  # the largest effect first
    assert list(effects.loc["study", ["value", "against", "pairs"]]) == ["two", "one", 2]
    # Jobs of one study differ in nothing else.
    assert effects.loc["schedule", "pairs"] == 2
    assert unlisted_differences(study_data) == ["tuner.oracle"]


def test_jobs_without_predictions_or_on_other_images_make_no_pair(tmp_path):
    for name in "abc":
        job(tmp_path / "night", schedule=name)
    write_job(tmp_path / "night", {**CHOICES, "schedule": "d"}, name="d", digest="e" * 64, skill=0.5)
    (tmp_path / "night" / "a" / "validation.csv").unlink()
    effects = choice_effects(read_study_data([tmp_path / "night"]))
    assert {*effects["value"], *effects["against"]} == {"b", "c"}
    # The remaining jobs have no image in common.
    table = pd.read_csv(tmp_path / "night" / "b" / "validation.csv")
    table.assign(id=table["id"] + "x").to_csv(tmp_path / "night" / "b" / "validation.csv", index=False)
    study_data = read_study_data([tmp_path / "night"])
    assert choice_pairs(study_data).empty
    assert choice_effects(study_data).empty
