"""The best job, its lead, and whether the lead is significant."""

import re

import pandas as pd
import pytest
from studies import CHOICES, labels, p_dog, probabilities, write_final, write_job, write_study

from catsdogs.base.files import read_json, write_csv, write_json
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import score_images
from catsdogs.study.plan import predict_command, record_ended, retrain_command, write_plan
from catsdogs.study.trials import TrialRecord, write_trials


def job(folder, name, **more):
    write_job(folder, {**CHOICES, "schedule": name}, name=name, **more)


@pytest.fixture
def night(tmp_path):
    """Two jobs; `a` is significantly better than `b`."""
    folder = tmp_path / "night"
    job(folder, "a", skill=2.0, seed=1)
    job(folder, "b", skill=1.2, seed=2)
    return folder


def summary_of(folder):
    return summarize(read_study_data([folder]))


def text(summary):
    return "\n".join([summary.headline, *summary.sentences, *summary.caveats])


def test_a_large_lead_is_significant(night, tmp_path):
    summary = summary_of(night)
    assert (summary.best, summary.runner_up, summary.significance) == ("a", "b", "significant")
    assert summary.command == retrain_command(night)
    one, other = (score_images(labels(), probabilities(*job)).losses for job in ((2.0, 1), (1.2, 2)))
    assert [summary.log_loss.value, summary.margin.value] == pytest.approx([one.mean(), (other - one).mean()])
    assert (summary.margin.low > 0, summary.margin.size) == (True, 200)
    assert summary.share_best == {"a": pytest.approx(1, abs=0.01), "b": pytest.approx(0, abs=0.01)}
    assert list(summary.intervals) == ["a", "b"]
    assert summary.intervals["a"] == summary.log_loss
    assert summary.intervals["b"].low < other.mean() < summary.intervals["b"].high
    assert summary.headline == (
        f"a is the best job: validation log loss {one.mean():.4f}, {(other - one).mean():.4f} lower than b "
        "(statistically significant)."
    )
    assert "Validation scores are optimistic" in text(summary)
    # For several studies, the command names the job.
    summary = summarize(read_study_data([night, write_study(tmp_path / "other", trials=1)]))
    assert (summary.best, summary.command) == ("night/a", retrain_command(night, "a"))


def test_after_retrain_the_final_model_leads_and_another_winner_is_named(night):
    file = write_final(night) / "metrics.json"
    metrics = read_json(file)
    score, accuracy = (metrics["details"][f"{name}_tta"] for name in ("log_loss", "accuracy"))
    summary = summary_of(night)
    of_job = "The final model is trial=0 of job mobilenet_v2-light-cosine-none"
    numbers = f"log loss {score['value']:.4f}, accuracy {accuracy['value']:.2%}"
    assert summary.headline == f"{of_job}: validation {numbers}."
    assert summary.sentences[0].startswith(f"On 200 validation images, with TTA: log loss {score['value']:.4f} (95% CI")
    assert "not the winner of the search: trial=0 of job a now ranks first." in text(summary)
    assert "Search: a is the best job" in text(summary)
    assert list(summary.commands.values()) == [predict_command(night), retrain_command(night)]
    # A member of its ensemble ranks first, and the holdout did not choose the model.
    metrics["details"] |= {"holdout_log_loss": {**score, "value": 0.5, "split": "holdout", "errors": 3}}
    members = [{"job": "b", "trial": "0"}, {"job": "a", "trial": "0"}]
    write_json(file, {**metrics, "ensemble": {"way": "logit", "members": members}})
    summary = summary_of(night)
    assert summary.headline.endswith("ensemble of 2 models of the jobs b, a: holdout log loss 0.5000, accuracy 98.50%.")
    assert "not the winner" not in text(summary)
    assert list(summary.commands.values()) == [predict_command(night)]
    write_json(file, {**metrics, "details": {}})
    assert summary_of(night).headline == f"{of_job}; it has no score."


@pytest.mark.parametrize(
    ("other", "significance", "words"),
    [((1.98, 5), "within noise", "from b is within noise"), ((2.0, 1), "identical", "are tied")],
)
def test_a_lead_within_noise_is_not_significant(night, other, significance, words):
    job(night, "b", skill=other[0], seed=other[1])
    summary = summary_of(night)
    assert summary.significance == significance
    assert words in summary.headline
    assert summary.margin.low <= 0 <= summary.margin.high
    assert ("includes 0" in text(summary)) == (significance == "within noise")
    assert sum(summary.share_best.values()) == pytest.approx(1)
    assert (summary.share_best == {"a": 0.5, "b": 0.5}) == (significance == "identical")
    job(night, "c", skill=1.2, seed=2)
    assert "1 of the 2 others is significantly worse." in text(summary_of(night))
    job(night, "d", skill=other[0], seed=other[1])
    assert "1 of the 3 others is significantly worse." in text(summary_of(night))


def test_the_headline_rounds_the_values_in_names(night):
    job(night, "lr-0.0009292208511799449", skill=9.0)
    assert summary_of(night).headline.startswith("lr-0.0009292 is the best job")


def test_one_image_or_one_job_has_no_significance(tmp_path):
    job(tmp_path / "image", "a", skill=2.0, images=1)
    job(tmp_path / "image", "b", skill=1.0, images=1)
    summary = summary_of(tmp_path / "image")
    assert (summary.best, summary.significance, summary.margin.low) == ("a", "unknown", None)
    assert "On 1 validation image of 2 classes (cat, dog): " in text(summary)
    write_job(tmp_path / "night", CHOICES, name="a")
    summary = summary_of(tmp_path / "night")
    assert (summary.significance, summary.runner_up, summary.margin) == ("only job", None, None)
    assert "only job with a result" in summary.headline
    assert summary.share_best == {"a": 1.0}
    assert "to select the epoch and trial." in text(summary)


def test_no_completed_trial(tmp_path):
    night = tmp_path / "night"
    job(night, "a", trials=0, status="running", planned=3)
    write_plan(night, ["a", "b"], [])
    summary = summary_of(night)
    assert (summary.best, summary.significance, summary.command, summary.sentences) == (None, "unknown", None, [])
    assert summary.headline == "No trial has completed yet."
    assert "1 job (a) is still running" in text(summary)
    assert "1 job (b) is waiting to start." in text(summary)
    assert summary.intervals == {}
    job(night, "a", trials=2, failed_trials=2, status="failed", error="none")
    write_plan(night, ["a"], [])
    assert summary_of(night).headline == "No trial has completed."


def test_unfinished_and_failed_jobs_are_caveats(night):
    for name, status in (("c", "running"), ("d", "killed"), ("e", "killed")):
        job(night, name, trials=2, planned=9, status=status, skill=1.0, seed=3)
    job(night, "f", trials=0, status="failed", error="no luck")
    write_plan(night, ["a", "b", "c", "d", "e", "f", "g", "h", "i"], [])
    record_ended(night, ["a", "b", "f", "i"])
    summary = summary_of(night)
    assert summary.headline.startswith("So far a is the best job")
    assert summary.caveats[:5] == [
        "1 job (c) is still running, so the ranking may change.",
        "2 jobs (d, e) stopped without reporting a result; run the same command again to resume.",
        "2 jobs (g, h) are waiting to start.",
        "The results of 1 job (i) were deleted; run the same command again to repeat them.",
        "1 job (f) failed.",
    ]


def test_other_explanations_of_a_lead_are_caveats(night):
    assert "seed was not varied" in text(summary_of(night))
    result = read_json(night / "b" / "result.json")
    config = {**result["config"], "fit": {"epochs": 9, "batch_size": 32}, "schedule": {"peak_lr": 1}}
    changes = {"seed": 2, "config": config, "best_trial": {**result["best_trial"], "val_log_loss": 0.9}}
    write_json(night / "b" / "result.json", {**result, **changes})
    summary = text(summary_of(night))
    assert "seed was not varied" not in summary
    assert "The jobs also differ in other settings (features.views, fit.epochs)" in summary
    assert "validation.csv of b have another log loss than recorded" in summary


@pytest.mark.parametrize("other", [{}, {"classes": Classes(("ant", "bee", "wasp"))}])
def test_jobs_on_other_images_or_classes_are_not_compared(night, other):
    job(night, "c", skill=3, digest="e" * 64, **other)
    summary = summary_of(night)
    assert (summary.best, summary.runner_up, summary.margin, summary.significance) == ("c", None, None, "unknown")
    assert "2 jobs (a, b) are not compared with the best job: validated on other images or classes." in text(summary)
    assert summary.share_best == {"c": 1.0}
    assert summary.command.endswith(" job=c")  # best_job would refuse to choose
    job(night, "a", skill=9, images=58, digest="e" * 64, **other)
    assert ("Fewer than 20 validation images: bee (19), wasp (19);" in text(summary_of(night))) == ("classes" in other)


def test_a_job_without_predictions_can_be_the_best(night):
    (night / "a" / "validation.csv").unlink()
    summary = summary_of(night)
    assert (summary.best, summary.runner_up, summary.significance) == ("a", "b", "unknown")
    assert summary.log_loss is summary.margin is None
    assert f"{read_json(night / 'a' / 'result.json')['objective']:.4f}" in summary.headline
    assert f"accuracy {((p_dog(2.0, 1) > 0.5) == labels()).mean():.2%}; its predictions are missing" in text(summary)
    assert "1 job (a) is ranked by recorded log loss only" in text(summary)
    assert list(summary.intervals) == ["b"]
    job(night, "c", skill=2.5, seed=3)
    job(night, "d", skill=1.0)
    summary = summary_of(night)
    assert (summary.best, summary.runner_up, summary.significance, summary.margin) == ("c", "a", "unknown", None)
    assert set(summary.share_best) == {"b", "c", "d"}


def test_predictions_that_contradict_the_recorded_log_losses_are_a_caveat(night):
    for name, loss in (("a", 0.5), ("b", 0.4)):
        result = read_json(night / name / "result.json")
        result["best_trial"]["val_log_loss"] = loss
        write_json(night / name / "result.json", result)
    summary = summary_of(night)
    assert (summary.best, summary.runner_up, summary.significance) == ("b", "a", "unknown")
    assert summary.margin.high < 0
    assert "b ranks first with validation log loss 0.4000" in summary.headline
    assert "validation.csv of b, a have another log loss than recorded" in text(summary)
    assert "contradict the ranking" in text(summary)
    # A difference keeps its sign within a sentence.
    assert re.search(r"minus that of b is -0\.\d+ \(95% CI -0\.\d+ to -0\.\d+\)", text(summary))


def test_images_that_a_job_lacks_are_a_caveat(night):
    table = pd.read_csv(night / "b" / "validation.csv")
    write_csv(night / "b" / "validation.csv", table.iloc[20:])
    summary = summary_of(night)
    assert (summary.log_loss.size, summary.margin.size) == (200, 180)
    assert "Jobs are compared on 180 images: not every job has predictions for all 200." in text(summary)
    write_csv(night / "b" / "validation.csv", table.assign(id=[f"x{n}" for n in range(200)]))
    summary = summary_of(night)
    assert (summary.significance, summary.margin, summary.share_best) == ("unknown", None, {})


def test_a_job_with_nothing_but_a_result_is_summarized(night):
    write_json(night / "a" / "result.json", {"status": "ok", "best_trial": {"val_log_loss": 0.1}})
    for file in (night / "a").glob("*.csv"):
        file.unlink()
    summary = summary_of(night)
    assert (summary.best, summary.command) == ("a", None)
    assert "cannot be retrained" in text(summary)
    write_trials(night / "b" / "trials.csv", [TrialRecord("0", "FAILED", None, None, 0, 0, 1.0, {})])
    (night / "a" / "result.json").unlink()
    assert summary_of(night).command is None
