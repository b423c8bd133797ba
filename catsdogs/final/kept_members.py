"""Trained members that an unfinished `retrain` keeps in the study's `.retrain/kept/`, so the same command continues.

The variables of a model are saved as raw values and copied into a newly built model.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import pandas as pd
from pydantic import Field

from catsdogs.base.files import read_bytes, replacing, write_json
from catsdogs.base.records import CorruptedFile, Record
from catsdogs.study.locking import lock_job

log = logging.getLogger(__name__)


class _Kept(Record):
    best_epoch: Annotated[int, Field(ge=1)]
    history: dict[str, list[float]]  # columns of `Training.history`
    sha256: str  # of the values


def write_kept(member: Path, model: keras.Model, history: pd.DataFrame, best_epoch: int) -> None:
    """Keep a trained model in two files, MEMBER.bin and MEMBER.json."""
    values = b"".join(keras.ops.convert_to_numpy(variable).tobytes() for variable in model.variables)
    with replacing(Path(f"{member}.bin")) as temporary:
        temporary.write_bytes(values)
    record = {"best_epoch": best_epoch, "history": history.to_dict("list")}
    write_json(Path(f"{member}.json"), record | {"sha256": hashlib.sha256(values).hexdigest()})


def read_kept(member: Path, build: Callable[[], keras.Model]) -> tuple[keras.Model, pd.DataFrame, int] | None:
    """Return what `write_kept` was given, in the model that `build` returns; None if it is missing or corrupted."""
    file = Path(f"{member}.bin")
    try:
        if (kept := _Kept.read(Path(f"{member}.json"))) is None:
            return None
        history = pd.DataFrame(kept.history).astype({"epoch": int})
        model = build()
        values = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
        content = read_bytes(file, max_bytes=sum(value.nbytes for value in values))
        if hashlib.sha256(content).hexdigest() != kept.sha256:
            raise CorruptedFile(file, "digest differs")
        start = 0
        for variable, value in zip(model.variables, values, strict=True):
            variable.assign(np.frombuffer(content, value.dtype, value.size, start).reshape(value.shape))
            start += value.nbytes
    except (CorruptedFile, OSError, ValueError, KeyError) as error:
        log.warning("%s; training this model again", error)
        return None
    return model, history, kept.best_epoch


@contextmanager
def kept_members(study: Path, key: str) -> Iterator[Path]:
    """Yield the folder of the members of this key, for one `retrain` at a time; remove it on success.

    `key`: digest of everything that determines the members. Members of other keys are removed.
    """
    folder = study / ".retrain" / "kept"
    with lock_job(folder):
        for other in folder.iterdir():
            if other.is_dir() and not other.is_symlink() and other.name != key:
                shutil.rmtree(other)
        try:
            yield folder / key
            shutil.rmtree(folder / key)
        finally:
            shutil.rmtree(folder / "best", ignore_errors=True)
            if not (folder / key).exists():
                shutil.rmtree(folder)
