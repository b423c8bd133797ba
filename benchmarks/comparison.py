"""Runs of both sides -> one study of `search.json`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from sides import Run


def plain_seconds(run: Run, epochs: int) -> float:
    """Wall time of the whole plain search, with what was not trained charged at what its depth took.

    A trial that was passed over is charged its depth's build and `epochs` epochs; epochs that a trained trial was
    spared are charged the mean of its own after the first, which alone contains the tracing.
    """
    total = run.seconds
    by_depth: dict[float, dict[str, Any]] = {}
    for trial in run.trials:
        if trial["trained"]:
            by_depth.setdefault(_depth(trial), trial)
    for trial in run.trials:
        source = trial if trial["trained"] else by_depth[_depth(trial)]
        whole = training_seconds(source["epoch_seconds"], epochs)
        total += whole - sum(trial["epoch_seconds"]) if trial["trained"] else source["build_seconds"] + whole
    return total


def training_seconds(epoch_seconds: list[float], epochs: int) -> float:
    """Seconds of `epochs` epochs, those that are missing at the mean of the measured ones after the first."""
    later = epoch_seconds[1:] or epoch_seconds
    return sum(epoch_seconds) + (epochs - len(epoch_seconds)) * statistics.fmean(later)


def check_same_trials(plain: Run, catsdogs: Run) -> None:
    """Leave with a message unless both sides tried the same values in the same order."""
    ours = [trial["hyperparameters"] for trial in catsdogs.trials]
    theirs = [trial["hyperparameters"] for trial in plain.trials]
    same = len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(math.isclose(a[name], b[name], rel_tol=1e-9) for name in a)
        for a, b in zip(ours, theirs, strict=True)
    )
    if not same:
        raise SystemExit(f"the two sides searched different values:\nplain    {theirs}\ncatsdogs {ours}")


def compare_trials(plain: Run, cold: Run, warm: Run) -> list[dict[str, Any]]:
    """A row per trial that the plain side trained: best val_log_loss of all three, and the differences.

    Best over the epochs that all have trained, which are all epochs unless --plain-epochs says otherwise.
    """
    rows = []
    for theirs, first, second in zip(plain.trials, cold.trials, warm.trials, strict=True):
        if not theirs["trained"]:
            continue
        epochs = len(theirs["val_log_loss"])
        losses = {"plain": theirs["val_log_loss"], "cold": first["val_log_loss"], "warm": second["val_log_loss"]}
        if any(len(values) < epochs for values in losses.values()):
            raise SystemExit(f"trial {theirs['trial']} of catsdogs stopped before the plain one")
        losses = {side: values[:epochs] for side, values in losses.items()}
        rows.append(
            {
                "trial": theirs["trial"],
                **theirs["hyperparameters"],
                "epochs": epochs,
                **{f"val_log_loss_{side}": min(values) for side, values in losses.items()},
                "difference": max(abs(min(losses[side]) - min(losses["plain"])) for side in ("cold", "warm")),
                "difference_of_epochs": max(
                    abs(ours - plain_value)
                    for side in ("cold", "warm")
                    for ours, plain_value in zip(losses[side], losses["plain"], strict=True)
                ),
            }
        )
    return rows


def study_record(
    trials: int, epochs: int, overrides: list[str], plain: list[Run], cold: list[Run], warm: list[Run], store_bytes: int
) -> dict[str, Any]:
    """One study; a run per round of each side, of which times are medians and differences maxima."""
    for theirs, ours in ((p, c) for p in plain for c in (*cold, *warm)):
        check_same_trials(theirs, ours)
    rounds = {
        "plain": [plain_seconds(run, epochs) for run in plain],
        "cold": [run.seconds for run in cold],
        "warm": [run.seconds for run in warm],
    }
    seconds = {side: statistics.median(values) for side, values in rounds.items()}
    # Another study's plain runs may serve here, so their number may differ.
    tables = [compare_trials(p, c, w) for p in plain for c, w in zip(cold, warm, strict=True)]
    trained = [trial for trial in plain[0].trials if trial["trained"]]
    extrapolated = len(trained) < trials or any(len(trial["epoch_seconds"]) < epochs for trial in trained)
    return {
        "ratio_cold": seconds["plain"] / seconds["cold"],
        "ratio_warm": seconds["plain"] / seconds["warm"],
        "max_val_log_loss_difference": max(row["difference"] for table in tables for row in table),
        "max_val_log_loss_difference_of_epochs": max(row["difference_of_epochs"] for table in tables for row in table),
        "trials": trials,
        "epochs": epochs,
        "overrides": overrides,
        "seconds": seconds,
        "seconds_of_rounds": rounds,
        "cpu_seconds_measured": {
            side: [run.cpu_seconds for run in runs] for side, runs in (("plain", plain), ("cold", cold), ("warm", warm))
        },
        "plain_extrapolated": extrapolated,
        "plain_measured_trials": [trial["trial"] for trial in trained],
        "plain_measured_epochs": [len(trial["epoch_seconds"]) for trial in trained],
        "plain_measured_process_seconds": [run.seconds for run in plain],
        "compared_trials": tables[0],
        "depths": {
            "plain": depths(trial for run in plain for trial in run.trials),
            "cold": depths(trial for run in cold for trial in run.trials),
            "warm": depths(trial for run in warm for trial in run.trials),
        },
        "peak_rss_mib": {
            side: round(max(run.peak_rss_mib for run in runs))
            for side, runs in (("plain", plain), ("cold", cold), ("warm", warm))
        },
        "store_bytes": store_bytes,
    }


def depths(trials: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By unfreeze depth: trials trained, mean seconds of a first and of a later epoch, of building and of a trial."""
    groups: dict[float, list[dict[str, Any]]] = {}
    for trial in trials:
        if trial["trained"]:
            groups.setdefault(_depth(trial), []).append(trial)
    table = {}
    for depth, group in sorted(groups.items()):
        later = [seconds for trial in group for seconds in trial["epoch_seconds"][1:]]
        builds = [trial["build_seconds"] for trial in group if "build_seconds" in trial]
        table[str(int(depth))] = {
            "trials": len(group),
            "first_epoch_seconds": statistics.fmean(trial["epoch_seconds"][0] for trial in group),
            "later_epoch_seconds": statistics.fmean(later) if later else None,
            "build_seconds": statistics.fmean(builds) if builds else None,
            "trial_seconds": statistics.fmean(trial["seconds"] for trial in group),
        }
    return table


def _depth(trial: dict[str, Any]) -> float:
    return float(trial["hyperparameters"]["unfreeze_depth"])
