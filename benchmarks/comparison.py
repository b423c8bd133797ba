"""Comparison of runs of both sides: one study of `search.json`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from sides import Run


def plain_seconds(run: Run, epochs: int) -> float:
    """Return the wall time of the full plain search; skipped trials and epochs are extrapolated.

    A skipped trial counts as the build time and `epochs` epochs of the trained trial of its depth. A missing epoch
    counts as the mean of the trial's epochs after the first, because only the first includes tracing.
    """
    total = run.seconds
    by_depth: dict[float, dict[str, Any]] = {}
    for trial in run.trials:
        if trial["trained"]:
            by_depth.setdefault(_depth(trial), trial)
    for trial in run.trials:
        source = trial if trial["trained"] else by_depth[_depth(trial)]
        full = training_seconds(source["epoch_seconds"], epochs)
        total += full - sum(trial["epoch_seconds"]) if trial["trained"] else source["build_seconds"] + full
    return total


def training_seconds(epoch_seconds: list[float], epochs: int) -> float:
    """Return the seconds of `epochs` epochs; a missing one counts as the mean of those after the first."""
    later = epoch_seconds[1:] or epoch_seconds
    return sum(epoch_seconds) + (epochs - len(epoch_seconds)) * statistics.fmean(later)


def check_same_trials(plain: Run, catsdogs: Run) -> None:
    """Exit with a message unless both sides used the same hyperparameters in the same order."""
    catsdogs_values = [trial["hyperparameters"] for trial in catsdogs.trials]
    plain_values = [trial["hyperparameters"] for trial in plain.trials]
    same = len(catsdogs_values) == len(plain_values) and all(
        a.keys() == b.keys() and all(math.isclose(a[name], b[name], rel_tol=1e-9) for name in a)
        for a, b in zip(catsdogs_values, plain_values, strict=True)
    )
    if not same:
        raise SystemExit(f"hyperparameters differ:\nplain    {plain_values}\ncatsdogs {catsdogs_values}")


def compare_trials(plain: Run, cold: Run, warm: Run) -> list[dict[str, Any]]:
    """Return a row per trained plain trial: the best val_log_loss of the three runs, and the differences.

    Only epochs trained by all three count: all epochs, unless --plain-epochs is set.
    """
    rows = []
    for reference, first, second in zip(plain.trials, cold.trials, warm.trials, strict=True):
        if not reference["trained"]:
            continue
        epochs = len(reference["val_log_loss"])
        losses = {"plain": reference["val_log_loss"], "cold": first["val_log_loss"], "warm": second["val_log_loss"]}
        if any(len(values) < epochs for values in losses.values()):
            raise SystemExit(f"trial {reference['trial']}: catsdogs trained fewer than {epochs} epochs")
        losses = {side: values[:epochs] for side, values in losses.items()}
        rows.append(
            {
                "trial": reference["trial"],
                **reference["hyperparameters"],
                "epochs": epochs,
                **{f"val_log_loss_{side}": min(values) for side, values in losses.items()},
                "difference": max(abs(min(losses[side]) - min(losses["plain"])) for side in ("cold", "warm")),
                "difference_of_epochs": max(
                    abs(value - plain_value)
                    for side in ("cold", "warm")
                    for value, plain_value in zip(losses[side], losses["plain"], strict=True)
                ),
            }
        )
    return rows


def study_record(
    trials: int, epochs: int, overrides: list[str], plain: list[Run], cold: list[Run], warm: list[Run], store_bytes: int
) -> dict[str, Any]:
    """Return the record of a study with one run per round and side: median times, largest differences."""
    for plain_run, catsdogs_run in ((p, c) for p in plain for c in (*cold, *warm)):
        check_same_trials(plain_run, catsdogs_run)
    rounds = {
        "plain": [plain_seconds(run, epochs) for run in plain],
        "cold": [run.seconds for run in cold],
        "warm": [run.seconds for run in warm],
    }
    seconds = {side: statistics.median(values) for side, values in rounds.items()}
    # Plain runs may be shared with another study, so their number may differ.
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
    """Return, by unfreeze depth, the number of trained trials and mean seconds of epochs, builds and trials."""
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
