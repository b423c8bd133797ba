import contextlib
import dataclasses
import math
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catsdogs.base.records import CorruptedFile
from catsdogs.study.trials import TrialRecord, best_trial, lineage, read_trials, write_trials

pytestmark = pytest.mark.lowest

errors = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=30)
rows = st.tuples(st.none() | st.floats(0, 20), st.floats(0, 1, exclude_max=True), st.integers(0, 500), errors)


def record(trial="0", loss=0.5, status="COMPLETED", **values):
    return TrialRecord(trial, status, loss, 0.9, 3, 2, 1.5, values or {"dropout": 0.1})


def test_the_best_trial_has_the_lowest_finite_score_and_the_lowest_number():
    losers = [record("0", 0.01, "FAILED"), record("1", 0.02, "INVALID")]
    losers += [record(str(n), loss) for n, loss in enumerate((math.inf, math.nan, None, -math.inf), start=2)]
    assert best_trial([*losers, record("6", 0.7), record("7", 0.6)]).trial == "7"
    assert best_trial(losers) is None
    assert best_trial([]) is None
    assert best_trial([record("10", 0.3), record("9", 0.3)]).trial == "9"


@given(st.lists(rows, min_size=1, max_size=5))
def test_records_are_read_exactly_as_written(tmp_path_factory, rows):
    records = [
        TrialRecord(str(i), "COMPLETED", loss, None, 3, 1, 0.25, {"dropout": dropout, "unfreeze_depth": depth}, error)
        for i, (loss, dropout, depth, error) in enumerate(rows)
    ]
    path = tmp_path_factory.mktemp("trials") / "trials.csv"
    write_trials(path, records)
    assert read_trials(path) == records
    assert list(pd.read_csv(path)) == [
        "trial", "status", "val_log_loss", "val_accuracy", "epochs", "best_epoch", "seconds", "dropout",
        "unfreeze_depth", "parent", "first_epoch", "epoch_budget", "ended", "error",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "epochs", "best", "problem"),
    [
        (3, 5, 8, ""),  # promoted by Hyperband
        (3, 2, 6, ""),  # rounded means of 2.5 epochs and of the best epoch 5.5
        (0, 0, 0, "epochs=0: expected an integer from 1 to 8"),
        (0, 3, 4, "best_epoch=4: expected an integer from 1 to 3"),
        (3, 5, 0, "best_epoch=0: expected an integer from 1 to 8"),
        (0, 10**9, 8, "epochs=1000000000: expected"),
    ],
)
def test_the_epochs_of_a_completed_trial_agree(tmp_path, first, epochs, best, problem):
    ends = {"epochs": epochs, "best_epoch": best, "first_epoch": first, "epoch_budget": 8}
    changed = dataclasses.replace(record(), **ends)
    write_trials(tmp_path / "trials.csv", [changed])
    with pytest.raises(CorruptedFile, match=problem) if problem else contextlib.nullcontext():
        assert read_trials(tmp_path / "trials.csv") == [changed]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("val_log_loss", -0.1),
        ("val_accuracy", 1.5),
        ("epochs", -1),
        ("seconds", math.nan),
        ("dropout", 1.0),
        ("unfreeze_depth", 2.5),
        ("parent", "0"),  # itself
        ("parent", "7"),
    ],
)
def test_scores_and_settings_out_of_range_are_corrupted(tmp_path, column, value):
    write_trials(tmp_path / "trials.csv", [record(dropout=0.1, unfreeze_depth=2, l2=1e-3)])
    table = pd.read_csv(tmp_path / "trials.csv").assign(**{column: value})
    table.to_csv(tmp_path / "trials.csv", index=False)
    with pytest.raises(CorruptedFile, match=re.escape(f"{column}={value}: ")):
        read_trials(tmp_path / "trials.csv")


def test_lineage_of_a_promoted_trial_is_sorted_oldest_first():
    parents = {"0": "", "4": "0", "6": "4"}
    first, second, third = (dataclasses.replace(record(name), parent=parent) for name, parent in parents.items())
    assert lineage([third, first, record("1"), second], third) == [first, second, third]
    assert lineage([first], first) == [first]
