import datetime
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json, write_json
from catsdogs.study.locking import lock_job
from catsdogs.study.plan import deleted_jobs, read_plan, record_ended, retrain_command, write_plan


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study").mkdir()
    return tmp_path / "study"


def test_the_plan_keeps_all_jobs_and_parallel_processes_are_one_run(study):
    write_plan(study, ["a", "b"], ["-m"])
    write_plan(study, ["good", "busy"], ["-m"])
    plan = read_json(study / "study.json")
    assert (plan["jobs"], plan["run"]) == (["a", "b", "good", "busy"], ["good", "busy"])
    since = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(plan["started"])
    assert datetime.timedelta(0) <= since < datetime.timedelta(minutes=1)
    write_json(study / "study.json", {**plan, "started": "2026-01-01T00:00:00+00:00"})
    with lock_job(study / "busy"):
        write_plan(study, ["c"], ["-m"])
    assert read_plan(study).run == ["good", "busy", "c"]
    assert read_plan(study).started == datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    # No process holds the lock now, so the former run has ended.
    write_plan(study, ["d"], ["-m"])
    plan = read_json(study / "study.json")
    assert plan["run"] == ["d"]
    assert plan["started"] > "2026-02"


def test_a_job_that_ran_and_has_no_folder_is_deleted_until_it_starts_again(study):
    write_plan(study, ["a", "b", "c"], [])
    record_ended(study, ["a"])
    record_ended(study, ["b"])
    (study / "a").mkdir()
    assert deleted_jobs(study, read_plan(study)) == ["b"]
    write_plan(study, ["b", "c"], [])
    assert deleted_jobs(study, read_plan(study)) == []
    record_ended(study.with_name("none"), ["a"])


@pytest.mark.parametrize("content", ["", "[]", '{"run": "a", "jobs": 3, "started": 5}', '{"started": "soon"}', "\x00"])
def test_a_corrupted_plan_is_empty_and_not_replaced(study, content):
    (study / "study.json").write_text(content)
    assert read_plan(study).run == []
    assert read_plan(study).started is None
    if content == '{"started": "soon"}':  # read as not recorded
        return
    with pytest.raises(UserError, match=r"study\.json: corrupted \(.*; restore it"):
        write_plan(study, ["a"], ["-m"])
    assert (study / "study.json").read_text() == content


# Quoting itself is tested in tests/base/test_text.py.
@pytest.mark.parametrize("name", ["s", "2026-11-23_10-00-00", "a b", "it's", "a\\'b", "[a]", "a=b", "", "$x"])
def test_the_retrain_command_names_study_and_job(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(retrain_command(Path("multirun") / (name or "x"), name))
    assert words[:3] == ["python", "-m", "catsdogs.retrain"]
    study, job = OverridesParser.create().parse_overrides(words[3:])
    assert (study.key_or_group, study.value()) == ("study", name or "x")
    assert (job.key_or_group, job.value()) == ("job", name)


def test_the_retrain_command_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert retrain_command(Path("multirun/s")) == "python -m catsdogs.retrain study=s"
    assert retrain_command(tmp_path / "multirun" / "s").endswith(" study=s")
    assert retrain_command(tmp_path / "other" / "s").endswith(" study=other/s")
    # Without a slash, the name would be a folder in multirun.
    assert retrain_command(tmp_path / "s").endswith(" study=./s")
    assert retrain_command(Path("/data/multirun/s")).endswith(" study=/data/multirun/s")
