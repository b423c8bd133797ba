from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_csv, write_json
from catsdogs.base.provenance import versions
from catsdogs.config.setting_names import RENAMED
from catsdogs.study.decision import Action, JobDecision, archive_attempt, inspect_job, summary
from catsdogs.study.identity import fingerprint
from catsdogs.study.resume_state import load_resume_state
from catsdogs.study.trials import TrialRecord, write_trials


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study" / "a-job"


@pytest.fixture
def left(folder):
    """Leave a job behind."""

    def leave(config, statuses=("COMPLETED", "COMPLETED"), **result):
        if statuses:
            records = [
                TrialRecord(str(n), status, 0.3 if status == "COMPLETED" else None, None, 1, 1, 1.0, {"dropout": 0.1})
                for n, status in enumerate(statuses)
            ]
            write_trials(folder / "trials.csv", records)
        told = {"status": "running", "config": dataclasses.asdict(config), "data": {"digest": "d"}}
        kept = {"weights": fingerprint(config, "d")["weights"], "versions": versions()}
        write_json(folder / "result.json", {**told, **kept, **result})

    return leave


def found(config, folder, digest="d"):
    return inspect_job(config, folder, fingerprint(config, digest))


def test_one_trial_that_only_the_epochs_know_runs_again_and_two_are_damage(config, folder, left, caplog):
    left(config(), status="running")
    history = pd.DataFrame({"trial": [0, 1, 2], "execution": 0, "epoch": 1, "val_log_loss": 0.3})
    write_csv(folder / "history.csv", history)
    assert found(config(), folder).trials == 2
    assert list(load_resume_state(folder).history["trial"]) == ["0", "1"]
    assert "knows trial 2 and trials.csv does not: that trial did not end, and runs again" in caplog.text
    write_csv(folder / "history.csv", pd.concat([history, history.assign(trial=3)]))
    with pytest.raises(UserError, match=r"its trials\.csv holds 2 trials, and 4 trials were run"):
        found(config(), folder)


def test_the_summary_counts_names_what_is_not_new_and_tells_damage(config, folder, left):
    left(config(), status="ok")
    assert found(config(), folder).damage == ""
    (folder / "trials.csv").write_text("trial,sta")
    standings = [JobDecision(Action.NEW), JobDecision(Action.RESUMED, trials=2, planned=8), found(config(), folder)]
    *told, last = summary("s", ["a", "b", "c"], standings)
    assert told == [
        "study s: 3 jobs: 1 finished before, 1 goes on at trial 3 of 8, 1 new",
        "  b: goes on at trial 3 of 8",
        "  c: finished before",
    ]
    assert last.startswith(f"warning: job {folder}: its trials.csv is damaged")


def test_nothing_is_a_new_job(config, folder):
    assert found(config(), folder).kind is Action.NEW
    folder.mkdir(parents=True)
    (folder / "search.log").write_text("begun")
    assert found(config(), folder).kind is Action.NEW


@pytest.mark.parametrize(
    ("result", "kind", "told"),
    [
        ({}, Action.RESUMED, "goes on at trial 3 of 8"),
        ({"status": "failed", "error_type": "KeyboardInterrupt"}, Action.RESUMED, "goes on at trial 3 of 8"),
        ({"status": "ok", "stopped": "time is over"}, Action.RESUMED, "goes on at trial 3 of 8"),
        (
            {"status": "failed", "error_type": "Exhausted"},
            Action.RETRIED,
            "failed and is tried again, from trial 3 of 8",
        ),
        ({"status": "ok"}, Action.FINISHED, "finished before"),
    ],
)
def test_what_is_there_says_how_the_job_goes_on(config, folder, left, result, kind, told):
    left(config("tuner.max_trials=8"), **result)
    standing = found(config("tuner.max_trials=8"), folder)
    assert standing.kind is kind
    assert standing.told() == told
    assert not standing.restart


def test_a_finished_job_gets_more_trials_and_not_fewer(config, folder, left):
    left(config("tuner.max_trials=2"), status="ok", trials={"total": 2})
    standing = found(config("tuner.max_trials=5"), folder)
    assert standing.kind is Action.EXTENDED
    assert standing.told() == "finished before and gets more trials, from trial 3 of 5"
    with pytest.raises(UserError, match=r"2 of its trials are finished.*tuner.max_trials=2 or more"):
        found(config("tuner.max_trials=1"), folder)


@pytest.mark.parametrize("status", ["ok", "running", "failed"])
@pytest.mark.parametrize(
    ("override", "digest", "words"),
    [
        ("seed=2", "d", "seed was 1, now 2"),
        ("fit.epochs=7", "d", "fit.epochs was 10, now 7"),
        ("~space.l2", "d", "space.l2"),
        ("backbone.weights=imagenet", "d", "weights was None, now imagenet"),
        # What a job reads of the store must not change between its trials.
        ("features.dtype=float16", "d", "features.dtype was float32, now float16"),
        ("seed=1", "other", "images"),
    ],
)
def test_another_configuration_or_other_images_are_refused(config, folder, left, override, digest, words, status):
    left(config(), status=status)
    with pytest.raises(UserError, match=words):
        found(config(override), folder, digest)


@pytest.mark.parametrize(
    "override",
    [
        "data.test=elsewhere.zip",
        "data.train=moved.zip",
        "tta=flip",
        "cache=other",
        "timeout.study_seconds=5",
    ],
)
def test_where_things_are_and_what_comes_after_is_no_other_job(config, folder, left, override):
    left(config(), status="ok")
    assert found(config(override), folder).kind is Action.FINISHED


def test_a_job_saved_under_former_names_is_resumed(config, folder, left):
    left(config("split.holdout_fraction=0.25", "select.top_k=2"), status="ok")
    file = folder / "result.json"
    saved = file.read_text()
    for former in ("studies", "split.holdout", "split.together", "model.l2_covers", "select.top", "select.seeds"):
        saved = saved.replace(f'"{RENAMED[former].rpartition(".")[2]}"', f'"{former.rpartition(".")[2]}"')
    assert '"holdout"' in saved
    file.write_text(saved)
    assert found(config("split.holdout_fraction=0.25", "select.top_k=2"), folder).kind is Action.FINISHED
    assert found(config("split.holdout_fraction=0.25"), folder).kind is Action.RESELECTED
    with pytest.raises(UserError, match=r"split\.holdout_fraction was 0\.25, now 0\.5"):
        found(config("split.holdout_fraction=0.5", "select.top_k=2"), folder)


def test_a_weights_file_is_known_by_what_it_holds(config, folder, left, tmp_path):
    (tmp_path / "a.h5").write_bytes(b"weights")
    left(config(f"backbone.weights={tmp_path / 'a.h5'}"))
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")
    moved = config(f"backbone.weights={tmp_path / 'b.h5'}")
    assert found(moved, folder).kind is Action.RESUMED
    (tmp_path / "b.h5").write_bytes(b"others of more bytes")
    with pytest.raises(UserError, match=r"backbone\.weights was sha256:"):
        found(moved, folder)


def test_an_unfinished_job_goes_on_with_the_packages_it_began_with(config, folder, left, monkeypatch):
    left(config())
    monkeypatch.setattr("catsdogs.study.identity._installed", lambda: {"catsdogs": "0.2.0", "keras": "4.0.1"})
    with pytest.raises(UserError, match=r"keras was 3\.\d+, now 4.0"):
        found(config(), folder)
    left(config(), status="ok")
    assert found(config(), folder).kind is Action.FINISHED


@pytest.mark.parametrize("statuses", [(), ("FAILED", "FAILED")])
def test_a_job_without_a_completed_trial_begins_anew_and_is_kept(config, folder, left, statuses):
    left(config(), statuses=statuses)
    assert not found(config(), folder).restart
    standing = found(config("seed=2"), folder)
    assert (standing.kind, standing.restart) == (Action.NEW, True)
    left(config(), statuses=statuses, status="failed")
    for override in ("seed=1", "seed=2"):
        standing = found(config(override), folder)
        assert (standing.kind, standing.restart) == (Action.RETRIED, True)
    kept = archive_attempt(folder)
    assert kept == folder.parent / ".failed" / "a-job.1"
    assert kept is not None
    assert (kept / "result.json").is_file()
    assert found(config(), folder).kind is Action.NEW
    assert archive_attempt(folder) is None


def test_json_that_is_no_result_is_no_crash(config, folder, left):
    left(config(), status="ok", trials=None, versions=None)
    assert found(config(), folder).kind is Action.FINISHED
    write_json(folder / "result.json", {"status": "ok", "config": 3})
    with pytest.raises(UserError, match="nothing tells what they were run with"):
        found(config(), folder)
