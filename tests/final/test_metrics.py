from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catsdogs.final.metrics import format_scores, metrics
from catsdogs.final.model_card import model_card
from catsdogs.scoring.classes import DEFAULT, Classes


@pytest.mark.parametrize("new", [4, 0])
def test_duplicates_of_training_images_are_not_scored(new):
    """They are predicted perfectly, the new test images by 0.5."""
    labels = np.tile([0.0, 1.0], 5)
    in_training = np.arange(10) >= new
    test = pd.DataFrame({"label": labels, "split": "test", "p_dog": np.where(in_training, labels, 0.5)})
    test = test.assign(id=test.index.astype(str), in_training=in_training, p_dog_tta=np.nan, p_dog_calibrated=np.nan)
    validation = test.assign(split="validation", in_training=False, p_dog=0.4)
    result = metrics(pd.concat([validation, test], ignore_index=True), DEFAULT, "validation")
    assert result["test_images_not_scored"] == 10 - new
    assert f"Not scored: {10 - new} labeled test images, exact or near-duplicates" in "\n".join(format_scores(result))
    assert ("test" in result["splits"]) == ("test_log_loss" in result) == bool(new)
    assert not new or result["test_log_loss"] == pytest.approx(np.log(2))
    assert not new or result["details"]["test_accuracy"]["size"] == new
    assert result["details"]["log_loss"]["size"] == 10


@pytest.mark.parametrize("errors", [19, 20])
def test_metrics_terminal_and_model_card_show_the_same_interval_and_warn_below_20_errors(errors):
    labels = np.repeat([0.0, 1.0], 100)
    p_dog = np.where(labels == 1, 0.95, 0.05)
    p_dog[:errors] = 0.9
    averaged = p_dog.copy()
    averaged[0] = 0.2  # 1 error less
    table = pd.DataFrame({"label": labels, "split": "holdout", "p_dog": p_dog, "p_dog_tta": averaged})
    record = metrics(table.assign(p_dog_calibrated=np.nan), DEFAULT, "validation")
    detail = record["details"]["holdout_log_loss"]
    assert detail["errors"] == record["tta_gain"]["holdout"]["errors"] == errors
    interval = f"{detail['low']:.4f} to {detail['high']:.4f}"
    backbone = {"builder": "a.B", "image_size": 9, "resize": "squeeze"}
    recipe = {"config": {"backbone": backbone}, "data_digest": "", "job": "", "trial": "0"}
    ensemble = {"kind": "none", "way": "single", "members": [{"job": "a", "trial": "0", "fold": None}]}
    final: dict[str, Any] = {"ensemble": ensemble, "validated_by": "final model", "tta": {"kind": "none"}}
    final |= {"tta_choice": None, "calibration": None, "study": "", "epochs": 1, "best_epoch": 1, "image_size": 9}
    rows = pd.DataFrame({"split": ["train", "validation"], "label": [0, 1]})
    dataset: Any = SimpleNamespace(classes=DEFAULT, rows=rows, folds=lambda: [0], holdout_rows=[], skipped=[], notes=[])
    card = model_card(record | final, recipe | {"hyperparameters": {}, "versions": {}, "seed": 1}, dataset)
    terminal = "\n".join(format_scores(record))
    accuracy = record["details"]["holdout_accuracy"]
    assert f"accuracy {accuracy['value']:.2%} (95% CI {accuracy['low']:.2%} to {accuracy['high']:.2%})" in terminal
    for text in (card, terminal):
        assert interval in text
        assert ("(holdout images): Misclassified: 18 to 19 of 200 images" in text) == (errors == 19)
        assert text.count("Misclassified") == 1  # also not repeated for the gain
    assert len(record["warnings"]) == 1
    assert f"| 0 | cat | 1 | 100.00% | {(101 - errors) / 100:.2%} |" in card


def test_every_class_has_its_count_precision_and_recall_by_the_last_step_of_its_split():
    classes, p = Classes(("ant", "bee", "wasp")), np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.7, 0.2]])
    table = pd.DataFrame({"label": [0.0, 1.0, 1.0], "split": "validation", **classes.to_columns(p)})
    table = pd.concat([table, table.assign(split="test", **classes.to_columns(p[:, [1, 0, 2]], "_tta"))])
    result = metrics(table.assign(in_training=False), classes, "out-of-fold")
    rows = [("ant", 1, 0.5, 1), ("bee", 2, 1, 0.5), ("wasp", 0, None, None)]
    expected = [dict(zip(("class", "images", "precision", "recall"), row, strict=True)) for row in rows]
    assert result["class_scores"]["validation"] == expected
    assert [row["recall"] for row in result["class_scores"]["test"]] == [0, 0.5, None]
    assert result["balanced_accuracy"] == (1 + 0.5) / 2
    assert result["log_loss"] == pytest.approx(-np.log([0.8, 0.3, 0.7]).mean())
    assert result["details"]["log_loss"]["split"] == "out-of-fold"
    assert {"log_loss", "test_log_loss", "test_macro_f1_tta"} <= {*result["details"]}
    assert (set(result["tta_gain"]), result["log_loss_tta"], result["classes"]) == ({"test"}, None, [*classes.names])


def test_tta_that_raised_the_log_loss_is_marked_next_to_its_score():
    score = {"value": 0.2, "low": None, "high": None, "size": 500, "split": "holdout", "errors": 100}
    gain = {"value": -0.01, "low": -0.02, "high": -0.001, "size": 500, "split": "holdout"}
    details = {"holdout_log_loss": score, "holdout_log_loss_tta": score}
    record = {"details": details, "warnings": [], "tta_gain": {"holdout": gain}, "calibration_gain": {}}
    plain, averaged, advice = format_scores(record)
    assert "higher" not in plain
    assert averaged.endswith("500 images, higher than without TTA")
    assert advice.endswith("so retrain with tta=none.")
