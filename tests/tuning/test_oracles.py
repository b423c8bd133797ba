from __future__ import annotations

import keras_tuner
import pytest

from catsdogs.config.schema import HyperparameterConfig
from catsdogs.tuning.oracles import declare_space


def test_the_space_is_declared_as_written():
    space = {
        "unfreeze_depth": HyperparameterConfig("choice", values=[0, 10]),
        "dropout": HyperparameterConfig("float", low=0.1, high=0.5, step=0.1),
        "l2": HyperparameterConfig("float", low=1e-6, high=1e-3, sampling="log"),
        "dense_units": HyperparameterConfig("int", low=32, high=256, step=32),
    }
    hp = keras_tuner.HyperParameters()
    declare_space(space, hp)
    assert [type(p).__name__ for p in hp.space] == ["Choice", "Float", "Float", "Int"]
    for seed in range(50):
        drawn = {p.name: p.random_sample(seed) for p in hp.space}
        assert drawn["unfreeze_depth"] in (0, 10)
        assert drawn["dropout"] == pytest.approx(round(drawn["dropout"], 1))
        assert 1e-6 <= drawn["l2"] <= 1e-3
        assert drawn["dense_units"] % 32 == 0
