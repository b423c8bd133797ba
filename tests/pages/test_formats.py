"""Numbers, names and dates as text."""

import datetime
import math

import pytest

from catsdogs.pages import formats
from catsdogs.scoring.intervals import Estimate

EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        *((formats.loss(n), t) for n, t in ((0.02762, "0.0276"), (0.10304, "0.1030"), (0.00043, "0.00043"))),
        *((formats.loss(n), t) for n, t in ((0, "0.0000"), (math.nan, "–"), (None, "–"))),
        *((formats.signed(n), t) for n, t in ((-0.0171, "-0.0171"), (0.0171, "+0.0171"), (0.0, "0.0000"))),
        (formats.percent(0.98799), "98.8%"),
        (formats.minus("x-1 -0.02 (-3e-05 to -a)"), "x-1 −0.02 (−3e-05 to -a)"),
        # Not rounded to 0% or 100%.
        *((formats.probability(p), t) for p, t in ((0.9999, "> 99.9%"), (0.0001, "< 0.1%"), (0.254, "25.4%"))),
        (formats.probability(1.0), "100.0%"),
        (formats.count(2000.0), "2,000"),
        *((formats.counted(n, "job"), t) for n, t in ((1, "1 job"), (0, "0 jobs"), (2000, "2,000 jobs"))),
        *((formats.value(v), t) for v, t in ((30.0, "30"), (5.106746e-06, "5.107e-06"), ("x", "x"), (math.nan, "–"))),
        *((formats.time_spent(s), t) for s, t in ((None, "–"), (705.4, "12 min"))),
        (formats.day_and_time(datetime.datetime(2026, 11, 3, 1, 5, tzinfo=EAST)), "2 Nov 2026, 23:05 UTC"),
        (formats.between(Estimate(0.03, 0.02, 0.04, 100)), "0.0200 to 0.0400"),
        (formats.between(Estimate(0.03, None, None, 1)), ""),
        (formats.between(Estimate(0.0, -0.02, 0.04, 100), formats.signed), "-0.0200 to +0.0400"),
        (formats.cut_in_the_middle("abcdefgh", 8), "abcdefgh"),
        (formats.cut_in_the_middle("a" * 50 + "z" * 50, 21), "a" * 10 + "…" + "z" * 10),
        # Escaped before line breaks are added.
        (formats.breakable("<b>_x"), "&lt;b&gt;_<wbr>x"),
    ],
)
def test_texts(shown, text):
    assert shown == text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (
            (0.01, 0.002, 0.02),
            "(95% CI 0.0020 to 0.0200) on 2,000 holdout images; the difference is significant.",
        ),
        ((-0.01, -0.02, -0.002), "raises the log loss by 0.0100 (95% CI 0.0020 to 0.0200) on "),
        ((-0.01, -0.02, -0.002), "images; the difference is significant, so retrain with tta=none."),
        ((0.01, -0.002, 0.02), "images; the difference is within noise."),
        ((-0.01, -0.02, 0.002), "(95% CI -0.0020 to 0.0200) on 2,000 holdout images; the difference is within noise."),
        ((0.01, None, None), "lowers the log loss by 0.0100 on 2,000 holdout images; the difference is within noise."),
    ],
)
def test_gains(interval, expected):
    gain = dict(zip(("value", "low", "high"), interval, strict=True), size=2000, split="holdout")
    tta = {"validation": {}, "test": gain | {"size": None}, "test_2": gain}
    sentences = formats.format_gains(tta, {"test": {**gain, "kept": False}})
    assert expected in sentences[0]
    assert sentences[1].startswith("Calibration not applied: ")
    assert len(sentences) == 2
