"""Ensembles of trials whose weights the search kept."""

import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from final_study import FLIP, NONE, Study
from test_unbiased import card_matches, rows_of

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.final.metrics import format_scores
from catsdogs.predict import _predict
from catsdogs.scoring.classes import DEFAULT
from catsdogs.scoring.combination import Combination
from catsdogs.scoring.greedy import choose_ensemble
from catsdogs.scoring.scores import score_images
from catsdogs.study.trials import read_trials
from catsdogs.study.weight_files import TrialWeights, read_arrays, write_arrays
from catsdogs.training import execution as training
from catsdogs.tuning.job import JobLocation, run_job


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    """Search two jobs of one image size, and one of another."""
    study = Study(tmp_path_factory.mktemp("kept"), config)
    for name, size in ((FLIP, 32), (NONE, 32), ("large", 48)):
        settings = study.config(FLIP if name == FLIP else NONE, "select.top_k=1", f"backbone.image_size={size}")
        run_job(settings, JobLocation(study.folder / name, study.folder), {})
    return study


@pytest.fixture
def copied(study, tmp_path, request):
    """Copy the study, for tests that change it; without the job of another size unless the test needs it."""
    other = Study(tmp_path, study._config)
    other._cache, other.folder = study._cache, shutil.copytree(study.folder, other.folder)
    if "sizes" not in request.node.name:
        shutil.rmtree(other.folder / "large")
    return other


@pytest.fixture
def four_trials(monkeypatch):
    """Combine the four best trials with different weights, even if others are better; train nothing."""
    combination = Combination("logit", (0.4, 0.3, 0.2, 0.1))

    def chosen(labels, p, names, seed):
        table = choose_ensemble(labels, p, names, seed)[1].assign(chosen=False)
        others = (0.0,) * (len(names) - 4)
        return Combination("logit", combination.weights + others), table.assign(chosen=table["name"] == "logit")

    monkeypatch.setattr("catsdogs.final.kept_trials.choose_ensemble", chosen)
    monkeypatch.setattr(training, "train", None)
    return combination


def kept(study, *jobs):
    """Return the names of all trials, best first, and their kept probabilities (M, N, K)."""
    found = []
    for job in jobs:
        for record in read_trials(study.folder / job / "trials.csv"):
            file = TrialWeights(study.folder / job).predictions(record.trial)
            p = DEFAULT.from_output(read_arrays(file, [np.zeros((36, 1), np.float32)])[0])
            found.append((record.val_log_loss or 0, job, record.trial, p))
    return [one[1:3] for one in sorted(found, key=lambda one: one[0])], np.stack([one[3] for one in sorted(found)])


def test_kept_trials_are_combined_without_training(copied, four_trials, tmp_path):
    names, p = kept(copied, FLIP, NONE)
    file = copied.folder / names[0][0] / "result.json"
    result = read_json(file)
    result["best_trial"] |= {"execution": 1, "val_log_loss": 0.5}  # with new seeds, whose weights are not kept
    write_json(file, result)
    metrics, predictions, best = copied.retrain(kind="trials", tta="flip")
    members = metrics["ensemble"]["members"]
    assert [(one["job"], one["trial"], one["fold"]) for one in members] == [
        (*name, f) for name in names for f in (0, 1)
    ]
    assert [one["weight"] for one in members] == [0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.05, 0.05]
    own, labels = rows_of(predictions, "validation"), copied.dataset().rows.set_index("id")["label"]
    np.testing.assert_allclose(own["p_dog"], four_trials(p)[:, 1], atol=1e-5)
    assert metrics["validated_by"] == "folds"
    assert metrics["details"]["holdout_log_loss"]["size"] == 12
    losses = score_images(labels[own.index].to_numpy(), p).losses.mean(axis=1)
    compared = pd.read_csv(best / "ensemble.csv").set_index("name")
    np.testing.assert_allclose(compared.loc[[f"{job} trial {trial}" for job, trial in names], "log_loss"], losses)
    assert metrics["selected_val_log_loss"] == pytest.approx(losses.min(), rel=1e-4)
    nested = compared["nested_log_loss"]
    assert metrics["ensemble"]["gain"]["value"] == pytest.approx(nested["single"] - nested["logit"])
    assert metrics["ensemble"]["ms_per_image"] > 0 < metrics["ensemble"]["ms_per_image_single"]
    (sentence,) = [line for line in format_scores(metrics) if line.startswith("Ensemble: log loss")]
    assert re.search("best trial on 36 out-of-fold images, in nested folds; it takes .* ms per image, one", sentence)
    assert card_matches(best, re.escape(sentence))
    assert card_matches(best, "ensemble of 4 trials of the jobs")
    assert metrics["chosen_on_validation"][-1] == "ensemble"
    assert len(pd.read_csv(best / "history.csv")) == 8
    assert not list(copied.folder.glob(".retrain/kept"))


def test_kept_trials_of_several_image_sizes_are_resized_in_the_model(copied, four_trials, tmp_path):
    metrics, predictions, best = copied.retrain(kind="trials")
    names, p = kept(copied, FLIP, NONE, "large")
    assert {job for job, _ in names[:4]} > {"large"}
    assert metrics["image_size"] == 48
    assert card_matches(best, "resized to 48 × 48 pixels")
    # Resized twice, so not quite equal.
    own = rows_of(predictions, "validation")["p_dog"]
    np.testing.assert_allclose(own, four_trials(p[:4])[:, 1], atol=0.05)
    archive = next(copied._cache.glob("sample/*/test.zip"))
    assert _predict([str(best), str(archive), "--cache", str(tmp_path), "--output", str(tmp_path / "rows.csv")]) == 0
    rows = pd.read_csv(tmp_path / "rows.csv", dtype={"id": str}).set_index("id")["label"]
    submission = pd.read_csv(best / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    np.testing.assert_allclose(rows, submission.loc[rows.index], atol=2e-6)


@pytest.mark.parametrize("changed", ["resize", "weights"])
def test_jobs_that_do_not_fit_are_left_out_and_the_best_trial_may_be_chosen_alone(copied, caplog, monkeypatch, changed):
    monkeypatch.setattr("catsdogs.scoring.greedy.TIE_TOLERANCE", 10)
    file = copied.location(NONE).folder / "result.json"
    result = read_json(file)
    part, value = (result["config"]["backbone"], "pad") if changed == "resize" else (result, "sha256:0")
    part[changed] = value
    write_json(file, result)
    metrics, _, _ = copied.retrain(kind="trials")
    assert {member["job"] for member in metrics["ensemble"]["members"]} == {FLIP}
    assert re.search(f"job none is left out: .*backbone.{changed}", caplog.text)
    assert any("no combination of 2 trials is better" in line for line in format_scores(metrics))


def test_trials_with_missing_or_corrupted_weights_are_left_out(copied, caplog):
    weights = {name: TrialWeights(copied.location(name).folder) for name in (FLIP, NONE)}
    weights[FLIP].file("0", 1).unlink()
    weights[FLIP].predictions("1").write_bytes(bytes(100))
    metrics, _, best = copied.retrain(kind="trials")
    assert {member["job"] for member in metrics["ensemble"]["members"]} == {NONE}
    assert len([one for one in caplog.records if "left out" in one.message and "flip trial" in one.message]) == 1
    assert set(pd.read_csv(best / "ensemble.csv")["name"][:2]) == {"none trial 0", "none trial 1"}
    for folder in weights.values():
        shutil.rmtree(folder.folder)
    with pytest.raises(UserError, match=r"no kept weights of trials; run a new search with fit\.keep_weights_gib"):
        copied.retrain(kind="trials")


def test_models_of_folds_that_the_search_kept_are_not_trained_again(copied, monkeypatch, caplog):
    caplog.set_level("INFO")
    train, trained_on = training.train, []

    def counted(*args):
        trained_on.append(len(args[3].train_rows))
        return train(*args)

    monkeypatch.setattr(training, "train", counted)
    settings = {"tta": "auto", "kinds": ["none", "flip"]}
    metrics, predictions, _ = copied.retrain(evaluate_with="auto", **settings)
    assert trained_on == [len(rows_of(predictions, "validation"))]  # the final model only
    assert "trained 1 epoch in" in caplog.text
    assert (metrics["validated_by"], metrics["tta_choice"]["tested"]) == ("folds", True)
    searched = pd.read_csv(copied.folder / FLIP / "validation.csv")["p_dog"]
    np.testing.assert_allclose(rows_of(predictions, "validation")["p_dog"], searched, atol=1e-6)
    kept_metrics, kept, _ = copied.retrain(kind="folds", **settings)
    assert len(trained_on) == 1
    shutil.rmtree(copied.folder / FLIP / "weights")
    metrics, trained, _ = copied.retrain(kind="folds", **settings)
    assert len(trained_on) == 3
    pd.testing.assert_frame_equal(kept, trained, rtol=1e-6)
    assert (kept_metrics["epochs"], kept_metrics["best_epoch"]) == (metrics["epochs"], metrics["best_epoch"])
    assert copied.retrain(evaluate_with="auto", tta="none")[0]["validated_by"] == "search"


def test_the_trial_of_a_single_split_is_not_trained_again_unless_settings_change(config, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    own = ("split.folds=1", "select.top_k=1", "fit.epochs=3", "fit.executions_per_trial=2")
    study, train = Study(tmp_path, lambda *overrides: config(*overrides, *own)), training.train
    study.search()
    monkeypatch.setattr(training, "train", None)
    metrics, kept, best = study.retrain(tta="flip")
    history = pd.read_csv(best / "history.csv")
    assert re.search("retrain: weights of trial=[01] from the search, nothing trained", caplog.text)
    fit = study.config().fit
    for changed in ({"fit": dataclasses.replace(fit, epochs=2)}, {"seed": 5}, {"fit_on": "all"}):
        with pytest.raises(TypeError, match="not callable"):
            study.retrain(**changed)
    monkeypatch.setattr(training, "train", train)
    file = TrialWeights(study.folder / FLIP).file(metrics["trial"], 0)
    write_arrays(file, [np.full((file.stat().st_size - 32) // 4, np.nan, np.float32)])  # intact, as hostile ones are
    again, trained, best = study.retrain(tta="flip")
    assert f"{file}: corrupted (values that are not finite)" in caplog.text
    assert metrics["log_loss"] == pytest.approx(again["log_loss"], abs=1e-6)
    assert (metrics["epochs"], metrics["best_epoch"]) == (again["epochs"], again["best_epoch"])
    pd.testing.assert_frame_equal(kept, trained, atol=1e-6)
    repeated = pd.read_csv(best / "history.csv")
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), repeated.drop(columns="seconds"), rtol=1e-5)
