"""Effects of the composed choices, measured on pairs of jobs that differ in one choice only.

Two jobs, also of different studies, are a pair for a choice if they record different values of it and equal values of
every other choice. Their configurations may differ only in keys that the choice owns: `backbone` owns `backbone.*`,
`fit.epochs` owns itself. A choice that is not a key of the configuration, such as `experiment`, and `study`, which is
added if studies agree in all choices, own all keys. Keys that `catsdogs.study.identity.identity` excludes are ignored.
"""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.study_data import StudyData
from catsdogs.config.schema import SearchConfig, leaves
from catsdogs.scoring.intervals import mean_intervals
from catsdogs.study.identity import identity

STUDY = "study"

# With more values than this, each is compared with that of the best job of a pair: 10 values would make 45 pairs.
MOST_VALUES = 4

# Value of a choice that a job does not record because only another study varied it.
UNRECORDED = "not recorded"

_EFFECT = ["choice", "value", "against"]
_PAIR = [*_EFFECT, "label", "label_against"]
_MEASURED = {"difference": float, "low": float, "high": float, "images": int, "errors": int}

# A key of the configuration that `identity` computes from another.
_DERIVED = {"fit.epochs": "features.views"}

_KEYS = frozenset(item.name for item in dataclasses.fields(SearchConfig))

# Values by name (of a choice or of a key), for the label of each comparable job.
_ValuesByJob = dict[str, dict[str, str]]


def compared_choices(study_data: StudyData) -> tuple[str, ...]:
    """Return the choices in which comparable jobs differ, with `study` if it alone distinguishes some of them."""
    recorded = _recorded_choices(study_data)

    def combinations(names: list[str]) -> set[tuple[str, ...]]:
        return {tuple(values[name] for name in names) for values in recorded.values()}

    names = [name for name in study_data.choices if len(combinations([name])) > 1]
    if STUDY not in names and len(combinations([*names, STUDY])) > len(combinations(names)):
        names.append(STUDY)
    return tuple(names)


def choice_pairs(study_data: StudyData) -> pd.DataFrame:
    """Return every pair of jobs behind `choice_effects`, with its columns except decided and pairs.

    value is that of the job `label`, against that of `label_against`. They are ordered as in the effect, so a
    difference above 0 contradicts it.
    """
    losses, errors = study_data.losses(), study_data.errors()
    pairs = _fair_pairs(study_data, losses)
    return pairs.join(_intervals(list(_differences(losses, pairs).T), list(_errors(errors, pairs).sum(axis=0))))


def choice_effects(study_data: StudyData) -> pd.DataFrame:
    """Estimate the effect of each choice on the log loss, averaged over the pairs that differ in it alone.

    Differences are computed per image and averaged over pairs. The interval covers the sampling of images, but neither
    training seeds nor interactions with other choices.

    Returns:
        A row per choice and pair of values, grouped by choice, the largest effect first: choice, value (the better
        one), against, difference (log loss of value minus that of against, at most 0), low, high (95% confidence
        interval, NaN for a single image), decided (whether the interval excludes 0), pairs, images, errors (images
        that any of the compared jobs misclassifies). With more than `MOST_VALUES` values, each is compared only with
        that of the best job that has a pair.
    """
    losses, errors = study_data.losses(), study_data.errors()
    effects = _fair_pairs(study_data, losses).groupby(_EFFECT, sort=False)
    table = effects.size().reset_index(name="pairs")
    vectors = [_differences(losses, pairs).mean(axis=1) for _, pairs in effects]
    table = table.join(_intervals(vectors, [_errors(errors, pairs).any(axis=1).sum() for _, pairs in effects]))
    table["decided"] = (table["low"] > 0) | (table["high"] < 0)
    table["strongest"] = table.groupby("choice")["difference"].transform("min")
    table = table.sort_values(["strongest", "choice"], kind="stable", ignore_index=True)
    return table[[*_EFFECT, "difference", "low", "high", "decided", "pairs", "images", "errors"]]


def unlisted_differences(study_data: StudyData) -> list[str]:
    """Return keys in which comparable jobs differ and that no compared choice owns; they may explain a difference."""
    settings = list(_settings(study_data).values())
    choices = [name for name in compared_choices(study_data) if name != STUDY]
    keys = {key for other in settings[1:] for key in _differing(settings[0], other)}
    return sorted(key for key in keys if not any(_owns(choice, key) for choice in choices))


def _fair_pairs(study_data: StudyData, losses: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs that differ in nothing else, ordered as the effects: choice, value, against, both labels."""
    recorded, settings = _recorded_choices(study_data), _settings(study_data)
    compared = compared_choices(study_data)
    counts = {name: len({values[name] for values in recorded.values()} - {UNRECORDED}) for name in compared}
    rows, best = [], dict[str, str]()
    for one, other in itertools.combinations(recorded, 2):
        unequal = [name for name in compared if recorded[one][name] != recorded[other][name]]
        if len(unequal) != 1 or not all(_owns(unequal[0], key) for key in _differing(settings[one], settings[other])):
            continue
        choice = unequal[0]
        (value, label), (against, label_against) = sorted((recorded[name][choice], name) for name in (one, other))
        if UNRECORDED not in (value, against):
            # The first pair of a choice is that of its best job.
            best_value = best.setdefault(choice, recorded[one][choice])
            if counts[choice] <= MOST_VALUES or best_value in (value, against):
                rows.append([choice, value, against, label, label_against])
    pairs = pd.DataFrame(rows, columns=_PAIR)
    if pairs.empty or losses.empty:
        return pairs.head(0)
    means = losses.mean()
    pairs["difference"] = means[pairs["label"]].to_numpy() - means[pairs["label_against"]].to_numpy()
    effect = pairs.groupby(_EFFECT)["difference"].transform("mean")
    pairs = pairs.assign(size=-effect.abs(), worse=effect > 0, order=pairs["choice"].map(compared.index))
    pairs = pairs.sort_values(["order", "size", "value", "against"], kind="stable", ignore_index=True)
    swapped = {"value": "against", "against": "value", "label": "label_against", "label_against": "label"}
    return pairs[_PAIR].where(~pairs["worse"], pairs.rename(columns=swapped)[_PAIR])


def _differences(losses: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """Return the (N images, K pairs) log loss of the first job minus that of the second."""
    return losses[pairs["label"]].to_numpy() - losses[pairs["label_against"]].to_numpy()


def _errors(errors: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """Return the (N images, K pairs) bool: whether either job misclassifies the image."""
    return errors[pairs["label"]].to_numpy(bool) | errors[pairs["label_against"]].to_numpy(bool)


def _intervals(vectors: list[np.ndarray], errors: list[int]) -> pd.DataFrame:
    intervals = mean_intervals(np.stack(vectors), np.array(errors)) if vectors else []
    return pd.DataFrame(map(dataclasses.astuple, intervals), columns=list(_MEASURED)).astype(_MEASURED)


def _recorded_choices(study_data: StudyData) -> _ValuesByJob:
    """Return the study and the value of every choice of each comparable job, or `UNRECORDED`."""
    board = study_data.leaderboard.set_index("label")[[STUDY, *study_data.choices]]
    recorded: Any = board.loc[study_data.comparable()].fillna(UNRECORDED).to_dict("index")
    return recorded


def _settings(study_data: StudyData) -> _ValuesByJob:
    """Return the configuration values that affect the results of each comparable job, by dotted key."""
    configs = {label: study_data.jobs[label].result["config"] for label in study_data.comparable()}
    return {
        label: {key: json.dumps(value, default=str) for key, value in leaves(identity(config))}
        for label, config in configs.items()
    }


def _differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _owns(choice: str, key: str) -> bool:
    if choice == STUDY or choice.partition(".")[0] not in _KEYS:
        return True
    return key == choice or key.startswith(f"{choice}.") or key == _DERIVED.get(choice)
