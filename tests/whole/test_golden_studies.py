"""Studies of earlier versions stay readable; `tests/golden/studies/make.py` wrote these copies."""

import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from catsdogs.base.files import read_json, write_json
from catsdogs.comparison.page.writing import write_report
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.comparison.tables import SCORES, final_scores

pytestmark = pytest.mark.lowest

STUDIES = Path(__file__).parents[1] / "golden" / "studies"
VERSIONS = sorted(folder.name for folder in STUDIES.iterdir() if folder.is_dir() and folder.name[0].isdigit())


def test_every_version_of_the_file_format_has_a_study():
    files = {version: (STUDIES / version).glob("*/result.json") for version in VERSIONS}
    written = {version: [read_json(file)["versions"]["catsdogs"][:3] for file in files[version]] for version in files}
    assert written == {"0.1": ["0.1"] * 4, "0.2": ["0.2"] * 4}


@pytest.fixture(params=VERSIONS, scope="module")
def golden(request):
    return STUDIES / request.param


@pytest.fixture(scope="module")
def study_data(golden):
    return read_study_data([golden])


def test_tables_are_read_as_they_were_written(golden, study_data):
    assert study_data.problems == ()
    board, written = study_data.leaderboard, pd.read_csv(golden / "leaderboard.csv")
    assert list(board["job"]) == list(written["job"])
    # Version 0.1 did not record the image ids.
    for name in set(written) - {"error", "best_trial"}:
        exact = written[name].dtype.kind not in "fi"
        assert list(board[name]) == (list(written[name]) if exact else pytest.approx(list(written[name]), rel=1e-12))
    assert set(board["validation_images"]) == {120}
    for job in study_data.jobs:
        written = pd.read_csv(golden / job / "trials.csv", dtype={"trial": str})
        trials = study_data.trials[study_data.trials["job"] == job]
        for name in ("trial", "status", "val_log_loss", "epochs", "best_epoch", "seconds"):
            assert list(trials[name]) == list(written[name])
        assert trials["ended"].notna().all()
        assert (study_data.epochs["label"] == job).sum() == len(pd.read_csv(golden / job / "history.csv"))


def test_the_summary_agrees_with_the_leaderboard(golden, study_data):
    best, second = pd.read_csv(golden / "leaderboard.csv").iloc[:2].to_dict("records")
    summary: Any = summarize(study_data)
    assert (summary.best, summary.runner_up) == (best["job"], second["job"])
    # The summary computes it in float64 from the predictions, Keras in float32 and batches.
    found = [summary.log_loss.value, 1 - summary.log_loss.errors / 120, summary.margin.value]
    expected = [best["val_log_loss"], best["val_accuracy"], second["val_log_loss"] - best["val_log_loss"]]
    assert found == pytest.approx(expected, abs=1e-5)
    assert summary.margin.size == 120
    # The lead is hundredths on 120 images.
    assert summary.significance == "within noise"
    assert "catsdogs.predict" in summary.command


def test_scores_of_the_final_model_equal_those_of_retrain(golden, study_data):
    metrics = read_json(golden / "best" / "metrics.json")
    (final,) = study_data.final_models.values()
    rows = {(row["score"], row["kind"]): row for row in final_scores(final).to_dict("records")}
    recorded = [score for score in SCORES if score in metrics]  # later versions have more
    assert {"log_loss", "accuracy", "roc_auc", "brier", "ece"} <= set(recorded)
    for score, (kind, suffix) in product(recorded, (("plain", ""), ("tta", "_tta"))):
        row, detail = rows[score, kind], metrics["details"][f"{score}{suffix}"]
        assert (row["value"], row["size"]) == (metrics[f"{score}{suffix}"], detail["size"])
        assert row["low"] == detail["low"] or detail["low"] is None


def test_a_study_that_varied_a_renamed_setting_is_read_under_its_current_name(golden, tmp_path):
    study = tmp_path / "multirun" / "old"
    shutil.copytree(golden, study)
    plan = read_json(study / "study.json")
    plan["jobs"] = plan["run"] = names = []
    plan["command"] += ["split.holdout=0.0,0.1"]
    for number, job in enumerate(sorted(study.glob("small_cnn-*"))):
        result = read_json(job / "result.json")
        result["choices"] = {**result["choices"], "split.holdout": f"0.{number}"}
        result["config"] |= {"split": {"holdout": number / 10}, "varied": ["split.holdout"]}
        write_json(job / "result.json", result)
        names.append(f"{job.name}-split.holdout-0.{number}")
        job.rename(study / names[-1])
    write_json(study / "study.json", plan)
    study_data = write_report([study], tmp_path / "report.html")
    assert "split.holdout_fraction" in study_data.choices
    assert sorted(study_data.leaderboard["split.holdout_fraction"]) == ["0.0", "0.1", "0.2", "0.3"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert "split.holdout_fraction=0.0,0.1" in page
    # Folders keep their names.
    assert not re.search(r"split\.holdout(?![ _]fraction|-0)", page)


def test_one_page_compares_both_versions_and_shows_every_log_loss(tmp_path):
    studies = [STUDIES / version for version in VERSIONS]
    study_data = write_report(studies, tmp_path / "report.html")
    assert len(study_data.leaderboard) == 8
    # Both have synthetic images of the same seed, so the validation images are the same.
    assert study_data.leaderboard["data_digest"].nunique() == 1
    assert len(study_data.comparable()) == 8
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for study in studies:
        for row in pd.read_csv(study / "leaderboard.csv").to_dict("records"):
            assert f"{row['val_log_loss']:.4f}" in page
            assert row["job"].split("-")[1] in page
    assert "0.1/small_cnn-none-cosine-none" in page
