import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.study.jobs import State, best_job, check_job_names, chosen_trial, read_job, read_jobs
from catsdogs.study.leaderboard import write_leaderboard
from catsdogs.study.locking import lock_job
from catsdogs.study.trials import TrialRecord, write_trials


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    jobs: dict[str, dict] = {
        "slow": {"status": "ok", "objective": 0.4, "best_trial": {"val_log_loss": 0.4, "trial": "1"}},
        "good": {"status": "ok", "objective": 0.2, "best_trial": {"val_log_loss": 0.2, "trial": "0"}},
        "broken": {"status": "failed", "objective": None, "error": "no\nluck", "best_trial": None},
        "busy": {"status": "running", "objective": None, "best_trial": None},
    }
    for name, result in jobs.items():
        write_json(folder / name / "result.json", {"choices": {"backbone": "b"}, **result})
    (folder / "best").mkdir()
    (folder / "leaderboard.csv").write_text("old")
    return folder


def test_the_leaderboard_has_every_job_best_first_and_failed_last(study):
    write_leaderboard(study)
    table = pd.read_csv(study / "leaderboard.csv")
    assert list(table["job"]) == ["good", "slow", "busy", "broken"]
    assert list(table["status"]) == ["ok", "ok", "running", "failed"]
    assert table["error"].iloc[-1] == "no\nluck"
    assert table["val_log_loss"].iloc[0] == 0.2
    assert best_job(study, read_jobs(study)).name == "good"
    # Trials of an unfinished job count.
    write_trials(study / "busy" / "trials.csv", [TrialRecord("0", "COMPLETED", 0.1, 0.9, 3, 2, 1.0, {"dropout": 0.1})])
    assert write_leaderboard(study)["job"].iloc[0] == "busy"
    assert best_job(study, read_jobs(study)).name == "busy"


def test_a_corrupted_result_is_a_failed_job(study):
    (study / "good" / "result.json").write_text('{"status": "o')
    (study / "slow" / "result.json").write_text("[]")
    table = write_leaderboard(study)
    assert set(table.loc[table["job"].isin(["good", "slow"]), "status"]) == {"failed"}
    invalid = {"status": "ok", "data": {"digest": "d"}, "best_trial": {"trial": "0"}, "trials": 3}
    write_json(study / "slow" / "result.json", invalid)
    message = "result.json is corrupted (trials=3: Input should be a valid dictionary)"
    assert read_job(study / "slow").result["error"] == message
    with pytest.raises(UserError, match="none of its 4 jobs"):
        best_job(study, read_jobs(study))


def test_classes_are_those_of_the_result_and_checked(study):
    file, job = study / "good" / "result.json", study / "good"
    assert read_job(job).classes.names == ("cat", "dog")
    write_json(file, {**read_json(file), "classes": ["c", "a", "b"]})
    assert read_job(job).classes.names == ("c", "a", "b")
    write_json(file, {**read_json(file), "classes": ["a", "A"]})
    job = read_job(job)
    assert (job.status, job.classes.names) == ("failed", ("cat", "dog"))
    assert "corrupted (classes=['a', 'A']: classes a, A differ only in case" in job.result["error"]


def test_jobs_on_different_images_are_not_ranked(study):
    for name, digest in (("good", "a"), ("slow", "b")):
        result = read_json(study / name / "result.json")
        write_json(study / name / "result.json", {**result, "data": {"digest": digest, "validation": 5}})
    with pytest.raises(UserError, match=r"different images.*job=NAME"):
        best_job(study, read_jobs(study))
    assert list(write_leaderboard(study)["data_digest"].dropna()) == ["a", "b"]


def test_a_corrupted_table_of_trials_is_a_user_error(study):
    (study / "good" / "trials.csv").write_text("trial,status\n0,COMPLETED\n")
    with pytest.raises(UserError, match=r"trials\.csv is corrupted \(missing columns: val_log_loss.*\); set another"):
        chosen_trial(read_jobs(study)[2], None)
    write_leaderboard(study)


@pytest.mark.parametrize(
    ("config", "epoch", "problem"),
    [
        ({"fit": {"epochs": 8}}, 9, r"trial=0: .* epoch 9 of 8"),
        ({"space": {"l2": {}}}, 2, r"trial=0: .*trials\.csv lacks its l2"),
    ],
)
def test_a_trial_that_its_job_cannot_have_trained_is_not_retrained(study, config, epoch, problem):
    file = study / "good" / "result.json"
    write_json(file, {**read_json(file), "config": config})
    write_trials(file.parent / "trials.csv", [TrialRecord("0", "COMPLETED", 0.2, 0.9, epoch, epoch, 1.0, {})])
    (job,) = [job for job in read_jobs(study) if job.name == "good"]
    with pytest.raises(UserError, match=f"{problem}; use another trial"):
        chosen_trial(job, None)


def test_a_study_that_varied_a_renamed_setting_is_read_but_not_resumed(study):
    check_job_names(study)
    check_job_names(study / "nowhere")
    name = "small_cnn-none-split.holdout-0.2"
    choices = {"backbone": "small_cnn", "split.holdout": "0.2"}
    config = {"split": {"holdout": 0.2}, "varied": ["split.holdout"], "fit": {"epochs": 3, "max_parameters": 7}}
    write_json(study / name / "result.json", {"status": "ok", "choices": choices, "config": config})
    (job,) = [job for job in read_jobs(study) if job.name == name]
    assert job.choices == {"backbone": "small_cnn", "split.holdout_fraction": "0.2"}
    assert job.choice("split.holdout_fraction") == "0.2"
    assert job.result["config"]["varied"] == ["split.holdout_fraction"]
    assert job.result["config"]["fit"] == {
        "precision": "float32",
        "class_weights": "none",
        "keep_weights_gib": 0.0,
        "epochs": 3,
    }
    assert job.result["config"]["backbone"]["resize"] == "squeeze"
    assert list(write_leaderboard(study)["split.holdout_fraction"].dropna()) == ["0.2"]
    with pytest.raises(UserError, match=r"split\.holdout, .* split\.holdout_fraction; use a new study=NAME"):
        check_job_names(study)
    choices = {"backbone.preprocessing": "imagenet_standardised"}
    write_json(study / name / "result.json", {"status": "ok", "choices": choices})
    with pytest.raises(UserError, match=r"=imagenet_standardised, .*=imagenet_standardized; use a new study=NAME"):
        check_job_names(study)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "running"}, State.KILLED),
        ({"status": "failed", "error_type": "KeyboardInterrupt"}, State.INTERRUPTED),
        ({"status": "failed", "error_type": "Killed"}, State.FAILED),
        ({"status": "ok", "error_type": "KeyboardInterrupt"}, State.DONE),
        ("corrupted", State.FAILED),
    ],
)
def test_state_of_a_job(study, result, expected):
    write_json(study / "j" / "result.json", result)
    assert read_job(study / "j").state is expected


def test_a_job_is_running_if_locked_or_without_permission_to_check(study, monkeypatch):
    with lock_job(study / "busy"):
        assert read_job(study / "busy").state is State.RUNNING
    assert read_job(study / "busy").state is State.KILLED
    # As in the read-only study of another user.
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **options: (study / "none").read_bytes())
    assert read_job(study / "busy").state is State.RUNNING


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_missing_or_empty_study_is_a_user_error(study, name):
    (study.parent / "empty").mkdir()
    with pytest.raises(UserError, match=rf"{name}: [^\n]*\Z"):
        read_jobs(study.parent / name)


def test_only_a_completed_trial_can_be_chosen(study):
    records = [TrialRecord(str(n), "COMPLETED", loss, 0.9, 3, 2, 1.0, {}) for n, loss in ((0, 0.3), (2, 0.2))]
    records.insert(1, TrialRecord("1", "FAILED", None, None, 0, 0, 0.0, {}))
    write_trials(study / "good" / "trials.csv", records)
    job = best_job(study, read_jobs(study))
    assert chosen_trial(job, None).trial == "2"
    assert chosen_trial(job, "0").trial == "0"
    with pytest.raises(UserError, match="FAILED"):
        chosen_trial(job, "1")
    with pytest.raises(UserError, match=r"trial=7: .*0, 1, 2"):
        chosen_trial(job, "7")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config.backbone.builder", 3),
        ("config.space.dropout.low", []),
        ("config.data.sample", "two"),
        ("config.fit.epochs", 10**18),
        ("versions.keras", None),
        ("best_trial.hyperparameters.dropout", [1]),
        ("best_trial.val_log_loss", 1e300),
        ("trials.total", -3),
        ("seconds", 1e300),
    ],
)
def test_a_value_of_the_wrong_type_or_range_fails_only_its_job(study, key, value):
    result = read_json(study / "good" / "result.json")
    *groups, name = key.split(".")
    node = result
    for group in groups:
        node = node.setdefault(group, {})
    node[name] = value
    write_json(study / "good" / "result.json", result)
    table = write_leaderboard(study).set_index("job")
    assert table.loc["good", "status"] == "failed"
    assert str(table.loc["good", "error"]).startswith(f"result.json is corrupted ({key}=")
    assert table.loc["slow", "val_log_loss"] == 0.4


def test_a_choice_or_hyperparameter_does_not_replace_a_column(study):
    result = read_json(study / "good" / "result.json")
    result["choices"] |= {"val_log_loss": "x", "status": "y"}
    result["best_trial"]["hyperparameters"] = {"state": 1, "job": 2, "dropout": 0.5}
    write_json(study / "good" / "result.json", result)
    row = write_leaderboard(study).set_index("job").loc["good"]
    assert (row["val_log_loss"], row["status"], row["dropout"]) == (0.2, "ok", 0.5)
