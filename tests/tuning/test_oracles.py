import dataclasses
import inspect

import keras_tuner
import pytest

from catsdogs.config.schema import ORACLE_ARGUMENTS, HyperparameterConfig
from catsdogs.tuning.oracles import build_oracle, declare_space

pytestmark = pytest.mark.lowest


@pytest.mark.parametrize("oracle", ORACLE_ARGUMENTS)
def test_the_arguments_of_every_oracle_are_those_of_keras_tuner(config, oracle):
    trials = () if oracle in ("random", "race", "bayesian") else ("tuner.max_trials=null",)
    signature = inspect.signature(type(build_oracle(config(f"tuner={oracle}", *trials))).__init__)
    common = inspect.signature(keras_tuner.Oracle.__init__).parameters
    defaults = {
        name: argument.default for name, argument in signature.parameters.items() if name not in {*common, "max_epochs"}
    }
    assert dataclasses.asdict(ORACLE_ARGUMENTS[oracle]()) == defaults


def test_space_is_declared_to_keras_tuner():
    space = {
        "unfreeze_depth": HyperparameterConfig("choice", values=[0, 10]),
        "dropout": HyperparameterConfig("float", low=0.1, high=0.5, step=0.1),
        "l2": HyperparameterConfig("float", low=1e-6, high=1e-3, sampling="log"),
        "dense_units": HyperparameterConfig("int", low=32, high=256, step=32),
    }
    hp = keras_tuner.HyperParameters()
    declare_space(space, hp)
    choice, *numbers = hp.space
    assert (choice.name, choice.values) == ("unfreeze_depth", [0, 10])
    assert [(type(p).__name__, p.min_value, p.max_value, p.step, p.sampling) for p in numbers] == [
        ("Float", 0.1, 0.5, 0.1, "linear"),
        ("Float", 1e-6, 1e-3, None, "log"),
        ("Int", 32, 256, 32, "linear"),
    ]
