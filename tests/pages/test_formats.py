"""Numbers, names and dates as text."""

import datetime
import math

import pytest

from catsdogs.base.text import joined
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
        *((formats.value(v), t) for v, t in (("0.30000000000000004", "0.3"), ("lr-1.2345678901e-05", "lr-1.235e-05"))),
        *((formats.value(v), t) for v, t in (("v0.00012345", "v0.00012345"), ("20261129.1", "20261129.1"))),
        *((formats.time_spent(s), t) for s, t in ((None, "–"), (89, "89 s"), (705.4, "12 min"), (11100, "3 h 05 min"))),
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
        ((0.01, 0.002, 0.02), "(95% CI 0.0020 to 0.0200) on 2,000 holdout images; the difference is significant."),
        ((-0.01, -0.02, -0.002), "images; the difference is significant, so retrain with tta=none."),
        ((0.01, -0.002, 0.02), "images; the difference is within noise."),
        ((-0.01, -0.02, 0.002), "raises the log loss by 0.0100 (95% CI -0.0020 to 0.0200) on 2,000 holdout images; "),
        ((-0.01, -0.02, 0.002), "within noise, and tta=none is faster."),
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


def test_calibration_that_is_not_applied_has_a_reason():
    # Earlier versions recorded no reason.
    for value, reason in ((0.0, "199 validation images are too few"), (-0.001, "it does not improve")):
        gain = {"value": value, "size": 199, "split": "validation", "kept": False}
        (line,) = formats.format_gains({}, {"validation": gain})
        assert line.startswith(f"Calibration not applied: {reason}")


def test_what_the_validation_images_chose():
    assert formats.chosen_on_validation(False, {}) == ["epoch", "trial"]
    ensemble = {"members": [{"job": "a"}, {"job": "b"}]}
    final = {"tta": {"chosen": True}, "calibration": {"floor": 0.01}, "ensemble": ensemble}
    assert joined(formats.chosen_on_validation(True, final)) == (
        "epoch, trial, job, test-time augmentation (kind and average), calibration and combination of the jobs"
    )


def test_the_choice_of_tta_auto_replaces_the_gain_on_its_images_and_no_other_kind_is_advised():
    gain = {"value": -0.01, "low": -0.02, "high": -0.002, "size": 2000}
    gains = {split: {**gain, "split": split} for split in ("validation", "holdout")}
    ends = {"value": 0.0025, "low": 0.0008, "high": 0.0043, "size": 1600, "split": "validation"}
    choice = {"kind": "flip", "tested": True, "kinds": ["none", "flip"], "against": "none", **ends}
    chosen, on_holdout = formats.format_gains(gains, {}, choice)
    assert chosen == (
        "tta=auto: flip chosen on 1,600 validation images, log loss lower by 0.0025 (95% CI 0.0008 to 0.0043) than "
        "with none; these images also chose the trial, which favors neither kind."
    )
    assert on_holdout.endswith("on 2,000 holdout images; the difference is significant.")
    line = formats.format_tta_choice({**choice, "average": "logit", "rows": 3})
    assert "images (averaged as logits, best of the 3 kinds and averages in tta.csv), log loss lower" in line
    tie = {**choice, "value": -0.00002, "low": -0.001, "high": 0.001, "kinds": ["none", "flip", "crops"]}
    assert "higher by 0.00002 (95% CI -0.0010 to 0.0010) than with none, a tie; " in formats.format_tta_choice(tie)
    assert formats.format_tta_choice(tie).endswith("favors no kind.")
    untested = {"kind": "none", "tested": False, "reason": "of this"}
    assert formats.format_gains(gains, {}, untested)[0] == "tta=auto: none, because of this."
    assert len(formats.format_gains(gains, {}, untested)) == 3


def test_a_model_is_described_by_its_trial_and_an_ensemble_by_its_members():
    def described(way, jobs):
        return formats.describe_model(
            {"job": "a", "trial": "3", "ensemble": {"way": way, "members": [{"job": job} for job in jobs]}}
        )

    assert described("single", "a") == described("single", "ab") == "trial=3 of job a"
    assert described("logit", "aa") == "ensemble of 2 models of trial=3 of job a"
    assert described("logit", "aab") == "ensemble of 3 models of the jobs a, b"
    members = [{"job": job, "trial": trial} for job, trial in ("a0", "a1", "b0")]
    of_trials = {"kind": "trials", "way": "logit", "members": members}
    assert formats.describe_model({"ensemble": of_trials}) == "ensemble of 3 trials of the jobs a, b"
    assert formats.chosen_on_validation(False, {"ensemble": of_trials}) == ["epoch", "trial", "ensemble"]


def test_an_ensemble_is_compared_with_the_best_trial():
    gain = {"value": -0.01, "low": -0.02, "high": 0.005, "size": 2000, "split": "out-of-fold", "trials": 9}
    ensemble = {"gain": gain, "method": "logit", "way": "logit", "ms_per_image": 12.345, "ms_per_image_single": 1.5}
    assert formats.format_ensemble_gain(ensemble) == [
        "Ensemble: log loss higher by 0.0100 (95% CI -0.0050 to 0.0200) than that of the best trial on 2,000 "
        "out-of-fold images, in nested folds; it takes 12.3 ms per image, one of its models 1.5 ms."
    ]
    (single,) = formats.format_ensemble_gain({**ensemble, "method": "single"})
    assert "no combination of 9 trials is better" in single
    assert not formats.format_ensemble_gain({**ensemble, "gain": {**gain, "trials": 1}})
    assert not formats.format_ensemble_gain({"method": "single"})
