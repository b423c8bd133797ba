"""Known effects are detected, and noise is not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, write_job

from catsdogs.base.files import write_csv
from catsdogs.comparison.importance import FEWEST_POINTS, importance
from catsdogs.comparison.study_data import read_study_data
from catsdogs.study.trials import TrialRecord, write_trials

pytestmark = pytest.mark.lowest


def record(trial, loss, values, budget=3):
    return TrialRecord(str(trial), "COMPLETED", float(np.exp(loss)), 0.9, 1, 1, 1.0, values, epoch_budget=budget)


def write_searched(folder, records, schedule="a"):
    """Add a job with these trials to a study."""
    write_job(folder, {**CHOICES, "schedule": schedule}, name=schedule, trials=1)
    write_trials(folder / schedule / "trials.csv", records)
    return read_study_data([folder])


def searched(folder, trials, loss, jobs="a", seed=0):
    """Return a study with trials of log loss exp(`loss(values, rng)`) at random hyperparameters."""
    rng = np.random.default_rng([3, seed])
    for name in jobs:
        records = []
        for number in range(trials // len(jobs)):
            values = {"depth": int(rng.choice([0, 10, 30])), "dropout": rng.uniform(), "l2": 10 ** rng.uniform(-6, -3)}
            records.append(record(number, loss({**values, "schedule": name}, rng), values))
        study_data = write_searched(folder / "night", records, name)
    return study_data


def test_only_hyperparameters_with_an_effect_are_important(tmp_path):
    result = importance(searched(tmp_path, 80, lambda v, rng: 2 * v["dropout"] + rng.normal(0, 0.1)))
    table, shares = result.table, result.table.set_index("name").to_dict("index")
    assert table["name"].iloc[0] == "dropout"
    assert set(shares) == {"depth", "dropout", "l2"}
    assert (result.trials, result.r2 > 0) == (80, True)
    assert 0.85 < result.r2 <= 1
    # It explains all variance except the noise.
    assert shares["dropout"]["importance"] == pytest.approx(0.9, abs=0.2)
    assert shares["dropout"]["low"] > 0.3
    for name in ("depth", "l2"):
        assert abs(shares[name]["importance"]) < 0.03
        assert shares[name]["low"] <= 0 <= shares[name]["high"]
    assert table["importance"].between(table["low"], table["high"]).all()


def test_values_of_all_types_missing_values_and_budgets_are_compared(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for number in range(90):
        kind, norm, budget = str(rng.choice(["x", "y", "10"])), bool(rng.integers(2)), int(rng.choice([2, 4, 10]))
        values = {"kind": kind, "norm": norm, "same": 1, "l2": rng.uniform()} | ({"units": 64} if number % 3 else {})
        loss = norm + 3.0 * (kind == "y") + 2.0 * (number % 3 > 0) - 0.2 * budget
        records.append(record(number, loss + rng.normal(0, 0.05), values, budget))
    result = importance(write_searched(tmp_path / "night", records))
    assert list(result.table["name"]) == ["kind", "units", "epoch_budget", "norm", "l2"]
    assert result.r2 > 0.7
    assert np.isfinite(result.table[["importance", "low", "high"]]).all(axis=None)


def test_trials_of_one_point_stay_in_one_fold(tmp_path):
    """Jobs with one seed try the same points. Here the loss of a point is random but equal in all jobs."""
    rng = np.random.default_rng(1)
    points = [({"dropout": rng.uniform(), "l2": rng.uniform()}, rng.normal()) for _ in range(40)]
    records = [record(number, loss, values) for number, (values, loss) in enumerate(points)]
    study_data = [write_searched(tmp_path / "night", records, name) for name in "abc"]
    result = importance(study_data[-1])
    assert result.trials == 120
    assert result.r2 < 0.05


def test_importance_needs_enough_points_and_varying_losses(tmp_path):
    assert importance(searched(tmp_path / "few", FEWEST_POINTS - 1, lambda v, rng: rng.normal())) is None
    enough = searched(tmp_path / "enough", FEWEST_POINTS, lambda v, rng: rng.normal())
    assert importance(enough).trials == FEWEST_POINTS
    assert importance(searched(tmp_path / "equal", 30, lambda v, rng: 0.5)) is None
    for points in (FEWEST_POINTS - 1, 1):
        records = [record(number, number / 40, {"dropout": number % points}) for number in range(2 * FEWEST_POINTS - 2)]
        assert importance(write_searched(tmp_path / str(points), records)) is None


def test_trials_on_other_images_and_failed_trials_are_excluded(tmp_path):
    searched(tmp_path, 30, lambda v, rng: v["dropout"])
    write_job(tmp_path / "night", CHOICES, name="other", trials=15, digest="e" * 64, skill=0.5)
    write_job(tmp_path / "night", {**CHOICES, "schedule": "z"}, name="failed", trials=6, failed_trials=4, skill=0.6)
    result, again = (importance(read_study_data([tmp_path / "night"])) for _ in range(2))
    assert (result.trials, again.r2) == (32, result.r2)
    assert again.table.equals(result.table)


def test_with_stopped_trials_all_are_compared_after_the_epochs_that_all_have_reached(tmp_path):
    rng = np.random.default_rng(2)
    records, history = [], []
    for number in range(60):
        values = {"dropout": float(rng.uniform()), "l2": float(rng.uniform())}
        stopped = number % 3 > 0
        one = record(number, np.log(0.1), values)
        reason = {"status": "STOPPED", "error": "behind trial=0 by 0.031 (0.012 to 0.050) after 2 epochs"}
        records.append(dataclasses.replace(one, epochs=2 if stopped else 3, **(reason if stopped else {})))
        for epoch in range(1, 3 if stopped else 4):
            # The last epoch, which only some have reached, would contradict the first ones.
            loss = 0.5 + values["dropout"] + epoch % 2 if epoch < 3 else 0.01 / (1 + values["dropout"])
            history.append({"trial": number, "execution": 0, "epoch": epoch, "val_log_loss": loss})
    study_data = write_searched(tmp_path / "night", records)
    write_csv(tmp_path / "night" / "a" / "history.csv", pd.DataFrame(history))
    study_data = read_study_data([tmp_path / "night"])
    (row,) = study_data.leaderboard.to_dict("records")
    assert [row[f"trials_{name}"] for name in ("completed", "stopped", "failed")] == [20, 40, 0]
    result = importance(study_data)
    assert (result.trials, result.epochs) == (60, 2)
    assert result.table["name"].iloc[0] == "dropout"
    assert result.r2 > 0.8
    (tmp_path / "night" / "a" / "history.csv").unlink()
    # The completed ones have equal log losses.
    assert importance(read_study_data([tmp_path / "night"])) is None
