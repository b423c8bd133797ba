"""What is known to matter is found to matter, and noise is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from studies import write_job

from catsdogs.comparison.evidence import Evidence, read_evidence
from catsdogs.comparison.importance import FEWEST_TRIALS, importance
from catsdogs.trials import TrialRecord, write_trials

CHOICES = {"backbone": "b", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}


def record(trial: int, loss: float, values: dict, **told) -> TrialRecord:
    return TrialRecord(str(trial), "COMPLETED", float(np.exp(loss)), 0.9, 3, 2, 1.0, values, epoch_budget=3, **told)


def searched(
    tmp_path,
    trials: int,
    loss: Callable[[dict, np.random.Generator], float],
    jobs: tuple[str, ...] = ("a",),
    seed: int = 0,
) -> Evidence:
    """A study whose trials have log losses of exp(`loss`), by hyperparameters that are drawn at random."""
    rng = np.random.default_rng([3, seed])
    for name in jobs:
        write_job(tmp_path / "night", {**CHOICES, "schedule": name}, name=name, trials=1)
        records = []
        for number in range(trials // len(jobs)):
            values = {
                "depth": int(rng.choice([0, 10, 30])),
                "dropout": rng.uniform(0, 1),
                "l2": 10 ** rng.uniform(-6, -3),
            }
            told = loss({**values, "schedule": name}, rng)
            records.append(record(number, told, values))
        write_trials(tmp_path / "night" / name / "trials.csv", records)
    return read_evidence([tmp_path / "night"])


def test_a_hyperparameter_that_matters_is_told_from_one_that_does_not(tmp_path):
    evidence = searched(tmp_path, 80, lambda v, rng: 2 * v["dropout"] + rng.normal(0, 0.1))
    found = importance(evidence)
    table = found.table.set_index("name")
    assert list(found.table) == ["name", "importance", "low", "high"]
    assert found.table["name"].iloc[0] == "dropout"
    assert set(table.index) == {"depth", "dropout", "l2"}
    assert found.trials == 80
    assert found.tells
    assert 0.85 < found.r2 <= 1
    # It decides all there is to decide.
    assert table.loc["dropout", "importance"] == pytest.approx(0.9, abs=0.2)
    assert table.loc["dropout", "low"] > 0.3
    for name in ("depth", "l2"):
        assert abs(table.loc[name, "importance"]) < 0.03
        assert table.loc[name, "low"] <= 0 <= table.loc[name, "high"]
    assert (table["low"] <= table["importance"]).all()
    assert (table["importance"] <= table["high"]).all()


def test_shares_are_those_of_the_variance(tmp_path):
    # Both terms are independent and decide everything.
    spread = np.array([0, 10, 30]).std()

    def loss(values: dict, rng: np.random.Generator) -> float:
        return np.sqrt(2) * values["depth"] / spread + (values["schedule"] == "a")

    table = importance(searched(tmp_path, 240, loss, jobs=("a", "b"))).table.set_index("name")
    # Var of the schedule term is 1/4, that of the depth term 2.
    assert table.loc["depth", "importance"] == pytest.approx(2 / 2.25, abs=0.1)
    assert table.loc["schedule", "importance"] == pytest.approx(0.25 / 2.25, abs=0.05)


@pytest.mark.parametrize("trials", [12, 60])
def test_noise_explains_nothing_and_nothing_is_claimed(tmp_path, trials):
    found = [
        importance(searched(tmp_path / str(seed), trials, lambda v, rng: rng.normal(), seed=seed)) for seed in range(3)
    ]
    assert np.mean([told.r2 for told in found]) < 0
    assert all(told.r2 < 0.15 for told in found)
    assert sum(told.tells for told in found) <= 1
    assert all((told.table["low"] <= 0.02).all() for told in found)


def test_choices_of_jobs_count_too(tmp_path):
    effect = {"a": 0.0, "b": 1.0, "c": 0.1}
    evidence = searched(tmp_path, 60, lambda v, rng: effect[v["schedule"]] + rng.normal(0, 0.1), jobs=("a", "b", "c"))
    found = importance(evidence)
    assert found.table["name"].iloc[0] == "schedule"
    assert found.r2 > 0.8


def test_the_study_counts_where_it_tells_jobs_apart(tmp_path):
    one = searched(tmp_path / "1", 20, lambda v, rng: rng.normal(0, 0.1))
    two = searched(tmp_path / "2", 20, lambda v, rng: 3 + rng.normal(0, 0.1))
    found = importance(read_evidence([*one.studies, *two.studies]))
    assert found.table["name"].iloc[0] == "study"


def test_a_hyperparameter_that_only_some_trials_have(tmp_path):
    write_job(tmp_path / "night", CHOICES, name="a", trials=1)
    rng = np.random.default_rng(0)
    records = []
    for number in range(60):
        units = [None, 64, 128][number % 3]
        values = {"head": "none" if units is None else "dense", **({} if units is None else {"units": units})}
        records.append(record(number, {None: 2.0, 64: 1.0, 128: 0.0}[units] + rng.normal(0, 0.05), values))
    write_trials(tmp_path / "night" / "a" / "trials.csv", records)
    found = importance(read_evidence([tmp_path / "night"]))
    assert set(found.table["name"]) == {"head", "units"}
    assert found.table["name"].iloc[0] == "units"
    assert found.r2 > 0.9
    assert np.isfinite(found.table[["importance", "low", "high"]]).all(axis=None)


def test_a_text_that_is_missing_is_another_than_the_first(tmp_path):
    write_job(tmp_path / "night", CHOICES, name="a", trials=1)
    rng = np.random.default_rng(0)
    told = [[{}, {"activation": "relu"}, {"activation": "tanh"}][number % 3] for number in range(60)]
    records = [record(number, 2.0 * (not values) + rng.normal(0, 0.05), values) for number, values in enumerate(told)]
    write_trials(tmp_path / "night" / "a" / "trials.csv", records)
    assert importance(read_evidence([tmp_path / "night"])).r2 > 0.9


def test_texts_and_truths_are_values_too(tmp_path):
    write_job(tmp_path / "night", CHOICES, name="a", trials=1)
    rng = np.random.default_rng(0)
    records = []
    for number in range(60):
        values = {"kind": str(rng.choice(["x", "y", "10"])), "norm": bool(rng.integers(2)), "same": 1}
        records.append(record(number, values["norm"] + 2.0 * (values["kind"] == "y") + rng.normal(0, 0.05), values))
    write_trials(tmp_path / "night" / "a" / "trials.csv", records)
    found = importance(read_evidence([tmp_path / "night"]))
    assert list(found.table["name"]) == ["kind", "norm"]


def test_the_budget_of_a_trial_counts_where_it_varies(tmp_path):
    write_job(tmp_path / "night", CHOICES, name="a", trials=1)
    rng = np.random.default_rng(0)
    records = [
        TrialRecord(
            str(number), "COMPLETED", 1.0 / budget, 0.9, 1, 1, 1.0, {"dropout": rng.uniform()}, epoch_budget=budget
        )
        for number, budget in enumerate([2, 4, 10] * 8)
    ]
    write_trials(tmp_path / "night" / "a" / "trials.csv", records)
    assert importance(read_evidence([tmp_path / "night"])).table["name"].iloc[0] == "epoch_budget"


def test_a_trial_that_goes_on_from_another_does_not_give_it_away(tmp_path):
    # Every second trial repeats the values and the loss of the one before, and the loss is noise.
    write_job(tmp_path / "night", CHOICES, name="a", trials=1)

    def r2(promoted: bool) -> float:
        rng = np.random.default_rng(1)
        records = []
        for number in range(0, 80, 2):
            values, loss = {"dropout": rng.uniform(), "l2": rng.uniform()}, rng.normal()
            parent = str(number) if promoted else ""
            records += [record(number, loss, values), record(number + 1, loss, values, parent=parent)]
        write_trials(tmp_path / "night" / "a" / "trials.csv", records)
        return importance(read_evidence([tmp_path / "night"])).r2

    assert r2(promoted=False) > 0.2
    assert r2(promoted=True) < 0.05


@pytest.mark.parametrize("parents", [("1", "0"), ("0", "1"), ("9", "")])
def test_parents_in_a_circle_or_lost_are_survived(tmp_path, parents):
    evidence = searched(tmp_path, 12, lambda v, rng: v["dropout"])
    table = evidence.trials
    table.loc[:1, "parent"] = parents
    assert importance(evidence).trials == 12


def test_too_few_trials_or_nothing_that_varies(tmp_path):
    assert FEWEST_TRIALS == 10
    few = searched(tmp_path / "few", 9, lambda v, rng: rng.normal())
    assert importance(few) is None
    assert importance(searched(tmp_path / "enough", 10, lambda v, rng: rng.normal())) is not None
    assert importance(searched(tmp_path / "equal", 20, lambda v, rng: 0.5)) is None
    write_job(tmp_path / "same", CHOICES, name="a", trials=1)
    records = [record(number, number / 20, {"dropout": 0.5}) for number in range(20)]
    write_trials(tmp_path / "same" / "a" / "trials.csv", records)
    assert importance(read_evidence([tmp_path / "same"])) is None
    write_job(tmp_path / "none", CHOICES, name="a", trials=0, status="running")
    assert importance(read_evidence([tmp_path / "none"])) is None


def test_trials_on_other_images_and_failed_ones_do_not_count(tmp_path):
    searched(tmp_path, 20, lambda v, rng: v["dropout"])
    write_job(tmp_path / "night", CHOICES, name="other", trials=15, digest="e" * 64, skill=0.5)
    write_job(tmp_path / "night", {**CHOICES, "schedule": "z"}, name="failed", trials=6, failed_trials=4, skill=0.6)
    evidence = read_evidence([tmp_path / "night"])
    assert importance(evidence).trials == 22


def test_the_same_trials_give_the_same_numbers_and_500_take_a_few_seconds(tmp_path):
    evidence = searched(tmp_path, 500, lambda v, rng: v["dropout"] * v["depth"] + rng.normal(), jobs=("a", "b"))
    started = time.perf_counter()
    found = importance(evidence)
    assert time.perf_counter() - started < 15  # about 2; a busy machine must not fail the test
    assert found.trials == 500
    again = importance(evidence)
    assert again.r2 == found.r2
    assert again.table.equals(found.table)
