"""The commands, run as a user runs them, on small synthetic archives."""

import io
import json
import re
import shutil
import zipfile
from itertools import product
from typing import Any

import files_page
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL, commands, run_python, run_together
from PIL import Image
from synthetic_images import cats_and_dogs, encoded, folder_of, jpeg, zip_of


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
    """Run a study of two jobs, and retrain the best one."""
    folder = tmp_path_factory.mktemp("study")
    run: Any = commands(folder)
    run.folder, run.root, run.best = folder, folder / "multirun" / "s", folder / "multirun" / "s" / "best"
    run.search = ok(run("search", "-m", *SMALL, "study=s", "augmentation=none,light"))
    run.retrain = ok(run("retrain", "study=s", "tta=flip"))
    return run


def test_a_study_finishes_and_leaves_its_files(study):
    for job in ("small_cnn-none-cosine-none", "small_cnn-light-cosine-none"):
        files = {"result.json", "trials.csv", "history.csv", "validation.csv", "split.csv", ".hydra", "tuner"}
        assert files <= {file.name for file in (study.root / job).iterdir()}
        result = json.loads((study.root / job / "result.json").read_text())
        assert (result["status"], result["machine"]["accelerators"]) == ("ok", [])
        assert set(result["choices"]) == {"backbone", "augmentation", "schedule", "label_smoothing"}
        assert result["seconds"] > 0
        assert result["trials"] == {"planned": 2, "total": 2, "completed": 2, "failed": 0}
        trials = pd.read_csv(study.root / job / "trials.csv")
        assert list(trials["status"]) == ["COMPLETED"] * 2
        assert trials["val_log_loss"].min() == result["objective"] == result["best_trial"]["val_log_loss"]
        assert list(trials["ended"]) == sorted(trials["ended"])
    board = pd.read_csv(study.root / "leaderboard.csv")
    assert list(board["val_log_loss"]) == sorted(board["val_log_loss"])
    assert {"augmentation", "seconds", "error"} <= set(board)


def test_every_file_has_the_permissions_of_the_umask(study):
    ok(study("report", "multirun/s", "--tensorboard", "--mlflow"))
    for path in study.folder.rglob("*"):
        assert path.stat().st_mode & 0o067 == (0o040 if path.is_dir() or path.is_file() else 0), path


def test_search_prints_progress_summary_report_and_next_command(study):
    lines = study.search.stdout.splitlines()
    epochs = [line for line in lines if "epoch 2/2: val_log_loss" in line]
    assert len(epochs) == 4
    assert all("(best " in line for line in epochs)
    assert "job 1/2 small_cnn-none-cosine-none: trial 1/2, epoch 2/2" in epochs[0]
    assert re.findall(r" study s: (\d/4) trials", study.search.stdout) == ["1/4", "2/4", "3/4", "4/4"]
    assert not {"\r", "\x1b"} & set(study.search.stdout)
    assert "warning" not in study.search.stderr + study.retrain.stderr
    assert lines[-1].startswith("Next: python -m catsdogs.retrain study=s")
    assert lines[-4:-2] == ["Report: multirun/s/report.html", "Tables: multirun/s/report/"]
    assert study.retrain.stdout.splitlines()[-1] == "Report: multirun/s/report.html"
    # Every validation image is misclassified or uncertain, and is in the cache.
    assert (study.root / "report.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 10  # with maps


@pytest.mark.lowest
def test_retrain_leaves_the_files_of_the_selected_model(study):
    files = {"model.keras", "metrics.json", "predictions.csv", "submission.csv", "MODEL_CARD.md"}
    assert files <= {file.name for file in study.best.iterdir()}
    metrics = metrics_in(study.best)
    for name in ("log_loss", "log_loss_tta", "accuracy", "roc_auc", "brier", "ece"):
        assert np.isfinite(metrics[name])
        assert (metrics["details"][name]["split"], metrics["details"][name]["size"]) == ("validation", 5)
    assert metrics["details"]["log_loss"]["low"] <= metrics["log_loss"] <= metrics["details"]["log_loss"]["high"]
    # A calibrated score needs images that selected neither model nor epoch.
    assert metrics["log_loss_calibrated"] is None
    card = (study.best / "MODEL_CARD.md").read_text()
    assert all(text in card for text in (metrics["job"], "keras.models.load_model"))

    maps = json.loads((study.best / "class_activation.json").read_text())["maps"]
    assert set(maps) == set(predictions_in(study.best, "validation").index)
    assert {np.shape(one) for one in maps.values()} == {(4, 4)}
    assert {max(map(max, one)) for one in maps.values()} <= {0, 1}

    # The final model is the selected one.
    board = pd.read_csv(study.root / "leaderboard.csv")
    assert metrics["job"] == board["job"].iloc[0]
    assert metrics["log_loss"] == pytest.approx(board["val_log_loss"].iloc[0], abs=1e-5)
    recorded = pd.read_csv(study.root / metrics["job"] / "validation.csv").set_index("id")
    validation = predictions_in(study.best, "validation")
    np.testing.assert_allclose(validation["p_dog"], recorded.loc[validation.index, "p_dog"], atol=1e-5)
    # A row per test image, in numeric order.
    submission = pd.read_csv(study.best / "submission.csv", dtype={"id": str}).set_index("id")
    assert (list(submission), list(submission.index)) == (["label"], [str(number) for number in range(1, 12)])
    tta = predictions_in(study.best, "test")["p_dog_tta"]
    np.testing.assert_allclose(submission["label"], tta[submission.index], atol=1e-7)


def test_every_column_and_key_is_documented(study):
    folders = {study.root: "", study.best: "best", study.root / "report": "report"}
    folders |= {file.parent: "JOB" for file in study.root.glob("*/result.json")}
    assert len(folders) == 5
    assert [name for folder, kind in folders.items() for name in files_page.undocumented(folder, kind)] == []


def test_the_saved_model_loads_without_catsdogs(study, tmp_path):
    archive = next(study.folder.glob("cache/sample/*/test.zip"))
    with zipfile.ZipFile(archive) as zipped:
        image = Image.open(io.BytesIO(zipped.read("test/3.jpg"))).convert("RGB")
    pixels = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), dtype="float32")
    np.save(tmp_path / "pixels.npy", pixels)
    model = shutil.copy(study.best / "model.keras", tmp_path)
    predicted = f"keras.models.load_model({str(model)!r}).predict(numpy.load('pixels.npy')[None], verbose=0)[0, 0]"
    code = f"import sys, keras, numpy; print(float({predicted})); assert 'catsdogs' not in sys.modules"
    done = ok(run_python(tmp_path, "-c", code))
    assert float(done.stdout) == pytest.approx(predictions_in(study.best, "test").loc["3", "p_dog"], abs=1e-5)


def test_a_second_retrain_keeps_the_first_and_reports_only_scores_of_its_own_model(study):
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
    # The final model was trained on the validation split, so the score is that of the trial.
    assert metrics["log_loss"] == pytest.approx(result["objective"], abs=1e-5)
    assert metrics["log_loss_tta"] is None
    stdout, metrics = again("tta=none", "augmentation=strong")
    assert metrics["log_loss"] is metrics["accuracy"] is None
    assert "no validation score" in stdout


def test_a_failed_job_does_not_stop_the_others_and_is_retried(run, tmp_path):
    builders = "backbone.builder=catsdogs.network.backbones.small_cnn,builtins.dict"
    command = ("search", "-m", *SMALL, "study=s", "tuner.max_trials=1", "fit.epochs=1", builders)
    done = run(*command)
    assert done.returncode == 1
    root = tmp_path / "multirun" / "s"
    board = pd.read_csv(root / "leaderboard.csv")
    assert list(board["status"]) == ["ok", "failed"]
    _, (name, error) = board[["job", "error"]].to_numpy()
    failed = json.loads((root / name / "result.json").read_text())
    assert (failed["status"], failed["objective"], failed["error"]) == ("failed", None, error)
    assert all("builtins.dict" in text for text in (name, (root / "report.html").read_text(encoding="utf-8")))
    for text, part in ((failed["traceback"], "Traceback"), (done.stderr, "error: job"), (done.stdout, " failed: ")):
        assert part in text
    assert done.stdout.splitlines()[-1].startswith("Next: python -m catsdogs.retrain study=s")

    # The same command skips finished jobs and retries failed ones; the failed attempt is archived.
    again = run(*command)
    counts = [again.stdout.count(text) for text in (": already finished, val_log_loss", "epoch 1/")]
    assert (again.returncode, *counts) == (1, 1, 0)
    assert "Study s: 1 already finished; 1 failed, retrying\n" in again.stdout
    assert (root / ".failed" / f"{name}.1" / "result.json").is_file()


@pytest.mark.slow
def test_retraining_a_hyperband_trial_reproduces_its_score(run, tmp_path):
    """A promoted trial is retrained through its parents, another one for its own epochs."""
    more = ("fit.epochs=3", "fit.patience=9", "fit.keep_weights_gib=0")
    ok(run("search", *SMALL, "study=h", "tuner=hyperband", "tuner.max_trials=null", *more))
    job = next((tmp_path / "multirun" / "h").glob("*/trials.csv"))
    trials = pd.read_csv(job, dtype={"trial": str, "parent": str})
    for kind in (trials["parent"].notna(), trials["epoch_budget"] < 3):
        chosen = trials[kind].iloc[0]
        ok(run("retrain", "study=h", f"trial='{chosen['trial']}'", "tta=none", "data.test=null"))
        metrics = metrics_in(tmp_path / "multirun" / "h" / "best")
        assert metrics["log_loss"] == pytest.approx(chosen["val_log_loss"], abs=1e-5)


USER_ERRORS = [
    (("search", "-m", "data.train=nowhere.zip", "seed=1,2"), ["nowhere.zip"]),
    (("search", "-m", "data=sample", "fit.epochs=1,0"), ["fit.epochs=0"]),
    (("search", "-m", "--cfg", "job"), ["--cfg", "--multirun"]),
    (("search", "-m", "experiment=debug", "seed=1,2", "hydra.launcher.jobs=0"), ["hydra.launcher.jobs=0"]),
    (("retrain",), ["study"]),
    (("retrain", "-m", "study=a,b"), ["-m"]),
]


def test_user_errors_are_printed_without_tensorflow(tmp_path):
    results = run_together(tmp_path, [command for command, _ in USER_ERRORS])
    for (command, words), (status, out, err) in zip(USER_ERRORS, results, strict=True):
        assert (status, err.count("error: ")) == (2, 1), (command, out, err)
        (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in err + out
        assert all(word in error for word in words), (command, error)


def test_parts_of_one_folder_and_own_validation_images(run, tmp_path):
    """Train and test are in one folder, the validation images in a zip; the report shows these."""
    members = {f"test/{number}.jpg": jpeg(700 + number) for number in range(1, 4)} | cats_and_dogs(10, 10)
    folder_of(tmp_path / "input", members)
    own = {f"{kind}/{n}.jpg": jpeg(2000 + n + 9 * dog) for dog, kind in enumerate(("cat", "dog")) for n in range(6)}
    zip_of(tmp_path / "own.zip", own | {"dog/9.jpg": members["train/dog.1.jpg"]})
    sources = ("data.train=input", "data.test=input", "data.validation=own.zip", "split.holdout_fraction=0.2")
    command = ("search", *SMALL[3:], *sources, "study=s", "tuner.max_trials=1", "augmentation=none")
    done = ok(run(*command))
    note = f"data.train={tmp_path}/input: using part train (20 images) for training; not used: part test (3 images)"
    assert done.stdout.count(note) == 1
    assert "skipping 1 of 13 validation images: validation/dog/9 (duplicate of a training image)" in done.stdout
    assert "already finished" in ok(run(*command)).stdout
    job = next((tmp_path / "multirun" / "s").glob("*/result.json")).parent
    split = pd.read_csv(job / "split.csv").set_index("id")
    assert split["split"].value_counts().to_dict() == {"train": 16, "validation": 12, "holdout": 4}
    assert split["path"]["validation/cat/3"] == "cat/3.jpg"
    expected = [f"validation/{kind}/{number}" for kind in ("cat", "dog") for number in range(6)]
    assert list(pd.read_csv(job / "validation.csv")["id"]) == expected

    for fit_on in ("train", "all"):
        assert note in ok(run("retrain", "study=s", "tta=none", f"fit_on={fit_on}")).stdout
        best = tmp_path / "multirun" / "s" / "best"
        assert list(predictions_in(best, "validation").index) == expected
        assert list(pd.read_csv(best / "submission.csv")["id"]) == [1, 2, 3]
    report = (tmp_path / "multirun" / "s" / "report.html").read_text()
    assert report.count("data:image/jpeg") == 24  # with maps


def test_folders_of_three_classes_with_corrupted_files_and_labeled_test_images(run, tmp_path):
    """One training and one test file cannot be decoded; the test images have labels."""
    rng, names = np.random.default_rng(0), ["Eels", "cats", "dogs"]
    for split, images in (("train", 68), ("test", 5)):
        members = {"cats/broken.jpg": b"not an image"}
        for number, (place, name) in product(range(images), enumerate(names)):
            pixels = rng.integers(60 * place, 60 * place + 120, (40, 50, 3), dtype=np.uint8)
            members[f"{name}/{number}.jpg"] = encoded(Image.fromarray(pixels))
        folder_of(tmp_path / split, members)
    paths = ("data.train=train", "data.test=~/test", "cache=cache", "hydra.job.chdir=true", "split.folds=2")
    home = {"HOME": str(tmp_path), "CATSDOGS_CACHE": ""}
    done = ok(run("search", "-m", *SMALL[3:], *paths, "study=s", "tuner.max_trials=1", "augmentation=flip", **home))
    assert "broken" in done.stdout
    job = next((tmp_path / "multirun" / "s").glob("*/result.json"))
    assert json.loads(job.read_text())["data"]["left_out"] == 1
    assert list(pd.read_csv(job.with_name("validation.csv")))[3:6] == ["p_Eels", "p_cats", "p_dogs"]

    ok(run("retrain", "study=s", "ensemble=folds", "tta=flip", "cache=cache", "hydra.job.chdir=true"))
    assert not list((tmp_path / "multirun" / "s").glob("**/cache"))
    best = tmp_path / "multirun" / "s" / "best"
    submission = pd.read_csv(best / "submission.csv").set_index("id")
    assert (len(submission), list(submission)) == (16, names)
    np.testing.assert_allclose(submission.loc["cats/broken"], 1 / 3, atol=1e-8)
    metrics, test = metrics_in(best), predictions_in(best, "test")
    columns = [f"p_{name}" for name in names]
    p_label = test[columns].to_numpy()[np.arange(16), test["label"].astype(int)]
    assert metrics["test_log_loss"] == pytest.approx(-np.log(p_label).mean(), abs=1e-6)
    assert metrics["details"]["test_log_loss"]["size"] == 16
    assert metrics["log_loss_calibrated"] < metrics["log_loss_tta"]
    np.testing.assert_array_equal(submission, test.loc[submission.index, [f"{one}_calibrated" for one in columns]])

    # Relative paths of the job also work from another folder.
    (tmp_path / "elsewhere").mkdir()
    done = commands(tmp_path / "elsewhere")("retrain", f"study='{best.parent}'", "--cfg", "job")
    for part in ("train", "test"):
        assert f"{part}: {tmp_path / part}" in done.stdout, done.stderr

    # One image, a corrupted image and a folder; the corrupted image is reported.
    done = ok(run("predict", "multirun/s/best", "test/dogs/3.jpg", "test/cats/broken.jpg", "train"))
    rows = pd.read_csv(io.StringIO(done.stdout), dtype={"id": str}).set_index("id")
    assert (len(rows), list(rows)) == (2 + 205, [*names, "class"])
    classes = rows.pop("class")
    np.testing.assert_allclose(rows.loc["test/cats/broken"], 1 / 3, atol=1e-8)
    np.testing.assert_allclose(rows.loc["test/dogs/3"], submission.loc["dogs/3"], atol=1e-5)
    assert "cannot decode test/cats/broken.jpg" in done.stderr
    assert pd.isna(classes["test/cats/broken"])
    assert classes["test/dogs/3"] == rows.loc["test/dogs/3"].idxmax()
    report = (tmp_path / "multirun" / "s" / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in names)
