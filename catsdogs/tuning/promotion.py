"""Hyperband's oracle -> the finished trials that may still be promoted: only their weights are kept."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import keras_tuner

from catsdogs.study.trials import COMPLETED


def may_be_promoted(oracle: keras_tuner.Oracle, recorded: Collection[str]) -> set[str]:
    """Ids of the trials that a further trial may go on from, those of promoted trials that are not recorded among them.

    A round of a bracket promotes its best trials as soon as so many have completed that the others are the ones that it
    throws out. So of those that wait, only the best few can still be promoted, however many trials are to come.

    Args:
        recorded: ids of the trials that have ended and will not run again.
    """
    if not isinstance(oracle, keras_tuner.oracles.HyperbandOracle):
        return set()
    needed = set()
    for bracket in oracle._brackets:
        rounds = bracket["rounds"]
        for number in range(len(rounds) - 1):
            promoted = {entry["past_id"]: entry["id"] for entry in rounds[number + 1]}
            needed |= {parent for parent, child in promoted.items() if child not in recorded}
            size = oracle._get_size(bracket["bracket_num"], number)
            next_size = oracle._get_size(bracket["bracket_num"], number + 1)
            ids = [entry["id"] for entry in rounds[number] if entry["id"] not in promoted]
            waiting = [oracle.trials[trial] for trial in ids if oracle.trials[trial].status == COMPLETED]
            to_come = size - len(rounds[number]) + sum(oracle.trials[trial].status == "RUNNING" for trial in ids)
            places = min(len(waiting) + to_come - (size - next_size), next_size - len(promoted))
            # In the order in which the oracle would take them.
            best_first = sorted(waiting, key=lambda trial: trial.score)
            needed |= {trial.trial_id for trial in best_first[: max(0, places)]}
    return needed


class ParentWeights:
    """Weights of finished trials, in a folder of the job: not in Keras Tuner's own, which every run begins anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, trial: str, execution: int) -> Path:
        return self._folder / f"{trial}-{execution}.npz"

    def drop_useless(self, oracle: keras_tuner.Oracle, recorded: Collection[str]) -> None:
        """Remove the weights of trials that cannot be promoted any more, and what killed processes left."""
        needed = may_be_promoted(oracle, recorded)
        for file in self._folder.glob("*.npz"):
            if file.stem.partition("-")[0] not in needed:
                file.unlink(missing_ok=True)

    def drop_all(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
