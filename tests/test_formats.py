"""Numbers, names and ids as the page shows them."""

from __future__ import annotations

import datetime
import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from catsdogs.comparison import formats
from catsdogs.comparison.paired import Interval


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.02762, "0.0276"), (0.10304, "0.1030"), (0.00043, "0.00043"), (0.0, "0.0000"), (math.nan, "–"), (None, "–")],
)
def test_log_losses(number, text):
    assert formats.loss(number) == text


def test_other_numbers():
    assert formats.signed(-0.0171) == "−0.0171"
    assert formats.signed(0.0171) == "+0.0171"
    assert formats.signed(0.0) == "0.0000"
    assert formats.percent(0.98799) == "98.8 %"
    assert formats.count(2000.0) == "2,000"
    assert formats.value(30.0) == "30"
    assert formats.value(5.106746e-06) == "5.107e-06"
    assert formats.value("cosine") == "cosine"
    assert formats.value(math.nan) == "–"
    assert formats.time_spent(None) == "–"
    assert formats.time_spent(705.4) == "12 min"
    east = datetime.timezone(datetime.timedelta(hours=2))
    assert formats.day_and_time(datetime.datetime(2026, 11, 3, 1, 5, tzinfo=east)) == "2 November 2026, 23:05 UTC"


def test_a_probability_is_never_rounded_to_certainty():
    assert formats.probability(0.9999) == "> 99.9 %"
    assert formats.probability(0.0001) == "< 0.1 %"
    assert formats.probability(1.0) == "100.0 %"
    assert formats.probability(0.254) == "25.4 %"


def test_intervals():
    assert formats.between(Interval(0.03, 0.02, 0.04, 100)) == "0.0200 to 0.0400"
    assert formats.between(Interval(0.03, None, None, 1)) == ""
    assert formats.signed_between(Interval(0.0, -0.02, 0.04, 100)) == "−0.0200 to +0.0400"


def test_long_names_lose_their_middle():
    assert formats.cut_in_the_middle("abcdefgh", 8) == "abcdefgh"
    cut = formats.cut_in_the_middle("a" * 50 + "z" * 50, 21)
    assert cut == "a" * 10 + "…" + "z" * 10
    assert formats.listed(["a", "b", "c"], 2) == "a; b; and 1 more"


def test_names_are_escaped_before_they_may_break():
    assert formats.breakable("<b>_x") == "&lt;b&gt;_<wbr>x"


# What an id can be: the path of a file without its suffix.
_IDS = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" '\"\\${}[],:=()%"), min_size=1)


@given(st.lists(_IDS, min_size=1, max_size=3))
@example(["cat.1", "dogs/dog 2", "a,b", "x'y", 'x"y', "\\", '\\"', "a\\", "${x}", "\\${x}", "\\\\${x}", "$", "a${"])
@example(["null", "true", "1", "007", "1e5", "1_000", "nan", "inf", "-1", "_", "*", "a=b", "[x]", "{y}", "choice(1,2)"])
def test_hydra_reads_quoted_ids_back(ids):
    override = OverridesParser.create().parse_override(f"data.ignore=[{','.join(map(formats.hydra_quoted, ids))}]")
    config = OmegaConf.create({"ignore": override.value()})
    assert OmegaConf.to_container(config, resolve=True)["ignore"] == ids


def test_usual_ids_are_not_quoted():
    assert formats.hydra_quoted("cat.123") == "cat.123"
    assert formats.hydra_quoted("photos/dog-1_b") == "photos/dog-1_b"
    assert formats.hydra_quoted("1") == '"1"'
