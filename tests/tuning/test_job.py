import contextlib
import dataclasses
from unittest.mock import Mock

import cheap
import numpy as np
import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.scoring.classes import Classes
from catsdogs.tuning import job


@pytest.fixture
def location(tmp_path):
    folder = tmp_path / "study" / "a-job"
    folder.mkdir(parents=True)
    return job.JobLocation(folder, folder.parent)


def write_earlier_result(location, config, **changes):
    result = {"status": "ok", "objective": 0.25, "best_trial": {"trial": "0", "val_log_loss": 0.25}}
    result |= {"config": dataclasses.asdict(config), "data": {"digest": "d"}, **changes}
    write_json(location.folder / "result.json", result)
    return result


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, RuntimeError])
@pytest.mark.parametrize("status", ["ok", "running", "failed"])
def test_no_error_overwrites_the_result_of_an_earlier_run(location, config, monkeypatch, error, status):
    before = write_earlier_result(location, config(), status=status)

    monkeypatch.setattr(job, "load_dataset", Mock(side_effect=error("no")))
    # A folder that may be of another job is refused; a programming error stops only this job.
    with contextlib.nullcontext() if error is RuntimeError else pytest.raises(error):
        job.run_job(config(), location, {})
    assert read_json(location.folder / "result.json") == before


def test_a_running_job_records_its_planned_trials_and_machine(location, config, monkeypatch, tmp_path):
    results = []

    def look(self):
        results.append(read_json(location.folder / "result.json"))
        raise KeyboardInterrupt

    monkeypatch.setattr("catsdogs.tuning.tuner.Search.run_test_step", look)
    settings = config("data.sample.images_per_class=8", "tuner.max_trials=7", f"cache={tmp_path / 'cache'}")
    with pytest.raises(KeyboardInterrupt):
        job.run_job(settings, location, {})
    result = read_json(location.folder / "result.json")
    assert result["error"] == "interrupted"
    assert result["trials"] == {"planned": 7, "total": 0, "completed": 0, "failed": 0}
    assert results[0]["status"] == "running"
    assert results[0]["trials"] == {"planned": 7}
    machine = results[0]["machine"]
    assert machine["cores"] >= 1
    assert machine["memory_bytes"] > 2**28
    # Keras is imported by then; tests run on CPUs.
    assert machine["accelerators"] == []


def test_folds_are_weighted_by_their_number_of_images(location, config, monkeypatch, tmp_path):
    trainer = cheap.Job(monkeypatch, tmp_path)
    sizes = np.array([9, 3])
    trainer.dataset.rows["split"] = "train"
    trainer.dataset.rows["fold"] = np.repeat([0, 1], sizes)
    settings = config("split.folds=2", "tuner.max_trials=2", "fit.executions_per_trial=2", f"cache={tmp_path}")
    job.run_job(settings, location, {})
    history = pd.read_csv(location.folder / "history.csv")
    for trial in pd.read_csv(location.folder / "trials.csv").itertuples():
        scores = history[history["trial"] == trial.trial].groupby(["execution", "fold"])["val_log_loss"].min().unstack()
        assert trial.val_log_loss == pytest.approx((scores.to_numpy() @ sizes / 12).mean(), rel=1e-12)


@pytest.mark.parametrize(
    "head", [(), ("model.head_init=linear_probe", "model.dense_units=0", "model.head_batch_norm=false")]
)
@pytest.mark.parametrize("names", [("cat", "dog"), ("cat", "dog", "pet3")])
def test_permuted_classes_permute_a_training(config, tmp_path, names, head):
    settings: tuple[str, ...] = (f"data.sample.classes={len(names)}", "data.sample.images_per_class=12", *head)
    settings += (
        "tuner.max_trials=1",
        "fit.epochs=2",
        "fit.batch_size=8",
        "label_smoothing=mild",
        f"cache={tmp_path / 'cache'}",
    )
    scores, predictions = [], []
    for order in (names, names[-1:] + names[:-1]):
        location = job.JobLocation(tmp_path / "study" / "-".join(order), tmp_path / "study")
        assert np.isfinite(job.run_job(config(*settings, f"data.classes=[{','.join(order)}]"), location, {}))
        scores.append(pd.read_csv(location.folder / "history.csv")[["loss", "val_log_loss", "val_accuracy"]].to_numpy())
        table, classes = pd.read_csv(location.folder / "validation.csv"), Classes(order)
        assert list(table["id"].str.split(".").str[0]) == [order[label] for label in table["label"].astype(int)]
        predictions.append(classes.read(table)[:, [order.index(name) for name in names]])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-4)
