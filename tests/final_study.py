"""A tiny study with a holdout, folds and a selection, and its final models."""

import pandas as pd

from catsdogs.config.checks import check
from catsdogs.config.schema import EnsembleConfig, RetrainConfig, SubmissionConfig, TtaConfig
from catsdogs.data.dataset import load_dataset
from catsdogs.final.retraining import make_final
from catsdogs.study.jobs import best_jobs, chosen_trial, read_jobs
from catsdogs.tuning.job import JobLocation, run_job

SETTINGS: tuple[str, ...] = ("data.sample.images_per_class=24", "data.sample.test_images=5", "split.folds=2")
SETTINGS += ("split.holdout_fraction=0.25", "select.top_k=2", "select.repeats=2", "space.unfreeze_depth.values=[2]")
SETTINGS += ("tuner.max_trials=2", "fit.epochs=1", "fit.batch_size=12")
FLIP, NONE = "flip", "none"


class Study:
    """Two jobs that differ in augmentation; the first has a selection."""

    def __init__(self, folder, config):
        self.folder = folder / "study"
        self._cache = folder / "cache"
        self._config = config
        self.rows_read: set[int] = set()  # rows with pixels that the searches have read

    def config(self, augmentation=FLIP, *overrides):
        return self._config(*SETTINGS, f"augmentation={augmentation}", f"cache={self._cache}", *overrides)

    def location(self, augmentation=FLIP):
        return JobLocation(self.folder / augmentation, self.folder)

    def search(self, augmentation=FLIP, *overrides):
        config, location = self.config(augmentation, *overrides), self.location(augmentation)
        return run_job(config, location, {"augmentation": augmentation})

    def dataset(self):
        return load_dataset(self.config().data, self._cache, self.config().split)

    def retrain(
        self, augmentation=FLIP, *, kind="none", size=1, tta="none", average="probability", kinds=None, **changed
    ):
        first = next(job for job in read_jobs(self.folder) if job.name == augmentation)
        plain = vars(self.config(augmentation))
        more = {"job": augmentation, "trial": None, "fit_on": "train", "calibrate": True, "evaluate_with": "search"}
        more |= {"submission": SubmissionConfig(None, "probability", None)} | changed
        config = RetrainConfig(**plain | more, ensemble=EnsembleConfig(kind, size))
        config.tta = TtaConfig(tta, 2, average, kinds)
        check(config)
        jobs = best_jobs(self.folder, read_jobs(self.folder), first, None if kind == "trials" else size)
        metrics = make_final(config, jobs, chosen_trial(first, None), self.folder)
        best = self.folder / "best"
        return metrics, pd.read_csv(best / "predictions.csv", dtype={"id": str}), best
