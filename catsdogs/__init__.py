"""Search, compare and ship transfer-learning image classifiers; docs/architecture.md is the map of the files."""

import os
import sys

from catsdogs.base.interrupts import end_at_once, handle

if sys.argv[0] == "-m" or os.path.basename(sys.argv[0]).startswith("catsdogs-"):
    # A command, whose imports take seconds, and which has nothing to lose yet.
    handle(end_at_once)

__version__ = "0.3.0.dev0"
