"""Numbers, names and ids as the page shows them."""

from __future__ import annotations

import datetime
import math

import pytest

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
    assert formats.between(Interval(0.0, -0.02, 0.04, 100), formats.signed) == "−0.0200 to +0.0400"


def test_long_names_lose_their_middle():
    assert formats.cut_in_the_middle("abcdefgh", 8) == "abcdefgh"
    cut = formats.cut_in_the_middle("a" * 50 + "z" * 50, 21)
    assert cut == "a" * 10 + "…" + "z" * 10
    assert formats.listed(["a", "b", "c"], 2) == "a; b; and 1 more"


def test_names_are_escaped_before_they_may_break():
    assert formats.breakable("<b>_x") == "&lt;b&gt;_<wbr>x"


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        ((0.01, 0.002, 0.02), "lowers the log loss by 0.0100 (95 % interval of the gain +0.0020 to +0.0200), "),
        ((0.01, 0.002, 0.02), "on 2,000 holdout images: it helps."),
        ((-0.01, -0.02, -0.002), "Calibration raises the log loss by 0.0100 (95 % interval of the gain −0.0200 to "),
        ((-0.01, -0.02, -0.002), "images: it harms, so leave it."),
        ((0.01, -0.002, 0.02), "images: no more than noise."),
        ((-0.01, -0.02, 0.002), "images: no more than noise."),
        ((0.01, None, None), "lowers the log loss by 0.0100, image by image on 2,000 holdout images: no "),
    ],
)
def test_what_a_step_gains(gain, told):
    found = dict(zip(("value", "low", "high"), gain, strict=True), size=2000, split="holdout")
    assert told in formats.gain_told("Calibration", found, ", so leave it")
    assert formats.gain_told("Calibration", {**found, "kept": False}).endswith("images: it is left out.")


def test_what_is_no_gain_is_not_told():
    gain = {"value": 0.1, "low": 0.05, "high": 0.2, "size": 9, "split": "test"}
    told = formats.gains_told({"validation": {}, "test": gain, "holdout": 3}, {"test": gain | {"size": None}})
    assert len(told) == 1
    assert told[0].startswith("Test-time augmentation lowers")
