"""Findings -> what the template shows in every section of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from catsdogs.comparison import search_figures, theme
from catsdogs.comparison.choices import not_paired
from catsdogs.comparison.curve_figures import best_so_far
from catsdogs.comparison.evidence import WAITING, Evidence, Final
from catsdogs.comparison.final_figures import final_figures
from catsdogs.comparison.final_scores import tta_gains
from catsdogs.comparison.formats import (
    MISSING,
    between,
    count,
    cut,
    gains_told,
    loss,
    number,
    percent,
    signed,
    signed_between,
    value,
    words,
)
from catsdogs.comparison.gallery import Gallery, Shot
from catsdogs.comparison.space_figures import hyperparameter_slices, parallel_coordinates
from catsdogs.comparison.tables import Findings
from catsdogs.provenance import moment
from catsdogs.records import mapping
from catsdogs.study import FAILED, OK, RUNNING, State, retrain_command, search_command

_MOST_FAILURES = 20  # rows of the table of failed trials


def _names(evidence: Evidence) -> dict[Path, str]:
    """The name of every study by its folder."""
    studies = dict(zip(evidence.board["label"], evidence.board["study"], strict=True))
    return {job.folder.parent: str(studies[label]) for label, job in evidence.jobs.items()}


def study(evidence: Evidence, folder: Path) -> dict[str, Any]:
    """What the page says of a study as a whole."""
    name = _names(evidence)[folder]
    rows = evidence.board[evidence.board["study"] == name]
    started = [when for text in rows["started"].dropna() if (when := moment(text)) is not None]
    return {
        "name": name,
        "command": search_command(folder),
        "retrain": retrain_command(folder),
        "jobs": rows["status"].value_counts().to_dict(),
        "completed": int(rows["trials_completed"].sum()),
        "started": min(started) if started else None,
    }


def tiles(found: Findings) -> list[dict[str, str]]:
    """The numbers beside the answer: name, number, and what qualifies it."""
    told = found.answer
    if told.log_loss is None:
        return []
    made = [
        {
            "name": "log loss, validation",
            "number": loss(told.log_loss.value),
            "note": between(told.log_loss) or "no interval",
        }
    ]
    if told.accuracy is not None:
        made.append(
            {
                "name": "accuracy",
                "number": percent(told.accuracy, 2),
                "note": f"on {count(told.log_loss.size)} images",
            }
        )
    if told.lead is not None:
        made.append(
            {"name": "lead over the runner-up", "number": signed(told.lead.value), "note": signed_between(told.lead)}
        )
    if told.best in told.share_best and len(told.share_best) > 1:
        made.append(
            {
                "name": "best in",
                "number": percent(told.share_best[told.best], 0),
                "note": "of resamples of the images",
            }
        )
    return made


def leaderboard(found: Findings, jobs: pd.DataFrame) -> dict[str, Any]:
    """The table of jobs, what the page adds to each, and what all jobs share."""
    evidence, board = found.evidence, found.evidence.board
    varied, names, style = evidence.varied_choices, theme.short_names(evidence), theme.styles(evidence)
    rows = [
        {
            "job": job,
            "name": names[job["label"]],
            "colour": style[job["label"]]["marker"]["color"],
            "best": job["label"] == found.answer.best,
            "choices": [job[name] for name in varied],
            "hyperparameters": {name: job[name] for name in evidence.hyperparameters if job[name] is not None},
            "killed": job["state"] == State.KILLED,
        }
        for job in jobs.astype(object).where(jobs.notna(), None).to_dict("records")
    ]
    return {
        "choices": [words(name).capitalize() if name.islower() else name for name in varied],
        "constant": {words(name): value(thing) for name, thing in evidence.shared_choices.items()},
        "rows": rows,
        "statuses": [name for name in (OK, RUNNING, WAITING, FAILED) if (board["status"] == name).any()],
        "different_images": board["data_digest"].dropna().nunique() > 1,
    }


def effects(found: Findings, made: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Figure, table and sentences about the choices."""
    table = made.get("effects", pd.DataFrame())
    rows = table.to_dict("records")
    decided = [row for row in rows if row["decided"]]
    return {
        "plot": search_figures.effects(table, found.pairs),
        "rows": rows,
        "sentences": [_decided(row) for row in decided],
        "left_out": not_paired(found.evidence),
        "jobs": len(found.intervals),
    }


def _decided(row: Mapping[Any, Any]) -> str:
    """What a choice does, where it is more than noise; `value` is the better one."""
    pairs = int(row["pairs"])
    return (
        f"{words(row['choice']).capitalize()}: {row['value']} instead of {row['against']} lowers the log loss by "
        f"{loss(-row['difference'])} (95 % interval {loss(-row['high'])} to {loss(-row['low'])}), "
        f"over {pairs} {'pair' if pairs == 1 else 'pairs'} of jobs."
    )


def search(found: Findings) -> dict[str, Any]:
    """Figures of the trials, what matters, and what failed."""
    evidence, trials = found.evidence, found.evidence.trials
    completed = int(trials["val_log_loss"].notna().sum())
    told = found.importance
    importance = None
    if told is not None:
        plot = search_figures.importance_bars(told) if told.tells else None
        importance = {"plot": plot, "r2": told.r2, "tells": told.tells, "trials": told.trials}
    failures = trials[trials["val_log_loss"].isna()]
    counted = (
        failures.assign(error=failures["error"].fillna("").replace("", "no error was written down"))
        .groupby(["label", "status", "error"], sort=False)
        .size()
        .reset_index(name="trials")
        .to_dict("records")
        if len(failures)
        else []
    )
    return {
        "completed": completed,
        "failed": len(failures),
        "seconds": number(trials["seconds"].sum()) if len(trials) else 0.0,
        "coordinates": parallel_coordinates(evidence),
        "slices": hyperparameter_slices(evidence),
        "importance": importance,
        "best_so_far": best_so_far(evidence),
        "budget": search_figures.budget(evidence),
        "failures": counted[:_MOST_FAILURES],
        "more_failures": sum(row["trials"] for row in counted[_MOST_FAILURES:]),
    }


_SCORES = {
    "log_loss": ("Log loss", "lower is better"),
    "accuracy": ("Accuracy", "higher is better"),
    "roc_auc": ("ROC AUC", "higher is better"),
    "brier": ("Brier score", "lower is better"),
    "ece": ("Calibration error", "lower is better"),
}


def final_model(found: Findings, final: Final) -> dict[str, Any]:
    """A final model: its scores, what test-time augmentation gained, and its figures."""
    table = found.scores[final.study]
    table = table[table["value"].notna()]
    kinds = [kind for kind in ("plain", "tta", "calibrated") if (table["kind"] == kind).any()]
    rows = []
    for (split, score), part in table.groupby(["split", "score"], sort=False):
        by_kind = {row["kind"]: row for row in part.to_dict("records")}
        name, direction = _SCORES.get(str(score), (words(score), ""))
        sizes = part["size"].dropna()
        rows.append(
            {
                "name": name,
                "direction": direction,
                "split": split,
                "size": int(sizes.iloc[0]) if len(sizes) else None,
                "cells": [_score_cell(str(score), by_kind.get(kind)) for kind in kinds],
            }
        )
    metrics = final.metrics
    where = {f"{count(row['size'])} {row['split']} images" if row["size"] else "" for row in rows}
    plain = next((row["value"] for row in table.to_dict("records") if row["score"] == "log_loss"), None)
    place = list(found.evidence.finals).index(final.study)
    return {
        "study": final.study,
        "job": metrics.get("job"),
        "trial": metrics.get("trial"),
        "fit_on": metrics.get("fit_on"),
        "tta": mapping(metrics.get("tta")),
        "selected": number(metrics.get("selected_val_log_loss")),
        "plain": plain,
        "kinds": [{"plain": "Without TTA", "tta": "With TTA", "calibrated": "Calibrated"}[kind] for kind in kinds],
        "rows": rows,
        # Told once where all scores are of the same images.
        "about": where.pop() if len(where) == 1 else "",
        "gain": " ".join(gains_told(tta_gains(final), mapping(metrics.get("calibration_gain")))),
        "plots": final_figures(final, place),
    }


def _score_cell(score: str, row: Mapping[Any, Any] | None) -> dict[str, str]:
    if row is None:
        return {"number": MISSING, "between": ""}
    shown = _accuracy if score == "accuracy" else loss
    bounded = pd.notna(row["low"]) and pd.notna(row["high"])
    return {"number": shown(row["value"]), "between": f"{shown(row['low'])} to {shown(row['high'])}" if bounded else ""}


def _accuracy(share: Any) -> str:
    return percent(share, 2)


def galleries(told: Gallery | None) -> list[dict[str, Any]]:
    """The two galleries, each with what it shows."""
    if told is None:
        return []
    shown, total = len(told.mistakes), told.mistakes_total
    parts: list[tuple[str, str, str, list[Shot]]] = [
        (
            "mistakes",
            "Most confident mistakes",
            f"The {shown} most confident of {count(total)} mistakes." if total > shown else "All mistakes.",
            told.mistakes,
        ),
        ("unsure", "Least sure", "Where the probability of dog is nearest to one half.", told.unsure),
    ]
    return [
        {
            "name": name,
            "title": title,
            "about": about,
            "shots": shots,
            "pictures": any(shot.thumbnail for shot in shots),
        }
        for name, title, about, shots in parts
    ]


# What all jobs share is told in these groups, by the beginning of its key; the rest on demand.
_GROUPS = {
    "Images and split": ("images.", "data.validation_fraction", "data.split_seed", "data.limit", "seed"),
    "Versions": ("versions.",),
    "Machine": ("machine.",),
}


def ran(found: Findings, made: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """What differs between the jobs, and what they share."""
    names = theme.short_names(found.evidence)
    differences, common = made.get("differences", pd.DataFrame()), made.get("common", pd.DataFrame())
    labels = [label for label in found.evidence.board["label"] if label in found.evidence.jobs]
    rest = common.to_dict("records")
    groups = []
    for title, beginnings in _GROUPS.items():
        told = [row for row in rest if str(row["key"]).startswith(beginnings)]
        rest = [row for row in rest if row not in told]
        short = [{**row, "key": re.sub(r"^(images|versions|machine)\.", "", row["key"])} for row in told]
        for row in short:
            if row["key"].endswith("digest"):
                row["value"] = cut(row["value"], 17)
        if told:
            groups.append((title, short))
    return {
        "labels": [names[label] for label in labels],
        "differences": [
            {"key": row["key"], "values": [row[label] for label in labels]} for row in differences.to_dict("records")
        ],
        "groups": groups,
        "settings": rest,
    }
