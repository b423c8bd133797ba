import datetime
import pickle
import subprocess
import sys
from unittest.mock import Mock

import cheap
import numpy as np
import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.config.hyperparameters import with_values
from catsdogs.data.views import ORIGINAL
from catsdogs.network.trial_model import TrialModels
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.scores import score_images
from catsdogs.study.estimate import JobEstimate
from catsdogs.study.job_tables import JobTables, ResumeState
from catsdogs.study.progress import JobProgress
from catsdogs.study.trials import best_trial, lineage, read_trials
from catsdogs.tuning.job import JobLocation, run_job
from catsdogs.tuning.oracles import build_oracle, expected_trials
from catsdogs.tuning.tuner import Search

FAST = ("fit.epochs=2", "fit.batch_size=16", "tuner.max_trials=3")


@pytest.fixture
def tuner(config, training_data, prepared, tmp_path):
    def build(*overrides):
        job = config(*FAST, *overrides)
        folder = tmp_path / "job"
        folder.mkdir()
        rows = training_data.validation_rows
        validation = pd.DataFrame({"id": rows.astype(str), "label": training_data.labels[rows].astype(int)})
        data, models = prepared(job)
        tables = JobTables(folder, validation, ResumeState(), training_data.classes)
        return Search(job, build_oracle(job), data, models, tables, JobProgress("job", 3, JobEstimate(3, 2)))

    return build


@pytest.mark.parametrize("names", [("cat", "dog"), ("b", "c", "a-1")])
def test_the_tables_of_a_trial_are_written_before_its_log_line(tuner, training_data, names):
    """Other processes read the progress of the study from the tables."""
    classes = training_data.classes = Classes(names)
    training_data.labels = np.arange(60) % len(names)
    training_data.targets = classes.targets(training_data.labels)
    built = tuner()
    folder, rows = built._folder, []
    built._progress._study_line = lambda: rows.append(len(read_trials(folder / "trials.csv")))
    built.run()
    assert rows == [1, 2, 3]
    trials = pd.read_csv(folder / "trials.csv", dtype={"trial": str})
    assert list(trials["status"]) == ["COMPLETED"] * 3
    assert {"unfreeze_depth", "dropout", "l2"} <= set(trials)
    history = pd.read_csv(folder / "history.csv", dtype={"trial": str})
    assert list(history.columns[:3]) == ["trial", "execution", "epoch"]
    assert len(history) == 6
    lowest = history.groupby("trial")["val_log_loss"].min()
    np.testing.assert_allclose(trials.set_index("trial")["val_log_loss"], lowest, rtol=1e-12)
    assert read_trials(folder / "trials.csv") == built.records
    ended = [datetime.datetime.fromisoformat(text) for text in trials["ended"]]
    assert ended == sorted(ended)
    assert datetime.timedelta(0) <= datetime.datetime.now(datetime.UTC) - ended[-1] < datetime.timedelta(minutes=1)

    table = pd.read_csv(folder / "validation.csv")
    columns = ["p_dog"] if len(names) == 2 else ["p_b", "p_c", "p_a_1"]
    assert list(table.columns) == ["id", "label", *columns, "trial", "execution"]
    best = best_trial(built.records)
    assert (set(table["trial"].astype(str)), set(table["execution"])) == ({best.trial}, {0})
    np.testing.assert_array_equal(table["label"], training_data.labels[40:])
    log_loss = score_images(table["label"].to_numpy(), classes.read(table)).losses.mean()
    assert log_loss == pytest.approx(best.val_log_loss, rel=1e-4)


def test_predictions_of_a_worse_trial_do_not_replace_those_of_the_best_trial(config, monkeypatch, tmp_path):
    trainer = cheap.Job(monkeypatch, tmp_path)
    folder = tmp_path / "study" / "a-job"
    run_job(config("tuner.max_trials=5", "fit.executions_per_trial=2"), JobLocation(folder, folder.parent), {})
    assert best_trial(read_trials(folder / "trials.csv")).trial != "4"
    # No trial is retrained for its predictions, and every execution has its own seed.
    assert len(trainer.trained) == len({seed for _, seed in trainer.trained}) == 10


def test_another_process_proposes_the_same_trials(config):
    """Proposals use a fixed seed, also for 0, and do not depend on hashes of a process."""
    job = config("seed=0", "space.unfreeze_depth.values=[7,16]")
    code = (
        "import pickle, sys\nfrom catsdogs.tuning.oracles import build_oracle\n"
        "oracle = build_oracle(pickle.load(sys.stdin.buffer))\nprint([oracle._random_values() for _ in range(4)])\n"
    )
    other = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(job), capture_output=True, check=True)
    oracle = build_oracle(job)
    assert other.stdout.decode().strip() == str([oracle._random_values() for _ in range(4)])


def test_a_promoted_trial_continues_from_its_parents_weights_and_learning_rate(tuner, training_data, monkeypatch):
    loaded = {}
    read = TrialModels.read_weights

    def reading(self, config, file):
        loaded[file.stem] = read(self, config, file)
        return loaded[file.stem]

    monkeypatch.setattr(TrialModels, "read_weights", reading)
    built = tuner("tuner=hyperband", "tuner.max_trials=null", "fit.epochs=4", "fit.patience=10")
    built.run()
    values = {trial: built.oracle.trials[trial].hyperparameters.values for trial in built.oracle.trials}
    promoted = {trial: v["tuner/trial_id"] for trial, v in values.items() if "tuner/trial_id" in v}
    assert promoted
    assert len(built.records) == expected_trials(built.oracle, built._config)
    history = pd.read_csv(built._folder / "history.csv", dtype={"trial": str}).set_index("trial")
    for child, parent in promoted.items():
        assert history.loc[[child], "epoch"].iloc[0] == history.loc[[parent], "epoch"].iloc[-1] + 1
        assert history.loc[[child], "learning_rate"].iloc[0] < history.loc[[parent], "learning_rate"].iloc[-1]
        assert f"{int(parent)}-0" in loaded
    rates = history.reset_index().groupby("epoch")["learning_rate"]
    np.testing.assert_allclose(rates.max(), rates.min(), rtol=1e-6)
    assert not [name for name in map(str, pd.read_csv(built._folder / "trials.csv")) if name.startswith("tuner/")]

    # The weights kept for a child have the score of its parent's best epoch.
    child, parent = next(iter(promoted.items()))
    records = {record.trial: record for record in built.records}
    config = with_values(built._config, records[child].hyperparameters)
    trial = built._models.new_trial(config, seed=99)
    built._models.set_weights(trial, loaded[f"{int(parent)}-0"])
    rows = training_data.validation_rows
    inputs, labels = built._data.features.at_cut(trial.cut).read(rows, ORIGINAL), training_data.labels[rows]
    scores = trial.model.evaluate(inputs, labels[:, None], verbose=0, return_dict=True)
    assert scores["log_loss"] == pytest.approx(records[parent].val_log_loss, rel=1e-4)
    assert lineage(built.records, records[child])[-2:] == [records[parent], records[child]]


def test_a_programming_error_is_raised_before_the_search(tuner, monkeypatch):
    built = tuner()
    monkeypatch.setattr("catsdogs.network.trial_model.head", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        built.run_test_step()


def test_a_user_error_while_inputs_are_read_stops_the_search(tuner, monkeypatch):
    """Keras reads in threads of TensorFlow, and the error that they raise looks like that of a failed trial."""
    monkeypatch.setattr("catsdogs.features.store.Store.fill", Mock(side_effect=UserError("the cache is full")))
    built = tuner()
    with pytest.raises(UserError, match="the cache is full"), built._data.features.reading():
        built.run()
    assert {record.status for record in built.records} <= {"COMPLETED"}


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        (("tuner.max_trials=7",), 7),
        (("space=fixed", "tuner.max_trials=7"), 1),
        (("tuner=grid", "tuner.max_trials=null"), None),
        # Factor 3, brackets of 9 (1 epoch) - 3 - 1, 5 (3 epochs) - 2, and 3 (9 epochs) trials.
        (("tuner=hyperband", "tuner.max_trials=null", "fit.epochs=9"), 23),
        (("space=fixed", "+space={dense_units: {kind: choice, values: [8, 16]}}", "tuner=grid"), 2),
    ],
)
def test_expected_trials_is_a_number_or_none_if_unknown(config, overrides, number):
    job = config(*overrides)
    assert expected_trials(build_oracle(job), job) == number
