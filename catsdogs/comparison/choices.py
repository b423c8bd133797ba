"""Evidence -> effect of each composed choice, over pairs of jobs that differ in nothing else.

Two jobs make a pair for a choice if they tell different values of it, tell the same values of every other choice, and
were run with the same configuration but for the keys that belong to the choice: `backbone` owns `backbone.*`,
`fit.epochs` itself. A choice that is no key of the configuration, such as `experiment`, may change any key, so it owns
all of them. What `catsdogs.study.identity.identity` leaves out, where things lie and what comes after the search, does
not count.

Jobs of several studies pair likewise. Where two studies made the same choices, the study itself is one more choice,
named `study`; it owns all keys, so its effect is that of everything in which the studies differ.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.base.text import listed
from catsdogs.comparison.study_data import StudyData
from catsdogs.config.schema import SearchConfig
from catsdogs.scoring.intervals import mean_intervals
from catsdogs.study.identity import identity

STUDY = "study"

# Of a choice with more values, each is compared with the best one only: 10 values would make 45 pairs.
MOST_VALUES = 4

# Stands for a choice that a job does not tell, because only another study varied it.
UNRECORDED = "not told"

_EFFECT = ["choice", "value", "against"]
_PAIR = [*_EFFECT, "label", "label_against"]
_MEASURED = {"difference": float, "low": float, "high": float, "images": int}

# A key of the configuration that `identity` computes from another.
_DERIVED = {"fit.epochs": "features.views"}

_KEYS = frozenset(item.name for item in dataclasses.fields(SearchConfig))

# By label of the comparable jobs, what each tells by name.
_Told = dict[str, dict[str, str]]


def compared_choices(study_data: StudyData) -> tuple[str, ...]:
    """The choices in which the comparable jobs differ, `study` among them where it tells jobs apart that else agree."""
    return _compared(study_data, _made_choices(study_data))


def choice_pairs(study_data: StudyData) -> pd.DataFrame:
    """Every pair of jobs behind `choice_effects`.

    Returns:
        A row per pair: choice, value (of `label`), against (of `label_against`), label, label_against, difference (log
        loss of `label` minus that of `label_against`, mean over images), low, high (95 % interval, NaN for a single
        image), images. The order of value and against is that of the effect, so a difference above 0 is a pair that
        speaks against it.
    """
    losses = study_data.losses()
    pairs = _fair_pairs(study_data, losses)
    return pairs.join(_intervals(list(_differences(losses, pairs).T)))


def choice_effects(study_data: StudyData) -> pd.DataFrame:
    """How much each choice changes the log loss, averaged over the pairs of jobs that differ in it alone.

    The differences of a pair are taken image by image and averaged over the pairs; the interval is over images. It does
    not cover the seeds of the training, nor that a choice could work otherwise beside other choices.

    Returns:
        A row per choice and pair of values, those of a choice together, the largest effect first: choice, value (the
        better one), against, difference (log loss of value minus that of against, at most 0), low, high (95 % interval,
        NaN for a single image), decided (whether the interval excludes 0), pairs, images. Of a choice with more than
        `MOST_VALUES` values each is compared with the best one only: the value whose jobs are furthest below the mean
        of the jobs that differ from them in this choice alone.
    """
    losses = study_data.losses()
    effects = _fair_pairs(study_data, losses).groupby(_EFFECT, sort=False)
    table = effects.size().reset_index(name="pairs")
    table = table.join(_intervals([_differences(losses, pairs).mean(axis=1) for _, pairs in effects]))
    table["decided"] = (table["low"] > 0) | (table["high"] < 0)
    table["strongest"] = table.groupby("choice")["difference"].transform("min")
    table = table.sort_values(["strongest", "choice"], kind="stable", ignore_index=True)
    return table[[*_EFFECT, "difference", "low", "high", "decided", "pairs", "images"]]


def unpaired_choices(study_data: StudyData) -> list[str]:
    """Sentences about pairs of jobs that differ in one choice, but in other settings too, and so are not compared."""
    found: dict[str, list[set[str]]] = {name: [] for name in compared_choices(study_data)}
    for choice, _, _, unshared in _near_pairs(study_data, _made_choices(study_data)):
        if unshared:
            found[choice].append(unshared)
    return [
        f"{choice}: {'1 pair of jobs differs' if len(keys) == 1 else f'{len(keys)} pairs of jobs differ'} also in "
        f"{listed(sorted(set[str]().union(*keys)))} and so cannot tell its effect."
        for choice, keys in found.items()
        if keys
    ]


def unlisted_differences(study_data: StudyData) -> list[str]:
    """Keys of the configuration in which comparable jobs differ, though no choice of theirs tells it.

    A difference between the jobs may come from there.
    """
    settings = list(_settings(study_data).values())
    choices = [name for name in compared_choices(study_data) if name != STUDY]
    keys = {key for other in settings[1:] for key in _differing(settings[0], other)}
    return sorted(key for key in keys if not any(_owns(choice, key) for choice in choices))


def _near_pairs(study_data: StudyData, made: _Told) -> Iterator[tuple[str, str, str, set[str]]]:
    """Pairs of jobs that differ in one choice, which both tell: it, the labels, and what else they do not share."""
    settings, compared = _settings(study_data), _compared(study_data, made)
    for one, other in itertools.combinations(made, 2):
        apart = [name for name in compared if made[one][name] != made[other][name]]
        if len(apart) == 1 and UNRECORDED not in (made[one][apart[0]], made[other][apart[0]]):
            differing = _differing(settings[one], settings[other])
            yield apart[0], one, other, {key for key in differing if not _owns(apart[0], key)}


def _fair_pairs(study_data: StudyData, losses: pd.DataFrame) -> pd.DataFrame:
    """Pairs that differ in nothing else, in the order of the effects: choice, value, against, label, label_against."""
    made = _made_choices(study_data)
    rows = []
    # Jobs that differ from one another in this choice alone: the best of them names them.
    first_of_alike: dict[tuple[str, str], str] = {}
    for choice, one, other, unshared in _near_pairs(study_data, made):
        if not unshared:
            first = first_of_alike[choice, other] = first_of_alike.setdefault((choice, one), one)
            (value, label), (against, label_against) = sorted((made[name][choice], name) for name in (one, other))
            rows.append([choice, value, against, label, label_against, first])
    pairs = pd.DataFrame(rows, columns=[*_PAIR, "first"])
    if pairs.empty or losses.empty:
        return pairs.loc[:, _PAIR].head(0)
    means = losses.mean()
    pairs = pd.concat([_with_the_best(its_pairs, means) for _, its_pairs in pairs.groupby("choice")])
    pairs["apart"] = means[pairs["label"]].to_numpy() - means[pairs["label_against"]].to_numpy()
    apart = pairs.groupby(_EFFECT)["apart"].transform("mean")
    pairs = pairs.assign(size=-apart.abs(), worse=apart > 0, rank=pairs["first"].map(list(made).index))
    pairs["place"] = pairs["choice"].map(_compared(study_data, made).index)
    pairs = pairs.sort_values(["place", "size", "value", "against", "rank"], kind="stable", ignore_index=True)
    turned = {"value": "against", "against": "value", "label": "label_against", "label_against": "label"}
    return pairs[_PAIR].where(~pairs["worse"], pairs.rename(columns=turned)[_PAIR])


def _with_the_best(pairs: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    """Of many values only the pairs of the best: the one whose jobs are furthest below the mean of their company."""
    others = pairs[["first", "against", "label_against"]].set_axis(["first", "value", "label"], axis=1)
    alike = pd.concat([pairs[["first", "value", "label"]], others]).drop_duplicates()
    if alike["value"].nunique() <= MOST_VALUES:
        return pairs
    below = alike.assign(mean=means[alike["label"]].to_numpy())
    below["mean"] -= below.groupby("first")["mean"].transform("mean")
    best = below.groupby("value")["mean"].mean().idxmin()
    return pairs[(pairs["value"] == best) | (pairs["against"] == best)]


def _differences(losses: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """(N images, K pairs) log loss of the first minus that of the second job."""
    return losses[pairs["label"]].to_numpy() - losses[pairs["label_against"]].to_numpy()


def _intervals(vectors: list[np.ndarray]) -> pd.DataFrame:
    """Mean and interval of every vector over images."""
    intervals = mean_intervals(np.stack(vectors)) if vectors else []
    return pd.DataFrame(map(dataclasses.astuple, intervals), columns=list(_MEASURED)).astype(_MEASURED)


def _made_choices(study_data: StudyData) -> _Told:
    """Their value of every choice, `UNTOLD` if nothing tells it; and their study."""
    studies = dict(zip(study_data.leaderboard["label"], study_data.leaderboard["study"], strict=True))
    return {
        label: {STUDY: str(studies[label])}
        | {
            name: UNRECORDED if (told := study_data.jobs[label].choice(name)) is None else told
            for name in study_data.choices
        }
        for label in study_data.comparable()
    }


def _compared(study_data: StudyData, made: _Told) -> tuple[str, ...]:
    def told(names: list[str]) -> set[tuple[str, ...]]:
        return {tuple(values[name] for name in names) for values in made.values()}

    names = [name for name in study_data.choices if len(told([name])) > 1]
    if STUDY not in names and len(told([*names, STUDY])) > len(told(names)):
        names.append(STUDY)
    return tuple(names)


def _settings(study_data: StudyData) -> _Told:
    """Every value of their configuration that decides their numbers, by dotted key."""
    return {
        label: dict(_leaves(identity(study_data.jobs[label].result["config"]))) for label in study_data.comparable()
    }


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(node, default=str)


def _differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """Keys that two jobs set differently."""
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _owns(choice: str, key: str) -> bool:
    if choice == STUDY or choice.partition(".")[0] not in _KEYS:
        return True
    return key == choice or key.startswith(f"{choice}.") or key == _DERIVED.get(choice)
