"""What is known to matter is found to matter, and noise is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from studies import CHOICES, write_job

from catsdogs.comparison.importance import FEWEST_POINTS, Importance, importance
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.study.trials import TrialRecord, write_trials


def record(trial: int, loss: float, values: dict) -> TrialRecord:
    return TrialRecord(str(trial), "COMPLETED", float(np.exp(loss)), 0.9, 3, 2, 1.0, values, epoch_budget=3)


def write_searched(folder, records: list[TrialRecord], schedule: str = "a") -> StudyData:
    """A study with a job of these trials, beside those that it has."""
    write_job(folder, {**CHOICES, "schedule": schedule}, name=schedule, trials=1)
    write_trials(folder / schedule / "trials.csv", records)
    return read_study_data([folder])


def searched(
    folder, trials: int, loss: Callable[[dict, np.random.Generator], float], jobs: str = "a", seed: int = 0
) -> StudyData:
    """A study whose trials have log losses of exp(`loss`), by hyperparameters that are drawn at random."""
    rng = np.random.default_rng([3, seed])
    for name in jobs:
        records = []
        for number in range(trials // len(jobs)):
            values = {"depth": int(rng.choice([0, 10, 30])), "dropout": rng.uniform(), "l2": 10 ** rng.uniform(-6, -3)}
            records.append(record(number, loss({**values, "schedule": name}, rng), values))
        study_data = write_searched(folder / "night", records, name)
    return study_data


def test_a_hyperparameter_that_matters_is_told_from_one_that_does_not(tmp_path):
    study_data = searched(tmp_path, 80, lambda v, rng: 2 * v["dropout"] + rng.normal(0, 0.1))
    found = importance(study_data)
    table, shares = found.table, found.table.set_index("name").to_dict("index")
    assert found.table["name"].iloc[0] == "dropout"
    assert set(shares) == {"depth", "dropout", "l2"}
    assert (found.trials, found.is_informative) == (80, True)
    assert 0.85 < found.r2 <= 1
    # It decides all there is to decide.
    assert shares["dropout"]["importance"] == pytest.approx(0.9, abs=0.2)
    assert shares["dropout"]["low"] > 0.3
    for name in ("depth", "l2"):
        assert abs(shares[name]["importance"]) < 0.03
        assert shares[name]["low"] <= 0 <= shares[name]["high"]
    assert (table["low"] <= table["importance"]).all()
    assert (table["importance"] <= table["high"]).all()


def test_shares_are_those_of_the_variance(tmp_path):
    # Both terms are independent and decide everything.
    spread = np.array([0, 10, 30]).std()

    def loss(values: dict, rng: np.random.Generator) -> float:
        return np.sqrt(2) * values["depth"] / spread + (values["schedule"] == "a")

    table = importance(searched(tmp_path, 240, loss, jobs="ab")).table.set_index("name")
    # Var of the schedule term is 1/4, that of the depth term 2.
    assert table.loc["depth", "importance"] == pytest.approx(2 / 2.25, abs=0.1)
    assert table.loc["schedule", "importance"] == pytest.approx(0.25 / 2.25, abs=0.05)


@pytest.mark.parametrize("trials", [FEWEST_POINTS, 60])
def test_noise_explains_nothing_and_nothing_is_claimed(tmp_path, trials):
    study_data = [searched(tmp_path / str(seed), trials, lambda v, rng: rng.normal(), seed=seed) for seed in range(3)]
    found = list(map(importance, study_data))
    assert np.mean([told.r2 for told in found]) < 0
    assert all(told.r2 < 0.15 for told in found)
    assert sum(told.is_informative for told in found) <= 1
    assert all((told.table["low"] <= 0.02).all() for told in found)


def test_the_study_counts_where_it_tells_jobs_apart(tmp_path):
    one = searched(tmp_path / "1", 20, lambda v, rng: rng.normal(0, 0.1))
    two = searched(tmp_path / "2", 20, lambda v, rng: 3 + rng.normal(0, 0.1))
    found = importance(read_study_data([*one.studies, *two.studies]))
    assert found.table["name"].iloc[0] == "study"


def of_values(folder, draw: Callable[[int, np.random.Generator], tuple[float, dict]]) -> Importance:
    """Of 60 trials with a log loss of exp of a number, a little noise, and hyperparameters."""
    rng = np.random.default_rng(0)
    drawn = [draw(number, rng) for number in range(60)]
    records = [
        record(number, loss + rng.normal(0, 0.05), {"l2": rng.uniform(), **values})
        for number, (loss, values) in enumerate(drawn)
    ]
    result = importance(write_searched(folder, records))
    assert result is not None
    return result


@pytest.mark.parametrize("kinds", [({}, {"units": 64}, {"units": 128}), ({}, {"units": "relu"}, {"units": "tanh"})])
def test_a_hyperparameter_that_only_some_trials_have(tmp_path, kinds):
    for place in range(3):

        def draw(number: int, rng: np.random.Generator, place: int = place) -> tuple[float, dict]:
            return 2.0 * (number % 3 == place), kinds[number % 3]

        found = of_values(tmp_path / str(place), draw)
        assert list(found.table["name"]) == ["units", "l2"]
        assert found.r2 > 0.9
        assert np.isfinite(found.table[["importance", "low", "high"]]).all(axis=None)


def test_texts_and_truths_are_values_too_and_so_is_the_budget_where_it_varies(tmp_path):
    def draw(number: int, rng: np.random.Generator) -> tuple[float, dict]:
        values: dict[str, Any] = {"kind": str(rng.choice(["x", "y", "10"])), "norm": bool(rng.integers(2)), "same": 1}
        return values["norm"] + 2.0 * (values["kind"] == "y"), values

    assert list(of_values(tmp_path / "texts", draw).table["name"]) == ["kind", "norm", "l2"]
    rng = np.random.default_rng(0)
    records = [
        dataclasses.replace(record(number, -np.log(budget), {"dropout": rng.uniform()}), epoch_budget=budget)
        for number, budget in enumerate([2, 4, 10] * 8)
    ]
    assert importance(write_searched(tmp_path / "night", records)).table["name"].iloc[0] == "epoch_budget"


def test_trials_of_one_point_do_not_give_each_other_away(tmp_path):
    """Jobs with one seed try the same points. What a point has for a loss is chance, and the same in all jobs."""
    rng = np.random.default_rng(1)
    points = [({"dropout": rng.uniform(), "l2": rng.uniform()}, rng.normal()) for _ in range(40)]
    records = [record(number, loss, values) for number, (values, loss) in enumerate(points)]
    study_data = [write_searched(tmp_path / "night", records, name) for name in "abc"]
    found = importance(study_data[-1])
    assert found.trials == 120
    assert found.r2 < 0.05


def test_too_few_points_or_nothing_that_varies(tmp_path):
    few = searched(tmp_path / "few", FEWEST_POINTS - 1, lambda v, rng: rng.normal())
    assert importance(few) is None
    enough = searched(tmp_path / "enough", FEWEST_POINTS, lambda v, rng: rng.normal())
    assert importance(enough).trials == FEWEST_POINTS
    assert importance(searched(tmp_path / "equal", 30, lambda v, rng: 0.5)) is None
    for points in (FEWEST_POINTS - 1, 1):
        records = [record(number, number / 40, {"dropout": number % points}) for number in range(2 * FEWEST_POINTS - 2)]
        assert importance(write_searched(tmp_path / str(points), records)) is None
    write_job(tmp_path / "none", CHOICES, name="a", trials=0, status="running")
    assert importance(read_study_data([tmp_path / "none"])) is None


def test_trials_on_other_images_and_failed_ones_do_not_count(tmp_path):
    searched(tmp_path, 30, lambda v, rng: v["dropout"])
    write_job(tmp_path / "night", CHOICES, name="other", trials=15, digest="e" * 64, skill=0.5)
    write_job(tmp_path / "night", {**CHOICES, "schedule": "z"}, name="failed", trials=6, failed_trials=4, skill=0.6)
    study_data = read_study_data([tmp_path / "night"])
    found, again = importance(study_data), importance(study_data)
    assert found.trials == 32
    assert again.r2 == found.r2
    assert again.table.equals(found.table)
