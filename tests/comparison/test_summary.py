"""Which job is best, by how much, and whether that may be believed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from studies import CHOICES, labels, p_dog, write_job, write_study

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.comparison.summary import score_intervals, summarize
from catsdogs.scoring.scores import log_loss_per_image
from catsdogs.study.jobs import retrain_command, write_plan
from catsdogs.study.trials import TrialRecord, write_trials


def job(folder, name: str, **more) -> None:
    write_job(folder, {**CHOICES, "schedule": name}, name=name, **more)


@pytest.fixture
def night(tmp_path):
    """Two jobs, `a` clearly ahead of `b`."""
    folder = tmp_path / "night"
    job(folder, "a", skill=2.0, seed=1)
    job(folder, "b", skill=1.2, seed=2)
    return folder


def change(folder, **told) -> None:
    write_json(folder / "result.json", {**read_json(folder / "result.json"), **told})


def text(told) -> str:
    return "\n".join([told.headline, *told.sentences, *told.caveats])


def test_a_clear_lead_is_larger_than_the_noise(night, tmp_path):
    told = summarize(read_study_data([night]))
    assert (told.best, told.runner_up, told.trial, told.significance) == ("a", "b", "0", "larger")
    assert told.command == retrain_command(night)
    one, other = (log_loss_per_image(labels(), p_dog(*predicted)) for predicted in ((2.0, 1), (1.2, 2)))
    assert told.log_loss.value == pytest.approx(one.mean())
    assert told.margin.value == pytest.approx((other - one).mean())
    assert told.margin.low is not None
    assert told.margin.low > 0
    assert told.margin.size == 200
    assert told.accuracy == pytest.approx(((p_dog(2.0, 1) > 0.5) == labels()).mean())
    assert told.share_best == {"a": pytest.approx(1, abs=0.01), "b": pytest.approx(0, abs=0.01)}
    intervals = score_intervals(read_study_data([night]))
    assert list(intervals) == ["a", "b"]
    assert told.log_loss is not None
    assert dataclasses.astuple(intervals["a"]) == pytest.approx(dataclasses.astuple(told.log_loss))
    assert intervals["b"].low < other.mean() < intervals["b"].high
    assert told.headline == (
        f"a is best: validation log loss {one.mean():.4f}, ahead of b by {(other - one).mean():.4f}, "
        "which is more than noise."
    )
    assert "flatter" in text(told)
    # Where several studies are compared, the command names the job.
    told = summarize(read_study_data([night, write_study(tmp_path / "other", trials=1)]))
    assert (told.best, told.command) == ("night/a", retrain_command(night, "a"))


@pytest.mark.parametrize(
    ("other", "significance", "words"),
    [((1.98, 5), "noise", "no more than noise"), ((2.0, 1), "equal", "equally good")],
)
def test_a_lead_within_the_noise_names_no_winner(night, other, significance, words):
    job(night, "b", skill=other[0], seed=other[1])
    told = summarize(read_study_data([night]))
    assert told.significance == significance
    assert words in told.headline
    assert told.margin.low is not None
    assert told.margin.high is not None
    assert told.margin.low <= 0 <= told.margin.high
    assert ("includes 0" in text(told)) == (significance == "noise")
    assert sum(told.share_best.values()) == pytest.approx(1)
    assert (told.share_best == {"a": 0.5, "b": 0.5}) == (significance == "equal")
    job(night, "c", skill=1.2, seed=2)
    assert "1 of the other 2 is behind it by more than noise, b is not" in text(summarize(read_study_data([night])))


def simulated(study_data: StudyData, skills: list[float], seed: int) -> StudyData:
    """The jobs of an study_data, with predictions of these skills and other noise for every seed."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=200)
    predictions, told = {}, {}
    for label, skill in zip(sorted(study_data.predictions), skills, strict=True):
        logits = (2 * labels() - 1) * skill + np.sqrt(0.8) * common + np.sqrt(0.2) * rng.normal(size=200)
        p = 1 / (1 + np.exp(-logits * 2))
        predictions[label] = study_data.predictions[label].assign(p_dog=p)
        told[label] = float(log_loss_per_image(labels(), p).mean())
    board = study_data.leaderboard.assign(val_log_loss=study_data.leaderboard["label"].map(told))
    return dataclasses.replace(
        study_data, leaderboard=board.sort_values("val_log_loss", ignore_index=True), predictions=predictions
    )


def test_between_equal_jobs_a_winner_is_named_about_5_times_in_100(night):
    study_data = read_study_data([night])
    significances = [summarize(simulated(study_data, [1.5, 1.5], seed)).significance for seed in range(100)]
    assert set(significances) == {"larger", "noise"}
    assert significances.count("larger") <= 12  # 5 % of 100 and 3.2 standard errors
    better = [summarize(simulated(study_data, [1.5, 1.8], seed)) for seed in range(10)]
    assert sum(told.significance == "larger" and told.best == "b" for told in better) >= 7


def test_one_image_tells_nothing_and_one_job_is_alone(tmp_path):
    for name, skill in (("a", 2.0), ("b", 1.0)):
        job(tmp_path / "image", name, skill=skill, images=1)
    told = summarize(read_study_data([tmp_path / "image"]))
    assert (told.best, told.significance, told.margin.low) == ("a", "unknown", None)
    assert "1 validation image:" in text(told)
    write_job(tmp_path / "night", CHOICES, name="a")
    told = summarize(read_study_data([tmp_path / "night"]))
    assert (told.significance, told.runner_up, told.margin) == ("alone", None, None)
    assert "only job with a result" in told.headline
    assert told.share_best == {"a": 1.0}
    assert "the epoch and the trial," in text(told)


def test_nothing_completed(tmp_path):
    night = tmp_path / "night"
    job(night, "a", trials=0, status="running", planned=3)
    write_plan(night, ["a", "b"], [])
    told = summarize(read_study_data([night]))
    assert (told.best, told.significance, told.command, told.sentences) == (None, "unknown", None, [])
    assert told.headline == "No trial has completed yet."
    assert "1 job (a) is still running" in text(told)
    assert "1 job (b) is still waiting" in text(told)
    assert score_intervals(read_study_data([night])) == {}
    job(night, "a", trials=2, failed_trials=2, status="failed", error="none")
    write_plan(night, ["a"], [])
    assert summarize(read_study_data([night])).headline == "No trial has completed: 1 job failed."


def test_unfinished_and_failed_jobs_are_told(night):
    for name, status in (("c", "running"), ("d", "killed"), ("e", "killed")):
        job(night, name, trials=2, planned=9, status=status, skill=1.0, seed=3)
    job(night, "f", trials=0, status="failed", error="no luck")
    write_plan(night, ["a", "b", "c", "d", "e", "f", "g", "h"], [])
    told = summarize(read_study_data([night]))
    assert told.headline.startswith("So far a is best")
    caveats = "\n".join(told.caveats)
    assert "1 job (c) is still running, so the ranking may change." in caveats
    assert "2 jobs (d, e) ended without saying how" in caveats
    assert "2 jobs (g, h) are still waiting to start." in caveats
    assert "1 job (f) failed." in caveats


def test_what_a_lead_may_come_from_is_told(night):
    told = text(summarize(read_study_data([night])))
    assert "seed was not varied" in told
    assert "executions" not in told
    result = read_json(night / "b" / "result.json")
    config = {**result["config"], "fit": {"epochs": 9, "batch_size": 32}, "schedule": {"peak_lr": 1}}
    change(night / "b", seed=2, config=config, best_trial={**result["best_trial"], "val_log_loss": 0.9})
    told = text(summarize(read_study_data([night])))
    assert "seed was not varied" not in told
    assert "The jobs differ also in features.views, fit.epochs, which no choice tells" in told
    assert "validation.csv of b do not have the log loss of the best trial" in told
    assert "executions" not in told


def test_jobs_on_other_images_are_not_compared(night):
    job(night, "c", skill=3, digest="e" * 64)
    told = summarize(read_study_data([night]))
    assert (told.best, told.runner_up, told.margin, told.significance) == ("c", None, None, "unknown")
    assert "2 jobs (a, b) are not compared with the best: validated on other images" in text(told)
    assert told.share_best == {"c": 1.0}
    assert told.command.endswith(" job=c")  # best_job would refuse to choose


def test_a_best_job_without_predictions_is_best_all_the_same(night):
    (night / "a" / "validation.csv").unlink()
    told = summarize(read_study_data([night]))
    assert (told.best, told.runner_up, told.significance, told.log_loss, told.margin) == (
        "a",
        "b",
        "unknown",
        None,
        None,
    )
    loss = read_json(night / "a" / "result.json")["objective"]
    assert f"{loss:.4f}" in told.headline
    assert told.accuracy == pytest.approx(((p_dog(2.0, 1) > 0.5) == labels()).mean())
    assert "1 job (a) is ranked by the trial's log loss alone" in text(told)
    assert list(score_intervals(read_study_data([night]))) == ["b"]
    job(night, "c", skill=2.5, seed=3)
    job(night, "d", skill=1.0)
    told = summarize(read_study_data([night]))
    assert (told.best, told.runner_up, told.significance, told.margin) == ("c", "a", "unknown", None)
    assert set(told.share_best) == {"b", "c", "d"}


def test_a_mean_over_executions_that_is_not_that_of_the_predictions_is_told(night):
    for name, loss in (("a", 0.5), ("b", 0.4)):
        result = read_json(night / name / "result.json")
        config = {**result["config"], "fit": {**result["config"]["fit"], "executions_per_trial": 3}}
        change(night / name, best_trial={**result["best_trial"], "val_log_loss": loss}, config=config)
    told = summarize(read_study_data([night]))
    # The board ranks, and here the predictions say the opposite.
    assert (told.best, told.runner_up, told.significance) == ("b", "a", "unknown")
    assert told.margin.high is not None
    assert told.margin.high < 0
    assert "b is first with validation log loss 0.4000" in told.headline
    assert "mean over the executions" in text(told)
    assert "By the predictions alone a would be first" in text(told)
    assert "contradict the ranking" in text(told)


def test_images_that_a_job_lacks_are_told(night):
    table = pd.read_csv(night / "b" / "validation.csv")
    write_csv(night / "b" / "validation.csv", table.iloc[20:])
    told = summarize(read_study_data([night]))
    assert (told.log_loss.size, told.margin.size) == (200, 180)
    assert "Jobs are compared on 180 images: not every job has predictions of all 200." in text(told)
    write_csv(night / "b" / "validation.csv", table.assign(id=[f"x{n}" for n in range(200)]))
    told = summarize(read_study_data([night]))
    assert (told.significance, told.margin, told.share_best) == ("unknown", None, {})


def test_a_result_without_anything_else_is_answered(night):
    write_json(night / "a" / "result.json", {"status": "ok", "best_trial": {"val_log_loss": 0.1}})
    for name in ("trials.csv", "history.csv", "validation.csv"):
        (night / "a" / name).unlink()
    told = summarize(read_study_data([night]))
    assert (told.best, told.trial, told.accuracy, told.command) == ("a", None, None, None)
    assert "cannot be trained again" in text(told)
    write_trials(night / "b" / "trials.csv", [TrialRecord("0", "FAILED", None, None, 0, 0, 1.0, {})])
    (night / "a" / "result.json").unlink()
    assert summarize(read_study_data([night])).command is None
