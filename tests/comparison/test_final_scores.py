from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import write_final, write_study

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.final_scores import KINDS, SCORES, final_scores, tta_gains
from catsdogs.comparison.study_data import FinalModel, read_study_data
from catsdogs.scoring.scores import log_loss_per_image


@pytest.fixture
def best(tmp_path):
    return write_final(write_study(tmp_path / "night", trials=1))


def read(best) -> FinalModel:
    return read_study_data([best.parent]).final_models[best.parent.name]


def test_scores_are_read_from_metrics_json_and_missing_scores_are_nan(best):
    metrics = read_json(best / "metrics.json")
    test_score = {"value": 0.3, "low": 0.2, "high": 0.4, "split": "test", "size": 50}
    write_json(best / "metrics.json", metrics | {"details": metrics["details"] | {"test_log_loss": test_score}})
    table = final_scores(read(best))
    assert list(table) == ["score", "kind", "value", "low", "high", "split", "size"]
    assert list(zip(table["score"], table["kind"], strict=True)) == [(s, k) for s in SCORES for k in KINDS] * 2
    assert list(table["split"]) == ["validation"] * 15 + ["test"] * 15
    assert table.iloc[15].to_dict() == {"score": "log_loss", "kind": "plain", **test_score}
    assert table["value"].iloc[16:].isna().all()
    for row in table.iloc[:15].astype(object).where(table.notna(), None).to_dict("records"):
        detail = metrics["details"].get(f"{row['score']}{KINDS[row['kind']]}", {})
        assert (row["kind"] == "calibrated") == (not detail)
        assert all(row[name] == detail.get(name) for name in ("value", "low", "high", "size")), row


def test_the_gain_of_tta_is_the_mean_difference_of_losses(best):
    """Computed for models that do not record it (version 0.2)."""
    final = read(best)
    rows = final.predictions[final.predictions["split"] == "validation"]
    labels = rows["label"].to_numpy()
    plain, averaged = (log_loss_per_image(labels, rows[name].to_numpy()) for name in ("p_dog", "p_dog_tta"))
    gain = tta_gains(final)["validation"]
    assert gain["value"] == pytest.approx(plain.mean() - averaged.mean())
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    assert (gain["size"], gain["split"]) == (200, "validation")
    write_json(best / "metrics.json", read_json(best / "metrics.json") | {"tta_gain": {"holdout": gain}})
    assert tta_gains(read(best)) == {"holdout": gain}


def test_gain_requires_both_predictions_of_labeled_validation_images(best):
    file = best / "predictions.csv"
    table = pd.read_csv(file)
    test_images = table[table["split"] == "test"].assign(label=1)
    for incomplete in (table.assign(p_dog_tta=np.nan), table.assign(label=np.nan), test_images):
        write_csv(file, incomplete)
        assert tta_gains(read(best)) == {}
    # Images without one of the two predictions are skipped.
    write_csv(file, table.assign(p_dog_tta=table["p_dog_tta"].where(table.index >= 30)))
    assert tta_gains(read(best))["validation"]["size"] == 170
