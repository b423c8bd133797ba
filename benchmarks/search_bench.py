"""Benchmark of tuners on recorded trials: cost until a search is close to the best log loss of a grid.

python benchmarks/search_bench.py record TABLE.npz data.train=train.zip [KEY=VALUE ...]    # hours; resumes
python benchmarks/search_bench.py replay TABLE.npz [TABLE.npz ...] [--seeds 200]           # without training

`record` trains the 240 points of GRID for 8 epochs on half of 2,000 images, every fourth also in five folds of that
half, and keeps the loss of every validation image after every epoch (float16). The points come in random order, and
TABLE.npz is replaced after each, so a part of the table is a random sample of the grid, and the same command continues
after a kill. `replay` lets Keras Tuner's oracles and a race search the table, and writes the costs to
benchmarks/results/race.json. A cost is the number of images trained on, in epochs of the training images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from machine import versions
from search_table import EVERY, FOLDS, GRID, ORDER, POINTS, Table, record
from sklearn.ensemble import ExtraTreesRegressor

from catsdogs.base.files import write_json
from catsdogs.scoring.intervals import Estimate, mean_intervals

if TYPE_CHECKING:
    pass

RESULTS = Path(__file__).parent / "results" / "race.json"

PATIENCE = 3  # as `fit.patience`, for all tuners
KEEP = 3  # trials that a race never stops
MODEL_AFTER, CANDIDATES = 8, 3  # trials before a model proposes; of its proposals, one in three is random
STUDY = 40  # trials of the small studies
SHARES = (0.1, 0.2, 0.5)  # of the cost of the whole search, at which the regret is taken


@dataclass(frozen=True)
class Stage:
    """Part of the training of a trial, at the end of which a race decides whether the trial continues."""

    scores: np.ndarray  # (E,) after every epoch: lowest log loss so far; infinite before all images are validated
    losses: np.ndarray  # float64 (n,) of the images validated so far, each of the best epoch so far


def stages(losses: np.ndarray, rungs: Sequence[int]) -> list[Stage]:
    """Divide a training, losses (E, N), at the rungs (epochs); early stopping ends it."""
    means = losses.mean(axis=1)
    last = epochs_trained(means)
    ends = [*(rung for rung in rungs if rung < last), last]
    lowest = np.minimum.accumulate(np.where(np.isfinite(means), means, np.inf))
    parts = zip([0, *ends[:-1]], ends, strict=True)
    return [Stage(lowest[first:end], losses[lowest[:end].argmin()]) for first, end in parts]


def fold_stages(losses: np.ndarray, fold_of: np.ndarray, rungs: Sequence[int]) -> list[Stage]:
    """Divide the training on all folds, out-of-fold losses (E, M): the first fold at the rungs, then after each."""
    parts = [stages(losses[:, fold_of == number], rungs if number == 0 else ()) for number in range(FOLDS)]
    result = [Stage(np.full(len(stage.scores), np.inf), stage.losses) for stage in parts[0]]
    for number in range(1, FOLDS):
        epochs = sum(len(stage.scores) for stage in parts[number])
        so_far = np.concatenate([result[-1].losses, parts[number][-1].losses])
        result.append(Stage(np.full(epochs, np.inf), so_far))
    result[-1].scores[-1] = np.nan_to_num(result[-1].losses.mean(), nan=np.inf)
    return result


def epochs_trained(means: np.ndarray) -> int:
    """Return after how many epochs a training with these log losses ends, by early stopping or a divergence."""
    best = 0
    for epoch, mean in enumerate(means):
        if not math.isfinite(mean) or epoch - best >= PATIENCE:
            return epoch + 1
        best = epoch if mean < means[best] else best
    return len(means)


class Ledger:
    """Cost and best log loss of a search after every epoch; `wants_more` is false after its budget."""

    def __init__(self, budget: float = math.inf) -> None:
        self._budget = budget
        self.best: list[float] = []  # after every epoch
        self.finals: list[float] = []  # log losses of the trials that were trained to their end

    @property
    def wants_more(self) -> bool:
        return len(self.best) < self._budget

    def train(self, scores: np.ndarray) -> float:
        """Add the epochs of a training with these lowest log losses, and return the last one."""
        before = self.best[-1] if self.best else math.inf
        self.best += np.minimum(np.minimum.accumulate(scores), before).tolist()
        return float(scores[-1])

    def cost_to(self, target: float) -> float:
        """Return the epochs until the best log loss is at most `target`; infinite if it never is."""
        reached = np.flatnonzero(np.array(self.best) <= target)
        return float(reached[0] + 1) if len(reached) else math.inf

    def regret(self, cost: float, target: float) -> float:
        """Return how far the best log loss is above `target` after this cost."""
        return self.best[min(len(self.best), max(1, round(cost))) - 1] - target


def behind_all(losses: np.ndarray, leaders: np.ndarray) -> tuple[int, Estimate] | None:
    """Decide whether a trial stops: it does if its loss is above that of each leader, beyond its paired interval.

    Return the leader that it is behind by the least, and that difference; None if the trial continues, as it does
    before there are KEEP leaders. A pure function of the losses at one rung: `losses` (N,) of the trial, and `leaders`
    (K, N) of the best trials so far, of the same images.

    >>> losses = np.linspace(0.1, 0.3, 50)
    >>> behind_all(losses, np.stack([losses - 0.05, losses - 0.04, losses - 0.03]))[0]
    2
    >>> behind_all(losses, np.stack([losses - 0.05, losses - 0.04, losses + 0.01])) is None
    True
    """
    if len(leaders) < KEEP:
        return None
    if not np.isfinite(losses).all():
        return 0, Estimate(math.inf, None, None, len(losses))
    estimates = mean_intervals(losses - leaders)
    if not all(one.low is not None and one.low > 0 for one in estimates):
        return None
    return min(enumerate(estimates), key=lambda item: item[1].value)


@dataclass(frozen=True)
class Race:
    """Rules of a race."""

    rungs: tuple[int, ...] = (1, 2, 4)  # epochs
    leaders: int = KEEP  # trials that a trial is compared with
    model: bool = False  # proposals by a model of the trials so far, else random
    group: int = 1  # trials that wait for each other at every rung


def race(
    trials: Sequence[list[Stage]], inputs: np.ndarray, rules: Race, rng: np.random.Generator, ledger: Ledger
) -> None:
    """Search these trials; `inputs` (T, F) are their hyperparameters for the model, in [0, 1]."""
    waiting: list[int] = rng.permutation(len(trials)).tolist()
    known = dict[int, float]()  # log loss of every trial so far; of one that stopped, what it would have reached
    finished: list[int] = []  # best first

    def at(trial: int, number: int) -> np.ndarray:
        return trials[trial][min(number, len(trials[trial]) - 1)].losses

    while waiting and ledger.wants_more:
        going = [_proposal(inputs, known, waiting, rng)] if rules.model else waiting[: rules.group]
        waiting = [trial for trial in waiting if trial not in going]
        for number in itertools.count():
            known |= {trial: ledger.train(trials[trial][number].scores) for trial in going}
            ended = [trial for trial in going if number == len(trials[trial]) - 1]
            ledger.finals += [known[trial] for trial in ended]
            finished = sorted([*finished, *ended], key=lambda trial: known[trial])
            # Alone, a trial is compared with the best finished ones, which may have been behind at this rung.
            pool = finished if rules.group == 1 else sorted({*finished, *going}, key=lambda one: at(one, number).mean())
            top = pool[: rules.leaders]
            leaders = np.stack([at(trial, number) for trial in top]) if top else np.empty((0, 0))
            going = [trial for trial in going if trial not in ended]
            decisions = {trial: behind_all(at(trial, number), leaders) for trial in going if trial not in top}
            for trial, decision in decisions.items():
                if decision is not None:
                    leader, difference = decision
                    known[trial] = known[top[leader]] + difference.value
                    going.remove(trial)
            if not going:
                break


def _proposal(inputs: np.ndarray, known: dict[int, float], waiting: Sequence[int], rng: np.random.Generator) -> int:
    """Return the waiting trial with the lowest bound that a forest predicts; every CANDIDATES-th is random."""
    values = {trial: value for trial, value in known.items() if math.isfinite(value)}
    if len(values) < MODEL_AFTER or len(known) % CANDIDATES == 0:
        return waiting[0]
    forest = ExtraTreesRegressor(20, min_samples_leaf=2, random_state=int(rng.integers(2**31)))
    forest.fit(inputs[list(values)], np.log(list(values.values())))
    predicted = np.stack([tree.predict(inputs[list(waiting)]) for tree in forest.estimators_])
    return waiting[int((predicted.mean(axis=0) - predicted.std(axis=0)).argmin())]


def keras_tuner(oracle_name: str, means: np.ndarray, inputs: np.ndarray, seed: int, ledger: Ledger) -> None:
    """Search log losses (T, E) by an oracle of Keras Tuner; of a part of the grid, the nearest row is trained."""
    from catsdogs.config.schema import HyperparameterConfig
    from catsdogs.tuning.oracles import build_oracle

    space = {name: HyperparameterConfig(kind="choice", values=[*values]) for name, values in GRID.items()}
    arguments = {"bayesian": {"num_initial_points": 5}, "hyperband": {"factor": 3, "hyperband_iterations": 1000}}
    tuner = SimpleNamespace(oracle=oracle_name, max_trials=None, arguments=arguments.get(oracle_name, {}))
    config: Any = SimpleNamespace(space=space, tuner=tuner, seed=seed, fit=SimpleNamespace(epochs=means.shape[1]))
    oracle: Any = build_oracle(config)
    oracle.verbose = 0
    oracle.save = oracle._save_trial = lambda *_: None
    while ledger.wants_more:
        trial = oracle.create_trial("tuner0")
        if trial.status != "RUNNING":
            return
        values = trial.hyperparameters.values
        row = int(np.abs(inputs - encoded([values[name] for name in GRID])).sum(axis=1).argmin())
        first, last = values.get("tuner/initial_epoch", 0), values.get("tuner/epochs", means.shape[1])
        trained = means[row, first:last][: epochs_trained(means[row, first:last])]
        score = ledger.train(np.minimum.accumulate(np.where(np.isfinite(trained), trained, np.inf)))
        if last == means.shape[1]:
            ledger.finals.append(score)
        trial.status, trial.message = ("COMPLETED", None) if np.isfinite(trained).all() else ("FAILED", "diverged")
        oracle.update_trial(trial.trial_id, {"val_log_loss": score})
        oracle.end_trial(trial)


def encoded(values: Sequence[Any]) -> np.ndarray:
    """Return the values of a point as numbers (F,) in [0, 1]."""
    return np.array([GRID[n].index(v) / (len(GRID[n]) - 1) for n, v in zip(GRID, values, strict=True)])


KERAS_TUNER = ("random", "bayesian", "hyperband")
RACES = {
    "race": Race(),
    "race from epoch 2": Race(rungs=(2, 4)),
    "race, 5 leaders": Race(leaders=5),
    "race, groups of 20": Race(group=20),
    "race, model": Race(model=True),
    "race from epoch 2, model": Race(rungs=(2, 4), model=True),
}


def tolerated(best: float) -> float:
    """Return the highest log loss that is close to the best one."""
    return best + max(0.001, 0.02 * best)


def run(path: Path, name: str, seeds: Sequence[int], kind: str = "grid") -> list[dict[str, Any]]:
    """Let a tuner search a table with each of these seeds.

    `kind`: "grid" for all rows, or, for races only, STUDY random rows, which are trained on the validation split
    ("study") or in folds ("folds"), and compared with all of them in full.
    """
    table = Table.read(path)
    inputs = np.stack([encoded(POINTS[ORDER[row]]) for row in range(len(table.losses))])
    losses, rules = table.losses.astype(np.float64), RACES.get(name, Race())
    trials = [stages(one, rules.rungs) for one in losses]
    if kind == "folds":
        trials = [fold_stages(one, table.fold_of, rules.rungs) for one in table.fold_losses.astype(np.float64)]
        inputs = inputs[::EVERY]
    results = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = range(len(trials)) if kind == "grid" else rng.permutation(len(trials))[:STUDY].tolist()
        searched = [trials[row] for row in rows]
        whole = sum(len(stage.scores) for stages_ in searched for stage in stages_)
        best = min(stages_[-1].scores[-1] for stages_ in searched)
        target = tolerated(best)
        # The time of a Bayesian proposal grows with the trials, to many seconds.
        ledger = Ledger(whole / 2 if name == "bayesian" else whole)
        if name in KERAS_TUNER:
            keras_tuner(name, losses.mean(axis=2), inputs, seed, ledger)
        else:
            race(searched, inputs[list(rows)], rules, rng, ledger)
        result: dict[str, Any] = {"whole": whole, "cost": len(ledger.best), "to_close": ledger.cost_to(target)}
        result["survived"] = min(ledger.finals, default=math.inf) <= target
        results.append(result | {f"regret_{share:g}": ledger.regret(share * whole, best) for share in SHARES})
    return results


def summary(results: list[dict[str, Any]], images: float) -> dict[str, Any]:
    """Summarize the seeds of a tuner; costs in images trained on, None if more seeds never got close."""
    to_close = np.array([result["to_close"] for result in results])
    numbers = {"median": np.median(to_close), "p95": np.quantile(to_close, 0.95, method="higher")}
    costs = {key: int(images * one) if math.isfinite(one) else None for key, one in numbers.items()}
    medians = {f"{share:g}": float(np.median([one[f"regret_{share:g}"] for one in results])) for share in SHARES}
    regrets = {share: round(regret, 5) if math.isfinite(regret) else None for share, regret in medians.items()}
    shares = [result["cost"] / result["whole"] for result in results]
    return {
        "seeds": len(results),
        "image_epochs_to_close": costs,
        "median_regret_at_share_of_cost": regrets,
        "close_trial_finished": round(float(np.mean([result["survived"] for result in results])), 4),
        "median_share_of_cost": round(float(np.median(shares)), 4),
    }


def replay(paths: Sequence[Path], seeds: int, bayesian_seeds: int, processes: int) -> dict[str, Any]:
    """Replay all tuners on these tables."""
    results: dict[str, Any] = {"patience": PATIENCE, "study": STUDY, "versions": versions(), "tables": {}}
    pairs = [("grid", name) for name in KERAS_TUNER] + [*itertools.product(("grid", "study", "folds"), RACES)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for path in paths:
            table = Table.read(path)
            means = table.losses.astype(np.float64).mean(axis=2)
            lowest = np.where(np.isfinite(means), means, np.inf).min(axis=1)
            close = int((lowest <= tolerated(lowest.min())).sum())
            entry: dict[str, Any] = {"rows": len(means), "best": round(float(lowest.min()), 5), "close": close}
            results["tables"][path.stem] = entry
            for kind, name in pairs:
                count = bayesian_seeds if name == "bayesian" else seeds
                parts = [range(part, count, processes) for part in range(processes)]
                futures = [pool.submit(run, path, name, part, kind) for part in parts]
                images = table.about["train"] * (1 - (kind == "folds") / FOLDS)
                one = summary([result for future in futures for result in future.result()], images)
                entry.setdefault(kind, {})[name] = one
                print(path.stem, kind, name, json.dumps(one), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="train the grid")
    recording.add_argument("table", type=Path, metavar="TABLE.npz")
    recording.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="settings of catsdogs.search")
    recording.add_argument("--rows", type=int, default=len(POINTS), help="of the grid (default: all)")
    replaying = commands.add_parser("replay", help="search recorded tables")
    replaying.add_argument("tables", type=Path, nargs="+", metavar="TABLE.npz")
    replaying.add_argument("--seeds", type=int, default=200)
    replaying.add_argument("--bayesian-seeds", type=int, default=10, help="minutes each, for half of the cost")
    replaying.add_argument("--processes", type=int, default=1)
    replaying.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "record":
        record(options.table, options.overrides, options.rows)
    else:
        results = replay(options.tables, options.seeds, options.bayesian_seeds, options.processes)
        write_json(options.output, results)


if __name__ == "__main__":
    main()
