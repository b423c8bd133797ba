import pytest

from catsdogs.final.metrics import format_scores


@pytest.mark.parametrize(("images", "reason"), [(199, "199 validation images are too few"), (200, "does not improve")])
def test_calibration_that_is_not_applied_has_a_reason(images, reason):
    gain = {
        "value": 0.0 if images < 200 else -0.001,
        "low": 0.0,
        "high": 0.0,
        "size": images,
        "split": "validation",
        "kept": False,
    }
    (line,) = format_scores({"details": {}, "tta_gain": {}, "calibration_gain": {"validation": gain}})
    assert "Calibration not applied" in line
    assert reason in line
