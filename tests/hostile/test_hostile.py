"""Damaged and hostile inputs end as declared; `python -m tests.hostile` tries 100,000 of them."""

import dataclasses
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from configurations import composed, config_problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catsdogs.base.errors import UserError
from catsdogs.config.checks import validated
from catsdogs.config.schema import SEARCHABLE, SearchConfig

NUMBERS = st.one_of(st.floats(), st.integers(), st.floats(0, 1), st.integers(0, 64), st.booleans(), st.none())
JSON = st.recursive(NUMBERS | st.text(max_size=3), lambda one: st.lists(one, max_size=3), max_leaves=4)
NUMBER_KEYS = dict.fromkeys(("low", "high", "step"), NUMBERS | JSON)
OPTIONAL = {"values": st.lists(NUMBERS, max_size=4) | JSON, "sampling": st.sampled_from(["linear", "log", 1])}
DIMENSION = st.fixed_dictionaries(
    {"kind": st.sampled_from(["choice", "int", "float"])}, optional=OPTIONAL | NUMBER_KEYS
)
SPACES = st.dictionaries(st.sampled_from(list(SEARCHABLE)), DIMENSION, max_size=3)


@pytest.mark.parametrize(("kind", "cases"), [("readers", 1000), pytest.param("commands", 25, marks=pytest.mark.slow)])
def test_damaged_inputs_end_as_declared(kind, cases):
    command = [sys.executable, "-m", "tests.hostile", "--cases", str(cases), "--only", kind]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{cases:,} cases, 0 failed" in done.stdout


@settings(max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(SPACES)
def test_a_space_is_refused_or_gives_values_in_its_ranges(space):
    with suppress(UserError):
        config = validated(dataclasses.asdict(composed()) | {"space": space}, SearchConfig)
        assert config_problem(config, None) == ""
