"""The commands, run as a user runs them, on archives drawn small."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, commands
from PIL import Image
from sklearn.metrics import log_loss


def ok(done):
    assert done.returncode == 0, done.stderr
    return done


def metrics_in(best):
    return json.loads((best / "metrics.json").read_text())


def predictions_in(best, split):
    predictions = pd.read_csv(best / "predictions.csv", dtype={"id": str}).set_index("id")
    return predictions[predictions["split"] == split]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of two jobs, and the final model of the best one."""
    folder = tmp_path_factory.mktemp("study")
    run: Any = commands(folder)
    run.folder, run.root, run.best = folder, folder / "multirun" / "s", folder / "multirun" / "s" / "best"
    run.search = ok(run("search", "-m", *SMALL, "study=s", "augmentation=none,light"))
    run.retrain = ok(run("retrain", "study=s", "tta.views=3"))
    return run


def test_a_study_runs_to_its_end_and_leaves_what_is_promised(study):
    for job in ("small_cnn-none-cosine-none", "small_cnn-light-cosine-none"):
        files = {"result.json", "trials.csv", "history.csv", "validation.csv", "split.csv", ".hydra", "tuner"}
        assert files <= {file.name for file in (study.root / job).iterdir()}
        result = json.loads((study.root / job / "result.json").read_text())
        assert result["status"] == "ok"
        assert set(result["choices"]) == {"backbone", "augmentation", "schedule", "label_smoothing"}
        assert result["objective"] == result["best_trial"]["val_log_loss"]
        assert result["seconds"] > 0
        assert result["trials"] == {"planned": 2, "total": 2, "completed": 2, "failed": 0}
        assert result["machine"]["accelerators"] == []
        trials = pd.read_csv(study.root / job / "trials.csv")
        assert list(trials["status"]) == ["COMPLETED"] * 2
        assert trials["val_log_loss"].min() == result["objective"]
        assert list(trials["ended"]) == sorted(trials["ended"])
    board = pd.read_csv(study.root / "leaderboard.csv")
    assert list(board["val_log_loss"]) == sorted(board["val_log_loss"])
    assert {"augmentation", "seconds", "error"} <= set(board)


def test_progress_answer_page_and_next_command_are_told(study):
    lines = [line for line in study.search.stdout.splitlines() if "epoch 2/2: val_log_loss" in line]
    assert len(lines) == 4
    assert "job 1 of 2, small_cnn-none-cosine-none: trial 1/2" in lines[0]
    assert all("(best " in line and " left in this job" in line for line in lines)
    lines = [line.partition("study s: ")[2] for line in study.search.stdout.splitlines() if " study s: " in line]
    assert [line.partition(",")[0] for line in lines] == [f"{number}/4 trials" for number in (1, 2, 3, 4)]
    assert "\r" not in study.search.stdout
    assert "\x1b" not in study.search.stdout
    assert "warning" not in study.search.stderr + study.retrain.stderr
    lines = study.search.stdout.splitlines()
    assert lines[-1].startswith("Next: python -m catsdogs.retrain study=s")
    assert lines[-4:-2] == ["Report: multirun/s/report.html", "Tables: multirun/s/report/"]
    assert study.retrain.stdout.splitlines()[-1] == "Report: multirun/s/report.html"
    # Every validation image is a mistake or a doubt, and lies in the cache.
    assert (study.root / "report.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 5


def test_retrain_leaves_what_is_promised_of_the_model_that_was_selected(study):
    files = {"model.keras", "metrics.json", "predictions.csv", "submission.csv", "MODEL_CARD.md"}
    assert files <= {file.name for file in study.best.iterdir()}
    metrics = metrics_in(study.best)
    for name in ("log_loss", "log_loss_tta", "accuracy", "roc_auc", "brier", "ece"):
        assert np.isfinite(metrics[name])
        assert metrics["details"][name]["split"] == "validation"
        assert metrics["details"][name]["size"] == 5
    assert metrics["details"]["log_loss"]["low"] <= metrics["log_loss"] <= metrics["details"]["log_loss"]["high"]
    # A calibrated score needs data that chose neither the model nor the epoch, and there is none yet.
    assert metrics["log_loss_calibrated"] is None
    card = (study.best / "MODEL_CARD.md").read_text()
    assert metrics["job"] in card
    assert "keras.models.load_model" in card

    # It is the model that was selected.
    board = pd.read_csv(study.root / "leaderboard.csv")
    assert metrics["job"] == board["job"].iloc[0]
    assert metrics["log_loss"] == pytest.approx(board["val_log_loss"].iloc[0], abs=1e-5)
    kept = pd.read_csv(study.root / metrics["job"] / "validation.csv").set_index("id")
    validation = predictions_in(study.best, "validation")
    np.testing.assert_allclose(validation["p_dog"], kept.loc[validation.index, "p_dog"], atol=1e-5)
    # A row per test image, in numeric order.
    submission = pd.read_csv(study.best / "submission.csv", dtype={"id": str})
    assert list(submission.columns) == ["id", "label"]
    assert list(submission["id"]) == [str(number) for number in range(1, 12)]
    tta = predictions_in(study.best, "test")["p_dog_tta"]
    np.testing.assert_allclose(submission["label"], tta[submission["id"]], atol=1e-7)


def test_the_saved_model_needs_none_of_our_code_and_takes_pixels(study, tmp_path):
    archive = next(study.folder.glob("cache/sample/*/test.zip"))
    with zipfile.ZipFile(archive) as zipped:
        image = Image.open(io.BytesIO(zipped.read("test/3.jpg"))).convert("RGB")
    pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype="float32")
    np.save(tmp_path / "pixels.npy", pixels)
    model = shutil.copy(study.best / "model.keras", tmp_path)
    code = (
        "import sys, keras, numpy\n"
        f"model = keras.models.load_model({str(model)!r})\n"
        "print(float(model.predict(numpy.load('pixels.npy')[None], verbose=0)[0, 0]))\n"
        "assert 'catsdogs' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(predictions_in(study.best, "test").loc["3", "p_dog"], abs=1e-5)


def test_predict_agrees_with_the_submission_and_plain_with_the_model_alone(study, tmp_path):
    best = "multirun/s/best"
    archive = next(study.folder.glob("cache/sample/*/test.zip"))
    ok(study("predict", best, str(archive), "--plain", "--output", str(tmp_path / "plain.csv")))
    found = pd.read_csv(tmp_path / "plain.csv")
    test = predictions_in(study.best, "test")
    assert list(found["id"]) == list(range(1, 12))
    np.testing.assert_allclose(found["label"], test.loc[found["id"].astype(str), "p_dog"], atol=1e-5)

    averaged = ok(study("predict", best, str(archive)))
    rows = [line.split(",") for line in averaged.stdout.splitlines() if line[:1].isdigit()]
    submission = pd.read_csv(study.best / "submission.csv")
    np.testing.assert_allclose([float(p) for _, p in rows], submission["label"], atol=1e-5)


def test_a_second_retrain_keeps_the_first_and_claims_no_score_that_is_not_its_own(study):
    def again(*arguments):
        done = ok(study("retrain", "study=s", "fit_on=all", *arguments))
        metrics = metrics_in(study.best)
        assert len(pd.read_csv(study.best / "submission.csv")) == 11
        assert metrics_in(study.best.with_name("best.1")) == first
        shutil.rmtree(study.best)
        study.best.with_name("best.1").rename(study.best)
        return done.stdout, metrics

    first = metrics_in(study.best)
    _, metrics = again("tta=flip")
    result = json.loads((study.root / metrics["job"] / "result.json").read_text())
    assert (metrics["fit_on"], metrics["epochs"]) == ("all", result["best_trial"]["best_epoch"])
    # The final model has trained on the validation split; the score is that of the trial's model.
    assert metrics["log_loss"] == pytest.approx(result["objective"], abs=1e-5)
    assert metrics["log_loss_tta"] is None
    told, metrics = again("tta=none", "augmentation=strong")
    assert (metrics["log_loss"], metrics["accuracy"]) == (None, None)
    assert "no honest score" in told


@pytest.mark.slow
def test_a_study_that_is_asked_to_end_does_so_within_seconds_and_the_command_it_tells_goes_on(tmp_path):
    environment = {**os.environ, "CATSDOGS_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "catsdogs.search", *SMALL, "tuner.max_trials=30"]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    with running:
        for line in running.stdout:
            if "trial 2/30" in line:
                break
        began = time.monotonic()
        running.send_signal(signal.SIGTERM)
        told = running.stdout.read()
        assert running.wait(timeout=60) == 143
    assert time.monotonic() - began < 30
    (study,) = (tmp_path / "multirun").iterdir()
    (job,) = (file.parent for file in study.glob("*/result.json"))
    assert json.loads((job / "result.json").read_text())["error"] == "interrupted"
    before = len(pd.read_csv(job / "trials.csv"))
    words = shlex.split(told.splitlines()[-1].removeprefix("To resume: "))
    assert words[:3] == ["python", "-m", "catsdogs.search"]
    assert f"study={study.name}" in [word.replace('"', "") for word in words]
    short = ["tuner.max_trials=4" if word.startswith("tuner.max_trials") else word for word in words[1:]]
    done = ok(subprocess.run([sys.executable, *short], cwd=tmp_path, env=environment, capture_output=True, text=True))
    assert f"resumes at trial {before + 1}/4" in done.stdout
    assert len(pd.read_csv(job / "trials.csv")) == 4


def test_a_job_that_fails_does_not_take_the_others_with_it(run, tmp_path):
    builders = "backbone.builder=catsdogs.network.backbones.small_cnn,builtins.dict"
    command = ("search", "-m", *SMALL, "study=s", "tuner.max_trials=1", "fit.epochs=1", builders)
    done = run(*command)
    assert done.returncode == 1
    root = tmp_path / "multirun" / "s"
    board = pd.read_csv(root / "leaderboard.csv")
    assert list(board["status"]) == ["ok", "failed"]
    name = board["job"].iloc[1]
    assert "builtins.dict" in name
    failed = json.loads((root / name / "result.json").read_text())
    assert (failed["status"], failed["objective"], failed["error"]) == ("failed", None, board["error"].iloc[1])
    assert "Traceback" in failed["traceback"]
    assert "error: job" in done.stderr
    assert "builtins.dict" in (root / "report.html").read_text(encoding="utf-8")
    assert " failed: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Next: python -m catsdogs.retrain study=s")

    # The same command skips what is finished and tries what failed again; the failed try is kept.
    again = run(*command)
    assert again.returncode == 1
    assert again.stdout.count(": already finished, val_log_loss") == 1
    assert "epoch 1/" not in again.stdout
    assert "Study s: 1 already finished; 1 failed, retrying\n" in again.stdout
    assert (root / ".failed" / f"{name}.1" / "result.json").is_file()


@pytest.mark.slow
def test_any_hyperband_trial_is_retrained_to_what_was_selected(run, tmp_path):
    """Through its parents, if it was promoted, and for its own epochs, if it was not."""
    ok(run("search", *SMALL, "study=h", "tuner=hyperband", "tuner.max_trials=null", "fit.epochs=3", "fit.patience=9"))
    job = next((tmp_path / "multirun" / "h").glob("*/trials.csv"))
    trials = pd.read_csv(job, dtype={"trial": str, "parent": str})
    promoted = trials[trials["parent"].notna()].iloc[0]
    short = trials[trials["epoch_budget"] < 3].iloc[0]
    for chosen in (promoted, short):
        ok(run("retrain", "study=h", f"trial='{chosen['trial']}'", "tta=none", "data.test=null"))
        metrics = metrics_in(tmp_path / "multirun" / "h" / "best")
        assert metrics["log_loss"] == pytest.approx(chosen["val_log_loss"], abs=1e-5)


# Runs commands one after the other in one process, and prints the status, the output and the errors of each.
ONE_PROCESS = """
import contextlib, importlib, io, json, sys
for sys.argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = importlib.import_module(f"catsdogs.{sys.argv[0]}").main()
        except SystemExit as stop:
            status = stop.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
assert not {"tensorflow", "keras", "keras_tuner"} & set(sys.modules)
"""


MISTAKES = [
    (("search", "-m", "data.train=nowhere.zip", "seed=1,2"), ["nowhere.zip"]),
    (("search", "-m", "data=sample", "fit.epochs=1,0"), ["fit.epochs=0"]),
    (("search", "-m", "--cfg", "job"), ["--cfg", "--multirun"]),
    (("retrain", "study=2024_01"), ["2024_01"]),
    (("retrain",), ["study"]),
    (("retrain", "-m", "study=a,b"), ["-m"]),
]


def test_help_answers_and_a_mistake_is_told_in_one_sentence_without_tensorflow(tmp_path):
    asked = [(name, "--help") for name in ("search", "retrain", "report", "predict", "doctor")]
    given = json.dumps([*asked, *(command for command, _ in MISTAKES)])
    environment = {**os.environ, "CATSDOGS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, given], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    told = [json.loads(line) for line in ok(done).stdout.splitlines()]
    for (name, _), (status, out, err) in zip(asked, told, strict=False):
        assert not status, err
        assert name in out
    for (command, words), (status, out, err) in zip(MISTAKES, told[len(asked) :], strict=True):
        assert status == 2, (command, out, err)
        assert err.count("error: ") == 1, (command, err)
        (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in err + out
        assert all(word in error for word in words), (command, error)


def test_folders_with_corrupt_files_and_labelled_test_images(run, tmp_path):
    """Class folders; one training and one test file do not decode; the test images carry labels."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 12), ("test", 5)):
        for kind, brightness in (("cats", 0), ("Dogs", 120)):
            folder = tmp_path / split / kind
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(brightness, brightness + 120, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
        (tmp_path / split / "cats" / "broken.jpg").write_bytes(b"no image at all")
    paths = ("data.train=train", "data.test=test")
    done = ok(run("search", *SMALL[3:], *paths, "study=s", "tuner.max_trials=1", "augmentation=flip"))
    assert "broken" in done.stdout
    job = next((tmp_path / "multirun" / "s").glob("*/result.json"))
    assert json.loads(job.read_text())["data"]["left_out"] == 1

    ok(run("retrain", "study=s", "tta=flip"))
    best = tmp_path / "multirun" / "s" / "best"
    submission = pd.read_csv(best / "submission.csv").set_index("id")["label"]
    assert len(submission) == 11
    assert submission["cats/broken"] == 0.5
    metrics, test = metrics_in(best), predictions_in(best, "test")
    assert metrics["test_log_loss"] == pytest.approx(log_loss(test["label"], test["p_dog"]), rel=1e-6)
    assert metrics["details"]["test_log_loss"]["size"] == 11

    # From another folder, the images are still those of the job, which were given as relative paths.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = commands(elsewhere)("retrain", f"study='{best.parent}'", "--cfg", "job")
    assert f"train: {tmp_path / 'train'}" in done.stdout, done.stderr
    assert f"test: {tmp_path / 'test'}" in done.stdout

    # One image, a corrupt one and a folder; the corrupt one is told and gets 0.5.
    done = ok(run("predict", "multirun/s/best", "test/Dogs/3.jpg", "test/cats/broken.jpg", "train"))
    rows = dict(line.rsplit(",", 1) for line in done.stdout.splitlines())
    assert len(rows) == 1 + 2 + 25
    assert rows["broken"] == "0.5"
    assert float(rows["3"]) == pytest.approx(submission["Dogs/3"], abs=1e-5)
    assert "broken.jpg does not decode" in done.stderr


@pytest.mark.slow
def test_jobs_of_different_backbones_become_one_model(run, tmp_path):
    study = tmp_path / "multirun" / "s"
    ok(run("search", "-m", *SMALL, "study=s", "backbone.arguments.filters=4,8", "split.holdout_fraction=0.25"))
    ok(run("retrain", "study=s", "ensemble=jobs", "tta=flip", "ensemble.num_jobs=2"))
    best, board = study / "best", pd.read_csv(study / "leaderboard.csv").set_index("job")
    metrics = metrics_in(best)
    assert [member["job"] for member in metrics["ensemble"]["members"]] == list(board.index)
    assert metrics["validated_by"] == "final model"
    # Both members are the models that their searches found.
    told = pd.read_csv(best / "ensemble.csv").set_index("name")["log_loss"]
    np.testing.assert_allclose(told[board.index], board["val_log_loss"], atol=1e-5)
    archive = next(tmp_path.glob("cache/sample/*/test.zip"))
    ok(run("predict", str(best), str(archive), "--output", "rows.csv"))
    found, submission = (pd.read_csv(file, index_col="id") for file in (tmp_path / "rows.csv", best / "submission.csv"))
    np.testing.assert_allclose(found.loc[submission.index, "label"], submission["label"], atol=2e-6)
