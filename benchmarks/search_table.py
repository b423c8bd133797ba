"""Recorded trials of a grid of hyperparameters: `search_bench.py record` trains them, `replay` searches them."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from machine import machine, versions
from sklearn.model_selection import StratifiedKFold

from catsdogs.base.files import json_digest, replacing

if TYPE_CHECKING:
    from catsdogs.network.trial_model import TrialModels
    from catsdogs.training.trial_data import TrialData

GRID: dict[str, tuple[Any, ...]] = {
    "unfreeze_depth": (0, 10, 30),
    "dropout": (0.1, 0.5),
    "l2": (1e-5, 1e-3),
    "peak_lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "smoothing": (0.0, 0.1),
    "schedule": ("cosine", "constant"),
}
# Row i of a table is the point ORDER[i] of the grid.
POINTS = list(itertools.product(*GRID.values()))
ORDER = np.random.default_rng(19).permutation(len(POINTS))
FOLDS, EVERY = 5, 4  # every fourth row is also trained in folds

SETTINGS = ("study=search_bench", "data.limit=2000", "data.validation_fraction=0.5", "split.folds=1", "fit.epochs=8")


@dataclass
class Table:
    """Losses of the recorded rows, NaN after a divergence."""

    losses: np.ndarray  # float16 (T, E, N): T trials, E epochs, N validation images
    fold_losses: np.ndarray  # float16 (ceil(T / EVERY), E, M): of the M training images, each by the model of its fold
    fold_of: np.ndarray  # int8 (M,)
    seconds: np.ndarray  # float32 (T,), of the process on all cores, with the folds
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        parts = {name: value for name, value in vars(self).items() if name != "about"}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **parts, about=np.array(json.dumps(self.about)))

    @classmethod
    def read(cls, path: Path) -> Table:
        with np.load(path, allow_pickle=False) as file:
            return cls(
                **{name: file[name] for name in file.files if name != "about"}, about=json.loads(str(file["about"]))
            )


def settings_of(row: int) -> dict[str, Any]:
    """Return the values of a row of a table, by the names of the grid."""
    return dict(zip(GRID, POINTS[ORDER[row]], strict=True))


def record(path: Path, overrides: Sequence[str], count: int) -> None:
    """Train the first `count` rows that the table lacks; it is created if missing."""
    from hydra import compose, initialize_config_dir

    from catsdogs.config.compose import to_search_config
    from catsdogs.config.locations import conf_dir
    from catsdogs.data.dataset import Fold, load_dataset
    from catsdogs.data.fitting import fit_to_data
    from catsdogs.launching.registration import register
    from catsdogs.network.startup import start_keras
    from catsdogs.study.identity import fingerprint

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = to_search_config(compose("search", overrides=[*SETTINGS, *overrides]))
    dataset = load_dataset(config.data, Path(config.cache), config.split)
    config, _ = fit_to_data(config, dataset)
    (fold,) = dataset.folds()
    train, labels = fold.train_rows, dataset.rows["label"].to_numpy(int)
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(train, labels[train])
    folds = [Fold(train[inside], train[outside]) for inside, outside in parts]
    mark = fingerprint(config, dataset.digest)
    about = {"digest": json_digest([mark["config"], mark["data"], mark["weights"]]), "train": len(train)}
    about |= {"classes": len(dataset.classes), "backbone": config.backbone.builder, "versions": versions()}
    about |= {"image_size": config.backbone.image_size, "batch_size": config.fit.batch_size, "machine": machine()}
    if path.exists():
        table = Table.read(path)
        if table.about["digest"] != about["digest"]:
            raise SystemExit(f"{path}: recorded with other images or settings; pass another TABLE.npz")
    else:
        fold_of = np.zeros(len(train), np.int8)
        for number, one in enumerate(folds):
            fold_of[np.searchsorted(train, one.validation_rows)] = number
        single, several = (
            np.empty((0, config.fit.epochs, len(rows)), np.float16) for rows in (fold.validation_rows, train)
        )
        table = Table(single, several, fold_of, np.empty(0, np.float32), about)
    start_keras()
    from catsdogs.training.trial_data import build_trial_data

    with ExitStack() as stack:
        built: dict[tuple[float, bool], tuple[TrialData, TrialModels]] = {}
        for epsilon, in_folds in itertools.product(GRID["smoothing"], (False, True)):
            # The smoothing is part of the compiled loss.
            smoothing = dataclasses.replace(config.label_smoothing, epsilon=epsilon)
            smoothed = dataclasses.replace(config, label_smoothing=smoothing)
            data, models = build_trial_data(smoothed, dataset, folds if in_folds else [fold], GRID["unfreeze_depth"])
            stack.enter_context(data.features.reading())
            data.features.prepare()
            built[epsilon, in_folds] = data, models
        _train_rows(path, table, config, built, range(len(table.losses), count))


def _train_rows(path: Path, table: Table, config: Any, built: dict[tuple[float, bool], Any], rows: range) -> None:
    """Train these rows, and write the table after each."""
    started, work, total = time.monotonic(), 0, sum(_work(row) for row in rows)
    for row in rows:
        cpu = time.process_time()
        epsilon = settings_of(row)["smoothing"]
        (losses,) = _trained(config, built[epsilon, False], row)
        table.losses = np.concatenate([table.losses, losses[None]])
        if row % EVERY == 0:
            losses = np.empty(table.fold_losses.shape[1:], np.float16)
            for number, part in enumerate(_trained(config, built[epsilon, True], row)):
                losses[:, table.fold_of == number] = part
            table.fold_losses = np.concatenate([table.fold_losses, losses[None]])
        table.seconds = np.append(table.seconds, np.float32(time.process_time() - cpu))
        table.write(path)
        work += _work(row)
        spent = time.monotonic() - started
        left = datetime.timedelta(seconds=round(spent / work * (total - work)))
        best = np.nanmin(table.losses[-1].astype(np.float64).mean(axis=1), initial=np.inf)
        text = f"row {row + 1}/{rows.stop}, {settings_of(row)}: log loss {best:.4f}, {table.seconds[-1]:.0f} CPU s"
        print(f"{text}, {left} left, {path.stat().st_size / 2**20:.1f} MiB", flush=True)


def _work(row: int) -> int:
    return 1 + (FOLDS - 1) * (row % EVERY == 0)


def _trained(config: Any, built: tuple[TrialData, TrialModels], row: int) -> list[np.ndarray]:
    """Train a row on every fold of the data; return the losses float16 (E, N) of the validation images of each."""
    from catsdogs.config.hyperparameters import with_values

    values = settings_of(row)
    final = 1.0 if values["schedule"] == "constant" else 0.0
    schedule = dataclasses.replace(config.schedule, kind=values["schedule"], final_fraction=final)
    config = with_values(dataclasses.replace(config, schedule=schedule), values)
    return [_trained_fold(config, *built, row, number) for number in range(len(built[0].folds))]


def _trained_fold(config: Any, data: TrialData, models: TrialModels, row: int, number: int) -> np.ndarray:
    from catsdogs.data.dataset import Fold
    from catsdogs.data.views import ORIGINAL
    from catsdogs.scoring.scores import score_images
    from catsdogs.training.batches import EpochPlan, EvaluationBatches, for_keras
    from catsdogs.training.execution import DivergedError, Listener, train, trial_seed
    from catsdogs.training.linear_probe import start_from_probe

    seed, fold = trial_seed(config.seed, str(row), number), data.folds[number]
    trial, rows = models.new_trial(config, seed), fold.validation_rows
    if config.model.starts_from_probe:
        start_from_probe(trial, data, number)
    views, labels = data.features.at_cut(trial.cut), data.classes.from_output(data.targets[rows]).argmax(axis=1)
    batches = EvaluationBatches(views, rows, ORIGINAL, config.fit.batch_size)
    losses = np.full((config.fit.epochs, len(rows)), np.nan, np.float16)

    def keep(epoch: int, share: float, logs: dict[str, float] | None) -> None:
        if logs is not None:
            p = data.classes.from_output(trial.model.predict(for_keras(batches), verbose=0))
            losses[epoch] = score_images(labels, p).losses if np.isfinite(p).all() else np.nan

    plan = EpochPlan(seed, config.fit.epochs, distinct_views=data.features.views)
    try:
        # Without validation rows, all epochs are trained; `keep` validates, because it needs the loss of every image.
        train(trial.model, views, data.targets, Fold(fold.train_rows, rows[:0]), config.fit, plan, Listener(keep))
    except DivergedError as error:
        losses[len(error.history) - 1 :] = np.nan
    return losses


# --- Replay
