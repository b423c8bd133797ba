"""Weights of finished Hyperband trials, kept only while the trial may still be promoted."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import keras_tuner

from catsdogs.study.trials import COMPLETED


def may_be_promoted(oracle: keras_tuner.Oracle, recorded: Collection[str]) -> set[str]:
    """Return the ids of trials from which a later trial may continue, and of parents of unrecorded promoted trials.

    A round of a bracket promotes its best trials once it has completed more trials than it discards, so only the best
    few can still be promoted, whatever the others score. `recorded`: ids of finished trials, which do not run again.
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
            remaining = size - len(rounds[number]) + sum(oracle.trials[trial].status == "RUNNING" for trial in ids)
            promotions = min(len(waiting) + remaining - (size - next_size), next_size - len(promoted))
            # Sorted as the oracle does.
            best_first = sorted(waiting, key=lambda trial: trial.score)
            needed |= {trial.trial_id for trial in best_first[: max(0, promotions)]}
    return needed


class ParentWeights:
    """Weights of finished trials, in a folder of the job: Keras Tuner's own folder is deleted at every start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, trial: str, run: int) -> Path:
        """Return the file for the weights of one run of a trial, as numbered in `trial_seed`."""
        return self._folder / f"{trial}-{run}.npz"

    def delete_unneeded(self, oracle: keras_tuner.Oracle, recorded: Collection[str]) -> None:
        """Delete the weights of trials that can no longer be promoted, and leftovers of killed processes."""
        needed = may_be_promoted(oracle, recorded)
        for file in self._folder.glob("*.npz"):
            if file.stem.partition("-")[0] not in needed:
                file.unlink(missing_ok=True)

    def delete_all(self) -> None:
        """Delete all weights."""
        shutil.rmtree(self._folder, ignore_errors=True)
