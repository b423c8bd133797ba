import pytest

from catsdogs.config.hyperparameters import hyperparameters, unfreeze_depths, with_values
from catsdogs.config.schema import SEARCHABLE


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
