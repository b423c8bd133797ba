"""The benchmark of tuners, on a table of made-up learning curves."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import search_bench
from search_bench import Ledger, Race, behind_all, epochs_trained, keras_tuner, race, run, stages
from search_table import POINTS, Table


@pytest.fixture(scope="module")
def table():
    """Curves that fall to a level of their own; rows 0 to 9 are far better than the others."""
    rng = np.random.default_rng(0)
    level = np.where(np.arange(48) < 10, 0.1, 0.3) + 0.01 * rng.random(48)
    means = level[:, None] + 0.3 * np.exp(-np.arange(1, 9))
    losses = means[:, :, None] * rng.gamma(4, 0.25, 100) * np.exp(0.1 * rng.normal(size=(48, 8, 100)))
    about = {"train": 1000}
    return Table(losses.astype(np.float16), losses[::4].astype(np.float16), np.arange(100) % 5, np.zeros(48), about)


def test_race_finds_a_close_trial_for_a_fraction_of_the_cost(table, tmp_path):
    table.write(tmp_path / "table.npz")
    for kind, most in (("grid", 0.5), ("study", 0.75), ("folds", 0.95)):
        results = run(tmp_path / "table.npz", "race", range(5), kind)
        assert all(result["survived"] for result in results), kind
        assert np.median([result["cost"] / result["whole"] for result in results]) < most, kind


@pytest.mark.parametrize("rules", [Race(), Race(group=20), Race(model=True)], ids=str)
def test_race_depends_on_the_seed_only_and_stops_no_leader(table, rules):
    trials = [stages(one, rules.rungs) for one in table.losses.astype(np.float64)]
    inputs = np.random.default_rng(1).random((48, 3))
    ledgers = [Ledger(), Ledger()]
    for ledger in ledgers:
        race(trials, inputs, rules, np.random.default_rng(3), ledger)
    assert ledgers[0].best == ledgers[1].best
    assert len(ledgers[0].finals) >= search_bench.KEEP


def test_trial_is_compared_with_every_leader():
    losses = np.random.default_rng(0).gamma(1, 0.3, 200)
    assert behind_all(losses, np.stack([losses - 0.2, losses - 0.1])) is None  # fewer than three
    assert behind_all(losses, np.stack([losses - 0.2, losses - 0.1, losses[::-1]])) is None
    decision = behind_all(losses, np.stack([losses - 0.2, losses - 0.1, losses - 0.3]))
    assert decision is not None
    assert decision[0] == 1


def test_training_ends_with_patience_or_a_divergence():
    assert [epochs_trained(np.array(means)) for means in ([3.0, 2, 1, 4, 4, 4, 0], [3.0, 2, np.nan, 1])] == [6, 3]


def test_oracles_of_keras_tuner_search_the_grid(table):
    inputs = np.stack([search_bench.encoded(point) for point in POINTS[:48]])
    for name in ("random", "hyperband"):
        ledger = Ledger(60)
        keras_tuner(name, table.losses.astype(np.float64).mean(axis=2), inputs, 1, ledger)
        assert len(ledger.best) >= 60, name
