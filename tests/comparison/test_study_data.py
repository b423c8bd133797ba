import os

import numpy as np
import pandas as pd
import pytest
from studies import write_final, write_job, write_study

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.study_data import read_study_data
from catsdogs.scoring.classes import Classes
from catsdogs.study.plan import write_plan

CHOICES = {"backbone": "b", "augmentation": "light", "schedule": "cosine", "label_smoothing": "none"}


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "night")


def test_tables_contain_the_values_of_the_files(study):
    study_data = read_study_data([study])
    assert not study_data.problems
    assert study_data.hyperparameters == ("unfreeze_depth", "dropout", "l2")
    assert study_data.choices == ("backbone", "augmentation", "schedule", "label_smoothing")
    assert study_data.varied_choices == ("augmentation", "label_smoothing")
    assert len(study_data.trials) == 16
    for label, job in study_data.jobs.items():
        file, rows = pd.read_csv(job.folder / "trials.csv"), study_data.trials[study_data.trials["label"] == label]
        passed = (rows["ended"] - pd.Timestamp(job.result["started"])).dt.total_seconds()
        assert list(passed) == list(rows["ended_seconds"]) == list(file["seconds"].cumsum())
        assert list(rows["l2"]) == list(file["l2"])
    recorded = study_data.leaderboard.set_index("label")["val_log_loss"]
    assert recorded.iloc[0] == study_data.trials["val_log_loss"].min()
    # The mean loss over images is the loss of the job.
    losses = study_data.losses()
    assert losses.shape == (200, 4)
    np.testing.assert_allclose(losses.mean(), recorded[losses.columns], rtol=1e-12)


def test_failed_running_waiting_and_empty_jobs_have_rows(study):
    write_job(study, {**CHOICES, "schedule": "a"}, status="running", trials=3, failed_trials=1, planned=9, skill=9)
    write_job(study, {**CHOICES, "schedule": "b"}, status="failed", trials=0, error="no luck\nat all")
    (study / "empty").mkdir()
    plan = read_json(study / "study.json")["jobs"]
    write_plan(study, [*plan, "b-light-a-none", "b-light-b-none", "empty"], [])
    study_data = read_study_data([study])
    # A failed trial cannot win.
    assert study_data.trials["val_log_loss"].isna().sum() == 1
    assert "nan" in str(study_data.trials.set_index(["job", "trial"]).loc[("b-light-a-none", "2"), "error"])
    leaderboard = study_data.leaderboard.set_index("job")
    for column in ("status", "state"):
        assert dict(leaderboard[column].value_counts()) == {"ok": 4, "running": 1, "failed": 1, "waiting": 1}
    assert list(leaderboard.index[[0, -2, -1]]) == ["b-light-a-none", "empty", "b-light-b-none"]
    counts = leaderboard.loc["b-light-a-none", ["trials", "trials_planned", "trials_completed", "trials_failed"]]
    assert list(counts) == [3, 9, 2, 1]
    assert leaderboard.loc["b-light-b-none", "error"] == "no luck\nat all"


@pytest.mark.parametrize(
    "content", [b"", b"id,label\n", b"\xff\xfe\x00", b'"', b"trial,epoch,val_log_loss,id,label,p_dog\n1,x,y,z,7,9"]
)
@pytest.mark.parametrize("name", ["trials.csv", "history.csv", "validation.csv", "result.json"])
def test_a_corrupted_file_is_reported_and_other_files_are_read(study, name, content):
    (study / "mobilenet_v2-light-cosine-none" / name).write_bytes(content)
    study_data = read_study_data([study])
    assert len(study_data.leaderboard) == 4
    assert (study_data.trials["label"] == "mobilenet_v2-none-cosine-none").sum() == 4
    messages = [*study_data.problems, *study_data.leaderboard["error"].dropna()]
    assert any(name in message for message in messages), messages


@pytest.mark.parametrize("name", ["metrics.json", "recipe.json", "predictions.csv", "history.csv"])
@pytest.mark.parametrize("content", [b"", b"[", b'{"details": {"log_loss": {"size": "x"}}, "config": 3}', b"\xff\xfe"])
def test_a_corrupted_final_model_is_reported(study, name, content):
    write_final(study, tta=False)
    study_data = read_study_data([study])
    assert not study_data.problems
    assert study_data.final_models["night"].predictions["p_dog_tta"].isna().all()
    (study / "best" / name).write_bytes(content)
    assert any(name in message for message in read_study_data([study]).problems)


@pytest.mark.parametrize(("score", "value"), [("accuracy", 1.5), ("log_loss", -0.1), ("roc_auc_tta", -0.5)])
def test_scores_out_of_range_are_reported(study, score, value):
    metrics = read_json(write_final(study) / "metrics.json")
    metrics["details"][score]["value"] = value
    write_json(study / "best" / "metrics.json", metrics)
    study_data = read_study_data([study])
    assert not study_data.final_models
    assert f"{score}.value={value}" in study_data.problems[0]


def test_final_model_that_contradicts_its_classes_is_reported(tmp_path):
    classes = Classes(("ant", "bee", "wasp"))
    study = write_study(tmp_path / "night", classes=classes, trials=1)
    write_final(study, classes=classes)
    assert read_study_data([study]).final_models["night"].classes == classes
    predictions, metrics = pd.read_csv(study / "best" / "predictions.csv"), read_json(study / "best" / "metrics.json")
    for names, change in ((["ant"], {}), (["ant", "Ant", "bee"], {}), (None, {"p_ant": 0.9}), (None, {"label": 3})):
        write_json(study / "best" / "metrics.json", metrics | ({"classes": names} if names else {}))
        write_csv(study / "best" / "predictions.csv", predictions.assign(**change))
        study_data = read_study_data([study])
        assert not study_data.final_models
        assert ("metrics.json is" if names else "predictions.csv is") in study_data.problems[0]


def test_predictions_of_other_images_or_labels_than_the_split_are_reported(study):
    job = study / "mobilenet_v2-light-cosine-none"
    validation = pd.read_csv(job / "validation.csv")
    split = validation[["id", "label"]].assign(split="validation", sha256="0")
    for change in ({}, {"label": 1 - split["label"]}, {"id": split["id"] + "x"}):
        split.assign(**change).to_csv(job / "split.csv", index=False)
        problems = read_study_data([study]).problems
        assert len(problems) == bool(change)
        assert all("split.csv have other images or labels" in problem for problem in problems)


def test_a_split_with_folds_and_a_holdout_is_compared(study):
    """Holdout images are in the fold -1, and have no predictions."""
    job = study / "mobilenet_v2-light-cosine-none"
    split = pd.read_csv(job / "validation.csv")[["id", "label"]].assign(split="train", sha256="0")
    split["fold"] = split.index % 3
    holdout = pd.DataFrame({"id": ["held"], "label": [1], "split": ["holdout"], "fold": [-1], "sha256": "0"})
    pd.concat([split, holdout]).to_csv(job / "split.csv", index=False)
    assert not read_study_data([study]).problems


def test_several_studies_have_unique_names(study, tmp_path):
    study_data = read_study_data([study, write_study(tmp_path / "elsewhere" / "night", trials=2)])
    assert len(study_data.jobs) == 8
    assert study_data.leaderboard["label"].is_unique
    assert set(study_data.leaderboard["study"]) == {f"{tmp_path.name}/night", "elsewhere/night"}
    with pytest.raises(UserError, match="night: study listed twice"):
        read_study_data([study, study / ".." / "night"])


@pytest.mark.parametrize(("name", "message"), [("nothing", "folder not found"), ("", "no job")])
def test_a_folder_that_is_not_a_study_is_a_user_error(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        read_study_data([tmp_path / name])


def test_hostile_strings_are_sanitized_when_read(study):
    """Control characters, lone surrogates and line breaks reach neither tables nor pages nor terminals."""
    evil, one_line, lines = "a\x1b\r\n\udcff\u202e\rb", r"a??\udcff??b", "a?\n\\udcff?\nb"
    choices = {**CHOICES, "schedule": evil, evil: evil}
    write_job(study, choices, name="evil", trials=2, failed_trials=1, error=evil, config={"tags": [evil]})
    trials = pd.read_csv(study / "evil" / "trials.csv")
    trials.loc[1, "error"] = evil.replace("\udcff", "")
    trials.rename(columns={"l2": "l\x1b2"}).to_csv(study / "evil" / "trials.csv", index=False)
    table = pd.read_csv(study / "evil" / "validation.csv")
    table.assign(id=["nan", "<script>", "1,2", *table["id"][3:]]).to_csv(study / "evil" / "validation.csv", index=False)
    (study / "evil").rename(study / os.fsdecode(b"\x1be\n\xff"))
    write_final(study)
    metrics = read_json(study / "best" / "metrics.json")
    write_json(study / "best" / "metrics.json", metrics | {"job": evil, "details": {evil: {}}})
    study_data = read_study_data([study])
    label = r"?e?\udcff"
    assert set(study_data.choices) == {*CHOICES, one_line}
    row = study_data.leaderboard.set_index("label").loc[label]
    assert (row["job"], row["schedule"], row[one_line], row["error"]) == (label, one_line, one_line, lines)
    assert study_data.jobs[label].result["config"]["tags"] == [one_line]
    assert "l?2" in {*study_data.trials} & {*study_data.hyperparameters}
    assert study_data.trials.loc[study_data.trials["label"] == label, "error"].iloc[1] == lines.replace(r"\udcff", "")
    assert study_data.epochs["label"].eq(label).any()
    assert list(study_data.predictions[label]["id"][:3]) == ["nan", "<script>", "1,2"]
    metrics = study_data.final_models["night"].metrics
    assert [metrics["job"], *metrics["details"]] == [one_line] * 2
    # Commands need the original folder name.
    assert study_data.jobs[label].folder.is_dir()


def test_a_choice_of_one_job_is_not_shared_by_all(tmp_path):
    study = tmp_path / "night"
    write_job(study, {**CHOICES, "schedule": "a"}, name="a", epochs=3)
    write_job(study, {**CHOICES, "schedule": "a", "fit.epochs": "2e0"}, name="b", epochs=2)
    study_data = read_study_data([study])
    assert study_data.varied_choices == ("fit.epochs",)
    for table in (study_data.leaderboard, study_data.trials):
        assert dict(zip(table["job"], table["fit.epochs"], strict=True)) == {"a": "3", "b": "2"}
    assert study_data.shared_choices == {**CHOICES, "schedule": "a"}
    # A choice that one job does not record is not shared; a corrupted job is ignored.
    write_job(study, {**CHOICES, "schedule": "a", "space": "wide"}, name="c")
    (study / "corrupted").mkdir()
    (study / "corrupted" / "result.json").write_text("{")
    assert set(read_study_data([study]).shared_choices) == set(CHOICES)
