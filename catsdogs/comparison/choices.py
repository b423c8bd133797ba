"""Evidence -> effect of each composed choice, over pairs of jobs that differ in nothing else.

Two jobs make a pair for a choice if they tell different values of it, tell the same values of every other choice, and
were run with the same configuration but for the keys that belong to the choice: `backbone` owns `backbone.*`,
`fit.epochs` itself. A choice that is no key of the configuration, such as `experiment`, may change any key, so it owns
all of them. What `catsdogs.identity.identity` leaves out, where things lie and what comes after the search, does not
count.

Jobs of several studies pair likewise. Where two studies made the same choices, the study itself is one more choice,
named `study`; it owns all keys, so its effect is that of everything in which the studies differ.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from catsdogs.comparison.evidence import Evidence
from catsdogs.comparison.paired import mean_intervals
from catsdogs.identity import identity
from catsdogs.progress import listed
from catsdogs.schema import SearchConfig

STUDY = "study"

# Of a choice with more values, each is compared with the best one only: 10 values would make 45 pairs.
MOST_VALUES = 4

# Stands for a choice that a job does not tell, because only another study varied it.
UNTOLD = "not told"

_PAIRS = ["choice", "value", "against", "label", "label_against", "difference", "low", "high", "images"]
_EFFECTS = ["choice", "value", "against", "difference", "low", "high", "decided", "pairs", "images"]

# A key of the configuration that `identity` computes from another.
_DERIVED = {"fit.epochs": "features.views"}

_KEYS = frozenset(item.name for item in dataclasses.fields(SearchConfig))

_NUMBERS = {"difference": float, "low": float, "high": float, "images": int}

# Jobs by their value of a choice.
_Group = dict[str, list[str]]


@dataclass(frozen=True)
class _Effect:
    """A choice, two values of it, and the pairs of jobs that have them; the first value is the better one."""

    choice: str
    value: str
    against: str
    pairs: list[tuple[str, str]]


def compared_choices(evidence: Evidence) -> tuple[str, ...]:
    """The choices in which the comparable jobs differ, `study` among them where it tells jobs apart that else agree."""
    return _compared(evidence, _made_choices(evidence))


def choice_pairs(evidence: Evidence) -> pd.DataFrame:
    """Every pair of jobs behind `choice_effects`.

    Returns:
        A row per pair: choice, value (of `label`), against (of `label_against`), label, label_against, difference (log
        loss of `label` minus that of `label_against`, mean over images), low, high (95 % interval, NaN for a single
        image), images. The order of value and against is that of the effect, so a difference above 0 is a pair that
        speaks against it.
    """
    rows, vectors = [], []
    losses = evidence.losses()
    for effect in _effects(evidence, losses):
        for label, label_against in effect.pairs:
            rows.append([effect.choice, effect.value, effect.against, label, label_against])
            vectors.append((losses[label] - losses[label_against]).to_numpy())
    return pd.DataFrame(_with_intervals(rows, vectors), columns=_PAIRS).astype(_NUMBERS)


def choice_effects(evidence: Evidence) -> pd.DataFrame:
    """How much each choice changes the log loss, averaged over the pairs of jobs that differ in it alone.

    The differences of a pair are taken image by image and averaged over the pairs; the interval is over images. It does
    not cover the seeds of the training, nor that a choice could work otherwise beside other choices.

    Returns:
        A row per choice and pair of values, the largest effect of a choice first: choice, value (the better one),
        against, difference (log loss of value minus that of against, at most 0), low, high (95 % interval, NaN for a
        single image), decided (whether the interval excludes 0), pairs, images. Of a choice with more than
        `MOST_VALUES` values each is compared with the best one only: the value whose jobs are furthest below the mean
        of the jobs that differ from them in this choice alone.
    """
    losses = evidence.losses()
    effects = list(_effects(evidence, losses))
    rows = [[effect.choice, effect.value, effect.against, len(effect.pairs)] for effect in effects]
    vectors = [_difference(losses, effect.pairs) for effect in effects]
    columns = ["choice", "value", "against", "pairs", "difference", "low", "high", "images"]
    table = pd.DataFrame(_with_intervals(rows, vectors), columns=columns).astype({**_NUMBERS, "pairs": int})
    table["decided"] = (table["low"] > 0) | (table["high"] < 0)
    return table[_EFFECTS]


def not_paired(evidence: Evidence) -> list[str]:
    """Sentences about pairs of jobs that differ in one choice, but in other settings too, and so are not compared."""
    made, settings = _made_choices(evidence), _settings(evidence)
    sentences = []
    for choice in (compared := _compared(evidence, made)):
        count, keys = 0, set[str]()
        for groups in _alike(made, settings, compared, choice):
            for one, other in itertools.combinations(groups, 2):
                crossed = [(a, b) for a in one for b in other if a != b]
                if crossed:
                    count += sum(len(one[a]) * len(other[b]) for a, b in crossed)
                    (a, *_), (b, *_) = next(iter(one.values())), next(iter(other.values()))
                    keys |= _differing(settings[a], settings[b], choice)
        if count:
            pairs = "1 pair of jobs differs" if count == 1 else f"{count} pairs of jobs differ"
            sentences.append(f"{choice}: {pairs} also in {listed(sorted(keys))} and so cannot tell its effect.")
    return sentences


def untold_settings(evidence: Evidence) -> list[str]:
    """Keys of the configuration in which comparable jobs differ, though no choice of theirs tells it.

    A difference between the jobs may come from there.
    """
    settings = list(_settings(evidence).values())
    choices = [name for name in compared_choices(evidence) if name != STUDY]
    keys = {key for other in settings[1:] for key in _differing(settings[0], other)}
    return sorted(key for key in keys if not any(_owns(choice, key) for choice in choices))


def _effects(evidence: Evidence, losses: pd.DataFrame) -> list[_Effect]:
    if losses.empty:
        return []
    made, settings = _made_choices(evidence), _settings(evidence)
    means = losses.mean()
    effects = []
    for choice in (compared := _compared(evidence, made)):
        groups = [group for groups in _alike(made, settings, compared, choice) for group in groups if len(group) > 1]
        values = sorted({value for group in groups for value in group})
        best = _best_value(groups, means) if len(values) > MOST_VALUES else None
        found = []
        for one, other in itertools.combinations(values, 2):
            pairs = [pair for group in groups for pair in itertools.product(group.get(one, []), group.get(other, []))]
            if pairs and best in (None, one, other):
                difference = float(_difference(losses, pairs).mean())
                if difference > 0:
                    one, other, pairs = other, one, [(b, a) for a, b in pairs]
                found.append((-abs(difference), _Effect(choice, one, other, pairs)))
        effects += [effect for _, effect in sorted(found, key=lambda item: item[0])]
    return effects


def _difference(losses: pd.DataFrame, pairs: list[tuple[str, str]]) -> np.ndarray:
    """(N,) log loss of the first minus that of the second job, averaged over pairs."""
    first, second = zip(*pairs, strict=True)
    return (losses[list(first)].to_numpy() - losses[list(second)].to_numpy()).mean(axis=1)


def _best_value(groups: list[_Group], means: pd.Series) -> str:
    """The value whose jobs are furthest below the mean of their groups, so that no value gains by easy company."""
    apart: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        middle = float(np.mean([means[label] for labels in group.values() for label in labels]))
        for value, labels in group.items():
            apart[value].append(float(means[labels].mean()) - middle)
    return min(apart, key=lambda value: (np.mean(apart[value]), value))


def _alike(
    made: dict[str, dict[str, str]], settings: dict[str, dict[str, str]], compared: tuple[str, ...], choice: str
) -> list[list[_Group]]:
    """Jobs that make the same other choices, among them those that also agree in all settings which the choice leaves.

    Jobs that do not tell the choice are left out.
    """
    found: dict[tuple[str, ...], dict[frozenset[tuple[str, str]], _Group]] = defaultdict(dict)
    for label, values in made.items():
        if values[choice] != UNTOLD:
            others = tuple(values[name] for name in compared if name != choice)
            rest = frozenset(item for item in settings[label].items() if not _owns(choice, item[0]))
            found[others].setdefault(rest, defaultdict(list))[values[choice]].append(label)
    return [list(groups.values()) for groups in found.values()]


def _made_choices(evidence: Evidence) -> dict[str, dict[str, str]]:
    """By label of the comparable jobs, their value of every choice, `UNTOLD` if nothing tells it; and their study."""
    studies = dict(zip(evidence.board["label"], evidence.board["study"], strict=True))
    return {
        label: {STUDY: str(studies[label])}
        | {name: _told(evidence.jobs[label].choice(name)) for name in evidence.choices}
        for label in evidence.comparable()
    }


def _told(choice: str | None) -> str:
    return UNTOLD if choice is None else choice


def _compared(evidence: Evidence, made: dict[str, dict[str, str]]) -> tuple[str, ...]:
    names = [name for name in evidence.choices if len({values[name] for values in made.values()}) > 1]
    studies: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for values in made.values():
        studies[tuple(values[name] for name in names)].add(values[STUDY])
    if STUDY not in names and any(len(found) > 1 for found in studies.values()):
        names.append(STUDY)
    return tuple(names)


def _settings(evidence: Evidence) -> dict[str, dict[str, str]]:
    """By label of the comparable jobs, every value of their configuration that decides their numbers, by dotted key."""
    return {label: dict(_leaves(identity(evidence.jobs[label].result["config"]))) for label in evidence.comparable()}


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(node, default=str)


def _differing(one: dict[str, str], other: dict[str, str], choice: str | None = None) -> set[str]:
    """Keys that two jobs set differently, without those that the choice owns."""
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return {key for key in differing if choice is None or not _owns(choice, key)}


def _owns(choice: str, key: str) -> bool:
    if choice == STUDY or choice.partition(".")[0] not in _KEYS:
        return True
    return key == choice or key.startswith(f"{choice}.") or key == _DERIVED.get(choice)


def _with_intervals(rows: list[list[Any]], vectors: list[np.ndarray]) -> list[list[Any]]:
    """Rows that name something, each with the interval of a vector over images."""
    intervals = mean_intervals(np.stack(vectors)) if vectors else []
    return [[*row, i.value, i.low, i.high, i.size] for row, i in zip(rows, intervals, strict=True)]
