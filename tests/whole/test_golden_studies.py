"""Studies of earlier versions must stay readable for ever; `tests/golden/studies/make.py` made these copies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from catsdogs.base.files import read_json, write_json
from catsdogs.comparison.final_scores import final_scores
from catsdogs.comparison.page.writing import write_report
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize

STUDIES = Path(__file__).parents[1] / "golden" / "studies"
VERSIONS = sorted(folder.name for folder in STUDIES.iterdir() if folder.is_dir() and folder.name[0].isdigit())


def test_there_is_a_study_of_every_version_that_wrote_other_files():
    assert VERSIONS == ["0.1", "0.2"]
    for version in VERSIONS:
        results = [json.loads(file.read_text()) for file in (STUDIES / version).glob("*/result.json")]
        assert len(results) == 4
        assert all(result["versions"]["catsdogs"].startswith(version) for result in results)


@pytest.fixture(params=VERSIONS, scope="module")
def golden(request):
    return STUDIES / request.param


@pytest.fixture(scope="module")
def study_data(golden):
    return read_study_data([golden])


def test_its_tables_are_those_that_were_written_then(golden, study_data):
    assert study_data.problems == ()
    then = pd.read_csv(golden / "leaderboard.csv")
    now = study_data.leaderboard.set_index("job").loc[then["job"]].reset_index()
    assert list(study_data.leaderboard["job"]) == list(then["job"])
    # Version 0.1 did not tell which images.
    for name in set(then) - {"error", "best_trial"}:
        exact = then[name].dtype.kind not in "fi"
        assert list(now[name]) == (list(then[name]) if exact else pytest.approx(list(then[name]), rel=1e-12))
    assert set(now["validation_images"]) == {120}
    for job in study_data.jobs.values():
        then = pd.read_csv(golden / job.name / "trials.csv", dtype={"trial": str})
        now = study_data.trials[study_data.trials["job"] == job.name]
        for name in ("trial", "status", "val_log_loss", "epochs", "best_epoch", "seconds"):
            assert list(now[name]) == list(then[name])
        assert now["ended"].notna().all()
        epochs = pd.read_csv(golden / job.name / "history.csv")
        assert (study_data.epochs["label"] == job.name).sum() == len(epochs)


def test_the_answer_is_what_the_leaderboard_says(golden, study_data):
    best, second = pd.read_csv(golden / "leaderboard.csv").iloc[:2].to_dict("records")
    found = summarize(study_data)
    assert (found.best, found.trial, found.runner_up) == (best["job"], str(best["best_trial"]), second["job"])
    # Ours is computed from the predictions in float64, Keras' in float32 and batches.
    assert found.log_loss.value == pytest.approx(best["val_log_loss"], abs=1e-5)
    assert found.log_loss.low is not None
    assert found.log_loss.high is not None
    assert found.log_loss.low < found.log_loss.value < found.log_loss.high
    assert found.accuracy == pytest.approx(best["val_accuracy"], abs=1e-6)
    assert found.margin.value == pytest.approx(second["val_log_loss"] - best["val_log_loss"], abs=1e-5)
    assert found.margin.size == 120
    # Hundredths apart on 120 images.
    assert found.significance == "within noise"
    assert found.command is not None
    assert "catsdogs.retrain" in found.command


def test_the_final_model_has_the_scores_that_retrain_told(golden, study_data):
    metrics = json.loads((golden / "best" / "metrics.json").read_text())
    (final,) = study_data.final_models.values()
    rows = {(row["score"], row["kind"]): row for row in final_scores(final).to_dict("records")}
    for score in ("log_loss", "accuracy", "roc_auc", "brier", "ece"):
        for kind, key in (("plain", score), ("tta", f"{score}_tta")):
            row = rows[score, kind]
            assert row["value"] == pytest.approx(metrics[key], rel=1e-9)
            if metrics["details"][key]["low"] is not None:
                assert row["low"] == pytest.approx(metrics["details"][key]["low"], rel=1e-9)
            assert row["size"] == metrics["details"][key]["size"]


def test_its_page_shows_these_numbers(golden, tmp_path):
    write_report([golden], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    board = pd.read_csv(golden / "leaderboard.csv")
    for loss in board["val_log_loss"]:
        assert f"{loss:.4f}" in page
    for job in board["job"]:
        assert job.split("-")[1] in page


@pytest.fixture
def swept(golden, tmp_path):
    """A copy of the study whose jobs also varied `split.holdout`."""
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
    return study


def test_a_study_that_varied_a_renamed_setting_is_read_under_its_current_name(swept, tmp_path):
    study_data = write_report([swept], tmp_path / "report.html")
    assert "split.holdout_fraction" in study_data.choices
    assert sorted(study_data.leaderboard["split.holdout_fraction"]) == ["0.0", "0.1", "0.2", "0.3"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert "split.holdout_fraction=0.0,0.1" in page
    # Folders keep their names.
    assert not re.search(r"split\.holdout(?![ _]fraction|-0)", page)


def test_a_study_that_varied_a_renamed_setting_is_retrained_and_not_resumed(swept, run):
    # Stops at the unknown image id, after the configuration of the job is composed and checked.
    done = run("retrain", "study=old", "data.ignore=[nowhere]", "data.sample.images_per_class=8")
    assert done.returncode == 2
    assert "data.ignore" in done.stderr
    done = run("search", "-m", "study=old", "experiment=quickstart", "split.holdout_fraction=0.0,0.1")
    assert done.returncode == 2
    (message,) = done.stderr.splitlines()
    assert re.search(r"split\.holdout, .*split\.holdout_fraction; use a new study=NAME", message)


def test_both_versions_side_by_side_make_one_page(tmp_path):
    study_data = write_report([STUDIES / version for version in VERSIONS], tmp_path / "report.html")
    assert len(study_data.leaderboard) == 8
    # Both were drawn from the same seed, so they were validated on the same images.
    assert study_data.leaderboard["data_digest"].nunique() == 1
    assert len(study_data.comparable()) == 8
    assert "0.1/small_cnn-none-cosine-none" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_folder_of_a_machine_and_no_model_is_among_them():
    size = 0
    for file in STUDIES.rglob("*"):
        if file.is_file() and file.suffix != ".py":
            assert file.suffix in (".json", ".csv")
            text = file.read_text(encoding="utf-8")
            size += len(text)
            assert not [part for part in ("/tmp/", "/home/", "/root/", "/Users/", ":\\") if part in text]
    assert size < 300_000
