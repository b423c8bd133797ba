"""Findings -> what the template shows in every section of the page."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.base.provenance import parse_timestamp
from catsdogs.comparison.choices import unpaired_choices
from catsdogs.comparison.figures import search as search_figures
from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import best_so_far
from catsdogs.comparison.figures.final_model import final_figures
from catsdogs.comparison.figures.space import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.final_scores import tta_gains
from catsdogs.comparison.study_data import WAITING, FinalModel, StudyData
from catsdogs.comparison.tables import Findings
from catsdogs.pages.formats import (
    MISSING,
    between,
    count,
    counted,
    cut,
    format_gains,
    loss,
    number,
    percent,
    signed,
    value,
    words,
)
from catsdogs.study.jobs import FAILED, OK, RUNNING, State, retrain_command, search_command

_MOST_FAILURES = 20  # rows of the table of failed trials


def study(study_data: StudyData, folder: Path) -> dict[str, Any]:
    """What the page says of a study as a whole."""
    names = study_data.leaderboard.set_index("label")["study"]
    name = next(names[label] for label, job in study_data.jobs.items() if job.folder.parent == folder)
    rows = study_data.leaderboard[study_data.leaderboard["study"] == name]
    started = [when for text in rows["started"].dropna() if (when := parse_timestamp(text)) is not None]
    return {
        "name": name,
        "command": search_command(folder),
        "retrain": retrain_command(folder),
        "jobs": rows["status"].value_counts().to_dict(),
        "completed": int(rows["trials_completed"].sum()),
        "started": min(started) if started else None,
    }


def tiles(found: Findings) -> list[tuple[str, str, str]]:
    """The numbers beside the answer: name, number, and what qualifies it."""
    told = found.summary
    if told.log_loss is None:
        return []
    made = [
        ("log loss, validation", loss(told.log_loss.value), between(told.log_loss) or "no interval"),
        ("accuracy", percent(told.accuracy, 2), f"on {count(told.log_loss.size)} images"),
    ]
    if told.margin is not None:
        made.append(("lead over the runner-up", signed(told.margin.value), between(told.margin, signed)))
    if told.best in told.share_best and len(told.share_best) > 1:
        made.append(("best in", percent(told.share_best[told.best], 0), "of resamples of the images"))
    return made


def leaderboard(found: Findings, jobs: pd.DataFrame) -> dict[str, Any]:
    """The table of jobs, what the page adds to each, and what all jobs share."""
    study_data, board = found.study_data, found.study_data.leaderboard
    varied, names, style = study_data.varied_choices, theme.short_names(study_data), theme.styles(study_data)
    rows = [
        {
            "job": job,
            "name": names[job["label"]],
            "colour": style[job["label"]]["marker"]["color"],
            "best": job["label"] == found.summary.best,
            "choices": [job[name] for name in varied],
            "hyperparameters": {name: job[name] for name in study_data.hyperparameters if job[name] is not None},
            "killed": job["state"] == State.KILLED,
        }
        for job in jobs.astype(object).where(jobs.notna(), None).to_dict("records")
    ]
    return {
        "choices": [words(name).capitalize() if name.islower() else name for name in varied],
        "constant": {words(name): value(thing) for name, thing in study_data.shared_choices.items()},
        "rows": rows,
        "statuses": [name for name in (OK, RUNNING, WAITING, FAILED) if (board["status"] == name).any()],
        "different_images": board["data_digest"].dropna().nunique() > 1,
    }


def effects(found: Findings) -> dict[str, Any]:
    """Figure, table and sentences about the choices."""
    rows = found.effects.to_dict("records")
    return {
        "plot": search_figures.effects(found.effects, found.pairs),
        "rows": rows,
        "sentences": [_decided(row) for row in rows if row["decided"]],
        "left_out": unpaired_choices(found.study_data),
        "jobs": len(found.intervals),
    }


def _decided(row: Mapping[Any, Any]) -> str:
    """What a choice does, where it is more than noise; `value` is the better one."""
    return (
        f"{words(row['choice']).capitalize()}: {row['value']} instead of {row['against']} lowers the log loss by "
        f"{loss(-row['difference'])} (95 % interval {loss(-row['high'])} to {loss(-row['low'])}), "
        f"over {counted(row['pairs'], 'pair')} of jobs."
    )


def search(found: Findings) -> dict[str, Any]:
    """Figures of the trials, what matters, and what failed."""
    study_data, trials = found.study_data, found.study_data.trials
    completed = int(trials["val_log_loss"].notna().sum())
    told = found.importance
    failures = trials[trials["val_log_loss"].isna()]
    reasons = failures.assign(error=failures["error"].fillna("").replace("", "no error was written down"))
    told_reasons = (
        reasons.groupby(["label", "status", "error"], sort=False).size().reset_index(name="trials").to_dict("records")
    )
    return {
        "completed": completed,
        "failed": len(failures),
        "seconds": number(trials["seconds"].sum()),
        "coordinates": parallel_coordinates(study_data),
        "slices": hyperparameter_slices(study_data),
        "importance": told,
        "importance_plot": None if told is None or not told.is_informative else search_figures.importance_bars(told),
        "best_so_far": best_so_far(study_data),
        "budget": search_figures.budget(study_data),
        "failures": told_reasons[:_MOST_FAILURES],
        "more_failures": sum(row["trials"] for row in told_reasons[_MOST_FAILURES:]),
    }


_SCORES: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "log_loss": ("Log loss", "lower is better", loss),
    "accuracy": ("Accuracy", "higher is better", functools.partial(percent, decimals=2)),
    "roc_auc": ("ROC AUC", "higher is better", loss),
    "brier": ("Brier score", "lower is better", loss),
    "ece": ("Calibration error", "lower is better", loss),
}


def final_model(found: Findings, final: FinalModel) -> dict[str, Any]:
    """A final model: its scores, what test-time augmentation gained, and its figures."""
    table = found.scores[final.study]
    table = table[table["value"].notna()]
    kinds = [kind for kind in ("plain", "tta", "calibrated") if (table["kind"] == kind).any()]
    rows = []
    for (split, score), part in table.groupby(["split", "score"], sort=False):
        by_kind = {row["kind"]: row for row in part.to_dict("records")}
        name, direction, shown = _SCORES[str(score)]
        size = part["size"].iloc[0]
        rows.append(
            {
                "name": name,
                "direction": direction,
                "split": split,
                "size": None if pd.isna(size) else int(size),
                "cells": [_cell(shown, by_kind[kind]) if kind in by_kind else (MISSING, "") for kind in kinds],
            }
        )
    metrics = final.metrics
    where = {f"On {count(row['size'])} {row['split']} images; " if row["size"] else "" for row in rows}
    return {
        "study": final.study,
        "job": metrics.get("job"),
        "trial": metrics.get("trial"),
        "fit_on": metrics.get("fit_on"),
        "selected": number(metrics.get("selected_val_log_loss")),
        "plain": next(iter(table.loc[table["score"] == "log_loss", "value"]), None),
        "kinds": [{"plain": "Without TTA", "tta": "With TTA", "calibrated": "Calibrated"}[kind] for kind in kinds],
        "rows": rows,
        # Told once where all scores are of the same images.
        "about": where.pop() if len(where) == 1 else "",
        "gain": " ".join(format_gains(tta_gains(final), metrics["calibration_gain"])),
        "plots": final_figures(final, list(found.study_data.final_models).index(final.study)),
    }


def _cell(shown: Callable[[Any], str], row: Mapping[Any, Any]) -> tuple[str, str]:
    """A score and its interval."""
    bounded = pd.notna(row["low"]) and pd.notna(row["high"])
    return shown(row["value"]), f"{shown(row['low'])} to {shown(row['high'])}" if bounded else ""


# What all jobs share is told in these groups, by the beginning of its key; the rest on demand.
_GROUPS = {
    "Images and split": ("images.", "data.validation_fraction", "data.split_seed", "data.limit", "seed"),
    "Versions": ("versions.",),
    "Machine": ("machine.",),
}


def ran(found: Findings, made: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What differs between the jobs, and what they share."""
    names = theme.short_names(found.study_data)
    differences, common = made.get("differences", pd.DataFrame()), made.get("common", pd.DataFrame())
    labels = [label for label in found.study_data.leaderboard["label"] if label in found.study_data.jobs]
    rest = common.to_dict("records")
    groups = []
    for title, beginnings in _GROUPS.items():
        told = [row for row in rest if str(row["key"]).startswith(beginnings)]
        rest = [row for row in rest if row not in told]
        groups.append((title, [_short(row["key"], row["value"]) for row in told]))
    return {
        "labels": [names[label] for label in labels],
        "differences": [
            {"key": row["key"], "values": [row[label] for label in labels]} for row in differences.to_dict("records")
        ],
        "groups": [(title, rows) for title, rows in groups if rows],
        "settings": rest,
    }


def _short(key: str, value: str) -> dict[str, str]:
    key = re.sub(r"^(images|versions|machine)\.", "", key)
    return {"key": key, "value": cut(value, 17) if key.endswith("digest") else value}
