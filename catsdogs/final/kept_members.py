"""Trained members that an unfinished `retrain` keeps in the study's `.retrain/kept/`, so the same command continues.

The variables of a model are saved as raw values and copied into a newly built model.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pandas as pd
from pydantic import Field

from catsdogs.base.files import read_bytes, replacing, write_json
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.study.locking import lock_job
from catsdogs.training.execution import Training

log = logging.getLogger(__name__)


class _Kept(Record):
    best_epoch: Annotated[int, Field(ge=1)]
    val_log_loss: float | None
    val_accuracy: float | None
    history: dict[str, list[float]]  # columns of `Training.history`
    sha256: str  # of the values


@dataclass(frozen=True)
class KeptMembers:
    """The members in a folder."""

    folder: Path

    def write(self, name: str, model: keras.Model, training: Training) -> None:
        """Keep a trained model under a name."""
        values = b"".join(keras.ops.convert_to_numpy(variable).tobytes() for variable in model.variables)
        with replacing(self.folder / f"{name}.bin") as temporary:
            temporary.write_bytes(values)
        record = vars(training) | {"history": training.history.to_dict("list")}
        record = {key: None if value != value else value for key, value in record.items()}
        write_json(self.folder / f"{name}.json", record | {"sha256": hashlib.sha256(values).hexdigest()})

    def read(self, name: str, build: Callable[[], keras.Model]) -> tuple[keras.Model, Training] | None:
        """Return a model, from the one that `build` returns, and its training; None if it is missing or corrupted."""
        if not self.folder.is_dir():
            return None
        model = build()
        values = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
        size, file = sum(value.nbytes for value in values), self.folder / f"{name}.bin"
        try:
            if (kept := _Kept.read(self.folder / f"{name}.json")) is None:
                return None
            history = pd.DataFrame(kept.history).astype({"epoch": int})
            content = read_bytes(file, max_bytes=size)
            if len(content) != size or hashlib.sha256(content).hexdigest() != kept.sha256:
                raise CorruptedFile(file, "digest differs")
        except (CorruptedFile, OSError, ValueError, KeyError) as error:
            log.warning("%s; training this model again", error)
            return None
        start = 0
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(np.frombuffer(content, value.dtype, value.size, start).reshape(value.shape))
            start += value.nbytes
        scores = [math.nan if score is None else score for score in (kept.val_log_loss, kept.val_accuracy)]
        return model, Training(history, kept.best_epoch, *scores)


@contextmanager
def kept_members(study: Path, key: str) -> Iterator[KeptMembers]:
    """Yield the members of this key, for one `retrain` at a time; remove those of other keys, and all on success.

    `key`: digest of everything that determines the members.
    """
    folder = study / ".retrain" / "kept"
    with lock_job(folder):
        for other in folder.iterdir():
            if other.is_dir() and other.name != key:
                shutil.rmtree(other)
        try:
            yield KeptMembers(folder / key)
            shutil.rmtree(folder / key)
        finally:
            shutil.rmtree(folder / "best", ignore_errors=True)
            if not (folder / key).exists():
                shutil.rmtree(folder)
