"""Imported by every Python with this folder on PYTHONPATH: kills inside state writes, and counts trainings.

Variables set by tests/soak.py:
    SOAK_LEDGER: file that gets a line for every trial that starts to train.
    SOAK_AIM: FILE:N:POINT; the process that writes FILE for the N-th time is killed with its process group. POINT is
        `before` (nothing written), `half` (of the temporary file), `written` (complete, not moved yet) or `moved`. Then
        the ledger with the suffix .hit exists.
"""

import contextlib
import functools
import importlib.util
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


def _die():
    Path(os.environ["SOAK_LEDGER"]).with_suffix(".hit").touch()
    os.killpg(os.getpgrp(), signal.SIGKILL)
    time.sleep(60)


def _aimed(files):
    """Patch `catsdogs.base.files`, which writes all state."""
    name, number, point = os.environ["SOAK_AIM"].rsplit(":", 2)
    replacing = files.replacing
    writes: Counter[str] = Counter()

    @contextlib.contextmanager
    def killing(path, *arguments, **settings):
        writes[path.name] += 1
        here = path.name == name and writes[name] == int(number)
        if here and point == "before":
            _die()
        with replacing(path, *arguments, **settings) as temporary:
            yield temporary
            if here and point == "half":
                os.truncate(temporary, temporary.stat().st_size // 2)
            if here and point in ("half", "written"):
                _die()
        if here and point == "moved":
            _die()

    files.replacing = killing


def _counted(tuning):
    """Patch `catsdogs.tuning.tuner`, which runs the trials."""
    attempt = tuning.Search._attempt

    @functools.wraps(attempt)
    def counting(self, trial):
        entry = {"job": self._folder.name, "trial": trial.trial_id}
        with open(os.environ["SOAK_LEDGER"], "a", encoding="utf-8") as ledger:
            ledger.write(json.dumps(entry) + "\n")
        attempt(self, trial)

    tuning.Search._attempt = counting


_PATCHES = {"catsdogs.tuning.tuner": _counted} if "SOAK_LEDGER" in os.environ else {}
if os.environ.get("SOAK_AIM"):
    _PATCHES["catsdogs.base.files"] = _aimed


class _Patching:
    """Finder that patches modules right after they are executed, before others import their functions."""

    def find_spec(self, name, path=None, target=None):
        if name not in _PATCHES:
            return None
        patch = _PATCHES.pop(name)
        spec = importlib.util.find_spec(name)
        loader: Any = spec.loader
        execute = loader.exec_module

        def executing(module):
            execute(module)
            patch(module)

        loader.exec_module = executing
        return spec


if _PATCHES:
    sys.meta_path.insert(0, _Patching())
