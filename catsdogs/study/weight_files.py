"""Files of raw values, and those with the weights and predictions of trials in the folder `weights/` of a job.

Reading runs no code and parses no header: the reader knows shapes and types, and allocates no more than they need.
"""

import hashlib
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from catsdogs.base.files import open_regular, read_bytes, remove, replacing
from catsdogs.base.records import CorruptedFile

_DIGEST_BYTES = hashlib.sha256().digest_size


def write_arrays(file: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write the values of arrays in C order, one array after the other, behind their SHA-256."""
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    with replacing(file) as temporary, temporary.open("wb") as opened:
        opened.write(hashlib.sha256(content).digest())
        opened.write(content)


def read_arrays(file: Path, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Read arrays with the shapes and types of `like`; raise `CorruptedFile` or OSError if that is not possible."""
    content = memoryview(read_bytes(file, _DIGEST_BYTES + sum(array.nbytes for array in like)))
    values = content[_DIGEST_BYTES:]
    if hashlib.sha256(values).digest() != content[:_DIGEST_BYTES]:
        raise CorruptedFile(file, "digest differs")
    if len(values) < sum(array.nbytes for array in like):
        raise CorruptedFile(file, "values of another model")
    arrays, start = [], 0
    for array in like:
        arrays.append(np.frombuffer(values, array.dtype, array.size, start).reshape(array.shape))
        start += array.nbytes
    if not all(np.isfinite(array).all() for array in arrays):
        raise CorruptedFile(file, "values that are not finite")
    return arrays


class TrialWeights:
    """Folder `weights/` of a job: for every run of a trial its trained weights, and for a trial its predictions.

    Runs are numbered as in `training.execution.trial_seed`: those of the first execution are the folds.
    """

    def __init__(self, job: Path) -> None:
        self.folder = job / "weights"

    def file(self, trial: str, run: int) -> Path:
        """Return the file of the weights after a run of a trial."""
        return self.folder / f"{trial}-{run}.bin"

    def predictions(self, trial: str) -> Path:
        """Return the file of a trial's outputs, float32 (N, C), for the N validation rows."""
        return self.folder / f"{trial}-predictions.bin"

    def of(self, trial: str, folds: int) -> list[Path]:
        """Return the files with which a trial can be rebuilt."""
        return [self.predictions(trial), *(self.file(trial, fold) for fold in range(folds))]

    def intact(self, trial: str, folds: int) -> bool | None:
        """Return whether all files of `of` are there and not corrupted; None without predictions, as of a parent."""
        if not self.predictions(trial).exists():
            return None
        try:
            return all(map(_intact, self.of(trial, folds)))
        except OSError:
            return False

    def delete_except(self, parents: Collection[str], kept: Collection[str], folds: int) -> None:
        """Delete what neither these trials need as parents, nor `of` of these trials; also leftovers of a kill."""
        needed = {file.name for trial in kept for file in self.of(trial, folds)}
        for file in self.folder.glob("*"):
            if file.name not in needed and file.name.partition("-")[0] not in parents:
                remove(file)
        if not needed and not parents:
            shutil.rmtree(self.folder, ignore_errors=True)


def _intact(file: Path) -> bool:
    with open_regular(file) as opened:
        digest = opened.read(_DIGEST_BYTES)
        return hashlib.file_digest(opened, "sha256").digest() == digest
