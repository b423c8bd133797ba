"""Imported by every Python with this folder on PYTHONPATH: counts trainings.

SOAK_LEDGER, set by tests/soak.py, is a file that gets a line for every trial that starts to train.
"""

import functools
import importlib.util
import json
import os
import sys
from typing import Any


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
