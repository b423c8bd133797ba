from __future__ import annotations

import pandas as pd
import pytest

from catsdogs.errors import UserError
from catsdogs.files import write_json
from catsdogs.study import best_job, chosen_trial, read_jobs, write_leaderboard
from catsdogs.trials import TrialRecord, write_trials


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    jobs = {
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


def test_a_damaged_result_is_a_failed_job_and_not_a_crash(study):
    (study / "good" / "result.json").write_text('{"status": "o')
    (study / "slow" / "result.json").write_text("[]")
    table = write_leaderboard(study)
    assert set(table.loc[table["job"].isin(["good", "slow"]), "status"]) == {"failed"}
    with pytest.raises(UserError, match="none of its 4 jobs"):
        best_job(study, read_jobs(study))


def test_the_best_job_is_the_lowest_finite_one(study):
    assert best_job(study, read_jobs(study)).name == "good"


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_study_that_is_not_there_is_told(study, name):
    (study.parent / "empty").mkdir()
    with pytest.raises(UserError, match=name) as caught:
        read_jobs(study.parent / name)
    assert "\n" not in str(caught.value)


def test_only_a_completed_trial_can_be_chosen(study):
    write_trials(
        study / "good" / "trials.csv",
        [
            TrialRecord("0", "COMPLETED", 0.3, 0.9, 3, 2, 1.0, {"dropout": 0.1}),
            TrialRecord("1", "FAILED", None, None, 0, 0, 0.0, {"dropout": 0.2}),
            TrialRecord("2", "COMPLETED", 0.2, 0.9, 3, 2, 1.0, {"dropout": 0.3}),
        ],
    )
    job = best_job(study, read_jobs(study))
    assert chosen_trial(job, None).trial == "2"
    assert chosen_trial(job, "0").trial == "0"
    with pytest.raises(UserError, match="FAILED"):
        chosen_trial(job, "1")
    with pytest.raises(UserError, match="no such trial; it has 0, 1, 2"):
        chosen_trial(job, "7")
