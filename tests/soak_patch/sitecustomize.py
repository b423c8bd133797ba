"""Imported by every Python with this folder on PYTHONPATH: counts trainings.

SOAK_LEDGER, set by tests/soak.py, is a file that gets a line "JOB TRIAL" for every trial that starts to train.
"""

import os
from importlib.machinery import SourceFileLoader

_execute = SourceFileLoader.exec_module


def _exec_module(loader, module):
    """Patch the class that runs the trials right after its module is executed."""
    _execute(loader, module)
    if module.__name__ == "catsdogs.tuning.tuner":
        attempt = module.Search._attempt

        def counting(self, trial):
            with open(os.environ["SOAK_LEDGER"], "a", encoding="utf-8") as ledger:
                ledger.write(f"{self._folder.name} {trial.trial_id}\n")
            attempt(self, trial)

        module.Search._attempt = counting


if "SOAK_LEDGER" in os.environ:
    setattr(SourceFileLoader, "exec_module", _exec_module)  # noqa: B010
