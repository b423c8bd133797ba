"""The sweeper on Optuna with a launcher that calls a function; no job is a job of catsdogs."""

import math
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from catsdogs.search import main

optuna = pytest.importorskip("optuna", minversion="5")

pytestmark = [pytest.mark.lowest, pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")]

SPACE = {"group": "choice(a,b)", "x": "range(0.1,0.5,0.1)"}  # 8 combinations


class Launcher:
    """Calls a function of the values of a job; an Exception fails the job, as Hydra's launchers do."""

    def __init__(self, task):
        self.task, self.jobs = task, {}

    def launch(self, job_overrides, initial_job_idx):
        return [self.run(words, initial_job_idx + index) for index, words in enumerate(job_overrides)]

    def run(self, words, number):
        values = dict(word.split("=", 1) for word in words)
        try:
            returned = JobReturn(status=JobStatus.COMPLETED, _return_value=self.task(values))
        except Exception as error:
            returned = JobReturn(status=JobStatus.FAILED, _return_value=error)
        self.jobs[number] = values
        return returned


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that sweeps over a configuration with `x`, `y` and a group, and returns jobs by number."""
    from catsdogs.launching.optuna_sweeper import OptunaSweeper

    (tmp_path / "group").mkdir()
    for option in "abc":
        (tmp_path / f"group/{option}.yaml").write_text("z: 1")
    hydra = f"hydra: {{sweep: {{dir: {tmp_path}}}}}"
    (tmp_path / "config.yaml").write_text(f"defaults: [_self_, group: a]\nx: 0\ny: 0\n{hydra}\n")

    def sweep(*words, task=lambda job: float(job["x"]), params=None, sampler="RandomSampler", seed=1, **settings):
        launcher = Launcher(task)
        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *given, **named: launcher)
        given = {"direction": "minimize", "n_trials": 8, "n_jobs": 1, "storage": None, "study_name": "s"}
        given |= {"pruner": {"name": "NopPruner"}, "sampler": {"name": sampler, "seed": seed}}
        sweeper = OptunaSweeper(params, **given | settings)
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
            context: Any = SimpleNamespace(config_loader=loader)
            sweeper.setup(hydra_context=context, task_function=task, config=config)
            with suppress(KeyboardInterrupt):
                sweeper.sweep(list(words))
        return launcher.jobs

    return sweep


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "QMCSampler", "GridSampler", "BruteForceSampler"])
def test_every_sampler_proposes_values_of_the_space_and_the_same_ones_again(run, tmp_path, sampler):
    options = {"params": {**SPACE, "y": 1}, "sampler": sampler, "n_trials": 20, "n_jobs": 3}
    jobs = run("y=5", **options)
    assert list(jobs) == list(range(len(jobs)))
    assert {(job["y"], job["group"]) for job in jobs.values()} == {("5", "a"), ("5", "b")}
    assert {job["x"] for job in jobs.values()} <= {"0.1", "0.2", "0.3", "0.4"}
    distinct = {tuple(job.items()) for job in jobs.values()}
    assert len(jobs) == 20 or len(distinct) == 8
    assert len(jobs) == 8 or sampler not in ("GridSampler", "BruteForceSampler")
    assert OmegaConf.load(tmp_path / "optimization_results.yaml").best_value == 0.1
    assert run("y=5", **options) == jobs != run("y=5", **options, seed=2)


@pytest.mark.parametrize(
    ("text", "is_value"),
    [
        ("interval(0.5,2)", lambda text: 0.5 <= float(text) <= 2 and "." in text),
        ("tag(log,interval(1e-6,1))", lambda text: 1e-6 <= float(text) <= 1),
        ("tag(log,int(interval(1,60)))", lambda text: 1 <= int(text) <= 60),
        ("range(10,0,-3)", lambda text: text in ("10", "7", "4", "1")),
        ("null,true,'a b',[1,2],1e-3", lambda text: text in ("null", "True", "'a b'", "[1,2]", "0.001")),
        ("shuffle(choice(1,2,1))", lambda text: text in ("1", "2")),
    ],
)
def test_intervals_ranges_and_choices_replace_those_of_the_configuration(run, text, is_value):
    task = {"a": 3, "b": 1, "c": 2}
    options = {"params": {"x": "choice(77,78)", "group": "glob(*)"}, "direction": "maximize", "n_trials": 30}
    jobs = run(f"++x={text}", **options, task=lambda job: task[job["group"]]).values()
    assert len({job["++x"] for job in jobs}) > 1
    assert {job["group"] for job in jobs} == {"a", "b", "c"}
    assert all(is_value(job["++x"]) and "x" not in job for job in jobs)
    assert "1e-6" not in text or sum(float(job["++x"]) < 1e-3 for job in jobs) > 8


@pytest.mark.parametrize("sampler", ["TPESampler", "QMCSampler", "GridSampler"])
def test_a_killed_study_continues_in_its_storage_as_if_it_had_not_stopped(run, tmp_path, sampler):
    def task(job):
        calls.append(job)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(job["x"])

    calls = []
    options = {"params": SPACE, "sampler": sampler, "n_trials": 6}
    whole = run(**options)
    options |= {"task": task, "storage": f"sqlite:///{tmp_path}/s.db"}
    first, second, third = run(**options), run(**options), run(**options)
    assert (list(first), list(second), list(third)) == ([0, 1, 2], [3, 4, 5], [])
    assert first | second == whole


def test_a_failed_job_fails_its_trial_only(run, tmp_path):
    def task(job):
        if isinstance(outcome := outcomes[int(job["x"])], Exception):
            raise outcome
        return outcome

    outcomes = [2.0, math.nan, None, "many", ValueError("bad"), optuna.TrialPruned(), 1]
    storage = f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(study_name="s", storage=storage).ask()  # killed before values were chosen
    run("x=range(0,7)", task=task, sampler="GridSampler", n_jobs=4, storage=storage)
    study = optuna.load_study(study_name="s", storage=storage)
    states = {trial.params.get("x"): trial.state.name for trial in study.trials}
    failed: dict[Any, str] = dict.fromkeys((1, 2, 3, 4), "FAIL")
    assert states == failed | {None: "RUNNING", 0: "COMPLETE", 5: "PRUNED", 6: "COMPLETE"}
    assert study.best_params == {"x": 6}
    with pytest.raises(ValueError, match="bad"):
        run("x=choice(1,4,2)", task=task)
    run("x=choice(1,1)", task=task)  # the application reports its jobs


@pytest.mark.parametrize(
    ("word", "settings", "message"),
    [
        ("group=choice(a,d)", {}, "Could not find 'group/d'"),
        ("x=tag(lgo,interval(1,2))", {}, r"x=tag\(lgo,interval\(1,2\)\): the only tag is log"),
        ("x=range(2,2)", {}, r"x=range\(2,2\): has no values"),
        ("x=interval(0,1)", {"sampler": "GridSampler"}, r"x: GridSampler needs choice\(A,B\) or range\(A,B\)"),
        ("x=interval(0,1)", {"sampler": "BruteForceSampler"}, "hydra.sweeper.sampler: .*step"),
        ("x=1,2", {"pruner": {"name": "NopPruner", "low": 3}}, "pruner: .* argument"),
        ("x=1,2", {"pruner": {"name": "Hyperband"}}, "pruner.name=Hyperband: unknown .*mean 'HyperbandPruner'"),
        ("x=1,2", {"pruner": "NopPruner"}, "pruner=NopPruner: is a group; use hydra.sweeper.pruner.name=NopPruner"),
        ("x=1,2", {"n_jobs": 0}, "hydra.sweeper.n_jobs=0: must be an integer of at least 1"),
        ("x=1,2", {"direction": "down"}, "hydra.sweeper.direction=down: must be minimize or maximize"),
        ("x=1,2", {"storage": "postgres.db"}, "hydra.sweeper.storage: cannot be used"),
    ],
)
def test_a_wrong_setting_is_named_before_the_first_job(run, word, settings, message):
    with pytest.raises(HydraException, match=message):
        run(word, **settings, task=lambda job: pytest.fail("a job started"))


def test_the_command_reports_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["hydra/sweeper=catsdogs_optuna", "hydra.sweeper.sampler.name=TPE", "schedule=choice(cosine,constant)"]
    monkeypatch.setattr(sys, "argv", ["search", "-m", "~hydra.callbacks.study", "hydra/launcher=basic", *words])
    wrong = "hydra.sweeper.sampler.name=TPE: unknown sampler; did you mean 'TPESampler'? known here: BruteForce"
    missing = "hydra/sweeper=catsdogs_optuna: requires Optuna 5; run pip install 'catsdogs[optuna]' ("
    for message in (wrong, missing):
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")
        monkeypatch.setitem(sys.modules, "optuna", None)
        monkeypatch.delitem(sys.modules, "catsdogs.launching.optuna_sweeper", raising=False)
