"""A job to interrupt and resume, with the fake training of `cheap`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cheap
import pandas as pd
import pytest

from catsdogs.base.errors import UserError
from catsdogs.base.files import read_json
from catsdogs.config.schema import SearchConfig
from catsdogs.study.trials import ranked, read_trials
from catsdogs.tuning import job

TUNERS = {
    "random": ("tuner=random", "tuner.max_trials=4"),
    "race": ("tuner=race", "tuner.max_trials=8", "fit.epochs=4"),
    "grid": ("tuner=grid", "tuner.max_trials=4"),
    "bayesian": ("tuner=bayesian", "tuner.max_trials=4", "tuner.arguments.num_initial_points=2"),
    "hyperband": ("tuner=hyperband", "tuner.max_trials=null", "fit.epochs=4"),
}
_UNINTERRUPTED: dict[str, tuple[tuple, int]] = {}  # results of `Bench.uninterrupted`, by tuner


class Bench:
    """A job, its folder and its training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, config: Callable[..., SearchConfig]) -> None:
        self.trainer = cheap.Job(monkeypatch, folder)
        self.study = folder / "study"
        self.folder = self.study / "a-job"
        self._cache = folder / "cache"
        self._config = config

    def settings(self, *overrides: str) -> SearchConfig:
        return self._config(f"cache={self._cache}", "fit.epochs=2", *overrides)

    def run(self, config: SearchConfig, name: str = "a-job") -> float:
        """Run a job of the study; return its objective."""
        return job.run_job(config, job.JobLocation(self.study / name, self.study), {})

    def refusal(self, config: SearchConfig) -> str:
        """Run the job; return the message of the error, or "" if there is none."""
        try:
            self.run(config)
        except UserError as error:
            return str(error)
        return ""

    def finished(self) -> int:
        return len(read_trials(self.folder / "trials.csv"))

    def best(self, count: int) -> list[str]:
        """Return the files of the best trials that a job with one fold keeps, by `trials.csv`."""
        trials = [record.trial for record in ranked(read_trials(self.folder / "trials.csv"))[:count]]
        return sorted(f"{trial}-{part}.bin" for trial in trials for part in (0, "predictions"))

    def kept(self) -> list[str]:
        return sorted(file.name for file in (self.folder / "weights").glob("*"))

    def tables(self) -> tuple[str, str, str, dict[str, Any]]:
        """Return the results that must not depend on interruptions."""
        trials = pd.read_csv(self.folder / "trials.csv", dtype={"trial": str, "parent": str})
        history = pd.read_csv(self.folder / "history.csv", dtype={"trial": str})
        result = read_json(self.folder / "result.json")
        summary = {name: result[name] for name in ("status", "best_trial", "objective", "trials")}
        scores = trials.drop(columns=["seconds", "ended"])
        return scores.to_csv(), history.to_csv(), (self.folder / "validation.csv").read_text(), summary

    def uninterrupted(self, name: str) -> tuple[tuple, int]:
        """Return the tables of an uninterrupted run with this tuner, and its number of trainings."""
        if name not in _UNINTERRUPTED:
            self.run(self.settings(*TUNERS[name]))
            tables = self.tables()
            _UNINTERRUPTED[name] = tables, len(self.trainer.trained)
            # No parent was trained twice because its weights were removed.
            counts = tables[3]["trials"]
            assert len(self.trainer.trained) == self.finished() == counts["completed"] + counts.get("stopped", 0)
            assert ("stopped" in counts) == (name == "race")
            assert self.kept() == self.best(len(tables[0].splitlines()) - 1)
            shutil.rmtree(self.folder)
            self.trainer.trained.clear()
        return _UNINTERRUPTED[name]
