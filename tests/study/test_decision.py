import dataclasses

import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import write_csv, write_json
from catsdogs.base.provenance import versions
from catsdogs.config.setting_names import RENAMED
from catsdogs.study.decision import Action, JobDecision, archive_attempt, inspect_job, summary
from catsdogs.study.identity import fingerprint
from catsdogs.study.job_tables import load_resume_state
from catsdogs.study.trials import TrialRecord, write_trials


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study" / "a-job"


@pytest.fixture
def write_earlier_job(folder):
    """Write the folder of an earlier run."""

    def leave(config, statuses=("COMPLETED", "COMPLETED"), **result):
        if statuses:
            records = [
                TrialRecord(str(n), status, 0.3 if status == "COMPLETED" else None, None, 1, 1, 1.0, {"dropout": 0.1})
                for n, status in enumerate(statuses)
            ]
            write_trials(folder / "trials.csv", records)
        settings = {"status": "running", "config": dataclasses.asdict(config), "data": {"digest": "d"}}
        identity = {"weights": fingerprint(config, "d")["weights"], "versions": versions()}
        write_json(folder / "result.json", {**settings, **identity, **result})

    return leave


def inspect(config, folder, digest="d"):
    return inspect_job(config, folder, fingerprint(config, digest))


def test_one_trial_only_in_the_history_runs_again_and_two_are_an_error(config, folder, write_earlier_job, caplog):
    write_earlier_job(config(), status="running")
    history = pd.DataFrame({"trial": [0, 1, 2], "execution": 0, "epoch": 1, "val_log_loss": 0.3})
    write_csv(folder / "history.csv", history)
    assert inspect(config(), folder).trials == 2
    assert list(load_resume_state(folder).history["trial"]) == ["0", "1"]
    assert "trial=2 is not in trials.csv" in caplog.text
    write_csv(folder / "history.csv", pd.concat([history, history.assign(trial=3)]))
    with pytest.raises(UserError, match=r"trials\.csv lists 2 trials \(expected 4\)"):
        inspect(config(), folder)


def test_summary_counts_jobs_lists_those_not_new_and_reports_damage(config, folder, write_earlier_job):
    write_earlier_job(config(), status="ok")
    assert inspect(config(), folder).damage == ""
    (folder / "trials.csv").write_text("trial,sta")
    decisions = [JobDecision(Action.NEW), JobDecision(Action.RESUMED, trials=2, planned=8), inspect(config(), folder)]
    *lines, last = summary("s", ["a", "b", "c"], decisions)
    assert lines == [
        "Study s: 1 already finished; 1 resumes at trial 3/8; 1 new",
        "  b: resumes at trial 3/8",
        "  c: already finished",
    ]
    assert last.startswith(f"warning: job {folder}: its trials.csv is corrupted")


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        ({}, Action.RESUMED, "resumes at trial 3/8"),
        ({"status": "failed", "error_type": "KeyboardInterrupt"}, Action.RESUMED, "resumes at trial 3/8"),
        ({"status": "ok", "stopped": "timeout"}, Action.RESUMED, "resumes at trial 3/8"),
        ({"status": "failed", "error_type": "Exhausted"}, Action.RETRIED, "failed, retrying from trial 3/8"),
        ({"status": "ok"}, Action.FINISHED, "already finished"),
    ],
)
def test_the_recorded_status_determines_the_action(config, folder, write_earlier_job, result, kind, text):
    write_earlier_job(config("tuner.max_trials=8"), **result)
    decision = inspect(config("tuner.max_trials=8"), folder)
    assert decision.kind is kind
    assert decision.describe() == text
    assert not decision.restart


def test_a_finished_job_can_get_more_trials_but_not_fewer(config, folder, write_earlier_job):
    write_earlier_job(config("tuner.max_trials=2"), status="ok", trials={"total": 2})
    decision = inspect(config("tuner.max_trials=5"), folder)
    assert decision.kind is Action.EXTENDED
    assert decision.describe() == "finished, adding trials from trial 3/5"
    with pytest.raises(UserError, match=r"tuner\.max_trials=1: .*set tuner\.max_trials=2"):
        inspect(config("tuner.max_trials=1"), folder)


@pytest.mark.parametrize("status", ["ok", "running", "failed"])
@pytest.mark.parametrize(
    ("override", "digest", "words"),
    [
        ("seed=2", "d", "seed: 1 -> 2"),
        ("fit.epochs=7", "d", "fit.epochs: 10 -> 7"),
        ("~space.l2", "d", "space.l2"),
        ("backbone.weights=imagenet", "d", "weights: None -> imagenet"),
        # Stored activations must not change between trials of a job.
        ("features.dtype=float16", "d", "features.dtype: float32 -> float16"),
        ("seed=1", "other", "images"),
    ],
)
def test_changed_settings_or_images_are_refused(config, folder, write_earlier_job, override, digest, words, status):
    write_earlier_job(config(), status=status)
    with pytest.raises(UserError, match=words):
        inspect(config(override), folder, digest)


@pytest.mark.parametrize(
    "override",
    ["data.test=elsewhere.zip", "data.train=moved.zip", "tta=flip", "cache=other", "timeout.study_seconds=5"],
)
def test_paths_and_settings_of_later_steps_may_change(config, folder, write_earlier_job, override):
    write_earlier_job(config(), status="ok")
    assert inspect(config(override), folder).kind is Action.FINISHED


def test_a_job_saved_under_former_names_is_resumed(config, folder, write_earlier_job):
    write_earlier_job(config("split.holdout_fraction=0.25", "select.top_k=2"), status="ok")
    file = folder / "result.json"
    saved = file.read_text()
    for former in ("studies", "split.holdout", "split.together", "model.l2_covers", "select.top", "select.seeds"):
        saved = saved.replace(f'"{RENAMED[former].rpartition(".")[2]}"', f'"{former.rpartition(".")[2]}"')
    assert '"holdout"' in saved
    file.write_text(saved)
    assert inspect(config("split.holdout_fraction=0.25", "select.top_k=2"), folder).kind is Action.FINISHED
    assert inspect(config("split.holdout_fraction=0.25"), folder).kind is Action.RESELECTED
    with pytest.raises(UserError, match=r"split\.holdout_fraction: 0\.25 -> 0\.5"):
        inspect(config("split.holdout_fraction=0.5", "select.top_k=2"), folder)


def test_a_weights_file_is_identified_by_its_contents(config, folder, write_earlier_job, tmp_path):
    (tmp_path / "a.h5").write_bytes(b"weights")
    write_earlier_job(config(f"backbone.weights={tmp_path / 'a.h5'}"))
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")
    moved = config(f"backbone.weights={tmp_path / 'b.h5'}")
    assert inspect(moved, folder).kind is Action.RESUMED
    (tmp_path / "b.h5").write_bytes(b"longer contents")
    with pytest.raises(UserError, match=r"backbone\.weights: sha256:"):
        inspect(moved, folder)


def test_an_unfinished_job_needs_the_same_package_versions(config, folder, write_earlier_job, monkeypatch):
    write_earlier_job(config())
    monkeypatch.setattr("catsdogs.study.identity._installed", lambda: {"catsdogs": "0.2.0", "keras": "4.0.1"})
    with pytest.raises(UserError, match=r"keras: 3\.\d+ -> 4\.0"):
        inspect(config(), folder)
    write_earlier_job(config(), status="ok")
    assert inspect(config(), folder).kind is Action.FINISHED


@pytest.mark.parametrize("statuses", [(), ("FAILED", "FAILED")])
def test_a_job_without_a_completed_trial_restarts_and_is_archived(config, folder, write_earlier_job, statuses):
    write_earlier_job(config(), statuses=statuses)
    assert not inspect(config(), folder).restart
    decision = inspect(config("seed=2"), folder)
    assert (decision.kind, decision.restart) == (Action.NEW, True)
    write_earlier_job(config(), statuses=statuses, status="failed")
    for override in ("seed=1", "seed=2"):
        decision = inspect(config(override), folder)
        assert (decision.kind, decision.restart) == (Action.RETRIED, True)
    archive = folder.parent / ".failed" / "a-job.1"
    assert archive_attempt(folder) == archive
    assert (archive / "result.json").is_file()
    assert archive_attempt(folder) is None
    (folder / "search.log").write_text("started")
    assert inspect(config(), folder).kind is Action.NEW


def test_a_result_without_a_configuration_is_refused(config, folder, write_earlier_job):
    write_earlier_job(config(), status="ok", trials=None, versions=None)
    assert inspect(config(), folder).kind is Action.FINISHED
    write_json(folder / "result.json", {"status": "ok", "config": 3})
    with pytest.raises(UserError, match=r"result\.json is missing or corrupted"):
        inspect(config(), folder)
