"""Race: a trial stops where each image's loss shows that it is behind the best finished trials.

At a rung, the losses of the validation images are compared, image by image, with those that the best `LEADERS` finished
trials had at the same rung. A trial stops if the paired 95% confidence interval of the difference is above 0 for each
of them, so never fewer trials than `LEADERS` finish. Rungs are 1, 2, 4, ... epochs of the first fold, and every fold.

The losses are written to `rungs/` of the job before they are compared, and compared as written (float16). Together with
`trials.csv`, these files determine every decision, so a resumed search continues as if it had not been interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catsdogs.base.records import CorruptedFile
from catsdogs.base.text import counted
from catsdogs.scoring.intervals import Estimate, mean_intervals
from catsdogs.study.trials import RUNGS
from catsdogs.study.weight_files import read_arrays, write_arrays

LEADERS = 3


@dataclass(frozen=True)
class Behind:
    """Why a trial stops: how much higher its loss is than that of the leader to which it is closest."""

    leader: str  # number of a trial
    difference: Estimate
    after: str  # such as `2 epochs`

    def __str__(self) -> str:
        difference = self.difference
        interval = f"{difference.low:.3f} to {difference.high:.3f}"
        return f"behind trial={self.leader} by {difference.value:.3f} ({interval}) after {self.after}"


def behind_all(losses: np.ndarray, leaders: Mapping[str, np.ndarray]) -> tuple[str, Estimate] | None:
    """Return the leader to which the losses (N,) of a trial are closest, and the difference; None if it continues.

    `leaders`: losses (N,) of the same images, by trial. A trial continues if there are fewer than `LEADERS`, or if the
    interval of the difference to one of them includes 0 or is below it.
    """
    if len(leaders) < LEADERS:
        return None
    estimates = mean_intervals(losses - np.stack([*leaders.values()]))
    if any(one.low is None or one.low <= 0 for one in estimates):
        return None
    return min(zip(leaders, estimates, strict=True), key=lambda pair: pair[1].value)


class RacingTrial:
    """Losses of a trial at its rungs, and the decision whether it stops.

    `leaders`: the best finished trials; `sizes`: number of validation images of every fold; `epochs`: of a fold.
    """

    def __init__(self, job: Path, trial: str, leaders: Sequence[str], sizes: Sequence[int], epochs: int) -> None:
        self._folder = job / RUNGS
        self._trial = trial
        self._leaders = leaders[:LEADERS]
        self._sizes = sizes
        self._epochs = epochs
        self.behind: Behind | None = None

    def rungs(self, fold: int) -> list[int]:
        """Return the epochs of a fold after which the trial may stop."""
        return [2**power for power in range(self._epochs.bit_length()) if 2**power < self._epochs and fold == 0]

    def reached(self, fold: int, epochs: int, losses: np.ndarray, last: bool = False) -> bool:
        """Write the losses of the validation images of a fold, (n,), and return whether the trial stops.

        `last`: its training on this fold has ended; after that on the last fold, it does not stop.
        """
        write_arrays(self._file(self._trial, fold, epochs), [losses.astype(np.float16)])
        if last and fold == len(self._sizes) - 1:
            return False
        own = self._losses(self._trial, fold, epochs)
        same = self._epochs if last else epochs  # after a fold, each with its own best epoch
        others = {
            leader: values for leader in self._leaders if (values := self._losses(leader, fold, same)) is not None
        }
        if own is not None and (closest := behind_all(own, others)) is not None:
            after = counted(fold + 1, "fold") if last and len(self._sizes) > 1 else counted(epochs, "epoch")
            self.behind = Behind(*closest, after)
        return self.behind is not None

    def _losses(self, trial: str, fold: int, epochs: int) -> np.ndarray | None:
        """Return the losses of the images of the folds up to this one, after these epochs; None if a file is corrupted.

        Earlier folds, and those on which early stopping ended before, have the losses of their last file.
        """
        parts = []
        for number in range(fold + 1):
            names = [file.stem.rpartition("-")[2] for file in self._folder.glob(f"{trial}-{number}-*.bin")]
            known = [int(name) for name in names if name.isdecimal()]
            latest = max((one for one in known if number < fold or one <= epochs), default=0)
            try:
                like = [np.empty(self._sizes[number], np.float16)]
                parts += read_arrays(self._file(trial, number, latest), like)
            except (OSError, CorruptedFile):
                return None
        return np.concatenate(parts).astype(np.float64)

    def _file(self, trial: str, fold: int, epochs: int) -> Path:
        return self._folder / f"{trial}-{fold}-{epochs}.bin"
