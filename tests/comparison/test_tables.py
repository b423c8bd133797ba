"""CSV files of the report: their contents, that they can be read back, and the scores of final models in them."""

import os

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, IMAGES, ids, labels, probabilities, write_final, write_job, write_study

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison import tables
from catsdogs.comparison.study_data import read_study_data
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import class_scores, confusion
from catsdogs.study.leaderboard import write_leaderboard


@pytest.fixture(scope="module")
def study_data(tmp_path_factory):
    study = write_study(tmp_path_factory.mktemp("studies") / "night", trials=6)
    write_final(study)
    return read_study_data([study])


@pytest.fixture(scope="module")
def report(study_data):
    return tables.tables(tables.findings(study_data))


def test_every_table_reads_back_unchanged(report, tmp_path):
    assert set(report) == set(tables.TITLES)
    tables.write_tables(tmp_path / "report", report)
    assert {file.name for file in (tmp_path / "report").iterdir()} == {f"{name}.csv" for name in tables.TITLES}
    for name, table in report.items():
        read = pd.read_csv(tmp_path / "report" / f"{name}.csv", keep_default_na=False, na_values=[""], dtype=object)
        assert (list(read), len(read)) == (list(table), len(table)), name
        for column in table:
            if pd.api.types.is_numeric_dtype(table[column]) and table[column].dtype != bool:
                numbers = read[column].astype(float).to_numpy()
                assert np.array_equal(numbers, table[column].astype(float).to_numpy(), equal_nan=True), (name, column)
            else:
                expected = ["" if pd.isna(value) else str(value) for value in table[column]]
                assert list(read[column].fillna("")) == expected, (name, column)


def test_settings_are_divided_into_different_and_shared(tmp_path):
    study = tmp_path / "night"
    for name, degrees in (("a", 8.0), ("b", 0.0)):
        write_job(study, CHOICES, name=name, config={"augmentation": {"rotation_degrees": degrees}, "tags": [1, "x"]})
    result = read_json(study / "b" / "result.json")
    write_json(study / "b" / "result.json", {**result, "machine": {"cores": 2, "accelerators": None}})
    differences, common = tables.compare_settings(read_study_data([study]))
    assert differences.to_dict("records") == [
        {"key": "augmentation.rotation_degrees", "a": "8.0", "b": "0.0"},
        {"key": "machine.cores", "a": "", "b": "2"},
        {"key": "machine.accelerators", "a": "", "b": "null"},
    ]
    expected = {"seed": "1", "images.digest": "d" * 64, "versions.keras": "3.15.1", "tags": "[1, x]"}
    assert expected.items() <= dict(zip(common["key"], common["value"], strict=True)).items()


def test_counts_stay_integers_next_to_a_job_without_counts(tmp_path):
    write_job(tmp_path, CHOICES, name="good", trials=3)
    (tmp_path / "good").rename(tmp_path / os.fsdecode(b"good\xff"))  # not UTF-8
    write_json(tmp_path / "failed" / "result.json", {"status": "failed", "error": "no luck"})
    write_leaderboard(tmp_path)
    columns = ["job", "trials_completed", "trials", "validation_images"]
    rows = pd.read_csv(tmp_path / "leaderboard.csv", dtype=str)[columns].fillna("").to_numpy().tolist()
    assert rows == [[r"good\udcff", "3", "3", str(IMAGES)], ["failed", "", "", ""]]


@pytest.fixture
def best(tmp_path):
    return write_final(write_study(tmp_path / "night", trials=1))


def read(best):
    return read_study_data([best.parent]).final_models[best.parent.name]


def test_scores_of_other_splits_follow_and_missing_scores_are_nan(best):
    metrics = read_json(best / "metrics.json")
    test_score = {"value": 0.3, "low": 0.2, "high": 0.4, "split": "test", "size": 50}
    write_json(best / "metrics.json", metrics | {"details": metrics["details"] | {"test_log_loss": test_score}})
    table = tables.final_scores(read(best))
    assert list(table) == ["score", "kind", "value", "low", "high", "split", "size"]
    pairs = [(score, kind) for score in tables.SCORES for kind in tables.KINDS]
    assert list(zip(table["score"], table["kind"], strict=True)) == pairs * 2
    assert list(table["split"]) == ["validation"] * 21 + ["test"] * 21
    assert table.iloc[21].to_dict() == {"score": "log_loss", "kind": "plain", **test_score}
    assert table["value"].iloc[22:].isna().all()
    assert (table["value"].iloc[:21].isna() == (table["kind"].iloc[:21] == "calibrated")).all()


@pytest.mark.parametrize("count", [2, 3])
def test_classes_and_confusions_are_those_of_the_model_that_is_shown(tmp_path, count):
    classes = Classes(("ant", "bee", "wasp")[:count])
    study = write_study(tmp_path / "night", trials=1, classes=classes)
    job = study / read_json(write_final(study, classes=classes) / "metrics.json")["job"]
    true, submitted = labels(classes=classes), probabilities(1.9, classes=classes)
    split = pd.DataFrame({"id": ids(classes=classes), "label": true, "split": "validation", "sha256": "0"})
    train = pd.DataFrame({"id": list("xyz"), "label": [0, 0, 1], "split": "train", "sha256": "0"})
    write_csv(job / "split.csv", pd.concat([split, train]))
    results = tables.findings(read_study_data([study]))
    by_name = tables.tables(results)
    expected = class_scores(true, submitted).rename(columns={"images": "validation"})
    names = {"label": range(count), "class": classes.names, "train": [2, 1, 0][:count]}
    pd.testing.assert_frame_equal(by_name["classes"], pd.DataFrame(names).join(expected), check_dtype=False)
    matrix = by_name["confusion"].pivot(index="class", columns="predicted", values="images").fillna(0)
    np.testing.assert_array_equal(matrix.loc[[*classes.names], [*classes.names]], confusion(true, submitted))
    assert list(by_name["mistakes"]) == ["id", "label", *classes.columns(), "log_loss"]
    for error in results.gallery.errors:
        row = list(ids(classes=classes)).index(error["id"])
        assert error["class"] == classes.names[true[row]]
        assert (error["predicted"], error["probability"]) == (
            classes.names[submitted[row].argmax()],
            pytest.approx(submitted[row].max(), abs=1e-7),
        )
