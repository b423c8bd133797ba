"""A tiny study with a holdout, folds and a selection, and the final models that `retrain` makes of it."""

import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from final_study import FLIP, NONE, Study

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.config.schema import SubmissionConfig
from catsdogs.data.views import LiveViews
from catsdogs.final import members
from catsdogs.final.metrics import format_scores
from catsdogs.predict import _predict
from catsdogs.scoring.calibration import Calibration, cross_fitted, fit, fit_if_better
from catsdogs.scoring.classes import DEFAULT
from catsdogs.scoring.combination import Combination, choose
from catsdogs.scoring.scores import score_images
from catsdogs.study.trials import best_trial, read_trials
from catsdogs.training import execution as training
from catsdogs.training.execution import DivergedError
from catsdogs.training.trial_data import build_trial_data


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    """Search both jobs."""
    study, read = Study(tmp_path_factory.mktemp("unbiased"), config), LiveViews.read

    def recorded(self, rows, view):
        study.rows_read.update(rows.tolist())
        return read(self, rows, view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveViews, "read", recorded)
        study.search(FLIP)
        study.search(NONE, "select.top_k=1")
    return study


@pytest.fixture
def copied(study, tmp_path):
    """Copy the study, for tests that change it."""
    other = Study(tmp_path, study._config)
    other._cache, other.folder = study._cache, shutil.copytree(study.folder, other.folder)
    return other


@pytest.fixture
def calibrated(monkeypatch):
    """Apply every calibration, even if it does not help."""

    def applied(labels, p):
        return dataclasses.replace(fit_if_better(labels, p), applied=True, calibration=fit(labels.astype(int), p))

    monkeypatch.setattr("catsdogs.scoring.calibration.FEWEST", 20)
    monkeypatch.setattr("catsdogs.final.evaluation.fit_if_better", applied)


def table(study, name, augmentation=FLIP):
    return pd.read_csv(study.location(augmentation).folder / name, dtype={"trial": str, "id": str})


def rows_of(predictions, split):
    return predictions[predictions["split"] == split].set_index("id")


def card_matches(best, pattern):
    return re.search(pattern, (best / "MODEL_CARD.md").read_text(), re.IGNORECASE)


def test_a_search_reads_nothing_of_the_holdout_and_validates_on_every_other_image_once(study):
    dataset = study.dataset()
    assert len(dataset.holdout_rows) == 12
    assert study.rows_read == set(range(48)) - set(dataset.holdout_rows.tolist())
    data, _ = build_trial_data(study.config(), dataset, dataset.folds())
    assert np.isnan(data.targets[dataset.holdout_rows]).all()
    assert not np.isnan(np.delete(data.targets, dataset.holdout_rows, axis=0)).any()
    split = table(study, "split.csv").set_index("id")
    validation = table(study, "validation.csv").set_index("id")
    assert list(validation) == ["label", "fold", "p_dog", "trial", "execution"]
    assert list(validation.index) == list(split.index[split["split"] != "holdout"])
    assert (validation["fold"] == split.loc[validation.index, "fold"]).all()
    data_record = read_json(study.location().folder / "result.json")["data"]
    assert [data_record[key] for key in ("train", "validation", "holdout", "folds")] == [18, 36, 12, 2]
    history, trials = table(study, "history.csv"), table(study, "trials.csv").set_index("trial")
    assert list(history)[:4] == ["trial", "execution", "fold", "epoch"]
    for trial, own in history.groupby("trial"):
        lowest = own.groupby("fold")["val_log_loss"].min()
        assert len(lowest) == lowest.nunique() == 2
        # Both folds have 18 images.
        assert trials.loc[trial, "val_log_loss"] == pytest.approx(lowest.mean(), rel=1e-9)


def test_only_fresh_seeds_select_the_winner(study):
    selected, trials = table(study, "select.csv"), table(study, "trials.csv").set_index("trial")["val_log_loss"]
    pairs = zip(selected["trial"], selected["seed"], strict=True)
    assert sorted(pairs) == [(trial, seed) for trial in ("0", "1") for seed in (0, 1)]
    # The search used other seeds.
    assert not set(selected["val_log_loss"]) & set(trials)
    means = selected.groupby("trial")["val_log_loss"].mean()
    result = read_json(study.location().folder / "result.json")
    best = result["best_trial"]
    assert best["trial"] == means.idxmin()
    assert best["val_log_loss"] == result["objective"] == pytest.approx(means.min(), rel=1e-12)
    assert best["searched_val_log_loss"] == pytest.approx(trials[best["trial"]], rel=1e-12)
    own = selected[selected["trial"] == best["trial"]].set_index("seed")["val_log_loss"]
    validation = table(study, "validation.csv")
    losses = score_images(validation["label"].to_numpy(), DEFAULT.read(validation)).losses
    assert losses.mean() == pytest.approx(own[0], rel=1e-4)


def test_a_killed_selection_resumes_and_a_changed_selection_starts_over(copied, study, monkeypatch):
    train, calls = training.train, []
    folder = copied.location().folder
    rows, trials = ((folder / name).read_text() for name in ("select.csv", "trials.csv"))
    recorded = read_json(folder / "result.json")

    def search(*overrides, error=None):
        """Resume the job; raise the error in its first training."""

        def counted(*args, **kwargs):
            calls.append(1)
            if error is not None and len(calls) == 1:
                raise error
            return train(*args, **kwargs)

        calls.clear()
        monkeypatch.setattr(training, "train", counted)
        return copied.search(FLIP, *overrides)

    def select_again(error):
        (folder / "select.csv").unlink(missing_ok=True)
        write_json(folder / "result.json", {**recorded, "status": "running"})
        return search(error=error)

    assert (search(), calls) == (recorded["objective"], [])

    # The state after a kill with two rows written.
    (folder / "select.csv").write_text("".join(rows.splitlines(keepends=True)[:3]))
    write_json(folder / "result.json", {**recorded, "status": "running"})
    assert search() == pytest.approx(recorded["objective"], rel=1e-9)
    again, before = (table(one, "select.csv").drop(columns="seconds") for one in (copied, study))
    pd.testing.assert_frame_equal(again, before)
    # Two missing rows, of two folds each.
    assert len(calls) == 4
    assert (folder / "trials.csv").read_text() == trials

    # A trial that diverges with a fresh seed cannot win; every other error fails the job.
    first = again["trial"].iloc[0]
    assert np.isfinite(select_again(DivergedError("no luck", pd.DataFrame())))
    assert read_json(folder / "result.json")["best_trial"]["trial"] != first
    assert np.isnan(select_again(ValueError("a bug")))
    assert "a bug" in read_json(folder / "result.json")["error"]

    # Without a selection the best trial of the search wins; it is trained again only for its predictions.
    best = best_trial(read_trials(folder / "trials.csv"))
    assert search("select.top_k=1") == best.val_log_loss
    assert read_json(folder / "result.json")["best_trial"]["trial"] == best.trial
    assert len(calls) == 2


def test_fold_members_reproduce_the_search_and_all_of_them_score_the_holdout(copied, monkeypatch):
    monkeypatch.setattr("catsdogs.scoring.calibration.FEWEST", 20)
    metrics, predictions, best = copied.retrain(kind="folds", tta="auto", kinds=["none", "flip", "crops", "views"])
    assert metrics["validated_by"] == "folds"
    assert card_matches(best, "scores .*members")
    own = rows_of(predictions, "validation")
    searched = table(copied, "validation.csv").set_index("id").loc[own.index]
    np.testing.assert_allclose(own["p_dog"], searched["p_dog"], atol=1e-5)
    assert (own["fold"] == searched["fold"]).all()
    assert metrics["details"]["log_loss"]["split"] == "out-of-fold"
    assert metrics["details"]["holdout_log_loss"]["size"] == 12
    assert [member["fold"] for member in metrics["ensemble"]["members"]] == [0, 1]
    holdout, dataset = rows_of(predictions, "holdout"), copied.dataset()
    assert set(holdout.index) == set(dataset.rows["id"].iloc[dataset.holdout_rows])
    assert holdout["fold"].isna().all()
    tta = pd.read_csv(best / "tta.csv")
    assert set(tta["kind"]) == {"none", "flip", "crops", "views"}
    assert (tta["size"] == 36).all()
    chosen = tta[tta["chosen"]].iloc[0]
    assert (metrics["tta"]["kind"], metrics["tta"]["average"]) == (chosen["kind"], chosen["average"])
    choice = metrics["tta_choice"]
    assert (choice["kind"], choice["tested"], choice["split"]) == (chosen["kind"], True, "out-of-fold")
    assert card_matches(best, f"tta=auto: {chosen['kind']} chosen on 36 out-of-fold images")
    assert card_matches(best, "ensemble of 2 models of trial=. of job flip. trial=. of job flip, the member")
    assert card_matches(best, "holdout")


@pytest.mark.usefixtures("calibrated")
def test_predict_equals_the_submission_and_with_plain_the_model(copied, tmp_path):
    metrics, predictions, best = copied.retrain(kind="folds", tta="crops", average="logit")
    test = rows_of(predictions, "test")
    submission = pd.read_csv(best / "submission.csv", dtype={"id": str}).set_index("id")["label"]
    np.testing.assert_allclose(submission, test.loc[submission.index, "p_dog_calibrated"], rtol=1e-12)
    assert not np.allclose(test["p_dog"], test["p_dog_tta"], atol=1e-6)
    assert not np.allclose(test["p_dog_tta"], test["p_dog_calibrated"], atol=1e-6)
    kinds = ("{}_calibrated", "holdout_{}", "holdout_{}_tta", "holdout_{}_calibrated")
    for name in (kind.format(score) for kind in kinds for score in ("log_loss", "accuracy", "brier")):
        assert metrics[name] == metrics["details"][name]["value"]
    assert set(metrics["tta_gain"]) == set(metrics["calibration_gain"]) == {"validation", "holdout"}
    # Images that the calibration is fitted on get cross-fitted probabilities.
    own = rows_of(predictions, "validation")
    crossed = cross_fitted(own["label"].to_numpy(), DEFAULT.read(own, "_tta"))
    np.testing.assert_allclose(DEFAULT.read(own, "_calibrated"), crossed, rtol=1e-9)
    assert not np.allclose(crossed, Calibration(**metrics["calibration"])(DEFAULT.read(own, "_tta")), atol=1e-6)
    holdout = rows_of(predictions, "holdout")
    steps = [DEFAULT.read(holdout, step) for step in ("_tta", "_calibrated")]
    before, after = (score_images(holdout["label"].to_numpy(), p).losses for p in steps)
    assert metrics["calibration_gain"]["holdout"]["value"] == pytest.approx((before - after).mean())

    archive = next(copied._cache.glob("sample/*/test.zip"))
    command = [str(best), str(archive), "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "rows.csv")]
    for more, expected in (([], submission), (["--plain"], test["p_dog"])):
        assert _predict([*command, *more]) == 0
        rows = pd.read_csv(tmp_path / "rows.csv", dtype={"id": str}).set_index("id")["label"]
        np.testing.assert_allclose(rows, expected.loc[rows.index], atol=2e-6)


@pytest.fixture
def weighted(monkeypatch):
    """Combine two jobs with different weights, even if others are better."""
    combination = Combination("logit", (0.6, 1.0))
    monkeypatch.setattr("catsdogs.final.evaluation.choose", lambda *arguments: (combination, choose(*arguments)[1]))
    return combination


def test_an_ensemble_of_jobs_combines_the_predictions_of_their_searches(copied, weighted):
    metrics, predictions, best = copied.retrain(kind="jobs", size=2)
    assert [member["job"] for member in metrics["ensemble"]["members"]] == [FLIP, NONE]
    searched = np.stack([DEFAULT.read(table(copied, "validation.csv", name)) for name in (FLIP, NONE)])
    combined = weighted(searched)[:, 1]
    np.testing.assert_allclose(rows_of(predictions, "validation")["p_dog"], combined, rtol=1e-9)
    assert metrics["validated_by"] == "search"
    assert {FLIP, NONE} < set(pd.read_csv(best / "ensemble.csv")["name"])
    assert {"holdout_log_loss", "log_loss"} <= set(metrics["details"])


def test_folds_of_several_jobs_are_combined_by_out_of_fold_predictions(copied, weighted):
    metrics, predictions, best = copied.retrain(kind="folds", size=2)
    members = metrics["ensemble"]["members"]
    assert [(member["job"], member["fold"]) for member in members] == [(FLIP, 0), (FLIP, 1), (NONE, 0), (NONE, 1)]
    assert [member["weight"] for member in members] == [0.3, 0.3, 0.5, 0.5]
    assert metrics["validated_by"] == "folds"
    assert card_matches(best, "scores .*each trial")
    own = rows_of(predictions, "validation")["p_dog"]
    tables = [table(copied, "validation.csv", name).set_index("id").loc[own.index] for name in (FLIP, NONE)]
    np.testing.assert_allclose(own, weighted(np.stack([*map(DEFAULT.read, tables)]))[:, 1], atol=1e-5)
    # All four models predict the holdout: the logits of a job are averaged first.
    frames = [copied.retrain(name, kind="folds")[1] for name in (FLIP, NONE)]
    combined = weighted(np.stack([DEFAULT.read(rows_of(frame, "holdout")) for frame in frames]))[:, 1]
    np.testing.assert_allclose(rows_of(predictions, "holdout")["p_dog"], combined, atol=1e-5)


@pytest.mark.usefixtures("calibrated")
def test_a_single_model_is_trained_on_all_folds_and_evaluated_with_search_or_folds(copied, monkeypatch):
    train, trained_on = training.train, []

    def recorded(*args):
        trained_on.append(set(args[3].train_rows))
        return train(*args)

    monkeypatch.setattr(training, "train", recorded)
    metrics, alone, _ = copied.retrain()
    searched = table(copied, "validation.csv")["p_dog"]
    np.testing.assert_allclose(rows_of(alone, "validation")["p_dog"], searched, rtol=1e-12)
    assert metrics["details"]["log_loss"]["split"] == "out-of-fold"
    assert metrics["validated_by"] == "search"
    assert metrics["details"]["holdout_log_loss"]["size"] == 12
    # A model of all labeled images has no holdout.
    metrics, predictions, _ = copied.retrain(fit_on="all")
    assert set(predictions["split"]) == {"validation", "test"}
    assert "holdout_log_loss" not in metrics["details"]
    assert trained_on == [set(range(48)) - set(copied.dataset().holdout_rows), set(range(48))]

    metrics, predictions, best = copied.retrain(evaluate_with="folds", tta="flip", average="logit")
    assert metrics["validated_by"] == "folds"
    assert card_matches(best, "scores .*models of .*folds")
    assert metrics["ensemble"]["way"] == "single"
    fold_metrics, fold_predictions, _ = copied.retrain(kind="folds", tta="flip", average="logit")
    own, others = (rows_of(frame, "validation") for frame in (predictions, fold_predictions))
    for name in ("p_dog", "p_dog_tta", "p_dog_calibrated"):
        np.testing.assert_allclose(own[name], others[name], atol=1e-6)
    # The calibration is fitted on the same images; the submitted model is that of all folds.
    assert metrics["calibration"] == pytest.approx(fold_metrics["calibration"])
    np.testing.assert_allclose(rows_of(predictions, "test")["p_dog"], rows_of(alone, "test")["p_dog"], atol=1e-6)


@pytest.mark.parametrize(
    ("augmentation", "fit_on", "kind", "reason"),
    [
        (FLIP, "train", "flip", "flips images; this was not tested, .* on every image outside the holdout"),
        (NONE, "all", "none", "does not flip images; this was not tested, .* on every labeled image"),
    ],
)
def test_tta_auto_follows_the_augmentation_if_the_model_has_seen_every_image(
    copied, augmentation, fit_on, kind, reason
):
    metrics, predictions, best = copied.retrain(augmentation, tta="auto", kinds=["none", "flip"], fit_on=fit_on)
    assert (metrics["tta"]["kind"], metrics["tta"]["chosen"], metrics["tta_choice"]["tested"]) == (kind, False, False)
    assert rows_of(predictions, "test")["p_dog_tta"].notna().all() == (kind == "flip")
    assert card_matches(best, reason)
    (sentence,) = [line for line in format_scores(metrics) if line.startswith(f"tta=auto: {kind}, because")]
    assert re.search(reason, sentence)


AUTO = SubmissionConfig(None, "class", "auto")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "folds", "fit_on": "all"}, "fit_on=all"),
        ({"kind": "folds", "size": 2, "trial": "0"}, "trial=0: .*ensemble.num_jobs=2.*remove trial"),
        ({"kind": "jobs"}, "ensemble.num_jobs=1: must be at least 2 with ensemble=jobs"),
        ({"kind": "none", "size": 2}, "ensemble.num_jobs=2: not supported with ensemble=none"),
        *(
            ({"seed": 9, "fit_on": part, "submission": AUTO}, "auto: .* no predictions of this")
            for part in ("train", "all")
        ),
    ],
)
def test_settings_without_a_score_are_refused_before_training(study, settings, message, monkeypatch):
    monkeypatch.setattr(members, "execute", None)
    with pytest.raises(UserError, match=message):
        study.retrain(**settings)
    assert not (study.folder / "best").exists()


def test_members_with_another_resizing_are_refused(copied):
    file = copied.location(NONE).folder / "result.json"
    result = read_json(file)
    result["config"]["backbone"]["resize"] = "pad"
    write_json(file, result)
    with pytest.raises(UserError, match=r"several values of backbone.resize: pad \(none\), squeeze \(flip\)"):
        copied.retrain(kind="jobs", size=2)


@pytest.mark.parametrize(
    ("change", "trainings"),
    [
        (lambda values: None, 1),
        (lambda values: values.write_bytes(values.read_bytes()[:-1] + bytes([values.read_bytes()[-1] ^ 1])), 2),
        (lambda values: values.write_bytes(b""), 2),
        (lambda values: values.with_suffix(".json").write_text("{}"), 2),
        (lambda values: values.parent.rename(values.parents[1] / "other"), 2),
    ],
    ids=["kept", "corrupted values", "no values", "corrupted record", "other settings"],
)
def test_an_interrupted_retrain_continues_after_its_trained_members(copied, monkeypatch, change, trainings):
    def retrained(interrupt=None):
        runs: list[int] = []

        def counted(config, records, data, models, run, listener):
            if len(runs) == interrupt:
                raise KeyboardInterrupt
            runs.append(run)
            return training.execute(config, records, data, models, run, listener)

        monkeypatch.setattr(members, "execute", counted)
        metrics, predictions, best = copied.retrain(kind="folds", tta=FLIP)
        history = pd.read_csv(best / "history.csv").drop(columns="seconds")
        return len(runs), {**metrics, "seconds": None}, predictions, history

    _, metrics, *tables = retrained()
    files = set(copied.folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        retrained(interrupt=1)
    assert set(copied.folder.iterdir()) == files
    kept = copied.folder / ".retrain" / "kept"
    change(next(kept.glob("*/*.bin")))
    runs, again, *others = retrained()
    assert (runs, again) == (trainings, metrics)
    for table, other in zip(tables, others, strict=True):
        pd.testing.assert_frame_equal(other, table)
    assert not kept.exists()
