"""CSV files of the report: their contents, and that they can be read back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, IMAGES, write_final, write_job, write_study

from catsdogs.base.files import read_json, write_json
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import score_intervals
from catsdogs.comparison.tables import TITLES, compare_settings, findings, tables, write_tables
from catsdogs.study.leaderboard import write_leaderboard


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    study = write_study(tmp_path_factory.mktemp("studies") / "night", trials=6)
    write_final(study)
    return read_study_data([study])


@pytest.fixture(scope="module")
def report(study_data):
    return tables(findings(study_data))


def test_every_table_reads_back_unchanged(report, tmp_path):
    assert set(report) == set(TITLES)
    write_tables(tmp_path / "report", report)
    assert {file.name for file in (tmp_path / "report").iterdir()} == {f"{name}.csv" for name in TITLES}
    for name, table in report.items():
        read = pd.read_csv(tmp_path / "report" / f"{name}.csv", keep_default_na=False, na_values=[""], dtype=object)
        assert list(read) == list(table), name
        assert len(read) == len(table), name
        for column in table:
            if pd.api.types.is_numeric_dtype(table[column]) and table[column].dtype != bool:
                numbers = read[column].astype(float).to_numpy()
                assert np.array_equal(numbers, table[column].astype(float).to_numpy(), equal_nan=True), (name, column)
            else:
                expected = ["" if pd.isna(value) else str(value) for value in table[column]]
                assert ["" if pd.isna(value) else value for value in read[column]] == expected, (name, column)


def test_jobs_have_intervals_and_effects_are_sorted_by_size(study_data, report):
    jobs, effects = report["jobs"], report["effects"]
    for label, interval in score_intervals(study_data).items():
        row = jobs.set_index("label").loc[label]
        assert (row["val_log_loss_low"], row["val_log_loss_high"]) == (interval.low, interval.high)
    assert jobs["share_best"].sum() == pytest.approx(1)
    assert list(jobs["val_log_loss"]) == sorted(jobs["val_log_loss"])
    assert list(effects["choice"]) == ["augmentation", "label_smoothing"]
    assert effects["difference"].abs().is_monotonic_decreasing
    # Test images have no labels.
    predictions = report["predictions"]
    assert len(predictions) == IMAGES
    assert set(predictions["study"]) == {"night"}
    wrong = predictions[(predictions["p_dog_tta"] > 0.5) != (predictions["label"] == 1)]
    assert set(report["mistakes"]["id"]) == set(wrong["id"])
    assert list(report["unsure"]) == ["id", "label", "p_dog", "log_loss"]


def test_settings_are_divided_into_different_and_shared(tmp_path):
    study = tmp_path / "night"
    for name, degrees in (("a", 8.0), ("b", 0.0)):
        write_job(study, CHOICES, name=name, config={"augmentation": {"rotation_degrees": degrees}, "tags": [1, "x"]})
    result = read_json(study / "b" / "result.json")
    write_json(study / "b" / "result.json", {**result, "machine": {"cores": 2, "accelerators": None}})
    differences, common = compare_settings(read_study_data([study]))
    assert differences.to_dict("records") == [
        {"key": "augmentation.rotation_degrees", "a": "8.0", "b": "0.0"},
        {"key": "machine.cores", "a": "", "b": "2"},
        {"key": "machine.accelerators", "a": "", "b": "null"},
    ]
    shared = dict(zip(common["key"], common["value"], strict=True))
    assert shared["seed"] == "1"
    assert shared["images.digest"] == "d" * 64
    assert shared["versions.keras"] == "3.15.1"
    assert shared["tags"] == "[1, x]"


def test_counts_stay_integers_next_to_a_job_without_counts(tmp_path):
    write_job(tmp_path, CHOICES, name="good", trials=3)
    write_json(tmp_path / "failed" / "result.json", {"status": "failed", "error": "no luck"})
    write_leaderboard(tmp_path)
    good, failed = pd.read_csv(tmp_path / "leaderboard.csv", dtype=str).to_dict("records")
    for name, count in {"trials_completed": "3", "trials": "3", "validation_images": str(IMAGES)}.items():
        assert good[name] == count
        assert pd.isna(failed[name])


def test_tables_of_an_earlier_report_are_deleted_and_other_files_stay(tmp_path):
    folder = tmp_path / "report"
    write_tables(folder, {"jobs": pd.DataFrame({"label": ["a"]}), "mistakes": pd.DataFrame({"id": ["x"]})})
    (folder / "notes.txt").write_text("mine")
    write_tables(folder, {"jobs": pd.DataFrame({"label": ["b"]})})
    assert {file.name for file in folder.iterdir()} == {"jobs.csv", "notes.txt"}
    assert pd.read_csv(folder / "jobs.csv")["label"].tolist() == ["b"]


def test_a_study_that_has_just_started_has_few_tables(tmp_path):
    write_job(tmp_path / "night", CHOICES, trials=0, status="running")
    report = tables(findings(read_study_data([tmp_path / "night"])))
    assert list(report) == ["jobs", "common"]
