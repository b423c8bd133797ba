"""Template data for each section of the report page."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.provenance import parse_timestamp
from catsdogs.base.text import joined
from catsdogs.comparison.figures import search as search_figures
from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import best_so_far
from catsdogs.comparison.figures.final_model import final_figures
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.final_models import FinalModel
from catsdogs.comparison.study_data import WAITING, StudyData
from catsdogs.comparison.summary import FEW_IMAGES
from catsdogs.comparison.tables import Findings
from catsdogs.pages import formats
from catsdogs.pages.formats import accuracy_text, between, count, counted, few_errors, loss, percent, signed, words
from catsdogs.scoring.intervals import Estimate
from catsdogs.study.jobs import FAILED, OK, RUNNING, State
from catsdogs.study.plan import retrain_command, search_command
from catsdogs.study.trials import STOPPED

_MOST_TRIALS = 100  # rows of the table of trials
_MOST_FAILURES = 20  # rows of the table of failed trials
_MATRIX_CLASSES = 20  # with more, the most frequent confusions are shown instead of the matrix
_MOST_CONFUSIONS = 20
_CLASS_LENGTH = 24  # characters of a class in the confusion matrix


def study(study_data: StudyData, folder: Path) -> dict[str, Any]:
    """Return name, commands, job counts and start of a study."""
    board = study_data.leaderboard
    label = next(label for label, job in study_data.jobs.items() if job.folder.parent == folder)
    rows = board[board["study"] == board.set_index("label")["study"][label]]
    started = [when for text in rows["started"].dropna() if (when := parse_timestamp(text)) is not None]
    return {
        "name": rows["study"].iloc[0],
        "command": search_command(folder),
        "retrain": retrain_command(folder),
        "jobs": rows["status"].value_counts().to_dict(),
        "completed": int(rows["trials_completed"].sum()),
        "started": min(started, default=None),
    }


def tiles(results: Findings) -> list[tuple[str, str, str]]:
    """Return the key numbers of the summary: name, number and note; those of the final model if it has a score."""
    summary = results.summary
    split, step, score = (summary.final and summary.final.result()) or ("validation", "", summary.log_loss)
    if score is None:
        return []
    interval = between(score)
    note = f"95% confidence interval (CI) {interval}" if interval else "no confidence interval"
    accuracy, *parts = _accuracy(score)
    parts[0] = f"95% CI {parts[0]}, on {counted(score.size, f'{split} image')}"
    key_numbers = [(f"{split.capitalize()} log loss{step}", loss(score.value), note)]
    key_numbers.append(("Accuracy", accuracy, ", ".join(parts)))
    if summary.margin is not None:
        interval = between(summary.margin, signed)
        note = f"95% CI {interval}" if interval else "no confidence interval"
        lead = "Search: lead over the runner-up" if summary.final else "Lead over the runner-up"
        key_numbers.append((lead, signed(summary.margin.value), note))
    if summary.best in summary.share_best and len(summary.share_best) > 1:
        share = percent(summary.share_best[summary.best], 0)
        key_numbers.append(("Ranked first in", share, "of bootstrap resamples of the images"))
    return key_numbers


def _accuracy(score: Estimate) -> list[str]:
    """Return the accuracy, its interval, and the number of errors if there are few."""
    number, _, interval = accuracy_text(score.errors, score.size).partition(" (95% CI ")
    few = [f"only {counted(score.errors or 0, 'error')}"] if score.few_errors else []
    return [number, interval.rstrip(")"), *few]


def leaderboard(results: Findings, jobs: pd.DataFrame) -> dict[str, Any]:
    """Return rows, columns and notes of the leaderboard; `jobs` is the table of the same name."""
    study_data, board = results.study_data, results.study_data.leaderboard
    intervals = results.summary.intervals
    varied, names, style = study_data.varied_choices, theme.short_names(study_data), theme.styles(study_data)
    rows = [
        {
            "job": job,
            "name": names[job["label"]],
            "color": style[job["label"]]["marker"]["color"],
            "best": job["label"] == results.summary.best,
            "choices": [job[name] for name in varied],
            "hyperparameters": {name: job[name] for name in study_data.hyperparameters if job[name] is not None},
            "killed": job["state"] == State.KILLED,
            "accuracy": _accuracy(intervals[job["label"]])[1:] if job["label"] in intervals else [],
        }
        for job in jobs.astype(object).where(jobs.notna(), None).to_dict("records")
    ]
    images = {job.data_digest for job in study_data.jobs.values() if job.data_digest}
    return {
        "choices": [words(name).capitalize() if name.islower() else name for name in varied],
        "constant": {words(name): formats.value(choice) for name, choice in study_data.shared_choices.items()},
        "rows": rows,
        "statuses": [name for name in (OK, RUNNING, WAITING, FAILED, State.DELETED) if (board["status"] == name).any()],
        "different_images": len(images) > 1,
    }


def effects(results: Findings) -> dict[str, Any]:
    """Return figure, table rows and sentences on the effects of choices."""
    rows = results.effects.to_dict("records")
    few = {few_errors(row["errors"], row["images"], " by a compared job"): None for row in rows}
    return {
        "plot": search_figures.effects(results.effects, results.pairs),
        "rows": rows,
        "sentences": [_describe_effect(row) for row in rows if row["decided"]],
        "warnings": [sentence for sentence in few if sentence],
        "jobs": len(results.summary.intervals),
    }


def _describe_effect(row: Mapping[Any, Any]) -> str:
    change = f"{words(row['choice']).capitalize()}: {row['value']} instead of {row['against']} lowers the log loss"
    interval = f"95% CI {loss(-row['high'])} to {loss(-row['low'])}"
    return f"{change} by {loss(-row['difference'])} ({interval}; {counted(row['pairs'], 'pair')} of jobs)."


def search(results: Findings) -> dict[str, Any]:
    """Return figures and counts of the trials, and the reasons of failed ones."""
    study_data, trials = results.study_data, results.study_data.trials
    importance = results.importance
    failed = trials[trials["val_log_loss"].isna()]
    errors = failed["error"].fillna("").replace("", "no error message was recorded")
    groups = failed.assign(error=errors).groupby(["label", "status", "error"], sort=False)
    failures = groups.size().reset_index(name="trials").to_dict("records")
    return {
        "completed": len(trials) - len(failed),
        "trials": _best_trials(study_data),
        "hyperparameters": study_data.hyperparameters,
        "stopped": int((failed["status"] == STOPPED).sum()),
        "failed": int((failed["status"] != STOPPED).sum()),
        "seconds": formats.number(trials["seconds"].sum()),
        "coordinates": parallel_coordinates(study_data),
        "slices": hyperparameter_slices(study_data),
        "importance": importance,
        "importance_plot": search_figures.importance_bars(importance) if importance else None,
        "best_so_far": best_so_far(study_data),
        "failures": failures[:_MOST_FAILURES],
        "more_failures": sum(row["trials"] for row in failures[_MOST_FAILURES:]),
    }


def _best_trials(study_data: StudyData) -> list[dict[Any, Any]]:
    """Return the completed trials with the lowest log losses, each with the short name of its job."""
    done = study_data.trials.dropna(subset="val_log_loss").sort_values("val_log_loss", kind="stable").head(_MOST_TRIALS)
    done = done.assign(name=done["label"].map(theme.short_names(study_data))).astype(object)
    return done.where(done.notna(), None).to_dict("records")


_SCORES: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "log_loss": ("Log loss", "lower is better", loss),
    "accuracy": ("Accuracy", "higher is better", functools.partial(percent, decimals=2)),
    "balanced_accuracy": ("Balanced accuracy", "higher is better", functools.partial(percent, decimals=2)),
    "macro_f1": ("Macro F1", "higher is better", loss),
    "roc_auc": ("ROC AUC", "higher is better", loss),
    "brier": ("Brier score", "lower is better", loss),
    "ece": ("Calibration error", "lower is better", loss),
}


def final_model(results: Findings, final: FinalModel) -> dict[str, Any]:
    """Return scores, gains and figures of a final model."""
    table = results.scores[final.study]
    table = table[table["value"].notna()]
    kinds = [kind for kind in ("plain", "tta", "calibrated") if (table["kind"] == kind).any()]
    rows = []
    for (split, score), part in table.groupby(["split", "score"], sort=False):
        by_kind = {row["kind"]: row for row in part.to_dict("records")}
        name, direction, text = _SCORES[str(score)]
        if score == "roc_auc" and len(final.classes) > 2:
            name = f"{name}, one class against the rest"
        size = None if pd.isna(part["size"].iloc[0]) else int(part["size"].iloc[0])
        cells = [_cell(text, by_kind[kind]) if kind in by_kind else (formats.MISSING, "") for kind in kinds]
        rows.append({"name": name, "direction": direction, "split": split, "size": size, "cells": cells})
    metrics = final.metrics
    several_jobs = (results.study_data.leaderboard["study"] == final.study).sum() > 1
    images = {f"{count(row['size'])} {row['split']} images; " if row["size"] else "" for row in rows}
    return {
        "study": final.study,
        "model": formats.describe_model(metrics),
        "trained": _trained(metrics),
        "evaluated": metrics.get("validated_by") in (None, "final model"),
        "selected": formats.number(metrics.get("selected_val_log_loss")),
        "plain": next(iter(table.loc[table["score"] == "log_loss", "value"]), None),
        "kinds": [{"plain": "Without TTA", "tta": "With TTA", "calibrated": "Calibrated"}[kind] for kind in kinds],
        "rows": rows,
        # Shown once if all scores are of the same images; otherwise, the table has a column for them.
        "images": images.pop() if len(images) == 1 else "",
        "not_scored": formats.not_scored(metrics["test_images_not_scored"]),
        "interval": metrics["interval"],
        "warnings": metrics["warnings"],
        "chosen": joined(metrics.get("chosen_on_validation") or formats.chosen_on_validation(several_jobs, metrics)),
        "gain": " ".join(
            formats.format_ensemble_gain(metrics["ensemble"] or {})
            + formats.format_gains(metrics["tta_gain"], metrics["calibration_gain"], metrics["tta_choice"])
        ),
        "plots": final_figures(final, list(results.study_data.final_models).index(final.study)),
    }


def _trained(metrics: Mapping[str, Any]) -> str:
    """Return how the final model was trained."""
    if (metrics["ensemble"] or {}).get("kind") == "trials":
        return "with the weights of the search"
    return "retrained on all labeled images" if metrics.get("fit_on") == "all" else "retrained"


def _cell(text: Callable[[Any], str], row: Mapping[Any, Any]) -> tuple[str, str]:
    bounded = pd.notna(row["low"]) and pd.notna(row["high"])
    return text(row["value"]), f"{text(row['low'])} to {text(row['high'])}" if bounded else ""


def classes(results: Findings) -> dict[str, Any]:
    """Return the scores of each class and the confusion matrix; for many classes, the most frequent confusions."""
    model = results.evaluated
    if model is None:
        return {}
    pairs = model.confusions()
    errors = pairs[pairs["class"] != pairs["predicted"]].sort_values("images", ascending=False, kind="stable")
    names = {name: formats.cut_in_the_middle(name, _CLASS_LENGTH) for name in model.classes.names}
    return {
        "source": model.source,
        "images": len(model.table),
        "rows": model.class_table().to_dict("records"),
        "few": FEW_IMAGES,
        "names": names if len(names) <= _MATRIX_CLASSES else {},
        "pairs": {(row["class"], row["predicted"]): row for row in pairs.to_dict("records")},
        "confused": len(errors),
        "errors": errors.head(_MOST_CONFUSIONS).to_dict("records"),
    }


def settings(results: Findings, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return settings, versions, images and machines: those that differ between jobs, and those that all share."""
    names = theme.short_names(results.study_data)
    differences, common = tables.get("differences", pd.DataFrame()), tables.get("common", pd.DataFrame())
    labels = [label for label in results.study_data.leaderboard["label"] if label in results.study_data.jobs]
    rows = [{"key": row["key"], "values": [row[label] for label in labels]} for row in differences.to_dict("records")]
    shared = common.to_dict("records")
    return {"labels": [names[label] for label in labels], "differences": rows, "shared": shared}
