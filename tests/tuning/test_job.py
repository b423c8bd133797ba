from __future__ import annotations

import contextlib
import dataclasses

import cheap
import numpy as np
import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.tuning import job


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "study" / "a-job"
    folder.mkdir(parents=True)
    return job.JobLocation(folder, folder.parent)


def left_there(place, config, **changed):
    result = {
        "status": "ok",
        "objective": 0.25,
        "best_trial": {"trial": "0", "val_log_loss": 0.25},
        "config": dataclasses.asdict(config),
        "data": {"digest": "d"},
        **changed,
    }
    write_json(place.folder / "result.json", result)
    return result


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, RuntimeError])
@pytest.mark.parametrize("status", ["ok", "running", "failed"])
def test_a_result_of_another_run_is_not_overwritten_whatever_happens(place, config, monkeypatch, error, status):
    before = left_there(place, config(), status=status)

    def failing(*args):
        raise error("no")

    monkeypatch.setattr(job, "load_dataset", failing)
    # What may be another job's is refused; an error of ours ends this job only.
    with contextlib.nullcontext() if error is RuntimeError else pytest.raises(error):
        job.run_job(config(), place, {})
    assert read_json(place.folder / "result.json") == before


@pytest.mark.parametrize("error", [UserError, RuntimeError])
def test_a_failure_of_its_own_is_recorded_and_gives_nan(place, config, monkeypatch, error):
    def failing(*args):
        raise error("no luck")

    monkeypatch.setattr(job, "load_dataset", failing)
    objective = job.run_job(config(), place, {"backbone": "b"})
    assert objective != objective
    result = read_json(place.folder / "result.json")
    assert result["status"] == "failed"
    assert "no luck" in result["error"]
    assert (place.study / "leaderboard.csv").is_file()


def test_a_running_job_tells_how_many_trials_it_will_run_and_on_what(place, config, monkeypatch, tmp_path):
    told = []

    def look(self):
        told.append(read_json(place.folder / "result.json"))
        raise KeyboardInterrupt

    monkeypatch.setattr("catsdogs.tuning.tuner.Search.try_one_step", look)
    settings = config("data.sample.images_per_class=8", "tuner.max_trials=7", f"cache={tmp_path / 'cache'}")
    with pytest.raises(KeyboardInterrupt):
        job.run_job(settings, place, {})
    assert read_json(place.folder / "result.json")["error"] == "interrupted"
    assert told[0]["status"] == "running"
    assert told[0]["trials"] == {"planned": 7}
    machine = told[0]["machine"]
    assert machine["cores"] >= 1
    assert machine["memory_bytes"] > 2**28
    # Keras was loaded by then; this test runs on processors.
    assert machine["accelerators"] == []
    assert read_json(place.folder / "result.json")["trials"] == {"planned": 7, "total": 0, "completed": 0, "failed": 0}


def test_folds_count_by_their_images(place, config, monkeypatch, tmp_path):
    trainer = cheap.Job(monkeypatch, tmp_path)
    sizes = np.array([9, 3])
    trainer.dataset.rows["split"] = "train"
    trainer.dataset.rows["fold"] = np.repeat([0, 1], sizes)
    settings = config("split.folds=2", "tuner.max_trials=2", "fit.executions_per_trial=2", f"cache={tmp_path}")
    job.run_job(settings, place, {})
    history = pd.read_csv(place.folder / "history.csv")
    for trial in pd.read_csv(place.folder / "trials.csv").itertuples():
        scores = history[history["trial"] == trial.trial].groupby(["execution", "fold"])["val_log_loss"].min().unstack()
        assert trial.val_log_loss == pytest.approx((scores.to_numpy() @ sizes / 12).mean(), rel=1e-12)
